"""Trained velocities, classifiers and paths as files and as JSON."""

from kacjax.export.classifier import load_classifier, mnist_classifier, save_classifier
from kacjax.export.paths import path_from_dict, path_to_dict
from kacjax.export.velocity import load_notes, load_velocity, save_velocity

__all__ = [
    "load_classifier",
    "load_notes",
    "load_velocity",
    "mnist_classifier",
    "path_from_dict",
    "path_to_dict",
    "save_classifier",
    "save_velocity",
]
