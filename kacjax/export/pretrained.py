"""Trained velocities that come with the library."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp

from kacjax._validation import check_choice
from kacjax.export.velocity import load_velocity
from kacjax.velocity import Velocity

_FOLDER = pathlib.Path(__file__).parent / "pretrained"


def load_pretrained(name: str = "digits", steps: int | None = None) -> Velocity:
    """A trained velocity of this package, with its path and classes; made by `tools.make_pretrained`.

    Handwritten digits of ten classes, pixels in `[-1, 1]`:

    | name | shape | network | path |
    | --- | --- | --- | --- |
    | `digits` | `(64,)`, scikit-learn's 8 by 8 pixels | `MLP` | `kac_path()` |
    | `mnist` | `(28, 28, 1)` | `UNet`, the size `tiny` | `kac_path(clock="t2")` |

    The teachers know no class too, the label 10, for guidance; MNIST's students have learned a guidance of 2.
    Numbers are kept with 16 bits.

    Args:
        name: `digits` or `mnist`.
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
    check_choice("name", name, ("digits", "mnist"))
    if steps not in known:
        raise ValueError(f"steps must be None, 4 or 1, got {steps!r}.")
    velocity = load_velocity(_FOLDER / f"{name}-{known[steps]}.safetensors")
    widen = lambda x: x.astype(jnp.float32) if x.dtype == jnp.float16 else x  # noqa: E731
    return dataclasses.replace(velocity, network=jax.tree.map(widen, velocity.network))
