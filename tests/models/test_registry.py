"""Configurations are JSON, and rebuild the network that they describe."""

import inspect
import json

import pytest
from flax import nnx

from kacjax.models import MLP, MODELS, UNet, rebuild


def unet() -> UNet:
    return UNet(
        (8, 8, 1),
        rngs=nnx.Rngs(0),
        channels=8,
        multipliers=[1, 2],
        blocks=1,
        attention=(4,),
        head_channels=8,
        dropout=0.25,
        classes=10,
        T=2.0,
        dtype="bfloat16",
        remat=True,
    )


NETWORKS = (
    lambda: MLP(2, rngs=nnx.Rngs(0), width=16, depth=1, fourier=4, classes=3, T=2.0),
    lambda: nnx.eval_shape(unet),
)


@pytest.mark.parametrize("make", NETWORKS)
def test_a_network_is_rebuilt_from_its_json(make):
    model = make()
    name, config = type(model).__name__, json.loads(json.dumps(model.config))
    assert config == model.config
    build = lambda: rebuild(name, config, nnx.Rngs(1))  # noqa: E731
    again = nnx.eval_shape(build) if isinstance(model, UNet) else build()
    assert nnx.graphdef(again) == nnx.graphdef(model)
    assert again.config == config
    assert MODELS[name] is type(model)


def test_every_argument_is_in_the_configuration():
    for make in NETWORKS:
        model = make()
        arguments = inspect.signature(type(model).__init__).parameters
        assert {"self", "rngs", *model.config} == {*arguments}


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("Transformer", {}, "name must be one of MLP, UNet; got 'Transformer'"),
        ("MLP", {"dim": 2, "wide": 3}, "config does not describe a network MLP: .*wide"),
        ("MLP", {"dim": 0}, "dim must be an integer of at least 1, got 0"),
        ("UNet", {}, "config does not describe a network UNet: .*shape"),
    ],
)
def test_bad_descriptions(name, config, message):
    with pytest.raises(ValueError, match=message):
        rebuild(name, config, nnx.Rngs(0))
