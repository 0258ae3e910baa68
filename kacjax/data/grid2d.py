r"""Nine narrow modes on the grid $\{-1, 0, 1\}^2$, the two-dimensional target of the paper.

Source: R. Duong, J. Chemseddine, P. K. Friz, G. Steidl, *Telegrapher's Generative Model via Kac
Flows*, arXiv 2506.20641.
"""

from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float

from kacjax._typing import Key

GRID2D_MODES = np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)], np.float32)
"""The centres of the modes, of shape `(9, 2)`."""

GRID2D_STD = 1e-4


@partial(jax.jit, static_argnames="num")
def grid2d(key: Key, num: int) -> Float[Array, "{num} 2"]:
    r"""Draws from $\frac19 \sum_m \mathcal N(m, 10^{-8} I)$ over the nine modes $m$."""
    choice_key, noise_key = jax.random.split(key)
    centres = jax.random.choice(choice_key, GRID2D_MODES, (num,))
    return centres + GRID2D_STD * jax.random.normal(noise_key, (num, 2))
