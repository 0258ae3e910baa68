"""Trained velocities and paths as files and as JSON."""

from kacjax.export.paths import path_from_dict, path_to_dict
from kacjax.export.velocity import load_notes, load_velocity, save_velocity

__all__ = ["load_notes", "load_velocity", "path_from_dict", "path_to_dict", "save_velocity"]
