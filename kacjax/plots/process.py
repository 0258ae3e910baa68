"""Figures of the noise: paths, the evolving law with its atoms, and velocities near the data."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.scipy.special
import numpy as np
from jaxtyping import Array, Float

from kacjax.plots import style
from kacjax.plots.style import BLUE, COLORS, GRAY, VERMILION, Figure, panels, styled
from kacjax.processes import KacProcess, WienerProcess


@styled
def paths_figure(
    process: KacProcess, times: Float[Array, " times"], positions: Float[Array, "times num"]
) -> Figure:
    """Paths of the Kac process inside the cone that its speed allows.

    Example:
        >>> process, times = kacjax.KacProcess(a=9.0, c=3.0), jnp.linspace(0, 1, 21)
        >>> paths = process.sample_path(jax.random.key(0), times, (5,))
        >>> figure = kacjax.plots.paths_figure(process, times, paths)
    """
    s, y = np.asarray(times), np.asarray(positions)
    a, c = float(process.a), float(process.c)
    figure, (ax,) = panels(1, 6.4, 3.4)
    ax.fill_between(s, -c * s, c * s, color=style.PALE, alpha=0.25, linewidth=0)
    ax.plot(s, np.stack([c * s, -c * s], 1), color=GRAY, linewidth=1, linestyle="--")
    # A path that has not turned yet lies on the cone: it is one of the atoms.
    atoms = np.abs(y[-1]) >= c * s[-1] * (1 - 1e-5)
    ax.plot(s, y[:, ~atoms], color=BLUE, alpha=0.65, linewidth=1.1)
    ax.plot(s, y[:, atoms], color=VERMILION, linewidth=1.8)
    ax.text(0.43 * s[-1], 0.46 * c * s[-1], "light cone $|y| = c\\,s$", ha="right", color=GRAY)
    ax.set(xlim=(0, s[-1]), xlabel="time $s$", ylabel="displacement $y$")
    ax.set_title(f"Kac paths: speed $c = {c:g}$, jumps at rate $a = {a:g}$")
    return figure


@styled
def density_figure(process: KacProcess, times: tuple[float, ...]) -> Figure:
    r"""The law at several times: density, atoms as stems, and the Gaussian that it tends to.

    Example:
        >>> process = kacjax.KacProcess(a=9.0, c=3.0)
        >>> figure = kacjax.plots.density_figure(process, (0.1, 1.0))
    """
    a, c = float(process.a), float(process.c)
    figure, axes = panels(len(times), 2.35 * len(times) + 0.7, 2.9)
    for ax, s in zip(axes, times, strict=True):
        reach = 1.25 * c * s
        y = jnp.linspace(-reach, reach, 801)
        inside = jnp.abs(y) < c * s
        density = jnp.where(inside, process.density(s, jnp.where(inside, y, 0)), 0)
        gaussian = WienerProcess(sigma=c / np.sqrt(a)).density(s, y)
        ax.fill_between(y, density, color=style.SKY, alpha=0.45, linewidth=0)
        ax.plot(y, jnp.where(inside, density, jnp.nan), color=BLUE, label="Kac density")
        ax.plot(y, gaussian, color=GRAY, linestyle="--", linewidth=1.2, label="Brownian motion")
        top = 1.15 * float(jnp.maximum(density.max(), gaussian.max()))
        ax.set(xlim=(-reach, reach), ylim=(0, top), xlabel="$y$", title=f"$s = {s:g}$")
        mass = float(process.atom_mass(s)) / 2
        stems = ax.twinx()
        stems.vlines([-c * s, c * s], 0, mass, color=VERMILION, linewidth=2.2)
        stems.plot([-c * s, c * s], [mass, mass], "o", color=VERMILION, markersize=5)
        stems.set(ylim=(0, 0.55), yticks=[])
    # The last axis of masses, at the right, serves all panels.
    stems.spines["right"].set(visible=True, color=VERMILION)
    stems.tick_params(axis="y", color=VERMILION, labelcolor=VERMILION)
    stems.set(yticks=[0, 0.25, 0.5], ylabel="mass of an atom")
    axes[0].set(ylabel="density")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


@styled
def velocity_figure(
    process: KacProcess, brownian: WienerProcess, earliest: float = 1e-5, latest: float = 1.0
) -> Figure:
    """Speeds along quantiles of both laws as the time falls to 0: bounded against exploding.

    Example:
        >>> kac, brownian = kacjax.KacProcess(a=9.0, c=3.0), kacjax.WienerProcess(1.0)
        >>> figure = kacjax.plots.velocity_figure(kac, brownian)
    """
    s = jnp.asarray(np.geomspace(earliest, latest, 400), jnp.result_type(float))
    c = float(process.c)
    figure, (ax,) = panels(1, 6.4, 3.6)
    ax.axhline(c, color=style.INK, linewidth=1, linestyle="--")
    for name, law in (("diffusion", brownian), ("kac", process)):
        for n, alpha in ((0.25, 0.35), (1.0, 0.65), (2.0, 1.0)):
            # Along the quantile, so that on an atom it is the light cone's.
            quantile = partial(law.quantile, u=jax.scipy.special.ndtr(n))
            _, v = jax.jvp(quantile, (s,), (jnp.ones_like(s),))
            ax.plot(s, np.abs(v), color=COLORS[name], alpha=alpha)
    ax.text(0.3, 0.9, r"diffusion: $|v| \to \infty$", color=VERMILION, transform=ax.transAxes)
    ax.text(0.02, 0.05, rf"Kac: $|v| \leq c = {c:g}$", color=BLUE, transform=ax.transAxes)
    ax.set(xlabel="time $s$, data at the left", ylabel="speed $|v(s, y_n(s))|$")
    ax.set(xscale="log", yscale="log", xlim=(earliest, latest))
    ax.set_title(r"Along the quantiles $n = \frac{1}{4},\, 1,\, 2$ of a normal (pale to dark)")
    return figure
