"""Guidance: an affine mixture of two velocities, from one evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kacjax import generate, guided
from tests.generation.flows import PATH, counting

pytestmark = pytest.mark.optimised

NULL = 3


def velocity(t, x, label):
    """Constant drifts by label; the null label drifts by 1."""
    drift = jnp.where(label == NULL, 1.0, 10.0 + label.astype(x.dtype)).astype(x.dtype)
    return jnp.broadcast_to(drift.reshape(-1, *(1,) * (x.ndim - 1)), x.shape) + t[0].astype(x.dtype)


def test_formula_inside_and_outside_the_interval():
    t, x, label = jnp.array([0.1, 0.5, 0.9]), jnp.zeros((3, 2, 2)), jnp.array([0, 1, 2])
    shift = 0.1
    v = guided(velocity, 2.0, NULL, interval=(0.2, 0.6))(t, x, label)
    np.testing.assert_allclose(v[:, 0, 0] - shift, [10.0, 1 + 2 * (11 - 1), 12.0], rtol=1e-6)
    everywhere = guided(velocity, 0.0, NULL)(t, x, label)
    np.testing.assert_allclose(everywhere - shift, 1.0, rtol=1e-6)
    plain = guided(velocity, 1.0, NULL)(t, x, label)
    np.testing.assert_allclose(plain, velocity(t, x, label), rtol=1e-6)
    with pytest.raises(ValueError, match="null_label"):
        guided(velocity_of_two_classes, 2.0, NULL)


def velocity_of_two_classes(t, x, label):
    return velocity(t, x, label)


velocity_of_two_classes.classes = 2


@pytest.mark.long
def test_generation_evaluates_a_doubled_batch_once_a_step():
    sizes = []

    def sized(t, x, label):
        jax.debug.callback(lambda label: sizes.append(label.shape[0]), label, ordered=True)
        return velocity(t, x, label)

    labels = jnp.array([0, 1, 2, 0])
    options = {"grid_power": 1.0, "labels": labels, "return_nfe": True, "solver": "euler"}
    field = guided(sized, 2.0, NULL, interval=(0.4, 1.0))
    x, nfe = generate(field, PATH, jax.random.key(0), (4, 1), 4, **options)
    jax.effects_barrier()
    assert int(nfe) == 4
    assert sizes == [8, 8, 8, 4]
    plain, _ = generate(velocity, PATH, jax.random.key(0), (4, 1), 4, **options)
    # In three of four quarters the drift is 1 + 2 (drift - 1) in place of the drift.
    expected = -0.75 * (9.0 + np.asarray(labels))
    np.testing.assert_allclose((x - plain)[:, 0], expected, rtol=2e-3)


@pytest.mark.long
def test_one_compilation_whatever_the_scale_and_the_interval():
    """Also of Python's floats."""
    counted, traces = counting(velocity)
    labels = jnp.array([0, 1])
    results = []
    for scale, end in ((1.5, 0.5), (3.0, 0.7), (jnp.asarray(2.0), 0.9), (4, 1)):
        field = guided(counted, scale, NULL, interval=(0.1, end))
        results.append(generate(field, PATH, jax.random.key(0), (2, 1), 2, labels=labels))
        if len(results) == 1:
            once = len(traces)
    assert len(traces) == once
    assert len({float(x[0, 0]) for x in results}) == 4


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_velocity_of_another_type_than_the_points(dtype):
    """The branches inside and outside the interval agree in type, whatever the velocity's."""
    narrow = lambda t, x, label: velocity(t, x.astype(dtype), label)  # noqa: E731
    t, x, label = jnp.array([0.1, 0.5]), jnp.zeros((2, 1)), jnp.array([0, 1])
    found = guided(narrow, 2.0, NULL, interval=(0.2, 0.6))(t, x, label)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found[:, 0], [10.1, 20 + 1.1], rtol=2e-2)


def test_under_x64(x64):
    t, x = jnp.array([0.1, 0.5], jnp.float32), jnp.zeros((2, 1), jnp.float32)
    found = guided(velocity, 2.0, NULL)(t, x, jnp.array([0, 1], jnp.int32))
    assert found.dtype == jnp.float32


def test_bad_arguments():
    with pytest.raises(ValueError, match="interval must run from a lower to a higher time"):
        guided(velocity, 2.0, NULL, interval=(0.5, 0.1))
    with pytest.raises(ValueError, match="scale must be a number, got shape"):
        guided(velocity, jnp.ones(3), NULL)
