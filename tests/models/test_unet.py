"""The U-Net: its size, its start, types, dropout, labels, attention, and what it refuses."""

from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

from kacjax.models import UNet, unet, unet_size
from kacjax.models.layers import Resample
from tests.models.parameter_count import unet_parameter_count

SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "head_channels": 8}
SHAPE = (8, 8, 3)
T = jnp.array([0.1, 0.6, 1.0])
X = jnp.asarray(np.random.default_rng(1).normal(size=(3, *SHAPE)), jnp.float32)
LABEL = jnp.array([0, 2, 3])
KEY = jax.random.key(2)


def small(dropout=0.3, classes=3, **options) -> tuple[nnx.GraphDef, nnx.State]:
    """Structure, and random parameters in place of the initial ones, of which many are zero."""
    options = {**SMALL, "dropout": dropout, "classes": classes, **options}
    model = nnx.eval_shape(lambda: UNet(SHAPE, rngs=nnx.Rngs(0), **options))
    graphdef, state = nnx.split(model)
    draw = np.random.default_rng(0).normal

    def parameter(leaf):
        scale = leaf.shape[-1] / leaf.size if len(leaf.shape) > 1 else 0.1
        return jnp.asarray(draw(size=leaf.shape) * scale**0.5, jnp.float32)

    return graphdef, jax.tree.map(parameter, state)


@partial(jax.jit, static_argnums=0)
def evaluate(graphdef, state, t=T, x=X, label=LABEL, key=None):
    return nnx.merge(graphdef, state)(t, x, label, key=key)


@partial(jax.jit, static_argnums=0)
def gradient(graphdef, state):
    def loss(state):
        return jnp.mean(jnp.square(nnx.merge(graphdef, state)(T, X, LABEL, key=KEY)))

    return jax.value_and_grad(loss)(state)


def count_primitive(jaxpr, name: str) -> int:
    """How often a primitive is called, in inner programs too."""
    inner = [
        getattr(value, "jaxpr", value)
        for equation in jaxpr.eqns
        for value in equation.params.values()
        if hasattr(value, "jaxpr") or hasattr(value, "eqns")
    ]
    own = sum(equation.primitive.name == name for equation in jaxpr.eqns)
    return own + sum(count_primitive(one, name) for one in inner)


@pytest.mark.parametrize(
    ("size", "shape", "classes", "known"),
    [
        ("cifar10", (32, 32, 3), None, 35_526_531),
        ("cifar10", (32, 32, 3), 10, 35_529_347),
        ("mnist", (28, 28, 1), None, 6_416_193),
        ("tiny", (32, 32, 3), None, 160_227),
    ],
)
def test_number_of_parameters_is_that_of_the_derivation(size, shape, classes, known):
    options = unet_size(size)
    model = nnx.eval_shape(lambda: UNet(shape, rngs=nnx.Rngs(0), classes=classes, **options))
    leaves = jax.tree.leaves(nnx.state(model))
    by_hand = unet_parameter_count(
        shape[0],
        shape[2],
        options["channels"],
        options["multipliers"],
        options["blocks"],
        tuple(model.config["attention"]),
        classes,
    )
    assert sum(leaf.size for leaf in leaves) == sum(by_hand.values()) == known
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_zero_at_initialisation(dtype):
    @jax.jit
    def make():
        keys = nnx.Rngs(jax.random.key(0, impl="rbg"))
        return nnx.split(UNet(SHAPE, rngs=keys, **SMALL, dtype=dtype))[1]

    state = make()
    output = evaluate(small(0.0, None, dtype=dtype)[0], state, label=None)
    np.testing.assert_array_equal(output, np.zeros_like(X))
    assert output.dtype == jnp.float32
    zero = {path[-2:] for path, leaf in nnx.to_flat_state(state) if not jnp.any(leaf[...])}
    kernels = {("last", "kernel"), ("second", "kernel"), ("conv", "kernel"), ("output", "kernel")}
    assert {path for path in zero if path[-1] == "kernel"} == kernels


@pytest.mark.long
def test_bfloat16_agrees_to_its_accuracy():
    """Rounding errors of 2^-9 add up like a random walk over some 20 layers: about 1 %."""
    graphdef, state = small()
    exact = evaluate(graphdef, state)
    rounded = evaluate(small(dtype="bfloat16")[0], state)
    error = jnp.linalg.norm(rounded - exact) / jnp.linalg.norm(exact)
    assert rounded.dtype == jnp.float32
    assert 1e-4 < error < 0.03


