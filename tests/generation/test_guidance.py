"""Guidance: an affine mixture of two velocities, from one evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kacjax import generate, guided
from tests.generation.flows import PATH, recording

NULL = 3


def velocity(t, x, label):
    """Constant drifts by label; the null label drifts by 1."""
    drift = jnp.where(label == NULL, 1.0, 10.0 + label.astype(x.dtype))
    return jnp.broadcast_to(drift.reshape(-1, *(1,) * (x.ndim - 1)), x.shape) + t[0]


def test_formula_inside_and_outside_the_interval():
    t, x, label = jnp.array([0.1, 0.5, 0.9]), jnp.zeros((3, 2, 2)), jnp.array([0, 1, 2])
    shift = 0.1
    v = guided(velocity, 2.0, NULL, interval=(0.2, 0.6))(t, x, label)
    np.testing.assert_allclose(v[:, 0, 0] - shift, [10.0, 1 + 2 * (11 - 1), 12.0], rtol=1e-6)
    everywhere = guided(velocity, 0.0, NULL)(t, x, label)
    np.testing.assert_allclose(everywhere - shift, 1.0, rtol=1e-6)
    plain = guided(velocity, 1.0, NULL)(t, x, label)
    np.testing.assert_allclose(plain, velocity(t, x, label), rtol=1e-6)


def test_generation_evaluates_a_doubled_batch_once_a_step():
    sizes = []

    def sized(t, x, label):
        jax.debug.callback(lambda label: sizes.append(label.shape[0]), label, ordered=True)
        return velocity(t, x, label)

    labels = jnp.array([0, 1, 2, 0])
    options = {"grid": "uniform", "labels": labels, "return_nfe": True}
    field = guided(sized, 2.0, NULL, interval=(0.4, 1.0))
    x, nfe = generate(field, PATH, jax.random.key(0), (4, 1), 4, **options)
    jax.effects_barrier()
    assert int(nfe) == 4
    assert sizes == [8, 8, 8, 4]
    plain, _ = generate(velocity, PATH, jax.random.key(0), (4, 1), 4, **options)
    # In three of four quarters the drift is 1 + 2 (drift - 1) in place of the drift.
    expected = -0.75 * (9.0 + np.asarray(labels))
    np.testing.assert_allclose((x - plain)[:, 0], expected, rtol=1e-5)


def test_one_compilation_whatever_the_scale():
    field, times = recording(velocity)
    traces = []

    def counted(t, x, label):
        traces.append(1)
        return velocity(t, x, label)

    for scale in (1.5, 3.0):
        field = guided(counted, jnp.asarray(scale), NULL)
        generate(field, PATH, jax.random.key(0), (2, 1), 2, labels=jnp.array([0, 1]))
        times.append(len(traces))
    assert times[0] == times[1]


def test_bad_arguments():
    with pytest.raises(ValueError, match="interval must run from a lower to a higher time"):
        guided(velocity, 2.0, NULL, interval=(0.5, 0.1))
    with pytest.raises(ValueError, match="scale must be a number, got shape"):
        guided(velocity, jnp.ones(3), NULL)
