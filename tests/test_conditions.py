"""Vectors and pytrees as conditions, through loss, training, generation and guidance."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import kacjax
from kacjax import decode, encode, flow_matching_path, generate, guided, interpolate, log_density
from kacjax._validation import check_labels
from kacjax.losses.loss import draw_points
from tests.statistics import frequency_bound

KEY, PATH = jax.random.key(0), flow_matching_path()


class Linear(eqx.Module):
    """A prediction of the data that is linear in a vector and in a class; it looks at no point."""

    matrix: jax.Array
    shift: jax.Array

    def __call__(self, t, x, label):
        """The prediction of the data."""
        return label["vector"] @ self.matrix + self.shift[label["class"]]


def conditions(num, seed=0):
    rng = np.random.default_rng(seed)
    return {"vector": rng.normal(size=(num, 3)), "class": rng.integers(0, 2, num)}


MATRIX = np.array([[1.0, 0.0], [0.0, -1.0], [0.5, 0.5]])
SHIFT = np.array([[0.0, 0.0], [2.0, -1.0]])


def data_of(label):
    """The datum of each condition: there is no other randomness."""
    return np.float32(label["vector"] @ MATRIX + SHIFT[label["class"]])


def batches(labels, size):
    for first in range(0, len(labels["class"]), size):
        part = {name: leaf[first : first + size] for name, leaf in labels.items()}
        yield {"x": data_of(part), "y": part}


@pytest.mark.long
@pytest.mark.usefixtures("adam")
@pytest.mark.parametrize("streamed", [False, True])
def test_a_network_learns_its_conditions(streamed):
    """And generates the data of others; on the device and from batches of the host."""
    labels = conditions(64 * 200 if streamed else 1000)
    network = Linear(jnp.zeros((3, 2)), jnp.zeros((2, 2)))
    source = batches(labels, 64) if streamed else data_of(labels)
    options = {} if streamed else {"labels": labels}
    rate = kacjax.training.default_optimizer(200, learning_rate=0.1, warmup=0)
    arguments = network, PATH, source, KEY, 200, 64
    run = kacjax.fit(*arguments, optimizer=rate, ema_decay=0.5, progress=False, **options)
    np.testing.assert_allclose(run.velocity.network.matrix, MATRIX, atol=0.05)
    others = conditions(7, 1)
    for extra in ({}, {"chunk_size": 3}):
        x = generate(run.velocity, PATH, KEY, (7, 2), 5, labels=others, **extra)
        np.testing.assert_allclose(x, data_of(others), atol=0.2)


def known():
    """The velocity that has learned them."""
    network = Linear(*(jnp.asarray(part, jnp.float32) for part in (MATRIX, SHIFT)))
    return kacjax.Velocity(network, PATH)


@pytest.mark.slow
def test_the_way_up_takes_them_too():
    labels = conditions(5)
    x = jnp.asarray(data_of(labels)) + 0.1
    options = {"labels": labels, "t_min": 0.2}
    noise = encode(known(), PATH, x, 50, solver="heun", **options)
    back = decode(known(), PATH, noise, 50, solver="heun", **options)
    np.testing.assert_allclose(back, x, atol=1e-4)
    assert log_density(known(), PATH, x, **options).shape == (5,)
    between = interpolate(known(), PATH, x, x, [0.0, 0.5, 1.0], 50, **options)
    np.testing.assert_allclose(between[1], x, atol=2e-2)


@pytest.mark.long
@pytest.mark.parametrize(
    "null", [0, {"vector": np.array([1.0, 0.0, 2.0]), "class": np.asarray(1)}], ids=["0", "own"]
)
def test_guidance_by_its_formula(null):
    labels, x, t = conditions(5), jnp.ones((5, 2)), jnp.linspace(0.1, 1, 5)
    labels = check_labels(labels, 5)
    found = guided(known(), 3.0, null)(t, x, labels)
    if null == 0:
        one = {"vector": np.zeros((1, 3)), "class": np.zeros(1, int)}
    else:
        one = {name: leaf[None] for name, leaf in null.items()}
    wanted = {name: np.repeat(leaf, 5, axis=0) for name, leaf in one.items()}
    without, given = (known()(t, x, check_labels(each, 5)) for each in (wanted, labels))
    np.testing.assert_allclose(found, without + 3 * (given - without), rtol=1e-4, atol=1e-5)
    strong = guided(known(), 1.0, null)
    plain, same = (generate(v, PATH, KEY, (5, 2), 4, labels=labels) for v in (known(), strong))
    np.testing.assert_allclose(plain, same, rtol=1e-4, atol=1e-5)


def test_any_number_may_stand_for_no_condition():
    field = lambda t, x, label: label * jnp.ones_like(x)  # noqa: E731
    t, x, label = jnp.full(2, 0.5), jnp.zeros((2, 2)), jnp.ones((2, 2))
    # -0.5 + 3 (1 + 0.5)
    np.testing.assert_allclose(kacjax.guided(field, 3.0, null_label=-0.5)(t, x, label), 4.0)
    velocity = kacjax.Velocity(kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, classes=3), PATH)
    with pytest.raises(ValueError, match=r"null_label must lie in 0..3, got 1.5"):
        kacjax.guided(velocity, 2.0, null_label=1.5)


def test_dropout_drops_whole_conditions():
    """A tenth of 20,000, Bernstein's bound at 1e-7; all parts of one together, the others stay."""
    num = 20_000
    labels = check_labels(conditions(num), num)
    null = {"vector": jnp.full(3, 9.0), "class": jnp.asarray(7)}
    arguments = PATH, KEY, jnp.ones((num, 1)), "x0", labels, "velocity", 1.0, 0.1, null
    found = draw_points(*arguments).labels
    dropped = np.asarray(found["class"] == 7)
    assert abs(dropped.mean() - 0.1) < frequency_bound(0.1, num)
    np.testing.assert_array_equal(np.all(np.asarray(found["vector"]) == 9, axis=1), dropped)
    np.testing.assert_array_equal(found["vector"][~dropped], labels["vector"][~dropped])


