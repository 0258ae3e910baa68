"""Trained velocities that come with the library."""

import pathlib

from kacjax._validation import choose
from kacjax.export.velocity import load_velocity
from kacjax.velocity import Velocity

_FOLDER = pathlib.Path(__file__).parent / "pretrained"


def load_pretrained(name: str = "digits", steps: int | None = None) -> Velocity:
    """A trained velocity of this package, with its path and classes; made by `tools.make_pretrained`.

    `digits` are the 8 by 8 pixels of scikit-learn's handwritten digits, as 64 numbers in `[-1, 1]`, of ten
    classes, on `kac_path()`. The teacher knows no class too, the label 10, for guidance.

    Args:
        name: `digits`.
        steps: Steps of a student, 4 or 1, to be drawn with by Euler's method; the teacher if missing.

    Raises:
        ValueError: If there is none of this name, or no student of so many steps.

    Example:
        >>> velocity, labels = kacjax.load_pretrained("digits", steps=1), jnp.arange(10)
        >>> options = {"steps": 1, "solver": "euler", "labels": labels}
        >>> x = kacjax.generate(velocity, velocity.path, jax.random.key(0), (10, 64), **options)
        >>> x.shape, bool(jnp.all(jnp.abs(x) < 2))
        ((10, 64), True)
    """
    known = {None: "teacher"} | {count: f"student-{count}" for count in (4, 1)}
    folder = choose("name", name, {"digits": _FOLDER})
    if steps not in known:
        raise ValueError(f"steps must be None, 4 or 1, got {steps!r}.")
    return load_velocity(folder / f"{name}-{known[steps]}.safetensors")
