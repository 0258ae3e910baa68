"""The 1,797 handwritten digits of 8 by 8 pixels that scikit-learn ships: real data, no download.

Source: E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning
Repository (1998).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

DIGITS_SIDE = 8
HELD_OUT = 360


class Digits(NamedTuple):
    """The digits as vectors in `[-1, 1]` with their classes, split once and for all.

    Attributes:
        train: Training digits.
        train_labels: Their classes, 0 to 9.
        held_out: Digits that no model sees in training.
        held_out_labels: Their classes.
    """

    train: Float[np.ndarray, "train 64"]
    train_labels: Int[np.ndarray, " train"]
    held_out: Float[np.ndarray, "held_out 64"]
    held_out_labels: Int[np.ndarray, " held_out"]


def load_digits() -> Digits:
    """Loads the digits: 1,437 for training and 360 held out, with equal shares of each class."""
    # Here, for it takes long to import, and few need it.
    import sklearn.datasets
    from sklearn.model_selection import train_test_split

    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    # Pixels count 0 to 16 dark points of a 4 by 4 block.
    scaled, labels = (np.asarray(pixels) / 8 - 1).astype(np.float32), np.asarray(labels)
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT, random_state=0, stratify=labels
    )
    return Digits(scaled[train], labels[train], scaled[held_out], labels[held_out])
