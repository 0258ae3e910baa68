"""Distillation and flow maps: their targets where they are known, and their training."""

from collections import namedtuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import kacjax
from kacjax import few_step
from kacjax.losses import FlowMatching
from kacjax.training import Trainer

KEY = jax.random.key(0)
GAUSSIAN = {"diffusion": kacjax.diffusion_path(), "flow": kacjax.flow_matching_path(0.5)}
PATHS = {**GAUSSIAN, "kac": kacjax.kac_path(25.0, 2.0)}
POINT = jnp.array([[1.0, -0.5]])
ONES = jnp.tile(POINT, (64, 1))


def mlp(**options):
    return kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1, **options)


def draw_of(path, velocity, x0=ONES, **options):
    objective = few_step.Distillation(velocity, **options)
    return objective, objective.draw(velocity, velocity, KEY, x0, None, path)


@pytest.mark.long
@pytest.mark.parametrize("path", GAUSSIAN.values(), ids=GAUSSIAN)
def test_straight_lines_need_no_student(path):
    """To one datum every way is straight, so that one step of any length is exact."""
    velocity = kacjax.exact_velocity(path, POINT)
    objective, draw = draw_of(path, velocity, steps=4, substeps=8)
    assert float(jnp.max(objective.errors(velocity, draw, None, path))) < 1e-10
    assert len(np.unique(np.asarray(draw.t))) == 4
    wrong = lambda t, x: 1.1 * velocity(t, x)  # noqa: E731
    assert float(jnp.max(objective.errors(wrong, draw, None, path))) > 1e-3


@pytest.mark.long
@pytest.mark.parametrize("path", GAUSSIAN.values(), ids=GAUSSIAN)
def test_the_target_is_the_average_slope_of_a_known_flow(path):
    """Of normal data the flow scales by the deviation at each time; the error is of second order."""
    velocity = kacjax.exact_velocity(path, jnp.zeros((1, 2)), std=0.7)
    found = []
    for substeps in (32, 64, 128):
        _, draw = draw_of(path, velocity, steps=2, substeps=substeps)
        taus = few_step.distillation.straight(path).grid(path.T, 0.0, 2 * substeps, 2.0)
        ends = {float(t): (path.coefficients(t)) for t in np.unique(np.asarray(draw.t))}
        middle = path.coefficients(path.T * taus[substeps] ** 2)
        later = {max(ends): middle, min(ends): None}

        def level(c):
            if c is None:  # The data.
                return 0.7, 0.0
            return float(jnp.hypot(0.7 * c.f, c.sigma) / (c.f + c.sigma)), float(
                c.sigma / (c.f + c.sigma)
            )

        slopes = []
        for t in np.asarray(draw.t):
            (here, rho), (there, end) = level(ends[float(t)]), level(later[float(t)])
            slopes.append((1 - there / here) / (rho - end))
        wanted = np.asarray(slopes)[:, None] * np.asarray(draw.u)
        found.append(float(np.abs(np.asarray(draw.slope) - wanted).max()))
    assert found[1] < 0.35 * found[0]
    assert found[2] < 2e-3


@pytest.mark.long
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_student_is_asked_where_generation_asks_it(path):
    velocity, times = kacjax.exact_velocity(path, POINT), []

    def recording(t, x):
        jax.debug.callback(lambda t: times.append(float(t[0])), t)
        return velocity(t, x)

    jax.block_until_ready(
        kacjax.generate(recording, path, KEY, (2, 2), 4, solver="euler", coordinates="straight")
    )
    jax.effects_barrier()
    _, draw = draw_of(path, velocity, steps=4, substeps=2)
    np.testing.assert_allclose(sorted(times), np.unique(np.asarray(draw.t)), rtol=1e-5)


@pytest.mark.long
def test_a_student_of_its_own_grid_is_carried_as_it_generates():
    path = PATHS["kac"]
    velocity = kacjax.exact_velocity(path, jnp.array([[1.0, 0.0], [-1.0, 0.0]]))
    objective = few_step.Distillation(velocity, 1, 4, solver="euler")
    x0 = jnp.zeros((16, 2))
    draw = objective.draw(velocity, velocity, KEY, x0, None, path)
    # At T rho is 1, and the noise is u times the deviation.
    end = draw.u - draw.slope
    noise = path.coefficients(path.T).sigma * draw.u
    wanted = kacjax.decode(velocity, path, noise, 4, solver="euler")
    np.testing.assert_allclose(end, wanted, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["lsd", "meanflow"])
@pytest.mark.parametrize("path", GAUSSIAN.values(), ids=GAUSSIAN)
def test_a_flow_map_that_is_right_has_no_error(path, kind):
    exact = kacjax.exact_velocity(path, POINT)

    class Map(eqx.Module):
        factor: float

        def __call__(self, t, x, until=None, key=None):
            return self.factor * exact(t, x)

    objective = few_step.FlowMapLoss(kind)
    for factor, low, high in ((1.0, 0.0, 1e-6), (1.1, 1e-4, np.inf)):
        found = Map(factor)
        draw = objective.draw(found, found, KEY, ONES, None, path)
        error = float(jnp.mean(objective.errors(found, draw, None, path)))
        assert low <= error < high


