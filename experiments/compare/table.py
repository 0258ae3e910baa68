r"""From judgements to tables: means over the seeds, and every model beside one, seed by seed.

Models of one seed share batches, the normal variables behind noise and prior, and the network's
first parameters. Much of what differs from seed to seed falls out of the mean ratio of a model's
figure and that of the baseline, $\exp \frac 1 n \sum_i \log (q_i / b_i)$, or for figures without a
logarithmic axis of the mean difference; where the best value is 1 that of $|\log q|$. Intervals are
Student's, of the logarithms for a ratio; nothing corrects them for the number of rows.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.compare.config import Sampler
from experiments.datasets import Headline
from experiments.report import Interval, align, csv_text, interval, markdown, plus_minus
from kacjax.plots import LABELS

Headlines = Sequence[Headline]
# Figures of a row that do not come from the data set.
NFE, SECONDS = "nfe", "seconds_per_sample"
_COLUMNS = "step solver grid_power nfe metric"
# How the terminal and Markdown mark a verdict.
_MARKS = {"better": ("+", "**"), "worse": ("-", "*"), "open": (" ", "")}


class Entry(NamedTuple):
    """A model at one step of its training, generated from in one way; what each seed had, or None."""

    model: str
    step: int
    sampler: Sampler
    figures: Mapping[str, Interval]
    qualities: Mapping[int, Mapping[str, float] | None]


class Pair(NamedTuple):
    """A figure against the baseline's: what was averaged, its interval, and how that lies."""

    kind: str
    value: float
    low: float
    high: float
    seeds: int
    verdict: str


# A table for people: titles, rows of texts, the best ones marked, and how many are no figures.
Lines = tuple[list[str], list[list[tuple[str, bool]]], int]
# A line of the table, the model that it is compared to, and its pairs, over the seeds for which
# neither failed.
Row = tuple[Entry, str, dict[str, Pair]]


def label(model: str) -> str:
    """What figures and tables call a model."""
    return LABELS.get(model) or model.replace("-", " ").replace("kac", "Kac")


