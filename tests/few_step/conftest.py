"""What training needs of JAX."""

from tests.training.conftest import standard_promotion

__all__ = ["standard_promotion"]
