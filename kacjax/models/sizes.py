"""Named sizes of the U-Net."""

from typing import Any

from kacjax._validation import choose

_SIZES: dict[str, dict[str, Any]] = {
    "cifar10": {
        "channels": 128,
        "multipliers": (1, 2, 2, 2),
        "blocks": 2,
        "attention": (16,),
        "head_channels": 64,
        "dropout": 0.1,
    },
    "mnist": {
        "channels": 64,
        "multipliers": (1, 2, 2),
        "blocks": 2,
        "attention": (14,),
        "head_channels": 64,
        "dropout": 0.1,
    },
    "tiny": {
        "channels": 8,
        "multipliers": (1, 2, 4),
        "blocks": 1,
        "attention": (),
        "head_channels": 32,
        "dropout": 0.0,
    },
}


def unet_size(name: str) -> dict[str, Any]:
    """Keywords of `UNet` for a named size.

    | name | for images | parameters, without classes |
    | --- | --- | ---: |
    | `cifar10` | 32x32x3, the size of the paper | 35,526,531 |
    | `mnist` | 28x28x1 | 6,416,193 |
    | `tiny` | any whose sides 4 divides; for tests and two CPU cores | 160,227 for 32x32x3 |

    Raises:
        ValueError: If the name is not one of these.
    """
    return dict(choose("name", name, _SIZES))