@pytest.mark.slow
def test_every_parameter_matters_and_images_do_not_meet():
    graphdef, state = small()
    for path, leaf in nnx.to_flat_state(gradient(graphdef, state)[1]):
        assert jnp.any(leaf[...] != 0), path
    together, order = evaluate(graphdef, state), jnp.array([2, 0, 1])
    apart = evaluate(graphdef, state, T[order], X[order], LABEL[order])
    np.testing.assert_allclose(apart, together[order], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_rematerialisation_changes_neither_values_nor_gradients():
    graphdef, state = small()
    again, _ = small(remat=True)
    plain, repeated = gradient(graphdef, state), gradient(again, state)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), plain, repeated
    )
    jaxpr = jax.make_jaxpr(lambda s: nnx.merge(again, s)(T, X))(state)
    # One for each residual block: one a level down, two in the middle, two a level up.
    names = [equation.primitive.name for equation in jaxpr.eqns]
    assert sum(name in ("checkpoint", "remat2") for name in names) == 2 + 2 + 4


@pytest.mark.long
def test_dropout_follows_its_key():
    graphdef, state = small()
    without = evaluate(graphdef, state)
    first, second = (evaluate(graphdef, state, key=jax.random.key(k)) for k in (0, 1))
    np.testing.assert_array_equal(first, evaluate(graphdef, state, key=jax.random.key(0)))
    assert jnp.all(jnp.any(first != second, axis=(1, 2, 3)))
    assert jnp.all(jnp.any(first != without, axis=(1, 2, 3)))

    def draws(rate, key):
        call = lambda s: nnx.merge(small(rate)[0], s)(T, X, LABEL, key=key)  # noqa: E731
        return count_primitive(jax.make_jaxpr(call)(state).jaxpr, "random_bits")

    # Without a rate the key does nothing, and without a key the rate does nothing.
    assert draws(0.3, KEY) == 8
    assert draws(0.0, KEY) == draws(0.3, None) == 0


@pytest.mark.long
def test_labels_change_the_output_and_the_null_label_is_none():
    graphdef, state = small()
    outputs = [evaluate(graphdef, state, label=jnp.full(3, label)) for label in range(4)]
    for i in range(4):
        for j in range(i):
            assert jnp.all(jnp.any(outputs[i] != outputs[j], axis=(1, 2, 3)))
    np.testing.assert_allclose(evaluate(graphdef, state, label=None), outputs[3], atol=1e-6)


@pytest.mark.slow
def test_time_is_measured_in_units_of_T():
    _, state = small()
    outputs = [evaluate(small(T=T_)[0], state, T_ * T) for T_ in (1.0, 4.0)]
    np.testing.assert_allclose(*outputs, rtol=1e-3, atol=1e-4)


def test_attention_is_where_it_is_named_and_in_the_middle():
    build = lambda *at: UNet(  # noqa: E731
        (16, 32, 3),
        rngs=nnx.Rngs(0),
        channels=8,
        multipliers=(1, 1, 1),
        blocks=1,
        attention=at,
        head_channels=4,
    )

    def attends(layers) -> list[bool]:
        return [layer.attention is not None for layer in layers if not isinstance(layer, Resample)]

    # Resolutions 16, 8, 4, counted by the shorter side; one block a level down, two up.
    for at, expected in (
        ((), [False, False, False]),
        ((8,), [False, True, False]),
        ((16, 4), [True, False, True]),
    ):
        model = nnx.eval_shape(lambda at=at: build(*at))
        assert attends(model.encoder) == expected
        assert attends(model.decoder) == [there for there in expected[::-1] for _ in range(2)]
        assert attends(model.middle) == [True, False]


def test_parameters_are_float32_in_float64_too(x64):
    model = nnx.eval_shape(lambda: UNet(SHAPE, rngs=nnx.Rngs(0), classes=3, **SMALL))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}


