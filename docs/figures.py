"""The figures of the site, made of kacjax itself: `python docs/figures.py`, a minute on a CPU.

Each is drawn twice, for a light and for a dark ground.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

import kacjax
from kacjax.data import target

FOLDER = pathlib.Path(__file__).parent / "images"
# The ink of each ground; colors that both bear.
GROUNDS = {"light": "#333333", "dark": "#dddddd"}
BLUE, RED, GREEN, GRAY = "#2f8fd0", "#e0701b", "#1fa67a", "#888888"
WIDTH = 7.2
KAC = kacjax.KacProcess(a=9.0, c=3.0)


def paths(ink):
    """Twelve paths in their cone; those that have not turned ride on it."""
    figure, ax = panels(1, 3.2)
    s = jnp.linspace(0.0, 0.5, 201)
    y = np.asarray(KAC.sample_path(jax.random.key(4), s, (60,)))
    atoms = np.abs(y[-1]) >= 1.5 * (1 - 1e-5)
    ax.plot(s, 3 * s, "--", s, -3 * s, "--", color=GRAY, linewidth=1)
    ax.plot(s, y[:, ~atoms][:, :14], color=BLUE, linewidth=1.2, alpha=0.85)
    ax.plot(s, y[:, atoms][:, :1], color=RED, linewidth=2)
    ax.text(0.24, 1.0, "cone $|y| = c s$", color=ink, ha="right")
    ax.text(0.36, -1.4, "never turned", color=RED, ha="right")
    ax.set(xlabel="process time $s$", ylabel="displacement $y$", xlim=(0, 0.5))
    return figure


def law(ink):
    """Densities and atoms at three times, beside Brownian motion of the same size."""
    figure, axes = panels(3, 2.6)
    for ax, s in zip(axes, (0.05, 0.2, 1.0), strict=True):
        y = jnp.linspace(-3.6 * s, 3.6 * s, 601)
        inside = jnp.abs(y) < 3 * s
        density = jnp.where(inside, KAC.density(s, jnp.where(inside, y, 0)), jnp.nan)
        brown = kacjax.WienerProcess(1.0).density(s, y)
        ax.plot(y, density, color=BLUE, label="Kac, density")
        ax.plot(y, brown, "--", color=GRAY, label="Brownian motion")
        # Where no stem would be seen, none is drawn.
        mass = float(KAC.atom_mass(s)) / 2
        top = float(max(jnp.nanmax(density), brown.max()))
        if mass > 0.01:
            label = "Kac, atoms (height: mass)"
            ends = np.array([-3 * s, 3 * s])
            ax.vlines(ends, 0, mass * top, color=RED, linewidth=2.5, label=label)
            for y0, side in zip(ends, (1, -1), strict=True):
                ax.annotate(
                    f"{mass:.2f}",
                    (y0, mass * top),
                    (4 * side, 3),
                    color=RED,
                    ha="center",
                    textcoords="offset points",
                    fontsize=9,
                )
        ax.set(xlabel="displacement $y$", title=f"$s = {s:g}$", yticks=[], ylim=(0, 1.15 * top))
    axes[0].set(ylabel="density")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def cone(ink):
    """The velocity field of the noise: it jumps to the speed on the cone."""
    figure, ax = panels(1, 2.9)
    s, y = jnp.meshgrid(jnp.linspace(0.004, 0.5, 200), jnp.linspace(-1.7, 1.7, 300))
    v = jnp.where(jnp.abs(y) <= 3 * s, KAC.velocity(s, y), jnp.nan)
    shown = ax.pcolormesh(s, y, v, cmap="RdBu_r", vmin=-3, vmax=3, rasterized=True)
    ax.plot([0, 0.5], [0, 1.5], "--", [0, 0.5], [0, -1.5], "--", color=ink, linewidth=1)
    ax.set(xlabel="process time $s$", ylabel="displacement $y$", xlim=(0, 0.5), ylim=(-1.7, 1.7))
    figure.colorbar(shown, ax=ax, label="velocity $v(s, y)$", ticks=[-3, 0, 3])
    return figure


def velocity(ink):
    """Speeds along a quantile as the time falls to 0."""
    figure, ax = panels(1, 2.9)
    s, n = jnp.asarray(np.geomspace(1e-5, 1, 300), jnp.float32), 1.0
    for process, color, label in (
        (kacjax.WienerProcess(1.0), RED, "Brownian motion: grows like $s^{-1/2}$"),
        (KAC, BLUE, "Kac: at most $c = 3$"),
    ):
        _, v = jax.jvp(lambda s, p=process: p.from_normal(s, n), (s,), (jnp.ones_like(s),))
        ax.loglog(s, jnp.abs(v), color=color, label=label)
    ax.set(xlabel="process time $s$, data at the left", ylabel="speed at the quantile $n = 1$")
    ax.legend()
    return figure


def straight(ink):
    """Trajectories of one model in time and in straight coordinates."""
    figure, axes = panels(2, 3.0)
    path = kacjax.kac_path(a=25.0, c=2.0)
    data = jnp.asarray([[-1.0], [0.0], [1.0]])
    field = kacjax.exact_velocity(path, data)
    times = jnp.linspace(1.0, 0.0, 101) ** 2
    x = kacjax.trajectory(field, path, jax.random.key(1), (24, 1), times, steps=400)[..., 0]
    c = path.coefficients(times)
    scale = (c.f + c.sigma)[:, None]
    axes[0].plot(times, x, color=BLUE, linewidth=0.9)
    axes[1].plot(c.sigma / scale[:, 0], x / scale, color=GREEN, linewidth=0.9)
    axes[0].set(xlabel="time $t$", ylabel="$x$", title="in time")
    axes[1].set(
        xlabel=r"$\rho = \sigma / (f + \sigma)$",
        ylabel=r"$u = x / (f + \sigma)$",
        title="in straight coordinates",
    )
    return figure


def generation(ink):
    """Samples on their way from noise to data, of a network that was trained for a minute."""
    times, x = trained()
    figure, axes = panels(len(times), 2.0, sharex=True, sharey=True)
    for ax, t, points in zip(axes, times, x, strict=True):
        ax.scatter(*np.asarray(points).T, s=1.0, color=BLUE, alpha=0.5, linewidths=0)
        ax.set(
            title=f"$t = {float(t):.2g}$",
            xticks=[],
            yticks=[],
            aspect="equal",
            xlim=(-2.4, 2.4),
            ylim=(-2.4, 2.4),
        )
    return figure


def trained(memory={}):  # noqa: B006  Trained once for both grounds.
    """Times and points of samples of a checkerboard."""
    if not memory:
        data, path = target("checkerboard")(jax.random.key(0), 50_000), kacjax.kac_path(25.0, 2.0)
        network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=128, depth=3)
        found = kacjax.fit(network, path, data, jax.random.key(1), 6000, progress=False)
        times = jnp.asarray([1.0, 0.5, 0.25, 0.1, 0.0])
        shape = (4000, 2)
        memory["x"] = (
            times,
            kacjax.trajectory(found.velocity, path, jax.random.key(2), shape, times, steps=50),
        )
    return memory["x"]


def panels(columns, height, **options):
    """A figure without ground, and its axes."""
    figure = Figure((WIDTH, height), layout="constrained")
    axes = figure.subplots(1, columns, **options)
    return figure, axes


FIGURES = (paths, law, cone, velocity, straight, generation)


def main():
    """Draws all figures, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="figures; all if none is named")
    parser.add_argument("--out", type=pathlib.Path, default=FOLDER)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for draw in FIGURES:
        if arguments.names and draw.__name__ not in arguments.names:
            continue
        for ground, ink in GROUNDS.items():
            style = dict.fromkeys(
                ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"),
                ink,
            )
            style |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
            style |= {"mathtext.fontset": "cm", "font.size": 10}
            with matplotlib.rc_context(style):
                figure = draw(ink)
                file = arguments.out / f"{draw.__name__}-{ground}.png"
                figure.savefig(file, dpi=140, transparent=True, metadata={"Software": None})


if __name__ == "__main__":
    main()
