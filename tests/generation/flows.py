"""Flows whose answer is known, for the tests of generation."""

import equinox as eqx
import jax
import jax.numpy as jnp

import kacjax
from kacjax import flow_matching_path

PATH = flow_matching_path()
DEVIATION = 0.3


class GaussianFlow(eqx.Module):
    """The velocity that scales a Gaussian from the noise's deviation to `DEVIATION`.

    It is linear, of the variance f^2 DEVIATION^2 + sigma^2; for Brownian motion it is the marginal
    velocity of normal data.
    """

    process_path: kacjax.ProbabilityPath

    def __call__(self, t, x, label=None):
        c = self.process_path.coefficients(t, x.ndim)
        half_change = c.f * c.f_dot * DEVIATION**2 + c.sigma * c.sigma_dot
        return x * (half_change / (c.f**2 * DEVIATION**2 + c.sigma**2))

    def data(self, noise):
        """Where points at `T` come from, if the signal vanishes there."""
        return noise * DEVIATION / self.process_path.coefficients(self.process_path.T).sigma


def gaussian_velocity(t, x):
    """The marginal velocity of flow matching for normal data of this deviation."""
    t = t.reshape(-1, *(1,) * (x.ndim - 1))
    variance = (1 - t) ** 2 * DEVIATION**2 + t**2
    slope = t - (1 - t) * DEVIATION**2
    return x * slope / variance


def exact(x_T):
    """The flow map of `gaussian_velocity` from 1 to 0: the Gaussians' scale."""
    return x_T * DEVIATION


def recording(velocity):
    """The velocity, and the list of times at which it is asked when run."""
    times = []

    def recorded(t, x, *label):
        jax.debug.callback(lambda t: times.append(float(t[0])), t)
        return velocity(t, x, *label)

    return recorded, times


def counting(velocity):
    """The velocity, and a list that grows by one whenever it is traced."""
    traces = []

    def counted(t, x, *label):
        traces.append(1)
        return velocity(t, x, *label)

    return counted, traces


def rough_velocity(t, x):
    """Fast oscillations in time, at which adaptive solvers have to reject steps."""
    return gaussian_velocity(t, x) * (1 + 5 * jnp.sin(40 * t))[:, None]
