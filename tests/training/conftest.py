"""What training needs of JAX."""

import jax
import pytest


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax itself does not work under strict dtype promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield
