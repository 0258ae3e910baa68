"""Judges samples from anywhere: a run's, an array's, or the images of a folder.

python -m experiments.evaluate --run runs/mnist-kac --against mnist
python -m experiments.evaluate --run samples.npy --against table.csv --out figures.json
"""

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments import report, runs
from experiments.checks import check_group
from experiments.command import UserError, check_count, command, optional, start, user_errors
from experiments.datasets import make_known
from experiments.datasets.arrays import Columns, numbers_of, read_columns, read_npy
from experiments.datasets.pictures import LOADERS
from kacjax import data, metrics
from kacjax.export import load_notes

_TABLES = (".npz", ".csv", ".parquet")
_KNOWN = (*LOADERS, "digits", *data.TARGETS)


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Samples, and what they are compared with."""

    run: Annotated[Path, tyro.conf.arg(metavar="DIR|FILE")]
    """Folder of a run, an array's file, or a folder, zip or tar of images."""
    against: Annotated[str, tyro.conf.arg(metavar="DATA|DIR|FILE")]
    """Name of a data set, or real data in any of these forms."""
    labels: Annotated[str | None, optional("COLUMN", "none")] = None
    """Column of a table that holds classes: left out, as is that of a run."""
    split: Literal["train", "test"] = "test"
    """Which part of a known data set of images."""
    num_samples: int = 2000
    """Samples and real data to compare, at most; the figures depend on it."""
    features: Literal["efficientnet", "inception", "pixels"] = "efficientnet"
    """What images are compared by."""
    size: int = 224
    """Side to which efficientnet resizes them, 32 at least; two folders are read at it."""
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
    check_count("--size", config.size, 32 if config.features == "efficientnet" else 1, 4096)
    runs.check_writable("--out", config.out, (".json",))
    given = {"--run": str(config.run), "--against": config.against}
    found = {"--against": _known(config)} if config.against in _KNOWN else {}
    places = {flag: _place(flag, name) for flag, name in given.items() if flag not in found}
    tables = _tables(places, config.labels)
    # A folder of images takes the shape of the other data; of two folders, that of --size.
    event = next((x.shape[1:] for x in found.values()), (config.size, config.size, 3))
    for flag in sorted(places, key=lambda flag: _is_folder(places[flag])):
        found[flag] = _read(flag, places[flag], tables.get(flag), event)
        event = found[flag].shape[1:]
    samples, real = found["--run"], found["--against"]
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


def _place(flag: str, name: str) -> Path:
    """A file or folder; of a run, its samples."""
    place = Path(os.path.expanduser(name))
    if (place / runs.SAMPLES).is_file():
        return place / runs.SAMPLES
    if runs.is_run(place):
        raise UserError(f"{flag}: {place} has no samples yet: go on with the run by --resume.")
    return place


def _is_folder(place: Path) -> bool:
    """Whether these are files of images, whose size is a choice."""
    with contextlib.suppress(data.DataError, RuntimeError):  # The second of an unknown user's home.
        return bool(data.image_files(place))
    return False


def _tables(places: dict[str, Path], labels: str | None) -> dict[str, Columns]:
    """Columns of tables and of runs, without classes: of two, the same ones in the same order."""
    found, left_out = dict[str, Columns](), {labels}
    for flag, place in places.items():
        if place.suffix.lower() in _TABLES:
            found[flag] = read_columns(place)
        elif place.name == runs.SAMPLES and place.with_name(runs.VELOCITY).is_file():
            array, damages = read_npy(place), (AttributeError, TypeError, ValueError, OSError)
            with user_errors(*damages, saying=f"the notes in {place.parent} are damaged: "):
                notes = load_notes(place.parent)
                if names := list(map(str, notes.get("names", []))):
                    found[flag] = dict(zip(names, array.T, strict=True))
                    left_out |= {str(notes.get("label"))}.difference(names)
    known = list(dict.fromkeys(name for columns in found.values() for name in columns))
    if labels not in [None, *known]:
        got = f"got {labels!r}" + f"; there are {', '.join(known):.200}" * bool(known)
        raise UserError(f"--labels must be a column of --run or of --against, {got}.")
    for flag, columns in found.items():
        found[flag] = {name: each for name, each in columns.items() if name not in left_out}
    # Those of a table without a header, and of the arrays of an archive, name no columns.
    archive = any(place.suffix.lower() == ".npz" for place in places.values())
    if len(found) < 2 or archive or any("column 0" in names for names in found.values()):
        return found
    own, real = found.values()
    if differing := sorted(set(own) ^ set(real)):
        raise UserError(
            f"--run and --against must have the same columns, not {differing[0]!r} alone."
        )
    return {**found, "--run": {name: own[name] for name in real}}


def _read(flag: str, place: Path, columns: Columns | None, event: Any) -> np.ndarray:
    """Data of any form: bytes if they are images, of this shape if they can be, else floats."""
    if columns is not None:
        return _checked(flag, numbers_of(place, columns)[0])
    if place.suffix.lower() == ".npy":
        return _checked(flag, read_npy(place))
    if _is_folder(place):
        if len(event) != 3 or event[2] not in (1, 3):
            raise UserError(f"{flag}: {place} holds images, the other data of shape {event}.")
        with user_errors(ValueError, OSError, ImportError):
            return data.load_images(place, event[:2], channels=event[2], progress=False).images
    named = ", ".join(_KNOWN) if flag == "--against" else "a run"
    asked = f"{named}, a folder, zip or tar of images, or one of {', '.join(('.npy', *_TABLES))}"
    why = "is none of these" if os.path.exists(place) else "does not exist"
    raise UserError(f"{flag} must be {asked}; got {str(place)!r}, which {why}.")


def _known(config: EvaluateConfig) -> np.ndarray:
    """A data set that has a name."""
    name = config.against
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


main = command(EvaluateConfig, evaluate, "evaluate", __doc__)

if __name__ == "__main__":
    start(main)