@pytest.mark.long
@pytest.mark.parametrize("kind", ["lsd", "meanflow"])
@pytest.mark.parametrize("clock", ["t", "t2"])
def test_errors_and_gradients_are_finite_at_all_times(clock, kind):
    path, network = kacjax.kac_path(25.0, 2.0, clock=clock), mlp(second_time=True)
    network.last.kernel[...] = jnp.ones_like(network.last.kernel[...])
    network.condition.until.kernel[...] = jnp.ones_like(network.condition.until.kernel[...])
    velocity, objective = kacjax.Velocity(network, path), few_step.FlowMapLoss(kind)

    @eqx.filter_jit
    def gradient(key):
        draw = objective.draw(velocity, velocity, key, jnp.ones((4096, 2)), None, path)
        loss = lambda velocity: jnp.mean(objective.errors(velocity, draw, None, path))  # noqa: E731
        return eqx.filter_value_and_grad(loss)(velocity)

    # Of 40,000 times in T u^2, the first is about 6e-10 T.
    for seed in range(10):
        for leaf in jax.tree.leaves(gradient(jax.random.key(seed))):
            assert jnp.all(jnp.isfinite(leaf))


@pytest.mark.long
@pytest.mark.parametrize("renoise", [False, True])
def test_flow_maps_are_drawn_in_any_number_of_steps(renoise):
    path = GAUSSIAN["flow"]
    exact = kacjax.exact_velocity(path, POINT)
    velocity = lambda t, x, until=None: exact(t, x)  # noqa: E731
    for steps in (1, 3):
        x = few_step.draw_flow_map(velocity, path, KEY, (5, 2), steps, renoise=renoise)
        np.testing.assert_allclose(x, jnp.tile(POINT, (5, 1)), atol=1e-5)


def test_networks_of_two_times():
    network = mlp(second_time=True)
    # At first it is zero for all times; any other matrix makes the second one count.
    network.last.kernel[...] = jnp.ones_like(network.last.kernel[...])
    network.condition.until.kernel[...] = jnp.ones_like(network.condition.until.kernel[...])
    t, x = jnp.array([0.5, 0.9]), jnp.ones((2, 2))
    np.testing.assert_array_equal(network(t, x), network(t, x, until=t))
    assert not np.allclose(network(t, x), network(t, x, until=t / 2))
    with pytest.raises(ValueError, match="until must be None"):
        mlp()(t, x, until=t)
    plain = kacjax.Velocity(lambda t, x: x, PATHS["kac"])
    with pytest.raises(ValueError, match="there is a second time, but <lambda> takes no"):
        plain(t, x, until=t)


@pytest.mark.long
def test_the_objective_of_fit_is_the_loss():
    data = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    arguments = (mlp(), PATHS["kac"], data, KEY, 4, 8)
    default = kacjax.fit(*arguments, weight="velocity", progress=False)
    given = kacjax.fit(*arguments, objective=FlowMatching("velocity"), progress=False)
    np.testing.assert_array_equal(default.losses, given.losses)


