"""What training needs of JAX, and quick compilation."""

import jax
import pytest


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax itself does not work under strict dtype promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(autouse=True, scope="package")
def compile_quickly():
    """Compiling takes most of the time of so short runs."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
