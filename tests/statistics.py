"""Statistical bounds that the tests share."""

import numpy as np

FALSE_ALARM = 1e-7
"""Probability with which a correct sampler fails one comparison."""


def ks_bound(size: int, false_alarm: float = FALSE_ALARM) -> float:
    """Largest credible Kolmogorov-Smirnov distance of `size` samples from their law.

    The Dvoretzky-Kiefer-Wolfowitz inequality with Massart's constant: it holds for any law, so
    for one with atoms too.
    """
    return float(np.sqrt(np.log(2 / false_alarm) / (2 * size)))


def ks_distance(uniforms: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of a sample from the uniform law on (0, 1)."""
    ordered = np.sort(np.asarray(uniforms, np.float64).ravel())
    ranks = np.arange(ordered.size + 1) / ordered.size
    return float(max(np.max(ranks[1:] - ordered), np.max(ordered - ranks[:-1])))


def frequency_bound(probability: float, size: int) -> float:
    """Largest credible error of a frequency over `size` draws (Bernstein's inequality)."""
    log = np.log(2 / FALSE_ALARM)
    return float(np.sqrt(2 * probability * (1 - probability) * log / size) + log / size)
