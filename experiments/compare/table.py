"""From judgements to one table: means over the seeds with intervals, in three formats."""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from experiments.compare.config import Sampler
from experiments.datasets import Headline

CONFIDENCE = 0.95
_COLUMNS = (
    "model",
    "step",
    "solver",
    "grid_power",
    "nfe",
    "metric",
    "mean",
    "low",
    "high",
    "seeds",
)
# Figures of a row that do not come from the data set.
NFE, SECONDS = "nfe", "seconds_per_sample"
REAL = "real data"

Label = Callable[[str], str]


class Interval(NamedTuple):
    """A mean over seeds, with the half-width of its confidence interval by Student's t.

    Attributes:
        mean: The mean.
        half: Half the width; NaN for one seed, which says nothing about the spread.
        seeds: Number of seeds.
    """

    mean: float
    half: float
    seeds: int


class Entry(NamedTuple):
    """One line: a model at one step of its training, generated from in one way.

    Attributes:
        model: Name of the model.
        step: Optimizer steps.
        sampler: The way to generate.
        figures: Intervals by name of the figure.
        qualities: What the data set found of each seed, none where the generation failed.
    """

    model: str
    step: int
    sampler: Sampler
    figures: Mapping[str, Interval]
    qualities: Mapping[int, Mapping[str, float] | None]


def interval(values: Sequence[float]) -> Interval:
    r"""The mean $\bar x$ with $t_{0.975, n-1} \, s / \sqrt n$, `s` the sample's deviation."""
    array, n = np.asarray(values, np.float64), len(values)
    if n < 2:
        return Interval(float(array.mean()), math.nan, n)
    factor = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
    return Interval(float(array.mean()), factor * float(array.std(ddof=1)) / math.sqrt(n), n)


def make_entries(judgements: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """Gathers what the seeds found, line by line, in the order in which models come.

    A way of generating that failed for a seed has no figures of quality for any.

    Args:
        judgements: What `cells.load_judgement` returns, of all cells.
    """
    found: dict[tuple[str, int, Sampler], dict[int, Mapping[str, Any]]] = {}
    for judgement in judgements:
        for row in judgement["rows"]:
            sampler = Sampler(row["solver"], row["grid_power"], row["asked"])
            line = found.setdefault((judgement["model"], judgement["step"], sampler), {})
            line[judgement["seed"]] = row
    return [
        Entry(*line, _figures(list(rows.values())), {s: r["quality"] for s, r in rows.items()})
        for line, rows in found.items()
    ]


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Interval]:
    figures = {name: interval([row[name] for row in rows]) for name in (NFE, SECONDS)}
    qualities = [row["quality"] for row in rows]
    if all(quality is not None for quality in qualities):
        for name in qualities[0]:
            figures[name] = interval([quality[name] for quality in qualities])
    return figures


def final(entries: Iterable[Entry]) -> list[Entry]:
    """The lines of the fully trained networks."""
    entries = list(entries)
    last = max(entry.step for entry in entries)
    return [entry for entry in entries if entry.step == last]


def best_samplers(entries: Iterable[Entry], headline: Headline) -> list[Entry]:
    """For every model, step and number of evaluations the line that is best in one figure.

    Of solvers and time grids, that is: with one of each this changes nothing. Adaptive solvers are
    lines of their own.
    """
    best: dict[tuple[str, int, object], Entry] = {}
    for entry in entries:
        group = entry.sampler if entry.sampler.adaptive else entry.sampler.nfe
        key = (entry.model, entry.step, group)
        if key not in best or badness(entry, headline) < badness(best[key], headline):
            best[key] = entry
    return list(best.values())


def badness(entry: Entry, headline: Headline) -> float:
    """A number that is lower for the better line."""
    if headline.key not in entry.figures:
        return math.inf
    mean = entry.figures[headline.key].mean
    if headline.best == "one":
        return abs(math.log(mean)) if mean > 0 else math.inf
    return mean if headline.best == "low" else -mean


