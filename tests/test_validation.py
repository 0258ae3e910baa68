"""The checks of concrete values, and what passes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kacjax import diffusion_path, kac_path
from kacjax._validation import (
    as_floats,
    check_choice,
    check_count,
    check_labels,
    check_nonnegative,
    check_path,
    check_positive,
    choose,
    is_concrete,
    widen,
)


def test_traced_values_pass():
    @jax.jit
    def run(x):
        check_positive("x", x)
        check_nonnegative("x", x)
        assert not is_concrete(x)
        return check_labels(x.astype(jnp.int32), 2, 1)

    run(-jnp.ones(2))
    assert all(map(is_concrete, (1, 1.0, np.float32(1), np.ones(2), jnp.ones(2))))
    assert not is_concrete("1")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_positive("a", 0), "a must be positive and finite, got 0"),
        (lambda: check_positive("a", np.inf), "a must be positive and finite, got inf"),
        (
            lambda: check_positive("a", jnp.array([1.0, -2.0])),
            r"a must be positive and finite, got an array of shape \(2,\) from -2.0 to 1.0",
        ),
        (lambda: check_positive("a", "9"), "a must be a number or an array of numbers, got '9'"),
        (lambda: check_positive("a", None), "a must be a number or an array of numbers, got None"),
        (lambda: check_positive("a", True), "a must be a number or an array of numbers, got True"),
        (lambda: check_nonnegative("t", np.nan), "t must not be negative or NaN, got nan"),
        (lambda: check_nonnegative("t", -1e-9), "t must not be negative or NaN, got -1e-09"),
        (lambda: check_count("n", 0), "n must be an integer of at least 1, got 0"),
        (lambda: check_count("n", True), "n must be an integer of at least 1, got True"),
        (lambda: check_count("n", 2.0), "n must be an integer of at least 1, got 2.0"),
        (lambda: check_choice("m", "c", ["b", "a"]), "m must be one of a, b; got 'c'"),
        (lambda: choose("m", 3, {"a": 1}), "m must be one of a; got 3"),
        (lambda: check_labels([0, 1], 3), r"labels must be integers of shape \(3,\), got int64 of"),
        (lambda: check_labels([0, 3], 2, 3, null=False), r"labels must lie in 0\.\.2, got values"),
        (
            lambda: as_floats("x", 1.0),
            r"x must hold floats of shape \(batch, \*event\), got float",
        ),
        (lambda: as_floats("x", np.ones((2, 2), np.uint8)), "x must hold floats of shape .* uint8"),
    ],
)
def test_messages_name_the_argument_its_value_and_what_is_allowed(call, message, without_hook):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def test_values_that_pass():
    for value in (1e-30, 3, np.float32(2), jnp.ones(3), jnp.ones(2, jnp.bfloat16)):
        check_positive("a", value)
    check_nonnegative("t", jnp.zeros(3))
    check_count("n", np.int64(0), minimum=0)
    assert choose("m", "a", {"a": 1}) == 1


def test_labels_are_int32():
    for labels in ([0, 3], np.array([0, 3], np.uint8), jnp.array([0, 3])):
        found = check_labels(labels, 2, 3)
        assert found.dtype == jnp.int32
        np.testing.assert_array_equal(found, [0, 3])
    assert check_labels(None, 2) is None


def test_floats_are_wide(x64):
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32, jnp.int32):
        assert widen(jnp.ones(2, dtype)).dtype == jnp.float32
    assert widen(jnp.ones(2, jnp.float64)).dtype == jnp.float64
    assert as_floats("x", np.ones((2, 1), np.float16)).dtype == jnp.float32


class Knows:
    """A velocity that knows its path."""

    path = kac_path(9.0, 3.0)

    def __call__(self, t, x):
        return x


def test_paths_are_compared_by_their_numbers():
    check_path(lambda t, x: x, diffusion_path())
    for same in (Knows.path, kac_path(9, 3.0), kac_path(jnp.asarray(9.0), np.float64(3.0000001))):
        check_path(Knows(), same)
    for other in (
        kac_path(9.0, 3.001),
        kac_path(9.0, 3.0, T=2.0),
        kac_path(9.0, 3.0, signal="cosine"),
        kac_path(9.0, 3.0, clock=lambda u: u),
        kac_path(jnp.array([9.0, 9.0]), 3.0),
        diffusion_path(),
    ):
        with pytest.raises(ValueError, match=r"^path must be that of the velocity"):
            check_path(Knows(), other)
    # Functions are compared by their values.
    own = kac_path(9.0, 3.0, signal=lambda u: 1 - u)
    Knows.path = own
    try:
        check_path(Knows(), kac_path(9.0, 3.0, signal=lambda u: 1.0 - u))
        with pytest.raises(ValueError, match=r"^path must be that of the velocity"):
            check_path(Knows(), kac_path(9.0, 3.0, signal=lambda u: 1 - u**4))
    finally:
        Knows.path = kac_path(9.0, 3.0)
    # What is traced cannot be compared.
    jax.jit(lambda c: check_path(Knows(), kac_path(9.0, c)))(2.0)
