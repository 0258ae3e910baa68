"""Couplings: an optimal assignment, both ends kept, labels kept, for every process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm

import kacjax
from kacjax import ProbabilityPath, diffusion_path, flow_matching_path, kac_path
from kacjax.couplings import OptimalTransport, Sinkhorn, couple, make_coupling
from kacjax.losses.loss import draw_points
from tests.processes.test_base import UniformProcess
from tests.statistics import frequency_bound, ks_bound, ks_distance

KEY = jax.random.key(0)
PATHS = {
    "kac": kac_path(9.0, 3.0),
    "kac by component": kac_path(jnp.array([9.0, 25.0]), jnp.array([3.0, 2.0])),
    "flow matching": flow_matching_path(0.4),
    "uniform": ProbabilityPath(UniformProcess()),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def draw(path, x0, coupling, key=KEY, labels=None, times=None, **dropout):
    options = dropout.get("label_dropout", 0.0), dropout.get("null_label")
    return draw_points(path, key, x0, "x0", labels, "velocity", 1.0, *options, times, coupling)


def normals(shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("seed", range(4))
def test_the_cost_is_the_least(seed):
    """As SciPy finds it, of images too, and far from the origin, where squares lose digits."""
    x0, n = 1000.0 + normals((12, 2, 3), seed), normals((12, 2, 3), 10 + seed)
    rows = np.asarray(OptimalTransport()(jax.random.key(seed), x0, n))
    cost = np.sum((np.asarray(x0 - 1000)[:, None] - np.asarray(n)[None]) ** 2, axis=(2, 3))
    least = cost[linear_sum_assignment(cost)].sum()
    np.testing.assert_allclose(cost[np.arange(12), rows].sum(), least, rtol=1e-5)


@pytest.mark.long
@every_path
def test_both_ends_keep_their_laws(path):
    """Data and times stay where they are; noise is the same set of draws, in another order."""
    x0, T = normals((16, 2)), lambda key, path, batch: jnp.full(batch, path.T, jnp.float32)
    plain, coupled = (draw(path, x0, how, times=T) for how in ("independent", "ot"))
    order = lambda x: np.asarray(x)[np.lexsort(np.asarray(x).T)]  # noqa: E731
    np.testing.assert_allclose(order(coupled.x_t), order(plain.x_t), rtol=2e-5, atol=1e-6)
    assert not np.allclose(coupled.x_t, plain.x_t, atol=0.1)
    plain, coupled = (draw(path, x0, how) for how in ("independent", "ot"))
    np.testing.assert_array_equal(coupled.t, plain.t)
    # Of small times, the points are the data.
    early = coupled.t < 1e-3
    np.testing.assert_allclose(coupled.x_t[early], x0[early], atol=0.2)


@every_path
def test_the_same_normals_make_the_same_points(path):
    """A coupling that leaves the noise as it is: points and velocities of `path.sample`."""
    x0, t = normals((64, 2)), jnp.linspace(0.02, 1, 64)
    stay = lambda key, x0, n, labels: jnp.arange(64)  # noqa: E731
    found = path.sample_from_normal(t, x0, couple(stay, KEY, x0))
    expected = path.sample(KEY, t, x0)
    np.testing.assert_allclose(found.x_t, expected.x_t, rtol=1e-5, atol=5e-6)
    np.testing.assert_allclose(found.velocity, expected.velocity, rtol=1e-4, atol=3e-4)


@pytest.mark.long
@pytest.mark.parametrize("name", PATHS)
def test_the_velocity_is_that_of_the_normal_at_rest(name, x64):
    """By autodiff, at fixed noise; on the atoms of the Kac process its speed."""
    path = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), PATHS[name])
    t, x0, n = jnp.linspace(0.05, 1, 40), normals((40, 2)), 1.5 * normals((40, 2), 2)
    at = lambda t: path.sample_from_normal(t, x0, n).x_t  # noqa: E731
    derivative = jax.jvp(at, (t,), (jnp.ones_like(t),))[1]
    found = path.sample_from_normal(t, x0, n).velocity
    np.testing.assert_allclose(found, derivative, rtol=1e-7, atol=1e-9)
    if name == "kac":
        noise = (found - path.coefficients(t, 2).f_dot * x0)[:3]
        assert np.isclose(np.abs(noise), 3, atol=1e-9).any()


@pytest.mark.long
@every_path
def test_pairs_are_closer_than_at_random(path):
    """The squared distance of datum and noise at the end, over 20 batches of 32."""
    x0 = kacjax.data.target("moons")(KEY, 640).reshape(20, 32, 2)
    t = jnp.full(32, path.T, jnp.float32)
    still = jax.random.key(9)

    def cost(coupling, key, x0):
        n = couple(coupling, key, x0)
        noise = path.sample_from_normal(t, x0, n).x_t - path.coefficients(path.T).f * x0
        return jnp.mean(jnp.square(x0 - noise))

    stay = lambda key, x0, n, labels: jnp.arange(32)  # noqa: E731
    keys = jax.random.split(still, 20)
    plain, paired = (
        jax.vmap(lambda key, x, how=how: cost(how, key, x))(keys, x0)
        for how in (stay, OptimalTransport())
    )
    assert jnp.mean(paired) < 0.8 * jnp.mean(plain)
    assert jnp.all(paired < plain)


@pytest.mark.parametrize("coupling", [OptimalTransport(), OptimalTransport(8), Sinkhorn(0.05)])
def test_labels_stay_and_pairs_are_within_classes(coupling):
    """Of classes that lie apart, where the best pairs cross them."""
    labels = jnp.asarray(np.arange(16) % 3, jnp.int32)
    x0 = normals((16, 2)) + 5 * labels[:, None].astype(jnp.float32)
    rows = coupling(KEY, x0, normals((16, 2), 2), labels)
    np.testing.assert_array_equal(labels[rows], labels)
    if not isinstance(coupling, Sinkhorn):
        np.testing.assert_array_equal(np.sort(rows), np.arange(16))
    free = coupling(KEY, x0, normals((16, 2), 2), None)
    assert np.any(labels[free] != labels)
    point = draw(PATHS["kac"], x0, coupling, labels=labels)
    np.testing.assert_array_equal(point.labels, labels)


def test_dropped_labels_change_no_pairs():
    labels = jnp.asarray(np.arange(16) % 3, jnp.int32)
    x0 = normals((16, 2)) + 5 * labels[:, None].astype(jnp.float32)
    given = draw(PATHS["kac"], x0, "ot", labels=labels)
    dropped = draw(PATHS["kac"], x0, "ot", labels=labels, label_dropout=0.5, null_label=3)
    assert np.any(dropped.labels == 3)
    np.testing.assert_array_equal(given.x_t, dropped.x_t)


@pytest.mark.slow
def test_noise_of_each_class_stays_normal():
    """Within classes, over 400 batches of 16: the noise of the 3,200 data of a class.

    Kolmogorov-Smirnov, false alarm 1e-7. Across classes, which lie at -2 and 2, it is none.
    """
    labels = jnp.asarray(np.arange(16) % 2, jnp.int32)
    keys = jax.random.split(KEY, 400)

    def noise(key, known):
        data_key, key = jax.random.split(key)
        x0 = 4 * labels[:, None].astype(jnp.float32) - 2 + jax.random.normal(data_key, (16, 1))
        return couple(OptimalTransport(), key, x0, labels if known else None)[labels == 1, 0]

    labels = np.asarray(labels)
    within, across = (
        np.asarray(jax.jit(jax.vmap(lambda key, known=known: noise(key, known)))(keys)).ravel()
        for known in (True, False)
    )
    assert ks_distance(norm.cdf(within)) < ks_bound(within.size)
    assert ks_distance(norm.cdf(across)) > 4 * ks_bound(across.size)


@pytest.mark.parametrize("coupling", [OptimalTransport(), OptimalTransport(2), Sinkhorn(0.1)])
def test_equal_data_meet_noise_at_random(coupling):
    """Four equal data, 4,000 keys: each meets each noise a quarter of the time (Bernstein, 1e-7)."""
    keys, n = jax.random.split(KEY, 4000), normals((4, 2))
    rows = jax.jit(jax.vmap(lambda key: coupling(key, jnp.ones((4, 2)), n)))(keys)
    for datum in np.asarray(rows).T:
        shares = np.bincount(datum, minlength=4) / 4000
        assert np.max(np.abs(shares - 0.25)) < frequency_bound(0.25, 4000)


@pytest.mark.slow
def test_sinkhorn_tends_to_the_assignment_and_to_independence():
    """And takes each noise as often on average: 2,000 keys of 8, Bernstein at 1e-7 each."""
    x0, n = normals((8, 2)), normals((8, 2), 2)
    best = OptimalTransport()(KEY, x0, n)
    np.testing.assert_array_equal(Sinkhorn(1e-3, 5000)(KEY, x0, n), best)
    keys = jax.random.split(KEY, 2000)
    for epsilon in (0.05, 100.0):
        draws = jax.jit(jax.vmap(lambda key, e=epsilon: Sinkhorn(e)(key, x0, n)))(keys)
        shares = np.bincount(np.ravel(draws), minlength=8) / 16_000
        # Sinkhorn's own tolerance, 1e-3, besides.
        assert np.max(np.abs(shares - 1 / 8)) < frequency_bound(1 / 8, 16_000) + 1e-3
    shares = np.bincount(np.asarray(draws)[:, 0], minlength=8) / 2000
    assert np.max(np.abs(shares - 1 / 8)) < frequency_bound(1 / 8, 2000) + 2e-3


def test_numbers_that_are_not_finite_come_to_an_end():
    """Batches of the host may hold some; the loss then says so."""
    x0 = normals((8, 2)).at[3, 0].set(jnp.nan).at[4].set(jnp.inf)
    rows = OptimalTransport()(KEY, x0, normals((8, 2), 2))
    np.testing.assert_array_equal(np.sort(rows), np.arange(8))


def test_groups_must_divide():
    with pytest.raises(ValueError, match="size must divide the batch, 8, got 3"):
        OptimalTransport(3)(KEY, normals((8, 2)), normals((8, 2)))
    rows = OptimalTransport(4)(KEY, normals((8, 2)), normals((8, 2), 2))
    np.testing.assert_array_equal(np.sort(rows), np.arange(8))


@pytest.mark.long
def test_in_float64(x64):
    x0, n = normals((8, 2)), normals((8, 2), 2)
    for coupling in (OptimalTransport(), Sinkhorn()):
        assert jnp.issubdtype(coupling(KEY, x0, n).dtype, jnp.integer)
        point = draw(PATHS["kac"], x0, coupling)
        assert point.x_t.dtype == jnp.float64


def test_names_and_callables():
    own = lambda key, x0, n, labels: jnp.arange(len(x0))  # noqa: E731
    assert make_coupling(own) is own
    assert make_coupling("independent") is None
    assert make_coupling("ot") == OptimalTransport()
    with pytest.raises(ValueError, match="coupling must be one of independent, ot; got 'best'"):
        make_coupling("best")
    wrong = (jnp.zeros(7, int), jnp.zeros(8), jnp.zeros((8, 1), int), 3)
    for rows in wrong:
        with pytest.raises(ValueError, match=r"coupling must return integers of shape \(8,\)"):
            couple(lambda key, x0, n, labels, rows=rows: rows, KEY, normals((8, 2)))


class Sorted(kacjax.couplings.Coupling):
    """A coupling of a user's own: along the first axis, which is what OT is in one dimension."""

    def __call__(self, key, x0, n, labels=None):
        ranks = jnp.argsort(jnp.argsort(x0[:, 0]))
        return jnp.argsort(n[:, 0])[ranks]


