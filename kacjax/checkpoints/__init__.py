"""Checkpoints of a training run: kept, checked, and resumed from."""

from kacjax.checkpoints.manager import Checkpoint, Checkpoints

__all__ = ["Checkpoint", "Checkpoints"]
