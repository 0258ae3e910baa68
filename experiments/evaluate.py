"""Judges samples from anywhere: a run's, an array's, or the images of a folder.

python -m experiments.evaluate --run runs/mnist-kac --against mnist
python -m experiments.evaluate --run samples.npy --against table.csv --out figures.json
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments import report, runs
from experiments.command import UserError, check_count, optional, parse, run, user_errors
from experiments.datasets import make_known
from experiments.datasets.arrays import read_arrays, read_npy
from experiments.datasets.pictures import LOADERS
from kacjax import data, metrics

_TABLES = (".npz", ".csv", ".parquet")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Samples, and what they are compared with."""

    run: Annotated[Path, tyro.conf.arg(metavar="DIR|FILE")]
    """Folder of a run, an array's file, or a folder or zip of images."""
    against: Annotated[str, tyro.conf.arg(metavar="DATA|DIR|FILE")]
    """Name of a data set, or real data in any of these forms."""
    split: Literal["train", "test"] = "test"
    """Which part of a known data set of images."""
    num_samples: int = 2000
    """Samples and real data to compare, at most; the figures depend on it."""
    features: Literal["efficientnet", "inception", "pixels"] = "efficientnet"
    """What images are compared by."""
    size: int = 224
    """Side to which efficientnet resizes them."""
    data_root: Annotated[Path | None, optional("DIR", "$KACJAX_DATA or data")] = None
    """Folder of the files of a known data set."""
    out: Annotated[Path | None, optional("FILE.json", "none")] = None
    """File for the figures."""
    seed: int = 0
    """Seed of which real data and samples are taken."""


def evaluate(config: EvaluateConfig) -> dict[str, float]:
    """The figures, which are printed and written.

    Raises:
        UserError: If a flag does not make sense, data cannot be read, or their shapes differ.
    """
    check_count("--num-samples", config.num_samples, 6, 1_000_000)
    check_count("--size", config.size, 32, 4096)
    if config.out is not None and (config.out.suffix != ".json" or config.out.is_dir()):
        raise UserError(f"--out must name a .json file, got {config.out}.")
    samples = _read("--run", str(config.run), config, None)
    real = _read("--against", config.against, config, samples.shape[1:])
    if samples.shape[1:] != real.shape[1:]:
        flat = samples.reshape(len(samples), -1), real.reshape(len(real), -1)
        if flat[0].shape[1] != flat[1].shape[1]:
            shapes = f"{samples.shape[1:]} and {real.shape[1:]}"
            raise UserError(f"--run and --against must have data of one shape, got {shapes}.")
        samples, real = flat
    count = min(config.num_samples, len(samples), len(real))
    check_count("the number of samples and of real data", count, 6)
    rows = np.random.default_rng(config.seed)
    x = samples[rows.permutation(len(samples))[:count]]
    order = rows.permutation(len(real))
    parts = [x, real[order[:count]]]
    if len(real) >= 2 * count:  # Other real data: what no model can be expected to beat.
        parts.append(real[order[count : 2 * count]])
    pictures = _pictures(x)
    found = _features(parts, config) if pictures else _standardized(parts)
    distances = _image_distances if pictures else _distances
    key = jax.random.key(config.seed)
    figures = {"samples": count, **distances(found[0], found[1], key)}
    for name, value in distances(found[2], found[1], key).items() if found[2:] else ():
        figures[f"{name}_of_data"] = value
    figures |= {n: float(v) for n, v in metrics.prdc(found[0], found[1])._asdict().items()}
    print(report.table(f"{config.run} against {config.against}", figures))
    if config.out is not None:
        options = {"run": str(config.run), "against": config.against, "split": config.split}
        options |= {"features": config.features if pictures else None, "size": config.size}
        about = {"figures": figures, "options": options, "commit": report.commit()}
        with runs.atomic(config.out) as temporary:
            temporary.write_text(json.dumps(about, indent=2) + "\n")
        print(config.out)
    return figures


