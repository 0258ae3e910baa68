"""Judges samples from anywhere: a run's, an array's, or the images of a folder.

python -m experiments.evaluate --run runs/mnist-kac --against mnist
python -m experiments.evaluate --run samples.npy --against table.csv --out figures.json
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments import report, runs
from experiments.checks import check_group
from experiments.command import UserError, check_count, optional, parse, run, start, user_errors
from experiments.datasets import make_known
from experiments.datasets.arrays import columns_of, read_data, read_npy
from experiments.datasets.pictures import LOADERS
from kacjax import data, metrics

_TABLES = (".npz", ".csv", ".parquet")
_KNOWN = (*LOADERS, "digits", *data.TARGETS)


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Samples, and what they are compared with."""

    run: Annotated[Path, tyro.conf.arg(metavar="DIR|FILE")]
    """Folder of a run, an array's file, or a folder or zip of images."""
    against: Annotated[str, tyro.conf.arg(metavar="DATA|DIR|FILE")]
    """Name of a data set, or real data in any of these forms."""
    labels: Annotated[str | None, optional("COLUMN", "none")] = None
    """Column of a table that holds classes: left out."""
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


def evaluate(config: EvaluateConfig) -> None:
    """Prints the figures and writes them."""
    check_group(config)
    check_count("--num-samples", config.num_samples, 6, 1_000_000)
    runs.check_writable("--out", config.out, (".json",))
    columns = _columns(config)
    # What is a folder of images takes the shape of the other; of two folders, that of --size.
    if _is_folder(config.against):
        samples = _read("--run", config, columns)
        real = _read("--against", config, columns, samples.shape[1:])
    else:
        real = _read("--against", config, columns)
        samples = _read("--run", config, columns, real.shape[1:])
    if samples.shape[1:] != real.shape[1:]:
        shapes = f"{samples.shape[1:]} and {real.shape[1:]}"
        if np.prod(samples.shape[1:]) != np.prod(real.shape[1:]):
            raise UserError(f"--run and --against must have data of one shape, got {shapes}.")
        # Pixels beside vectors: on the scale that vectors of pixels have here.
        samples, real = (_flat(part) for part in (samples, real))
    count = min(config.num_samples, len(samples), len(real))
    check_count("the number of samples and of real data", count, 6)
    rows = np.random.default_rng(config.seed)
    x = samples[rows.permutation(len(samples))[:count]]
    order = rows.permutation(len(real))
    parts = [x, real[order[:count]]]
    if len(real) >= 2 * count:  # Other real data: what no model can be expected to beat.
        parts.append(real[order[count : 2 * count]])
    pictures = _pictures(x)
    own, real, *others = _features(parts, config) if pictures else _standardized(parts)
    key = jax.random.key(config.seed)
    figures = {"samples": count, **_distances(own, real, key, pictures)}
    for other in others:
        of_data = _distances(other, real, key, pictures)
        figures |= {f"{name}_of_data": value for name, value in of_data.items()}
    figures |= {n: float(v) for n, v in metrics.prdc(own, real)._asdict().items()}
    print(report.table(f"{config.run} against {config.against}", figures))
    if config.out is not None:
        options = {k: v for k, v in dataclasses.asdict(config).items() if k != "out"}
        options["features"] = config.features if pictures else None
        about = {"figures": figures, "options": options, "commit": report.commit()}
        runs.write(config.out, about)
        print(config.out)


def _is_folder(name: str) -> bool:
    """Whether these are files of images, whose size is a choice."""
    path = Path(name).expanduser()
    if name in _KNOWN or (path / runs.SAMPLES).is_file():
        return False
    return path.is_dir() or path.suffix.lower() == ".zip"


def _columns(config: EvaluateConfig) -> dict[str, list[str]]:
    """The columns of what are tables: of two tables the same ones in the same order."""
    files = {"--run": config.run.expanduser(), "--against": Path(config.against).expanduser()}
    found = {flag: columns_of(f) for flag, f in files.items() if f.suffix.lower() in _TABLES}
    if config.labels is not None and not any(config.labels in names for names in found.values()):
        known = ", ".join(dict.fromkeys(name for names in found.values() for name in names))
        got = f"got {config.labels!r}" + f"; there are {known:.200}" * bool(known)
        raise UserError(f"--labels must be a column of --run or of --against, {got}.")
    found = {flag: [n for n in names if n != config.labels] for flag, names in found.items()}
    # Those of a table without a header, and of the arrays of an archive, name no columns.
    nameless = any("column 0" in names for names in found.values())
    if len(found) < 2 or nameless or any(f.suffix.lower() == ".npz" for f in files.values()):
        return found
    own, real = found.values()
    if set(own) != set(real):
        differing = sorted(set(own) ^ set(real))
        raise UserError(
            f"--run and --against must have the same columns, not {differing[0]!r} alone."
        )
    return dict.fromkeys(found, real)


