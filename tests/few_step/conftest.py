"""What training needs of JAX."""

import jax
import pytest


@pytest.fixture(autouse=True)
def standard_promotion(request):
    """Adam does not work under strict promotion of types.

    The fault is Optax's: `optax.tree.bias_correction` computes `1 - decay**count` of a float and an
    int32 (Optax 0.2.8).
    """
    with jax.numpy_dtype_promotion("standard"):
        yield
