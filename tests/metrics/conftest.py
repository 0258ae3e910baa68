"""Programs here run once or twice: they are compiled quickly, not well."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def compile_quickly():
    """Compiling takes most of the time of these tests."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
