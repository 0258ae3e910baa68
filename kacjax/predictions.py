r"""What a network outputs: a velocity, the data, or EDM's mixture of data and noise.

A prediction says what a network is given, and which velocity its output stands for. Those here have
names, `velocity`, `x0`, `edm` and `bounded`; one of a user's own is a subclass of `Prediction`.
"""

import abc
import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kacjax._typing import ArrayLike, Scalar
from kacjax._validation import check_positive, choose, is_concrete
from kacjax.paths import Points, ProbabilityPath, Times

# EDM's noise levels are clipped to e^-9.2 and e^9.2: where data have faded they are infinite.
_LARGEST_LOG_LEVEL = math.log(1e4)
# Bounds the weight of EDM's loss: of the change of the output per unit of the velocity, times `1 / T`.
_LARGEST_RATIO = 1e3


@dataclasses.dataclass(frozen=True)
class Prediction(abc.ABC):
    """How a network's output stands for a velocity; hashable, as a frozen dataclass of numbers is.

    Attributes:
        own_time: Whether the network gets another time than the path's, so that the final time that
            it was made for need not be the path's.

    Example:
        >>> class Noise(kacjax.predictions.Prediction):
        ...     def velocity(self, path, t, x, output):  # output: the noise, of deviation 1
        ...         c = path.coefficients(t, x.ndim)
        ...         x0 = (x - c.sigma * output) / jnp.maximum(c.f, 1e-3)
        ...         return c.f_dot * x0 + c.sigma_dot * output
        >>> network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8)
        >>> velocity = kacjax.Velocity(network, kacjax.diffusion_path(), Noise())
        >>> velocity(jnp.array([0.5]), jnp.ones((1, 2)))
        Array([[-2., -2.]], dtype=float32)
    """

    own_time: ClassVar[bool] = False

    def inputs(
        self, path: ProbabilityPath, t: Times, x: Points, T: Scalar | None
    ) -> tuple[Times, Points]:
        """The time and the points that the network is given; by default `t` and `x` themselves.

        Args:
            path: The path.
            t: Times, one per point.
            x: Points.
            T: The final time that the network was made for, if its `config` has one.
        """
        del path, T
        return t, x

    @abc.abstractmethod
    def velocity(self, path: ProbabilityPath, t: Times, x: Points, output: Array) -> Points:
        """The velocity that an output stands for."""

    def weight(self, path: ProbabilityPath, t: Array) -> Array:
        """The balanced weight of the velocity's squared error at times of any shape; 1 by default."""
        del path
        return jnp.ones_like(t)


class VelocityPrediction(Prediction):
    """The velocity itself.

    Example:
        >>> kacjax.predictions.VelocityPrediction().weight(kacjax.kac_path(), jnp.array([0.5]))
        Array([1.], dtype=float32)
    """

    def velocity(self, path: ProbabilityPath, t: Times, x: Points, output: Array) -> Points:  # noqa: D102
        return output


class DataPrediction(Prediction):
    r"""The data; see `ProbabilityPath.velocity_from_x0`.

    With the gain $\gamma$ of `ProbabilityPath.x0_gain`, like $1/t$, the velocity's error is $|\gamma|$
    times that of the data. The weight $1 / (|\gamma| (1 + |\gamma| / 300))$ lies half-way between errors
    of the velocity, which near the data outweigh all others, and of the data.

    Example:
        >>> path = kacjax.flow_matching_path()
        >>> kacjax.predictions.DataPrediction().weight(path, jnp.array([0.5])).round(3)
        Array([0.497], dtype=float32)
    """

    def velocity(self, path: ProbabilityPath, t: Times, x: Points, output: Array) -> Points:  # noqa: D102
        return path.velocity_from_x0(t, x, output)

    def weight(self, path: ProbabilityPath, t: Array) -> Array:  # noqa: D102
        gain = jnp.abs(path.x0_gain(t))
        return 1 / (gain * (1 + gain / 300))


