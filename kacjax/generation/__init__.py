"""Generation on Diffrax: samples, trajectories, encoding and log-densities."""

from kacjax.generation.coordinates import COORDINATES
from kacjax.generation.encode import decode, encode, interpolate, log_density
from kacjax.generation.generate import generate, initial_noise, trajectory
from kacjax.generation.solve import solve
from kacjax.generation.solvers import ADAPTIVE, FIXED

__all__ = [
    "ADAPTIVE",
    "COORDINATES",
    "FIXED",
    "decode",
    "encode",
    "generate",
    "initial_noise",
    "interpolate",
    "log_density",
    "solve",
    "trajectory",
]