@pytest.mark.parametrize(
    "options",
    [
        *({"weight": "velocity"}, {"time_power": 1.0}, {"coupling": "ot"}),
        {"times": kacjax.losses.LogNormalTimes()},
    ],
)
def test_what_an_objective_decides_is_not_ignored(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be .* with an objective of its own, got"):
        Trainer(mlp(), PATHS["kac"], objective=few_step.FlowMapLoss(), **options)


@pytest.mark.long
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_objectives_learn_what_stands_for_no_class(dropout):
    network = mlp(classes=3, second_time=True)
    options = {"objective": few_step.FlowMapLoss(), "label_dropout": dropout, "progress": False}
    labels = np.arange(64) % 3
    run = kacjax.fit(network, PATHS["kac"], ONES, KEY, 3, 32, labels=labels, **options)
    before, after = map(
        jax.tree.leaves, (nnx.state(network, nnx.Param), run.velocity.network.params)
    )
    # One row for each class, and one for none.
    ((old, new),) = [(a, b) for a, b in zip(before, after, strict=True) if a.shape[0] == 4]
    moved = np.abs(np.asarray(new) - np.asarray(old)).max(axis=1)
    assert np.all(moved[:3] > 0)
    assert (moved[3] > 0) == (dropout > 0)


@pytest.mark.long
def test_batches_that_end_leave_students_with_what_they_had():
    teacher = kacjax.Velocity(mlp(), PATHS["kac"])
    batches = [np.asarray(ONES[:8])] * 5
    options = {"teacher_steps": 4, "progress": False}
    found = kacjax.distill(teacher, batches, KEY, (2, 1), 9, 8, **options)
    assert {steps: len(losses) for steps, losses in found.losses.items()} == {2: 5, 1: 5}
    assert found.evaluations == 5 * 3 + 5 * 3
    assert "last losses=[" in repr(found)
    with pytest.raises(ValueError, match="data must be no iterator for several stages"):
        kacjax.distill(teacher, iter(batches), KEY, (2, 1), 3, 8, **options)


def test_new_noise_is_not_that_of_the_prior(monkeypatch):
    seen, sample = [], kacjax.ProbabilityPath.sample

    def spy(self, key, t, x0):
        seen.append(jax.random.key_data(key).tolist())
        return sample(self, key, t, x0)

    monkeypatch.setattr(kacjax.ProbabilityPath, "sample", spy)
    velocity = kacjax.Velocity(mlp(second_time=True), PATHS["kac"])
    few_step.draw_flow_map(velocity, velocity.path, KEY, (5, 2), 4, renoise=True)
    prior = [jax.random.key_data(jax.random.fold_in(KEY, i)).tolist() for i in range(5)]
    assert len(seen) == 3
    assert not any(key in prior for key in seen)


def test_an_objective_of_ones_own():
    Point = namedtuple("Point", "t x0")

    class ToData(eqx.Module):
        scale: jax.Array

        def draw(self, velocity, average, key, x0, labels, path):
            return Point(jnp.full(len(x0), 0.5), x0)

        def errors(self, velocity, draw, key, path):
            return self.scale * jnp.sum((velocity(draw.t, 0 * draw.x0) - draw.x0) ** 2, axis=-1)

    objective = ToData(jnp.asarray(2.0))
    run = kacjax.fit(mlp(), PATHS["kac"], ONES, KEY, 3, 8, objective=objective, progress=False)
    # The untrained network is zero, which is the velocity -x0_gain * 0 at the origin.
    np.testing.assert_allclose(run.losses[0], 2 * 1.25, rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("objective", ["distillation", "flow map"])
def test_a_stopped_training_goes_on_bit_for_bit(objective):
    path, network = PATHS["kac"], mlp(second_time=objective == "flow map")
    teacher = kacjax.exact_velocity(path, POINT)
    chosen = few_step.FlowMapLoss()
    if objective == "distillation":
        chosen = few_step.Distillation(teacher, 2, 3)
    trainer = Trainer(network, path, steps=6, batch_size=8, objective=chosen)
    source = trainer.device_data(np.asarray(ONES))
    whole, metrics = trainer.run(trainer.init(KEY), source)
    half, first = trainer.run(trainer.init(KEY), source, 3)
    parts, second = trainer.run(half, source)
    for one, other in zip(jax.tree.leaves(whole.ema), jax.tree.leaves(parts.ema), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(metrics.loss, np.concatenate([first.loss, second.loss]))
    assert np.all(np.isfinite(metrics.loss))


@pytest.mark.long
def test_labels_and_guidance_are_distilled():
    network = mlp(classes=3)
    velocity = kacjax.Velocity(network, PATHS["kac"])
    guided = kacjax.guided(velocity, 2.0, 3)
    labels = np.arange(20) % 3
    run = kacjax.distill(
        guided,
        np.zeros((20, 2)),
        KEY,
        2,
        2,
        8,
        teacher_steps=4,
        labels=labels,
        student=velocity,
        progress=False,
    )
    assert run.velocity.classes == 3
    assert run.evaluations == 2 * 3
    x = kacjax.generate(run.velocity, PATHS["kac"], KEY, (3, 2), 2, labels=[0, 1, 2])
    assert x.shape == (3, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": (3,)}, r"steps must fall from teacher_steps=8, each dividing .* got \(3,\)"),
        ({"steps": (4, 4)}, "steps must fall"),
        ({"steps": (1, 2)}, "steps must fall"),
        ({"steps": 16}, "steps must fall"),
        ({"steps": ()}, "steps must fall"),
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"steps": 2.5}, "steps must be an integer of at least 1, got 2.5"),
        ({"steps": (4.7, 1)}, "steps must be an integer of at least 1, got 4.7"),
        ({"teacher_steps": 0}, "teacher_steps must be an integer of at least 1, got 0"),
        ({"student": lambda t, x: x}, "student must be a kacjax.Velocity"),
        ({"grid_power": 0.0}, "grid_power must be positive"),
        ({"labels": np.zeros(3, int)}, "labels"),
        ({"data": np.zeros((20, 3), np.float32)}, "network does not accept data"),
        ({"teacher": kacjax.Velocity(mlp(), kacjax.kac_path(T=1.0)), "path": 1}, "path"),
    ],
)
@pytest.mark.usefixtures("without_hook")
def test_what_does_not_fit_is_refused(options, message):
    arguments = {
        "teacher": kacjax.Velocity(mlp(), PATHS["kac"]),
        "data": np.zeros((20, 2), np.float32),
        "key": KEY,
        "steps": (4, 1),
        "training_steps": 1,
        "batch_size": 4,
        "teacher_steps": 8,
        "progress": False,
    }
    with pytest.raises((ValueError, TypeError), match=message):
        kacjax.distill(**{**arguments, **options})
    for name, value in (("kind", "mean"), ("diagonal", 1.0)):
        with pytest.raises(ValueError, match=name):
            few_step.FlowMapLoss(**{name: value})