def to_csv(entries: Iterable[Entry]) -> str:
    """Every figure of every line, one a row, at full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for model, step, sampler, figures, _ in entries:
        for name, (mean, half, seeds) in figures.items():
            low, high = ("", "") if math.isnan(half) else (mean - half, mean + half)
            power = "" if sampler.adaptive else sampler.grid_power
            row = (model, step, sampler.solver, power, sampler.nfe or "", name)
            writer.writerow((*row, mean, low, high, seeds))
    return text.getvalue()


def to_rows(
    entries: Sequence[Entry],
    headlines: Sequence[Headline],
    label: Label,
    reference: Mapping[str, float],
) -> tuple[list[str], list[list[str]], list[list[bool]]]:
    """The lines as text, grouped by evaluations: titles, cells, and which cells are the best.

    Args:
        entries: Lines of one step.
        headlines: Figures to show.
        label: What to call a model.
        reference: The figures of real data, for a line of their own at the end; may be empty.
    """
    several = len({entry.sampler[:2] for entry in entries if not entry.sampler.adaptive}) > 1
    titles = ["NFE", "model", *(["solver"] if several else []), *(h.title for h in headlines)]
    cells, best = [], []
    ordered = sorted(entries, key=lambda entry: (entry.sampler.adaptive, entry.sampler.nfe))
    for entry in ordered:
        rivals = [other for other in entries if _same_cost(other, entry)]
        nfe = f"{entry.figures[NFE].mean:.0f}"
        sampler = [] if not several else [entry.sampler.name]
        row = [f"{entry.sampler.solver} {nfe}" if entry.sampler.adaptive else nfe]
        row += [label(entry.model), *sampler]
        marks = [False] * len(row)
        for headline in headlines:
            figure = entry.figures.get(headline.key)
            row.append("failed" if figure is None else plus_minus(figure))
            values = [badness(rival, headline) for rival in rivals]
            # Where all are equally good none is the best.
            marks.append(badness(entry, headline) == min(values) < max(values))
        cells.append(row)
        best.append(marks)
    if reference:
        values = [f"{reference[h.key]:.3g}" if h.key in reference else "" for h in headlines]
        cells.append(["", REAL, *([""] if several else []), *values])
        best.append([False] * len(titles))
    return titles, cells, best


def to_terminal(
    title: str,
    entries: Sequence[Entry],
    headlines: Sequence[Headline],
    label: Label,
    reference: Mapping[str, float],
    width: int = 79,
) -> str:
    """The table for a terminal: as many figures as fit, a star at the best of equal cost."""
    while True:
        titles, cells, best = to_rows(entries, headlines, label, reference)
        marked = [
            [cell + ("*" if mark else " ") for cell, mark in zip(row, marks, strict=True)]
            for row, marks in zip(cells, best, strict=True)
        ]
        sizes = [max(map(len, column)) for column in zip(titles, *marked, strict=True)]
        if sum(sizes) + len(sizes) - 1 <= width or len(headlines) == 1:
            break
        headlines = headlines[:-1]
    text = len(titles) - len(headlines)
    rule = "-" * min(width, sum(sizes) + len(sizes) - 1)
    lines, group = [title, rule, _line(titles, sizes, text)], None
    for row in marked:
        # Lines of one cost stay together; an adaptive solver's cost is its name.
        if row[0].split()[:1] != group:
            lines.append(rule if group is None else "")
            group = row[0].split()[:1]
        lines.append(_line(row, sizes, text))
    return "\n".join([*lines, rule])


def to_markdown(
    entries: Sequence[Entry],
    headlines: Sequence[Headline],
    label: Label,
    reference: Mapping[str, float],
) -> str:
    """The table in Markdown, the best of equal cost in bold."""
    titles, cells, best = to_rows(entries, headlines, label, reference)
    marked = [
        [f"**{cell}**" if mark else cell for cell, mark in zip(row, marks, strict=True)]
        for row, marks in zip(cells, best, strict=True)
    ]
    return rows_to_markdown(titles, marked, len(titles) - len(headlines))


def rows_to_markdown(titles: Sequence[str], cells: Iterable[Sequence[str]], text: int) -> str:
    """A table in Markdown, its first columns to the left and the others to the right."""
    rule = ["---"] * text + ["---:"] * (len(titles) - text)
    return "".join(f"| {' | '.join(row)} |\n" for row in (titles, rule, *cells))


def plus_minus(figure: Interval) -> str:
    """A mean with its half-width, as `0.981 ± 0.012` or `(3.5 ± 0.4)e-4`."""
    mean, half, _ = figure
    if mean == 0 or 0.01 <= abs(mean) < 1000:
        if math.isnan(half):
            return f"{mean:.3g}"
        digits = min(4, max(0, 1 - math.floor(math.log10(half)))) if half > 0 else 4
        return f"{mean:.{digits}f} ± {half:.{digits}f}"
    exponent = math.floor(math.log10(abs(mean)))
    scaled = mean / 10**exponent
    if math.isnan(half):
        return f"{scaled:.2f}e{exponent}"
    return f"({scaled:.1f} ± {half / 10**exponent:.1f})e{exponent}"


def _same_cost(one: Entry, other: Entry) -> bool:
    if one.sampler.adaptive or other.sampler.adaptive:
        return one.sampler == other.sampler
    return one.sampler.nfe == other.sampler.nfe


def _line(row: Sequence[str], sizes: Sequence[int], text: int) -> str:
    """One line: the first columns at the left, the numbers at the right."""
    padded = [
        f"{cell:<{size}}" if i < text else f"{cell:>{size}}"
        for i, (cell, size) in enumerate(zip(row, sizes, strict=True))
    ]
    return " ".join(padded).rstrip()
