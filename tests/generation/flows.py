"""Flows whose answer is known, for the tests of generation."""

import jax
import jax.numpy as jnp

from kacjax import flow_matching_path

PATH = flow_matching_path()
DEVIATION = 0.3


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
        jax.debug.callback(lambda t: times.append(float(t[0])), t, ordered=True)
        return velocity(t, x, *label)

    return recorded, times


def rough_velocity(t, x):
    """Fast oscillations in time, at which adaptive solvers have to reject steps."""
    return gaussian_velocity(t, x) * (1 + 5 * jnp.sin(40 * t))[:, None]
