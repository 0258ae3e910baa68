"""The figures that a paper would print: quality, time and fields of the models side by side."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.colors
import numpy as np
from matplotlib.figure import Figure

from experiments.compare.table import NFE, SECONDS, Entry, label
from experiments.datasets import Headline
from kacjax.plots import COLORS, panels, styled

_MICRO, _MARKERS = 1e6, "osD^vPXh"


class Curve(NamedTuple):
    """A figure against what is to the right: its name, where a line of the table is, and ticks."""

    headline: Headline
    name: str
    place: Callable[[Entry], float]
    tick: Callable[[Entry], float] | None = None


_NFE, _TIME = "evaluations of the network (NFE)", "microseconds a sample"
BY_NFE = _NFE, lambda entry: entry.figures[NFE].mean, lambda entry: entry.sampler.nfe
BY_TIME = _TIME, lambda entry: _MICRO * entry.figures[SECONDS].mean
COST = Curve(Headline(SECONDS, _TIME), *BY_NFE)


@styled
def curves_figure(
    entries: Sequence[Entry], curves: Sequence[Curve], reference: Mapping[str, float] = {}
) -> Figure:
    """A panel for each, with a line for each model; adaptive solvers as single points."""
    columns = min(len(curves), 3)
    rows = -(-len(curves) // columns)
    figure, axes = panels(columns, 3.6 * columns + 0.3, 2.9 * rows + 0.5, rows=rows)
    for ax in axes[len(curves) :]:
        ax.remove()
    for ax, curve in zip(axes, curves, strict=False):
        headline, name, _, tick = curve
        _draw_lines(ax, entries, curve)
        if headline.key in reference and (reference[headline.key] > 0 or not headline.log):
            ax.axhline(reference[headline.key], color=COLORS["data"], linewidth=1, linestyle=":")
        ax.set(xscale="log", xlabel=name, ylabel=headline.title)
        drawn = np.concatenate([line.get_ydata() for line in ax.lines] or [np.zeros(0)])
        if headline.log and np.any(drawn > 0):
            # What is zero or below, as the foot of an interval may be, is cut off.
            ax.set_yscale("log", nonpositive="clip")
        if tick is not None:
            ticks = sorted({tick(entry) for entry in entries if not entry.sampler.adaptive})
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.minorticks_off()
    stars = any(entry.sampler.adaptive for entry in entries)
    return finish(figure, axes, "stars: adaptive" * stars)


def _draw_lines(ax: Any, entries: Sequence[Entry], curve: Curve) -> None:
    """Lines with bars, the intervals over the seeds; NaN where there is none."""
    key, place = curve.headline.key, curve.place
    scale = _MICRO if key == SECONDS else 1.0
    for model, style in style_of(list(dict.fromkeys(entry.model for entry in entries))).items():
        own = [entry for entry in entries if entry.model == model and key in entry.figures]
        fixed = sorted((entry for entry in own if not entry.sampler.adaptive), key=place)
        for line in [fixed] * bool(fixed) + [[entry] for entry in own if entry.sampler.adaptive]:
            x = [place(entry) for entry in line]
            mean, half = scale * np.array([entry.figures[key][:2] for entry in line]).T
            mean = np.where(np.isfinite(mean), mean, np.nan)
            ax.vlines(x, mean - half, mean + half, color=style["color"], linewidth=1, alpha=0.6)
            marks = {"label": label(model)} if line is fixed else {"marker": "*", "markersize": 10}
            ax.plot(x, mean, **{"markersize": 5, **style, **marks})


@styled
def field_figure(fields: Mapping[str, Sequence[Mapping[str, Sequence[float]]]]) -> Figure:
    """Norm and Lipschitz constant of what was learned against time, means over seeds, by model."""
    figure, axes = panels(2, 8.0, 3.5)
    for model, style in style_of(list(fields)).items():
        t = np.asarray(fields[model][0]["t"])
        for ax, name in zip(axes, ("mean_norm", "max_lipschitz"), strict=True):
            values = np.asarray([seed[name] for seed in fields[model]])
            ax.plot(t, values.mean(axis=0), label=label(model), markersize=4, **style)
            ends = values.min(axis=0), values.max(axis=0)
            ax.fill_between(t, *ends, color=style["color"], alpha=0.2, lw=0)
            ax.set(xscale="log", yscale="log", xlabel="time $t$, data at the left")
    axes[0].set_ylabel("mean norm of $v_\\theta(t, x_t)$")
    axes[1].set_ylabel("largest $\\|\\partial v_\\theta / \\partial x\\|_2$ at $x_t$")
    return finish(figure, axes)


def style_of(models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Color and marker of every model: the family's color, paler for each further member."""
    colors = {name.split("-")[0]: COLORS[name] for name in ("kac", "diffusion", "flow-matching")}
    styles, families = {}, [model.split("-")[0] for model in models]
    for i, (model, family) in enumerate(zip(models, families, strict=True)):
        base = np.array(matplotlib.colors.to_rgb(colors.get(family, COLORS["data"])))
        pale = min(0.75, 0.25 * families[:i].count(family))
        color = COLORS.get(model) or tuple(base + (1 - base) * pale)
        styles[model] = {"color": color, "marker": _MARKERS[i % len(_MARKERS)]}
    return styles


def finish(figure: Figure, axes: Sequence[Any], note: str = "") -> Figure:
    """One legend for all panels, above them."""
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, max(1, len(labels))))
    if note:
        figure.supxlabel(note, fontsize=9, color=COLORS["data"])
    return figure
