"""Strict promotion everywhere; the jaxtyping hook is switched on in pyproject.toml."""

import os

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Compiling takes most of the time of short runs, also of those in other processes.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"


@pytest.fixture
def x64():
    """Float64 for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def quick_compilation(request):
    """Programs are compiled quickly, but in `optimised` modules, where they are the users'."""
    before = jax.config.read("jax_disable_most_optimizations")
    quick = request.node.get_closest_marker("optimised") is None
    jax.config.update("jax_disable_most_optimizations", quick)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