def _read(
    flag: str, config: EvaluateConfig, columns: dict[str, list[str]], event: Any = None
) -> Any:
    """Data of any form: bytes if they are images, of this shape if they can be, else floats."""
    name = str(config.run) if flag == "--run" else config.against
    path = Path(name).expanduser()
    if flag == "--against" and name in _KNOWN:
        return _known(name, config)
    if (path / runs.SAMPLES).is_file():
        path = path / runs.SAMPLES
    if path.suffix.lower() == ".npy":
        return _checked(flag, read_npy(path))
    if path.suffix.lower() in _TABLES:
        return _checked(flag, read_data(path, columns[flag]))
    if _is_folder(name):
        event = event or (config.size, config.size, 3)
        if len(event) != 3 or event[2] not in (1, 3):
            raise UserError(f"{flag}: {name} holds images, the other data of shape {event}.")
        with user_errors(ValueError, OSError, ImportError):
            return data.load_images(path, event[:2], channels=event[2], progress=False).images
    named = ", ".join(_KNOWN) if flag == "--against" else "a run"
    asked = f"{named}, a folder or zip of images, or one of {', '.join(('.npy', *_TABLES))}"
    raise UserError(f"{flag} must be {asked}; got {name!r}, which is none of these.")


def _known(name: str, config: EvaluateConfig) -> np.ndarray:
    """A data set that has a name."""
    if name in LOADERS:
        with user_errors(ValueError, OSError, ImportError):
            return LOADERS[name](config.split, config.data_root).images
    if name == "digits":
        digits = data.load_digits()
        return digits.held_out if config.split == "test" else digits.train
    return np.asarray(make_known(name).training(jax.random.key(config.seed))[0])


def _checked(flag: str, array: np.ndarray) -> np.ndarray:
    """Images as bytes, everything else as it is, if it is finite and not empty.

    Whole numbers up to 255 are taken for bytes, floats for numbers from -1 to 1.
    """
    if not array.size or array.ndim < 2:
        raise UserError(f"{flag} must hold data of shape (num, *event), got {array.shape}.")
    if not np.all(np.isfinite(array)):
        raise UserError(f"{flag} holds numbers that are not finite.")
    if not _pictures(array) or array.dtype == np.uint8:
        return array
    low, high = float(array.min()), float(array.max())
    if low >= 0 and high > 1 and high <= 255 and np.all(array == np.round(array)):
        return array.astype(np.uint8)
    if low >= 0 or low < -4 or high > 4:
        asked = "images must be bytes, or floats from -1 to 1"
        raise UserError(f"{flag}: {asked}; they go from {low:.3g} to {high:.3g}.")
    return np.asarray(data.to_uint8(jnp.asarray(array, jnp.float32)))


def _pictures(array: np.ndarray) -> bool:
    return array.ndim == 4 and array.shape[-1] in (1, 3)


def _flat(array: np.ndarray) -> np.ndarray:
    """Vectors; pixels of bytes go from -1 to 1, as everywhere in the library."""
    flat = array.reshape(len(array), -1)
    return data.to_float(flat) if flat.dtype == np.uint8 else flat


def _features(parts: list[np.ndarray], config: EvaluateConfig) -> list[np.ndarray]:
    """Images by a network's features, or as they are."""
    if config.features == "pixels":
        return [_flat(part) for part in parts]
    with user_errors(ImportError, ValueError, OSError):
        if config.features == "inception":
            network = metrics.InceptionFeatures()
        else:
            network = metrics.EfficientNetFeatures(size=config.size)
        return [network(part) for part in parts]


def _standardized(parts: list[np.ndarray]) -> list[np.ndarray]:
    """Vectors on the scale of the real data, so that no figure depends on units."""
    flat = [np.asarray(part, np.float64).reshape(len(part), -1) for part in parts]
    center, scale = flat[1].mean(axis=0), flat[1].std(axis=0)
    scale = np.where(scale > 0, scale, 1)
    return [((part - center) / scale).astype(np.float32) for part in flat]


def _distances(a: np.ndarray, b: np.ndarray, key: Any, pictures: bool) -> dict[str, float]:
    if pictures:
        distance, kernel = metrics.frechet_distance(a, b), metrics.kid(a, b, key).mean
        return {"frechet_distance": float(distance), "kernel_distance": float(kernel)}
    return {
        "energy_distance": float(metrics.energy_distance(a, b)),
        "sliced_wasserstein": float(metrics.sliced_wasserstein(a, b, key)),
        "two_sample_accuracy": float(metrics.two_sample_accuracy(a, b)),
    }


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return run(lambda: evaluate(parse(EvaluateConfig, argv, "evaluate", __doc__)))


if __name__ == "__main__":
    start(main)
