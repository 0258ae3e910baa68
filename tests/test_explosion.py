"""The velocity explosion: what is bounded, what grows and how, and that nothing is done twice."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kacjax
from experiments import explosion
from experiments.compare.config import ModelsConfig, make_models
from kacjax.data import GRID2D_MODES

pytestmark = pytest.mark.usefixtures("compile_once")

FLAGS = ["--trajectories", "60", "--times", "7", "--earliest", "1e-3"]


@pytest.fixture(autouse=True)
def promotion_as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """One clock, few solver steps, and in place of a trained network the exact field doubled."""

    def learn(config, name, model):
        exact = kacjax.exact_velocity(model.make(), jnp.asarray(GRID2D_MODES))
        return lambda t, x: 2 * exact(t, x)

    monkeypatch.setattr(explosion, "_learn", learn)
    monkeypatch.setattr(explosion, "_SOLVER", {"steps": 60, "solver": "heun", "grid_power": 4.0})
    models = make_models(ModelsConfig(clock=("t",)))
    monkeypatch.setattr(explosion, "make_models", lambda config: models)


@pytest.mark.slow
def test_kac_is_bounded_and_diffusion_explodes(tmp_path, capsys):
    assert explosion.main([*FLAGS, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "kac-t, exact, max component" in printed
    assert max(map(len, printed.replace(str(tmp_path), "").splitlines())) < 80
    models = json.loads((tmp_path / "explosion.json").read_text())["models"]
    kac, diffusion = models["kac-t"], models["diffusion"]
    t = np.array(kac["exact"]["t"])
    np.testing.assert_allclose(t[[0, -1]], [1, 1e-3], rtol=1e-5)
    # |f'| max |x_0| + g' c = 1 + 3; the paths of a diffusion have no speed.
    np.testing.assert_allclose(kac["bound"], 4, rtol=1e-5)
    assert diffusion["bound"] is None
    # So few steps carry a point out of its cone by some per cent, and it rides on at that ratio.
    assert np.all(np.array(kac["exact"]["max_component"]) <= 4 * (1 + 0.05))
    # y / 2t at y = sqrt(t) n: from one time to the next, up to the drift of the data, t^(-1/2).
    late = np.array(diffusion["exact"]["max_component"])[-3:]
    np.testing.assert_allclose(late[1:] / late[:-1], (t[-3:-1] / t[-2:]) ** 0.5, rtol=0.1)
    # Among 120 components some n is above 2, and 2 / (2 sqrt(t)) is 32 at t = 1e-3.
    assert late[-1] > t[-1] ** -0.5 > 7 * kac["exact"]["max_component"][-1]
    # The Jacobian of y / 2t is 1 / 2t.
    steep = np.array(diffusion["exact"]["max_lipschitz"])[-2:]
    np.testing.assert_allclose(steep, 1 / (2 * t[-2:]), rtol=0.05)

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*-*.json")}
    assert len(before) == 2
    assert explosion.main([*FLAGS, "--out", str(tmp_path)]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    next(iter(before)).write_text("{")
    assert explosion.main([*FLAGS, "--out", str(tmp_path)]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--a", "0"], "--a must lie between"),
        (["--earliest", "2"], "--earliest must lie between 1e-12 and 0.999, got 2.0"),
        (["--times", "1"], "--times must be an integer of at least 2"),
        (["--trajectories", "0"], "--trajectories"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_wrong_flags(flags, words, tmp_path, capsys):
    assert explosion.main([*flags, "--out", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
