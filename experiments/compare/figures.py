"""The figures that a paper would print: quality, time and fields of the models side by side."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.compare.config import Sampler
from experiments.compare.table import NFE, SECONDS, Entry, Interval
from experiments.datasets import Headline
from kacjax.plots import COLORS, LABELS, panels, styled

GRAY = COLORS["data"]
_FAMILIES = {name.split("-")[0]: COLORS[name] for name in ("kac", "diffusion", "flow-matching")}
_MARKERS = "osD^vPXh"
_MOST_COLUMNS = 3


def label(model: str) -> str:
    """What figures and tables call a model."""
    return LABELS.get(model) or model.replace("-", " ").replace("kac", "Kac")


def style_of(models: Sequence[str]) -> dict[str, dict]:
    """Color and marker of every model: the family's color, paler for each further member."""
    seen: dict[str, int] = {}
    styles = {}
    for i, model in enumerate(models):
        family = model.split("-")[0]
        rank = seen.setdefault(family, 0)
        seen[family] += 1
        base = np.array(matplotlib.colors.to_rgb(_FAMILIES.get(family, GRAY)))
        color = COLORS.get(model) or tuple(base + (1 - base) * min(0.75, 0.25 * rank))
        styles[model] = {"color": color, "marker": _MARKERS[i % len(_MARKERS)]}
    return styles


@styled
def quality_figure(
    entries: Sequence[Entry], headlines: Sequence[Headline], reference: Mapping[str, float]
) -> Figure:
    """Figures of quality against evaluations; adaptive solvers as single points.

    Args:
        entries: Lines of one step, one for each model and number of evaluations.
        headlines: The figures, a panel each.
        reference: The same figures of real data, where there is more of them.
    """
    figure, axes = _grid_of(len(headlines))
    for ax, headline in zip(axes, headlines, strict=True):
        _draw_lines(ax, entries, headline.key, lambda entry: entry.figures[NFE].mean)
        if headline.key in reference:
            ax.axhline(reference[headline.key], color=GRAY, linewidth=1, linestyle=":")
        _axis_of(ax, headline)
        _ticks_at(ax, sorted({e.sampler.nfe for e in entries if not e.sampler.adaptive}))
        ax.set_xlabel("evaluations of the network (NFE)")
    return _finish(figure, axes, "stars: adaptive" * any(e.sampler.adaptive for e in entries))


@styled
def training_figure(
    entries: Sequence[Entry], headlines: Sequence[Headline], sampler: Sampler
) -> Figure:
    """Figures of quality of the averaged network against the steps of its training."""
    figure, axes = _grid_of(len(headlines))
    for ax, headline in zip(axes, headlines, strict=True):
        _draw_lines(ax, entries, headline.key, lambda entry: float(entry.step))
        _axis_of(ax, headline)
        _ticks_at(ax, sorted({entry.step for entry in entries}))
        ax.set_xlabel(f"optimizer steps ({sampler.name}, NFE {sampler.nfe})")
    return _finish(figure, axes)


@styled
def time_figure(entries: Sequence[Entry], headline: Headline) -> Figure:
    """Time of a sample against evaluations, and quality against time."""
    figure, axes = panels(2, 8.0, 3.5)
    cost, value = axes
    _draw_lines(cost, entries, SECONDS, lambda entry: entry.figures[NFE].mean, scale=1e6)
    cost.set(xscale="log", yscale="log", xlabel="evaluations of the network (NFE)")
    cost.set_ylabel("microseconds a sample")
    _ticks_at(cost, sorted({e.sampler.nfe for e in entries if not e.sampler.adaptive}))
    _draw_lines(value, entries, headline.key, lambda e: 1e6 * e.figures[SECONDS].mean)
    _axis_of(value, headline)
    value.set_xlabel("microseconds a sample")
    return _finish(figure, axes, "stars: adaptive" * any(e.sampler.adaptive for e in entries))


