"""The 1,797 handwritten digits of 8 by 8 pixels that scikit-learn ships: real data, no download."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

DIGITS_SIDE = 8
"""Height and width of the digits."""


class Digits(NamedTuple):
    """The digits as vectors in `[-1, 1]` with their classes 0 to 9, always split alike."""

    train: Float[np.ndarray, "train 64"]
    train_labels: Int[np.ndarray, " train"]
    held_out: Float[np.ndarray, "held_out 64"]
    held_out_labels: Int[np.ndarray, " held_out"]


def load_digits() -> Digits:
    """Loads the digits: 1,437 for training and 360 held out, with equal shares of each class.

    Source: E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine
    Learning Repository (1998).

    Example:
        >>> kacjax.data.load_digits().train.shape
        (1437, 64)
    """
    # Imported here because it is slow and few need it.
    import sklearn.datasets
    from sklearn.model_selection import train_test_split

    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    # A pixel counts the dark points, 0 to 16, of a 4 by 4 block.
    scaled, labels = (np.asarray(pixels) / 8 - 1).astype(np.float32), np.asarray(labels)
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=360, random_state=0, stratify=labels
    )
    return Digits(scaled[train], labels[train], scaled[held_out], labels[held_out])