@pytest.mark.usefixtures("adam")
def test_training_with_dropout_needs_to_know_what_none_is():
    labels = conditions(32)
    network = Linear(jnp.zeros((3, 2)), jnp.zeros((2, 2)))
    arguments = network, PATH, data_of(labels), KEY, 3, 16
    options = {"labels": labels, "label_dropout": 0.5, "progress": False}
    with pytest.raises(ValueError, match="label_dropout needs classes, their number, or null_l"):
        kacjax.fit(*arguments, **options)
    losses = [kacjax.fit(*arguments, null_label=n, **options).losses for n in (0, 1)]
    assert np.all(np.isfinite(losses))
    assert not np.allclose(*losses)
    with pytest.raises(ValueError, match="null_label must be one condition like those"):
        kacjax.fit(*arguments, null_label=np.ones(3), **options)


@pytest.mark.long
def test_pairs_of_a_coupling_have_equal_conditions():
    labels = {"vector": np.repeat(np.eye(4, 3), 4, axis=0), "class": np.arange(16) % 2}
    labels = check_labels(labels, 16)
    x0, n = jax.random.normal(KEY, (2, 16, 2))
    rows = kacjax.couplings.OptimalTransport()(KEY, x0, n, labels)
    for leaf in labels.values():
        np.testing.assert_array_equal(leaf[rows], leaf)
    assert np.any(np.asarray(rows) != np.arange(16))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"a": np.ones((4, 2)), "b": np.ones((3, 2))}, r"labels must hold arrays of shape \(4, "),
        ({"a": np.ones(4, complex)}, "labels must hold .* got complex128"),
        (np.ones((3, 2)), r"labels must hold arrays of shape \(4, \.\.\.\).* \(3, 2\)"),
        (
            np.ones(4, bool),
            r"labels must be integers of shape \(4,\).*Conditions are floats of shape",
        ),
        (np.ones((4, 2), int), "labels must be integers"),
    ],
)
def test_bad_conditions(labels, message):
    with pytest.raises(ValueError, match=message):
        check_labels(labels, 4)
    with pytest.raises(ValueError, match=r"labels must be integers of shape \(4,\)"):
        check_labels(np.ones((4, 2)), 4, classes=3)


@pytest.mark.long
def test_types_of_conditions():
    found = check_labels({"a": np.ones((4, 2)), "b": np.ones(4, np.int8)}, 4)
    assert (found["a"].dtype, found["b"].dtype) == (jnp.float32, jnp.int32)
    assert check_labels([[1.0, 2.0]] * 4, 4).shape == (4, 2)
    assert check_labels(jnp.ones((4, 2), jnp.bfloat16), 4).dtype == jnp.float32


def test_one_number_is_a_condition():
    """Of shape (num,), as of shape (num, 1)."""
    numbers = np.linspace(0, 1, 5)
    found = check_labels(numbers, 5)
    assert found.shape == (5,)
    assert found.dtype == jnp.float32
    with pytest.raises(ValueError, match=r"labels must be integers of shape \(5,\), got float"):
        check_labels(numbers, 5, classes=3)
