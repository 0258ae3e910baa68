"""Configurations are JSON, and make the network that they describe again."""

import inspect
import json

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

from kacjax.models import MLP, UNet, blank


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
def test_a_network_is_made_again_from_its_json(make):
    model = make()
    config = json.loads(json.dumps(model.config))
    assert config == model.config
    again = nnx.eval_shape(lambda: type(model)(**config, rngs=nnx.Rngs(0)))
    assert nnx.graphdef(again) == nnx.graphdef(model)
    assert again.config == config
    assert again.classes == model.classes == config["classes"]


def test_every_argument_is_in_the_configuration():
    for make in NETWORKS:
        model = make()
        arguments = inspect.signature(type(model).__init__).parameters
        assert {"self", "rngs", *model.config} == {*arguments}


def test_a_blank_network_has_zeros_and_the_structure():
    blanked, drawn = blank(NETWORKS[0]), NETWORKS[0]()
    assert nnx.graphdef(blanked) == nnx.graphdef(drawn)
    for zero, leaf in zip(*(jax.tree.leaves(nnx.state(m)) for m in (blanked, drawn)), strict=True):
        assert (zero.shape, zero.dtype) == (leaf.shape, leaf.dtype)
        assert not jnp.any(zero)


def test_numbers_of_numpy_are_plain_in_the_configuration(monkeypatch):
    # As without the hook, which would refuse NumPy's types before.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    model = MLP(np.int64(2), rngs=nnx.Rngs(0), width=8, depth=1, T=np.float32(0.5))
    assert json.loads(json.dumps(model.config))["T"] == 0.5
    assert model.config["dim"] == 2
