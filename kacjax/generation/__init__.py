"""Generation on Diffrax: samples, trajectories, encoding, guidance and log-densities."""

from kacjax.generation.coordinates import COORDINATES
from kacjax.generation.encode import decode, encode, interpolate
from kacjax.generation.generate import generate, generate_chunks
from kacjax.generation.grids import default_grid
from kacjax.generation.guidance import Guided, guided
from kacjax.generation.likelihood import log_density
from kacjax.generation.noise import initial_noise
from kacjax.generation.solvers import ADAPTIVE, FIXED
from kacjax.generation.trajectory import trajectory

__all__ = [
    "ADAPTIVE",
    "COORDINATES",
    "FIXED",
    "Guided",
    "decode",
    "default_grid",
    "encode",
    "generate",
    "generate_chunks",
    "guided",
    "initial_noise",
    "interpolate",
    "log_density",
    "trajectory",
]
