r"""Probability paths from data to noise: one type, of which the models are settings.

A path fades the data and adds the noise of a process $K$, of velocity $v$, in every component:

$$ x_t = f(t) \, x_0 + K_{g(t)}, \qquad
   u(t, x \mid x_0) = f'(t) \, x_0 + g'(t) \, v\bigl(g(t), x - f(t) x_0\bigr). $$
"""

from kacjax.paths.known import diffusion_path, edm_path, flow_matching_path, kac_path, vp_path
from kacjax.paths.path import Atoms, Coefficients, PathSample, Points, ProbabilityPath, Times

__all__ = [
    "Atoms",
    "Coefficients",
    "PathSample",
    "Points",
    "ProbabilityPath",
    "Times",
    "diffusion_path",
    "edm_path",
    "flow_matching_path",
    "kac_path",
    "vp_path",
]