@styled
def field_figure(fields: Mapping[str, Sequence[Mapping[str, Sequence[float]]]]) -> Figure:
    """Size of the learned velocity and its Lipschitz constant against time, means over seeds.

    Args:
        fields: By model, what was measured for each seed; see `evaluation.measure_field`.
    """
    figure, axes = panels(2, 8.0, 3.5)
    for model, style in style_of(list(fields)).items():
        seeds = fields[model]
        t = np.asarray(seeds[0]["t"])
        for ax, name in zip(axes, ("mean_norm", "max_lipschitz"), strict=True):
            values = np.asarray([seed[name] for seed in seeds])
            ax.plot(t, values.mean(axis=0), label=label(model), **{"markersize": 4, **style})
            ax.fill_between(
                t, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.2, lw=0
            )
    for ax in axes:
        ax.set(xscale="log", yscale="log", xlabel="time $t$, data at the left")
    axes[0].set_ylabel("mean norm of $v_\\theta(t, x_t)$")
    axes[1].set_ylabel("largest $\\|\\partial v_\\theta / \\partial x\\|_2$ at $x_t$")
    return _finish(figure, axes)


@styled
def explosion_figure(found: Mapping[str, Mapping]) -> Figure:
    """Largest velocity and gradient along trajectories: exact, learned, and the bound of the speed.

    Args:
        found: By model, what `experiments.explosion` measures.
    """
    figure, axes = panels(2, 8.4, 3.9)
    for model, style in style_of(list(found)).items():
        values, color = found[model], style["color"]
        t = values["times"]
        for ax, what in zip(axes, ("max_component", "max_lipschitz"), strict=True):
            ax.plot(t, values["exact"][what], color=color, label=label(model))
            ax.plot(t, values["learned"][what], color=color, linestyle="--")
        if values["bound"] is not None:
            axes[0].plot(t, values["bound"], color=color, linestyle=":", linewidth=2.2)
    for ax in axes:
        ax.set(xscale="log", yscale="log", xlabel="time $t$, data at the left")
    axes[0].set_ylabel("largest component of the velocity")
    axes[1].set_ylabel("largest norm of its Jacobian")
    note = "solid: exact   dashed: learned   dotted: bound $|f'| \\max|x_0| + g' c$"
    return _finish(figure, axes, note)


def _draw_lines(
    ax: Axes,
    entries: Sequence[Entry],
    key: str,
    place: Callable[[Entry], float],
    scale: float = 1.0,
) -> None:
    """A line with bars for every model, its intervals over the seeds; NaN where there is none."""
    for model, style in style_of(list(dict.fromkeys(e.model for e in entries))).items():
        own = [e for e in entries if e.model == model and key in e.figures]
        fixed = sorted((e for e in own if not e.sampler.adaptive), key=place)
        if fixed:
            _bars(ax, [place(e) for e in fixed], [e.figures[key] for e in fixed], scale, style)
            ax.lines[-1].set_label(label(model))
        for entry in own:
            if entry.sampler.adaptive:
                star = {**style, "marker": "*", "markersize": 10}
                _bars(ax, [place(entry)], [entry.figures[key]], scale, star)


def _bars(
    ax: Axes, x: Sequence[float], figures: Sequence[Interval], scale: float, style: Mapping
) -> None:
    means = scale * np.array([figure.mean for figure in figures])
    halves = scale * np.array([figure.half for figure in figures])
    ax.vlines(x, means - halves, means + halves, color=style["color"], linewidth=1, alpha=0.6)
    ax.plot(x, means, **{"markersize": 5, **style})


def _axis_of(ax: Axes, headline: Headline) -> None:
    ax.set(xscale="log", ylabel=headline.title)
    drawn = np.concatenate([line.get_ydata() for line in ax.lines] or [np.zeros(0)])
    if headline.log and np.any(drawn > 0):
        # What is zero or below, as the foot of an interval may be, is cut off.
        ax.set_yscale("log", nonpositive="clip")


def _ticks_at(ax: Axes, values: Sequence[float]) -> None:
    ax.set_xticks(list(values), [f"{value:g}" for value in values])
    ax.minorticks_off()


def _grid_of(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(count, _MOST_COLUMNS)
    rows = -(-count // columns)
    figure, axes = panels(columns, 3.6 * columns + 0.3, 2.9 * rows + 0.5, rows=rows)
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]


def _finish(figure: Figure, axes: Sequence[Axes], note: str = "") -> Figure:
    """One legend for all panels, above them."""
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, max(1, len(labels))))
    if note:
        figure.supxlabel(note, fontsize=9, color=GRAY)
    return figure
