"""Points that the tests of the metrics share, and the bound of a repeated experiment."""

import numpy as np

_RNG = np.random.default_rng(0)
# Sizes that the blocks do not divide.
X = _RNG.normal(size=(601, 5)).astype(np.float32)
Y = (_RNG.normal(size=(347, 5)) + 0.3).astype(np.float32)
# Many dimensions, not centered.
WIDE_X = (_RNG.normal(size=(301, 70)) + 2).astype(np.float32)
WIDE_Y = (_RNG.normal(size=(270, 70)) + 2.1).astype(np.float32)


def assert_mean(values: np.ndarray, expected: float) -> None:
    """Checks the mean of independent repetitions, to 5.5 standard errors.

    A false alarm has probability 4e-8 where the mean is normal, as it is for the hundreds of
    repetitions that the tests make.
    """
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - expected) < 5.5 * error, (values.mean(), expected, error)
