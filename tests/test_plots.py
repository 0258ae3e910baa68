"""Figures hold what they should show, and leave matplotlib's global state alone."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

from kacjax import KacProcess, WienerProcess, data, plots

KEY = jax.random.key(0)
POINTS = data.target("grid2d")(KEY, 200)
KAC = KacProcess(a=9.0, c=3.0)


def _paths():
    times = jnp.linspace(0, 1, 21)
    return plots.paths_figure(KAC, times, KAC.sample_path(KEY, times, (5,)))


DRAWINGS = {
    "points": lambda: plots.points_figure({"data": POINTS, "kac": POINTS}),
    "zoom": lambda: plots.zoom_figure({"data": POINTS, "kac": POINTS}, (1.0, 0.0), 0.02, 0.01),
    "trajectories": lambda: plots.trajectories_figure(
        jnp.linspace(2, 1, 5)[:, None, None] * POINTS[:30][None], POINTS
    ),
    "images": lambda: plots.images_figure({"data": -jnp.ones((3, 64))}, side=8),
    "paths": _paths,
    "density": lambda: plots.density_figure(KAC, (0.1, 1.0)),
    "velocity": lambda: plots.velocity_figure(KAC, WienerProcess(1.0)),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_figures_draw_and_save(name, tmp_path):
    before = dict(matplotlib.rcParams)
    figure = DRAWINGS[name]()
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 2000
    assert dict(matplotlib.rcParams) == before


def test_images_lie_in_reading_order():
    vectors = np.stack([np.full(4, -0.5), np.full(4, 0.5), np.full(4, 1.0)]).astype(np.float32)
    figure = plots.images_figure({"data": vectors}, side=2, rows=2)
    canvas = figure.axes[0].images[0].get_array()
    assert canvas is not None
    assert canvas.shape == (8, 8)
    assert (canvas[1, 1], canvas[1, 5], canvas[5, 1], canvas[5, 5]) == (-0.5, 0.5, 1.0, -1.0)


def test_images_may_be_bytes():
    """As the same numbers in [-1, 1], not as numbers of their own."""
    bytes_ = np.arange(0, 256, 15, dtype=np.uint8)[:16].reshape(4, 2, 2, 1)
    shown = [
        plots.images_figure({"data": each}, rows=2).axes[0].images[0].get_array()
        for each in (bytes_, data.to_float(bytes_))
    ]
    np.testing.assert_array_equal(*shown)
    assert np.ptp(shown[0]) > 1.5


def test_density_figure_states_the_atoms():
    figure = plots.density_figure(KAC, (0.1,))
    stems = figure.axes[1]
    (tips,) = stems.lines
    np.testing.assert_allclose(tips.get_xdata(), [-0.3, 0.3], rtol=1e-6)
    np.testing.assert_allclose(tips.get_ydata(), np.exp(-0.9) / 2, rtol=1e-5)


@pytest.mark.long
def test_velocity_figure_shows_a_bound_and_an_explosion():
    axes = plots.velocity_figure(KAC, WienerProcess(1.0), earliest=1e-5).axes[0]
    # Before a path's first turn the speed is exactly c, without flicker.
    np.testing.assert_allclose(axes.lines[-1].get_ydata()[:100], 3.0, rtol=1e-5)
    curves = {line.get_color(): np.asarray(line.get_ydata(), float) for line in axes.lines[1:]}
    assert curves[plots.COLORS["kac"]].max() <= 3.0 * (1 + 1e-6)
    # At n = 2 and s = 1e-5: 2 / (2 sqrt(s)) = 316.
    np.testing.assert_allclose(curves[plots.COLORS["diffusion"]].max(), 316.2, rtol=1e-3)


@pytest.mark.slow
def test_plots_do_not_load_pyplot():
    code = "import sys, kacjax.plots as p; p.panels(1, 2, 2); sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.long
def test_animations_of_points_and_of_images(tmp_path):
    """One frame for each time, the last one held for a second; what is shown changes."""
    shrinking = jnp.linspace(2, 0.1, 4)[:, None, None] * POINTS[:20][None]
    colors = np.linspace(-1, 1, 3)[:, None, None, None, None] * np.ones((3, 2, 4, 5, 3))
    cases = {
        "points": (shrinking, {}),
        "vectors": (jnp.zeros((3, 2, 16)) + jnp.linspace(-1, 1, 3)[:, None, None], {"side": 4}),
        "colors": (colors, {}),
    }
    for name, (trajectory, options) in cases.items():
        file = tmp_path / f"{name}.gif"
        plots.trajectory_gif(file, trajectory, np.linspace(1, 0, len(trajectory)), **options)
        with Image.open(file) as image:
            frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
            duration = sum(frame.info["duration"] for frame in ImageSequence.Iterator(image))
        # Equal frames are stored as one that lasts longer.
        assert len(frames) == len(trajectory)
        assert duration == (len(trajectory) + 20) * 50
        assert np.any(frames[0] != frames[-1])
    with pytest.raises(ValueError, match="points in the plane, images"):
        plots.trajectory_gif(tmp_path / "no.gif", jnp.zeros((3, 2, 7)), np.ones(3))


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"kacjax\[plots\]"):
        plots.points_figure({"data": POINTS})