def _read(flag: str, name: str, config: EvaluateConfig, event: tuple[int, ...] | None) -> Any:
    """Data of any form: bytes if they are images, else floats."""
    path = Path(name).expanduser()
    if event is not None and name in LOADERS:
        with user_errors(ValueError, OSError, ImportError):
            return LOADERS[name](config.split, config.data_root).images
    if event is not None and name in ("digits", *data.TARGETS):
        known = make_known(name)
        if name == "digits":
            digits = data.load_digits()
            return digits.held_out if config.split == "test" else digits.train
        return np.asarray(known.training(jax.random.key(config.seed))[0])
    if (path / runs.SAMPLES).is_file():
        return _as_data(read_npy(path / runs.SAMPLES))
    if path.suffix.lower() == ".npy":
        return _as_data(read_npy(path))
    if path.suffix.lower() in _TABLES:
        return read_arrays(path).data
    if path.is_dir() or path.suffix.lower() == ".zip":
        if event is not None and len(event) != 3:
            raise UserError(f"{flag}: {name} holds images, but --run data of shape {event}.")
        with user_errors(ValueError, OSError, ImportError):
            side = (config.size, config.size) if event is None else event[:2]
            channels = 3 if event is None else event[2]
            return data.load_images(path, side, channels=channels, progress=False).images
    known = ", ".join((*LOADERS, "digits", *data.TARGETS)) if event is not None else "a run"
    asked = f"{known}, a folder or zip of images, or one of {', '.join(('.npy', *_TABLES))}"
    raise UserError(f"{flag} must be {asked}; got {name!r}, which is none of these.")


def _as_data(array: np.ndarray) -> np.ndarray:
    """Images of floats as bytes; everything else as it is."""
    if _pictures(array) and array.dtype != np.uint8:
        if not (np.all(np.isfinite(array)) and np.abs(array).max() < 4):
            raise UserError("images must be bytes, or floats from -1 to 1.")
        return np.asarray(data.to_uint8(jnp.asarray(array, jnp.float32)))
    return array


def _pictures(array: np.ndarray) -> bool:
    return array.ndim == 4 and array.shape[-1] in (1, 3)


def _features(parts: list[np.ndarray], config: EvaluateConfig) -> list[np.ndarray]:
    """Images by a network's features, or as they are."""
    if config.features == "pixels":
        return [part.reshape(len(part), -1).astype(np.float32) / 127.5 - 1 for part in parts]
    with user_errors(ImportError, ValueError, OSError):
        if config.features == "inception":
            network = metrics.InceptionFeatures()
        else:
            network = metrics.EfficientNetFeatures(size=config.size)
        return [network(part) for part in parts]


def _standardized(parts: list[np.ndarray]) -> list[np.ndarray]:
    """Vectors on the scale of the real data, so that no figure depends on units."""
    flat = [np.asarray(part, np.float64).reshape(len(part), -1) for part in parts]
    if not np.all(np.isfinite(flat[0])):
        raise UserError("--run holds numbers that are not finite.")
    center, scale = flat[1].mean(axis=0), flat[1].std(axis=0)
    scale = np.where(scale > 0, scale, 1)
    return [((part - center) / scale).astype(np.float32) for part in flat]


def _image_distances(a: np.ndarray, b: np.ndarray, key: Any) -> dict[str, float]:
    return {
        "frechet_distance": float(metrics.frechet_distance(a, b)),
        "kernel_distance": float(metrics.kid(a, b, key).mean),
    }


def _distances(a: np.ndarray, b: np.ndarray, key: Any) -> dict[str, float]:
    return {
        "energy_distance": float(metrics.energy_distance(a, b)),
        "sliced_wasserstein": float(metrics.sliced_wasserstein(a, b, key)),
        "two_sample_accuracy": float(metrics.two_sample_accuracy(a, b)),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""

    def body() -> None:
        about = "Judges samples from anywhere beside real data."
        examples = (
            "python -m experiments.evaluate --run runs/mnist-kac --against mnist\n"
            "python -m experiments.evaluate --run samples.npy --against table.csv --out figures.json"
        )
        evaluate(parse(EvaluateConfig, argv, "python -m experiments.evaluate", about, examples))

    return run(body)


if __name__ == "__main__":
    sys.exit(main())