def test_a_coupling_of_ones_own_is_optimal_in_one_dimension():
    x0, n = normals((16, 1)), normals((16, 1), 2)
    np.testing.assert_array_equal(Sorted()(KEY, x0, n), OptimalTransport()(KEY, x0, n))


@pytest.mark.long
@pytest.mark.usefixtures("adam")
def test_training_with_a_coupling():
    """In micro-batches it is the same, since the pairs are those of the whole batch."""
    path, data = PATHS["kac"], np.asarray(normals((64, 2)))
    network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1)
    options = {"coupling": Sorted(), "progress": False}
    run = kacjax.fit(network, path, data, KEY, 5, 16, **options)
    parts = kacjax.fit(network, path, data, KEY, 5, 16, accumulate=2, **options)
    np.testing.assert_allclose(parts.losses, run.losses, rtol=1e-4)
    plain = kacjax.fit(network, path, data, KEY, 5, 16, progress=False)
    assert np.all(run.losses != plain.losses)


@pytest.mark.long
@pytest.mark.usefixtures("adam")
def test_training_that_leaves_the_noise_as_it_is():
    path, data = diffusion_path(), np.asarray(normals((64, 2)))
    network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1)
    stay = lambda key, x0, n, labels: jnp.arange(len(x0))  # noqa: E731
    runs = [
        kacjax.fit(network, path, data, KEY, 5, 16, coupling=how, progress=False).losses
        for how in (stay, "independent")
    ]
    np.testing.assert_allclose(*runs, rtol=1e-5)