def make_entries(judgements: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """Gathers what the seeds found, line by line; a way that failed for one has no quality."""
    found: dict[tuple[str, int, Sampler], dict[int, Mapping[str, Any]]] = {}
    for each in judgements:
        for row in each["rows"]:
            sampler = Sampler(row["solver"], row["grid_power"], row["asked"])
            seeds = found.setdefault((each["model"], each["step"], sampler), {})
            seeds[each["seed"]] = row
    entries = []
    for line, seeds in found.items():
        rows = [{n: r[n] for n in (NFE, SECONDS)} | (r["quality"] or {}) for r in seeds.values()]
        names = [name for name in rows[0] if all(row.get(name) is not None for row in rows)]
        figures = {name: interval([row[name] for row in rows]) for name in names}
        entries.append(Entry(*line, figures, {seed: row["quality"] for seed, row in seeds.items()}))
    return entries


def best_entries(entries: Sequence[Entry], headline: Headline) -> list[Entry]:
    """Of the fully trained networks, the best line of each model and cost by one figure, by cost."""
    last, best = last_steps(entries), {}
    for entry in (entry for entry in entries if entry.step == last[entry.model]):
        key = entry.model, entry.sampler.cost
        if key not in best or _badness(entry, headline) < _badness(best[key], headline):
            best[key] = entry
    return sorted(best.values(), key=lambda entry: (entry.sampler.adaptive, entry.sampler.nfe))


def last_steps(entries: Iterable[Entry]) -> dict[str, int]:
    """The steps of each model's training."""
    last: dict[str, int] = {}
    for entry in entries:
        last[entry.model] = max(entry.step, last.get(entry.model, 0))
    return last


def _badness(entry: Entry, headline: Headline) -> float:
    figure = entry.figures.get(headline.key)
    return math.inf if figure is None else headline.badness(figure.mean)


def make_pairs(
    entries: Sequence[Entry], headlines: Headlines, baseline: str, controls: Mapping[str, str]
) -> list[Row]:
    """Pairs of lines with those of equal cost of their controls; none where there is one seed.

    The baseline is the control of those that have none of their own.
    """
    known, rows = {(each.model, each.sampler.cost): each for each in entries}, []
    for entry in entries:
        rival = controls.get(entry.model, baseline)
        rivals = known.get((rival, entry.sampler.cost), entry).qualities
        seeds = [seed for seed, own in entry.qualities.items() if own and rivals.get(seed)]
        if rivals is not entry.qualities and len(seeds) > 1:
            sides = [[each[seed] for seed in seeds] for each in (entry.qualities, rivals)]
            pairs = {
                h.key: pair(h, *([q[h.key] for q in side] for side in sides)) for h in headlines
            }
            rows.append((entry, rival, pairs))
    return rows


def pair(headline: Headline, own: Sequence[float], rival: Sequence[float]) -> Pair:
    """One figure of two models over the seeds that they share.

    Figures that have a logarithmic axis but are not all positive are compared by their difference.
    """
    q, b = np.asarray(own, np.float64), np.asarray(rival, np.float64)
    positive, kind = bool(np.all(q > 0) and np.all(b > 0)), "difference"
    if headline.best == "one" and positive:
        kind, values = "difference of |log|", np.abs(np.log(q)) - np.abs(np.log(b))
    elif headline.best == "one":
        values = np.abs(q - 1) - np.abs(b - 1)
    elif headline.log and positive:
        kind, values = "ratio", np.log(q / b)
    else:
        values = q - b
    mean, half, seeds = interval(values.tolist())
    ends, verdict = [mean, mean - half, mean + half], "open"
    if ends[2] < 0 or ends[1] > 0:
        verdict = "better" if (ends[2] < 0) == (headline.best != "high") else "worse"
    if kind == "ratio":
        # Few seeds may leave the end of an interval beyond all numbers.
        ends = [math.inf if end >= 700 else math.exp(end) for end in ends]
    return Pair(kind, *ends, seeds, verdict)


def to_csv(entries: Iterable[Entry]) -> str:
    """Every figure of every line, one a row, at full precision."""
    rows = [
        [entry.model, *_columns_of(entry), name, own.mean, *own.ends, own.seeds]
        for entry in entries
        for name, own in entry.figures.items()
    ]
    return csv_text(f"model {_COLUMNS} mean low high seeds".split(), rows)


def pairs_to_csv(rows: Sequence[Row]) -> str:
    """Every pair of every line, one a row, at full precision."""
    lines = [
        [entry.model, rival, *_columns_of(entry), name, *own]
        for entry, rival, pairs in rows
        for name, own in pairs.items()
    ]
    titles = f"model baseline {_COLUMNS} kind value low high seeds verdict"
    return csv_text(titles.split(), lines)


def _columns_of(entry: Entry) -> list[Any]:
    solver, power, nfe = entry.sampler
    return [entry.step, solver, "" if entry.sampler.adaptive else power, nfe or ""]


def make_lines(
    entries: Sequence[Entry], headlines: Headlines, reference: Mapping[str, float]
) -> Lines:
    """The lines for people, the best of equal cost marked; the last is of real data, if any."""
    several = len({entry.sampler[:2] for entry in entries if not entry.sampler.adaptive}) > 1
    titles, rows = ["NFE", "model", *["solver"] * several, *(h.title for h in headlines)], []
    for entry in entries:
        rivals = [other for other in entries if other.sampler.cost == entry.sampler.cost]
        nfe = f"{entry.figures[NFE].mean:.0f}" if NFE in entry.figures else ""
        texts = [f"{entry.sampler.solver} {nfe}" if entry.sampler.adaptive else nfe]
        texts += [label(entry.model), *[entry.sampler.name] * several]
        row = [(text, False) for text in texts]
        for headline in headlines:
            figure = entry.figures.get(headline.key)
            values = [_badness(rival, headline) for rival in rivals]
            # Where all are equally good none is the best.
            best = _badness(entry, headline) == min(values) < max(values)
            row.append(("failed" if figure is None else plus_minus(figure), best))
        rows.append(row)
    if reference:
        values = [f"{reference[h.key]:.3g}" if h.key in reference else "" for h in headlines]
        rows.append([(text, False) for text in ("", "real data", *[""] * several, *values)])
    return titles, rows, len(titles) - len(headlines)


def to_markdown(lines: Lines) -> str:
    """The table in Markdown, the best in bold."""
    titles, rows, text = lines
    marked = [[f"**{cell}**" if best else cell for cell, best in row] for row in rows]
    return markdown(titles, marked, text)


def to_terminal(title: str, lines: Lines, width: int = 79) -> str:
    """The table for a terminal: as many figures as fit, a star at the best."""
    titles, marked, text = lines
    rows = [[cell + " *"[best] for cell, best in row] for row in marked]
    sizes = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    while sum(sizes) + len(sizes) - 1 > width and len(sizes) > text + 1:
        sizes.pop()
    rule, group = "-" * min(width, sum(sizes) + len(sizes) - 1), rows[0][0].split()[:1]
    shown = [title, rule, align(titles, sizes, text), rule]
    for row in rows:
        # Lines of one cost stay together; an adaptive solver's cost is its name.
        apart = text > 1 and row[0].split()[:1] != group
        shown += [""] * apart + [align(row, sizes, text)]
        group = row[0].split()[:1]
    return "\n".join([*shown, rule])


def pairs_to_markdown(rows: Sequence[Row], headlines: Headlines) -> str:
    """A legend and the table: bold where the model is better, italic where worse."""
    rivals = {rival for _, rival, _ in rows}
    several = len(rivals) > 1
    name = "the one named beside it" if several else label(min(rivals))
    cells = [
        [str(entry.sampler.cost), label(entry.model), *[label(rival)] * several]
        + [_cell(pairs[h.key]) for h in headlines]
        for entry, rival, pairs in rows
    ]
    legend = (
        f"Against {name}, seed by seed: mean ratio (×) or difference of a model's figure and that of "
        f"{name}, with its 95% t-interval; for a figure whose best value is 1 the difference of "
        "|log|. Bold: the whole interval is on the better side; italic: on the worse."
    )
    titles = ["NFE", "model", *["against"] * several, *(headline.title for headline in headlines)]
    return f"{legend}\n\n" + markdown(titles, cells, 2 + several)


def _cell(found: Pair) -> str:
    value, low, high = (_number(each, found.kind == "ratio") for each in found[1:4])
    mark = _MARKS[found.verdict][1]
    return f"{mark}{'×' * (found.kind == 'ratio')}{value} ({low} to {high}){mark}"


def _number(value: float, ratio: bool) -> str:
    """A ratio near 1 by two decimals, so that its side is seen; else two figures."""
    if not ratio:
        return f"{value:+.2g}"
    return f"{value:.2f}" if 0.1 <= value < 10 else f"{value:.2g}"


def pairs_to_terminal(rows: Sequence[Row], headline: Headline) -> str:
    """One figure, a line for each model and a column for each cost, as many as fit."""
    found = {(entry.model, entry.sampler.cost): pairs[headline.key] for entry, _, pairs in rows}
    rivals = [label(rival) for rival in dict.fromkeys(rival for _, rival, _ in rows)]
    against = " or ".join(rivals) if len(rivals) < 3 else "that of its control"
    kinds = " or ".join(sorted({each.kind for each in found.values()}))
    models, costs = (list(dict.fromkeys(names)) for names in zip(*found, strict=True))
    texts = {key: f"{each.value:.3g}{_MARKS[each.verdict][0]}" for key, each in found.items()}
    cells = [[label(model), *(texts.get((model, cost), "") for cost in costs)] for model in models]
    title = (
        f"{headline.title}: {kinds} to {against}, seed by seed\n"
        "(+ better, - worse: the whole 95% interval is on that side)"
    )
    lines = [[(cell, False) for cell in row] for row in cells]
    return to_terminal(title, (["NFE", *(f"{cost}  " for cost in costs)], lines, 1))