def test_no_state_but_parameters():
    graphdef, state = small()
    assert all(issubclass(leaf.type, nnx.Param) for _, leaf in nnx.to_flat_state(state))
    assert hash(graphdef) == hash(small()[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (8, 8)}, r"shape must be \(height, width, colors\) .* 2 levels; got \(8, 8\)"),
        ({"shape": (8, 0, 3)}, "shape, each number, must be an integer of at least 1, got 0"),
        ({"shape": (8, 10, 3), "multipliers": (1, 2, 2)}, r"4 divides, for 3 levels; got \(8, 10"),
        ({"channels": 0}, "channels must be an integer of at least 1, got 0"),
        ({"channels": 9}, "channels must be even, got 9"),
        ({"blocks": -1}, "blocks must be an integer of at least 1, got -1"),
        ({"multipliers": ()}, r"multipliers must hold a positive integer .* got \(\)"),
        ({"multipliers": (1, 0)}, "multipliers, each number, must be an integer"),
        ({"attention": (5,)}, r"attention must be among \(8, 4\), got \(5,\)"),
        ({"head_channels": 3}, r"head_channels must divide each of \[16, 16\], got 3"),
        ({"head_channels": 0}, "head_channels must be an integer"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"classes": 0}, "classes must be an integer of at least 1, got 0"),
        ({"T": 0.0}, "T must be positive and finite, got 0.0"),
        ({"dtype": "float16"}, "dtype must be one of bfloat16, float32; got 'float16'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        UNet(**{"shape": SHAPE, **SMALL, **options}, rngs=nnx.Rngs(0))


def test_a_misspelt_keyword_is_pythons_error(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(TypeError, match="multiplyers"):
        UNet(SHAPE, rngs=nnx.Rngs(0), multiplyers=(1, 2))


@pytest.mark.parametrize(
    ("shape", "levels", "expected"),
    [
        ((32, 32, 3), 4, (16,)),
        ((48, 48, 3), 4, (12,)),
        ((96, 96, 3), 4, (12,)),
        ((256, 256, 3), 4, (32,)),
        ((512, 512, 3), 4, ()),
        ((28, 28, 1), 3, (14,)),
        ((24, 64, 3), 3, (12,)),
        ((4, 4, 1), 2, ()),
    ],
)
def test_attention_by_default_fits_any_size(shape, levels, expected):
    """At the level nearest to 16, if one lies in 8 to 32."""
    assert unet._attention(None, unet._sides(shape, (1,) * levels)) == expected


@pytest.mark.long
@pytest.mark.parametrize(
    ("shape", "size", "attention"),
    [((48, 48, 3), "cifar10", [12]), ((512, 512, 3), "mnist", []), ((64, 24, 3), "mnist", [12])],
)
def test_named_sizes_fit_any_image_that_they_can_halve(shape, size, attention):
    def call():
        model = UNet(shape, rngs=nnx.Rngs(0), **unet_size(size))
        assert model.config["attention"] == attention
        assert model.config["head_channels"] == 64
        return model(T[:2], jnp.zeros((2, *shape)))

    assert nnx.eval_shape(call).shape == (2, *shape)


def test_heads_fit_any_channels_by_default():
    options = {"channels": 12, "multipliers": (1, 2), "blocks": 1}
    model = nnx.eval_shape(lambda: UNet((16, 16, 1), rngs=nnx.Rngs(0), **options))
    assert model.config["head_channels"] == 12


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_type_is_that_of_the_images_and_float32_at_least(dtype, x64):
    graphdef, state = small(dtype=dtype)
    model = nnx.merge(graphdef, state)
    for given, expected in (("bfloat16", "float32"), ("float32", "float32"), ("float64",) * 2):
        x, t = jnp.asarray(X, given), jnp.asarray(T, jnp.float64)
        with jax.numpy_dtype_promotion("standard"):
            out = jax.eval_shape(model, t, x, LABEL)
            # As guidance has it: both branches of one type.
            jax.eval_shape(lambda t, x: jax.lax.cond(True, model, lambda t, x: x, t, x), t, out)
        assert out.dtype == expected


@pytest.mark.long
def test_bad_calls(monkeypatch):
    # As without the hook, which would refuse other types before.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    plain, labelled = (nnx.merge(*small(classes=c)) for c in (None, 3))
    with pytest.raises(ValueError, match=r"x must have shape \(batch, 8, 8, 3\), got \(3, 8, 4"):
        plain(T, X[:, :, :4])
    with pytest.raises(ValueError, match="label must be None for a network without classes"):
        plain(T, X, jnp.zeros(3, jnp.int32))
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.3 .* from -1 to 4"):
        labelled(T, X, jnp.array([-1, 0, 4]))
    with pytest.raises(ValueError, match=r"t must have shape \(3,\), .* got \(\)"):
        plain(0.5, X)
    with pytest.raises(ValueError, match=r"x must hold floats .* got uint8"):
        plain(T, np.zeros((3, *SHAPE), np.uint8))
    with pytest.raises(ValueError, match="name must be one of cifar10, mnist, tiny; got 'large'"):
        unet_size("large")
