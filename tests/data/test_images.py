"""Bytes to floats and back."""

import jax
import jax.numpy as jnp
import numpy as np

from kacjax.data import to_float, to_uint8

BYTES = np.arange(256, dtype=np.uint8)


def test_every_byte_comes_back():
    floats = to_float(BYTES)
    assert floats.dtype == np.float32
    assert floats[0] == -1
    assert floats[-1] == 1
    np.testing.assert_array_equal(floats, -floats[::-1])
    np.testing.assert_array_equal(to_uint8(floats), BYTES)


def test_numpy_and_jax_and_compiled_code_agree_to_the_last_bit():
    floats = to_float(BYTES)
    assert isinstance(floats, np.ndarray)
    for of in (to_float, jax.jit(to_float)):
        np.testing.assert_array_equal(of(jnp.asarray(BYTES)), floats)
    for of in (to_uint8, jax.jit(to_uint8)):
        np.testing.assert_array_equal(of(jnp.asarray(floats)), BYTES)


def test_what_is_too_dark_or_bright_is_clipped_and_the_rest_rounded():
    floats = np.array([-1e9, -1.001, 1.001, 1e9, 0.0019, -0.0019], np.float32)
    np.testing.assert_array_equal(to_uint8(floats), [0, 0, 255, 255, 128, 127])
