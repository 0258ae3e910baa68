"""Figures of the noise: paths, the evolving law with its atoms, and velocities near the data."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from kacjax.plots.style import BLUE, COLOURS, GREY, INK, PALE, SKY, VERMILION, panels, styled
from kacjax.processes import KacProcess, Process, WienerProcess


@styled
def paths_figure(
    process: KacProcess, times: Float[Array, " times"], positions: Float[Array, "times num"]
) -> Figure:
    """Paths of the Kac process inside the cone that its speed allows."""
    s, y = np.asarray(times), np.asarray(positions)
    c = float(process.c)
    figure, (ax,) = panels(1, 6.4, 3.4)
    ax.fill_between(s, -c * s, c * s, color=PALE, alpha=0.25, linewidth=0)
    for sign in (-1, 1):
        ax.plot(s, sign * c * s, color=GREY, linewidth=1, linestyle="--")
    # A path that has not turned yet lies on the cone: it is one of the atoms.
    atoms = np.abs(y[-1]) >= c * s[-1] * (1 - 1e-5)
    ax.plot(s, y[:, ~atoms], color=BLUE, alpha=0.65, linewidth=1.1)
    if atoms.any():
        ax.plot(s, y[:, atoms], color=VERMILION, linewidth=1.8)
    ax.annotate(
        "light cone $|y| = c\\,s$",
        (0.45 * s[-1], 0.45 * c * s[-1]),
        xytext=(-8, 8),
        textcoords="offset points",
        ha="right",
        color=GREY,
    )
    ax.set(xlim=(0, s[-1]), xlabel="time $s$", ylabel="displacement $y$")
    ax.set_title(f"Kac paths: speed $c = {c:g}$, jumps at rate $a = {float(process.a):g}$")
    return figure


@styled
def density_figure(process: KacProcess, times: tuple[float, ...]) -> Figure:
    r"""The law at several times: density, atoms at $\pm c s$, and the Gaussian that it tends to.

    Atoms are drawn as stems whose height is their mass, on the axis at the right.
    """
    a, c = float(process.a), float(process.c)
    limit_law = WienerProcess(sigma=c / np.sqrt(a))
    figure, axes = panels(len(times), 2.35 * len(times) + 0.7, 2.9)
    for i, (ax, s) in enumerate(zip(axes, times, strict=True)):
        reach = 1.25 * c * s
        y = jnp.linspace(-reach, reach, 801)
        inside = jnp.abs(y) < c * s
        density = jnp.where(inside, process.density(s, jnp.where(inside, y, 0)), 0)
        gaussian = limit_law.density(s, y)
        ax.fill_between(y, density, color=SKY, alpha=0.45, linewidth=0)
        ax.plot(y, jnp.where(inside, density, jnp.nan), color=BLUE, label="Kac density")
        ax.plot(y, gaussian, color=GREY, linestyle="--", linewidth=1.2, label="Brownian motion")
        top = 1.15 * float(jnp.maximum(density.max(), gaussian.max()))
        ax.set(xlim=(-reach, reach), ylim=(0, top), xlabel="$y$", title=f"$s = {s:g}$")

        mass = float(process.atom_mass(s)) / 2
        stems = ax.twinx()
        stems.vlines([-c * s, c * s], 0, mass, color=VERMILION, linewidth=2.2)
        stems.plot([-c * s, c * s], [mass, mass], "o", color=VERMILION, markersize=5)
        stems.set_ylim(0, 0.55)
        # One axis of masses, at the right, serves all panels.
        last = i == len(times) - 1
        stems.spines["right"].set(visible=last, color=VERMILION)
        stems.tick_params(axis="y", color=VERMILION, labelcolor=VERMILION, right=last)
        stems.set_yticks([0, 0.25, 0.5], ["0", "¼", "½"] if last else [])
        if last:
            stems.set_ylabel("mass of an atom", color=VERMILION)
    axes[0].set_ylabel("density")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


@styled
def velocity_figure(
    process: KacProcess, brownian: WienerProcess, earliest: float = 1e-5, latest: float = 1.0
) -> Figure:
    """Speeds along quantiles of both laws as the time falls to 0: bounded against exploding."""
    s = np.geomspace(earliest, latest, 400)
    c = float(process.c)
    figure, (ax,) = panels(1, 6.4, 3.6)
    ax.axhline(c, color=INK, linewidth=1, linestyle="--")
    ax.annotate(f"$c = {c:g}$", (latest, c), xytext=(-2, 4), textcoords="offset points", ha="right")
    for name, law in (("diffusion", brownian), ("kac", process)):
        for n, alpha in ((0.25, 0.35), (1.0, 0.65), (2.0, 1.0)):
            speed = _speed_along_quantile(law, s, n)
            ax.plot(s, speed, color=COLOURS[name], alpha=alpha)
    middle = np.sqrt(earliest * latest)
    ax.annotate(
        r"diffusion: $|v| = \sigma |n| / 2\sqrt{s} \to \infty$",
        (middle / 8, float(_speed_along_quantile(brownian, np.array([middle / 8]), 2.0)[0])),
        xytext=(8, 6),
        textcoords="offset points",
        color=COLOURS["diffusion"],
    )
    ax.annotate(
        r"Kac: $|v| \leq c$",
        (earliest, c),
        xytext=(8, -16),
        textcoords="offset points",
        color=COLOURS["kac"],
    )
    ax.set(xscale="log", yscale="log", xlim=(earliest, latest))
    ax.set(xlabel="time $s$, data at the left", ylabel="speed $|v(s, y_n(s))|$")
    ax.set_title(r"Along the quantiles $n = \frac{1}{4},\, 1,\, 2$ of a normal (pale to dark)")
    return figure


def _speed_along_quantile(process: Process, s: np.ndarray, n: float) -> np.ndarray:
    """The size of the velocity at the displacement that a normal variable `n` is mapped to."""
    time = jnp.asarray(s, jnp.result_type(float))
    velocity = jax.jvp(lambda t: process.transport(t, n), (time,), (jnp.ones_like(time),))[1]
    return np.abs(velocity)