@dataclasses.dataclass(frozen=True)
class EDMPrediction(Prediction):
    r"""EDM's preconditioning, for any path: the network's input and target have deviation 1.

    With the deviation $m = \sqrt{f^2 \sigma_d^2 + \sigma^2}$ of the points, for data of deviation
    $\sigma_d$, the network gets $x / m$ and $c_\text{noise} = \log(\sigma / f) / 4$, and its output `F`
    stands for the data and the velocity

    $$ D = \frac{f \sigma_d^2 x}{m^2} + \frac{\sigma \sigma_d}{m} F, \qquad
       v = \frac{(\sigma \sigma' + f f' \sigma_d^2) x + m \sigma_d (f' \sigma - f \sigma') F}{m^2}. $$

    The balanced weight is EDM's, an even error of `F`. A network whose `config` has a `T`, as those of
    `kacjax.models`, embeds times of `[0, T]`, and gets $c_\text{noise}$ laid on that interval: 0 and
    `T` are the levels 1e-4 and 1e4.

    Attributes:
        sigma_data: Deviation of the data; EDM's 0.5 is that of images in `[-1, 1]`.

    Raises:
        ValueError: If `sigma_data` is not positive and finite.

    Source: T. Karras et al., *Elucidating the Design Space of Diffusion-Based Generative Models*,
    arXiv 2206.00364, table 1.

    Example:
        >>> velocity = kacjax.Velocity(lambda t, x: x, kacjax.edm_path(), "edm")
        >>> velocity(jnp.array([1.0]), jnp.ones((1, 1))).round(3)  # F is x / m
        Array([[0.4]], dtype=float32)
    """

    sigma_data: float = 0.5
    own_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("sigma_data", self.sigma_data)

    def inputs(  # noqa: D102
        self, path: ProbabilityPath, t: Times, x: Points, T: Scalar | None
    ) -> tuple[Times, Points]:
        c = path.coefficients(t, x.ndim)
        level = c.sigma / jnp.maximum(c.f, 1e-5 * c.sigma)
        log = jnp.clip(jnp.log(level), -_LARGEST_LOG_LEVEL, _LARGEST_LOG_LEVEL)
        # One time for a point, also where its components have processes of their own.
        log = jnp.mean(log.reshape(len(log), -1), axis=1)
        time = log / 4 if T is None else T * (1 + log / _LARGEST_LOG_LEVEL) / 2
        return time, (x / self._deviation(c.f, c.sigma)).astype(x.dtype)

    def velocity(self, path: ProbabilityPath, t: Times, x: Points, output: Array) -> Points:  # noqa: D102
        c, square = path.coefficients(t, x.ndim), self.sigma_data**2
        scale = self._deviation(c.f, c.sigma)
        skip = (c.sigma * c.sigma_dot + c.f * c.f_dot * square) / scale
        gain = self.sigma_data * (c.f_dot * c.sigma - c.f * c.sigma_dot)
        return (skip * x + gain * output) / scale

    def weight(self, path: ProbabilityPath, t: Array) -> Array:  # noqa: D102
        c = path.coefficients(t)
        gain = self.sigma_data * (c.f_dot * c.sigma - c.f * c.sigma_dot)
        ratio = self._deviation(c.f, c.sigma) / gain
        # Toward data that noise leaves slowly, as Kac's does with the clock t2, the velocity has no part
        # of the output: the target would be rounding.
        return jnp.square(jnp.minimum(jnp.abs(ratio), _LARGEST_RATIO * path.T))

    def _deviation(self, f: Array, sigma: Array) -> Array:
        return jnp.sqrt(jnp.square(f * self.sigma_data) + jnp.square(sigma))


class BoundedPrediction(Prediction):
    r"""The data and the noise's velocity, which keeps the bound `c` of the process.

    The network's output has twice the numbers of a point along its last axis, $\hat x_0$ and `z`
    (`outputs=2` in `kacjax.models`), and stands for $f' \hat x_0 + g' c \tanh z$. Since $v / c$ is the
    mean sign of a Kac path's motion, $\tanh z$ is one as well, see `kacjax.losses.SignMatching`.
    Noise without a bound is a `ValueError`.

    Example:
        >>> velocity = kacjax.Velocity(lambda t, x: jnp.full((1, 4), 9.0), kacjax.kac_path(), "bounded")
        >>> v = velocity(jnp.array([0.5]), jnp.ones((1, 2)))  # -9 + 3 tanh 9
        >>> bool(jnp.allclose(v, -6, atol=1e-3))
        True
    """

    def velocity(self, path: ProbabilityPath, t: Times, x: Points, output: Array) -> Points:  # noqa: D102
        x0, z = self.split(x, output)
        c = path.coefficients(t, x.ndim)
        return c.f_dot * x0 + c.g_dot * speed_of(path) * jnp.tanh(z)

    def split(self, x: Points, output: Array) -> list[Array]:
        """The two parts of an output."""
        expected = (*x.shape[:-1], 2 * x.shape[-1])
        if output.shape != expected:
            raise ValueError(
                f"network must return shape {expected} for prediction='bounded' (outputs=2), "
                f"got {output.shape}."
            )
        return jnp.split(output, 2, axis=-1)


def speed_of(path: ProbabilityPath) -> ArrayLike:
    """The bound of the noise's velocity; a `ValueError` where there is none."""
    speed = path.process.max_speed()
    if is_concrete(speed) and not np.all(np.isfinite(speed)):
        raise ValueError(f"path must have noise of bounded velocity, got {path.process!r}.")
    return speed


PREDICTIONS: dict[str, Prediction] = {
    "velocity": VelocityPrediction(),
    "x0": DataPrediction(),
    "edm": EDMPrediction(),
    "bounded": BoundedPrediction(),
}
"""Predictions by name."""


def make_prediction(prediction: str | Prediction) -> Prediction:
    """The prediction of this name, or itself."""
    if all(callable(getattr(prediction, part, None)) for part in ("inputs", "velocity", "weight")):
        return prediction  # type: ignore[return-value]
    return choose("prediction", prediction, PREDICTIONS)  # type: ignore[arg-type]
