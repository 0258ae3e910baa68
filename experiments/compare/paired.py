r"""Every model beside one of them, seed by seed.

Models of one seed share batches, the normal variables behind noise and prior, and the network's first
parameters. Much of what differs from seed to seed therefore falls out of

$$ \bar r = \exp \frac 1 n \sum_i \log \frac{q_i}{b_i} \quad\text{or}\quad
   \bar d = \frac 1 n \sum_i (q_i - b_i), $$

with $q_i$ a model's figure for seed $i$ and $b_i$ that of the baseline: the ratio for figures that are
drawn on a logarithmic axis, the difference for others. Of a figure whose best value is 1 it is the
difference of $|\log q|$. Intervals are Student's, of the logarithms for a ratio; nothing corrects them
for the number of rows.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from experiments.compare.table import Entry, Label, interval, rows_to_markdown
from experiments.datasets import Headline

_COLUMNS = (
    *("model", "baseline", "step", "solver", "grid_power", "nfe", "metric", "kind"),
    *("value", "low", "high", "seeds", "verdict"),
)
# Width of a column in the terminal.
_COLUMN = 10
Verdict = Literal["better", "worse", "open"]
_MARKS: dict[Verdict, str] = {"better": "+", "worse": "-", "open": " "}
Kind = Literal["ratio", "difference", "difference of |log|"]


class Pair(NamedTuple):
    """A figure of a model against that of the baseline.

    Attributes:
        kind: What was averaged.
        value: The mean ratio or difference.
        low: Lower end of its interval.
        high: Upper end.
        seeds: Number of seeds that both have.
        verdict: Whether the whole interval is on one side of equality.
    """

    kind: Kind
    value: float
    low: float
    high: float
    seeds: int
    verdict: Verdict


class Row(NamedTuple):
    """A model's way to generate against the baseline's of equal cost.

    Attributes:
        entry: The model's line of the table.
        baseline: The baseline's.
        pairs: By name of the figure, over the seeds for which neither failed.
    """

    entry: Entry
    baseline: Entry
    pairs: Mapping[str, Pair]


def default_baseline(models: Sequence[str]) -> str:
    """Flow matching where it is compared, diffusion where that is, or the last model."""
    return next((name for name in ("flow-matching", "diffusion") if name in models), models[-1])


def make_rows(entries: Sequence[Entry], headlines: Sequence[Headline], baseline: str) -> list[Row]:
    """Pairs of every line with the baseline's of equal cost; none where there is a single seed.

    Args:
        entries: Lines of one step, one for each model and cost.
        headlines: Figures to pair.
        baseline: Name of the baseline.
    """
    base = {_cost(entry): entry for entry in entries if entry.model == baseline}
    rows = []
    for entry in entries:
        other = base.get(_cost(entry))
        if other is None or other is entry:
            continue
        both = [
            (own, rival)
            for seed, own in entry.qualities.items()
            if own is not None and (rival := other.qualities.get(seed)) is not None
        ]
        if len(both) > 1:
            pairs = {
                h.key: pair(h, [own[h.key] for own, _ in both], [rival[h.key] for _, rival in both])
                for h in headlines
            }
            rows.append(Row(entry, other, pairs))
    return rows


def pair(headline: Headline, own: Sequence[float], rival: Sequence[float]) -> Pair:
    """One figure of two models over the seeds that they share.

    Figures that have a logarithmic axis but are not all positive are compared by their difference.
    """
    q, b = np.asarray(own, np.float64), np.asarray(rival, np.float64)
    positive = bool(np.all(q > 0) and np.all(b > 0))
    kind: Kind = "difference"
    if headline.best == "one" and positive:
        kind, values = "difference of |log|", np.abs(np.log(q)) - np.abs(np.log(b))
    elif headline.best != "one" and headline.log and positive:
        kind, values = "ratio", np.log(q / b)
    elif headline.best == "one":
        values = np.abs(q - 1) - np.abs(b - 1)
    else:
        values = q - b
    mean, half, seeds = interval(values.tolist())
    low, high = mean - half, mean + half
    down = headline.best != "high"
    verdict: Verdict = "open"
    if high < 0:
        verdict = "better" if down else "worse"
    elif low > 0:
        verdict = "worse" if down else "better"
    if kind == "ratio":
        mean, low, high = math.exp(mean), _exp(low), _exp(high)
    return Pair(kind, mean, low, high, seeds, verdict)


def to_csv(rows: Iterable[Row]) -> str:
    """Every pair of every line, one a row, at full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for entry, baseline, pairs in rows:
        sampler = entry.sampler
        power = "" if sampler.adaptive else sampler.grid_power
        head = (entry.model, baseline.model, entry.step, sampler.solver, power, sampler.nfe or "")
        for name, (kind, *rest) in pairs.items():
            writer.writerow((*head, name, kind, *rest))
    return text.getvalue()


def to_markdown(
    rows: Sequence[Row], headlines: Sequence[Headline], label: Label, baseline: str
) -> str:
    """A heading, a legend and the table: bold where the model is better, italic where worse."""
    titles = ["NFE", "model", *(headline.title for headline in headlines)]
    cells = []
    for row in sorted(rows, key=lambda r: (r.entry.sampler.adaptive, r.entry.sampler.nfe)):
        line = [str(_cost(row.entry)), label(row.entry.model)]
        cells.append(line + [_cell(row.pairs[headline.key]) for headline in headlines])
    name = label(baseline)
    legend = (
        f"Against {name}, seed by seed: mean ratio (×) or difference of a model's figure and that of "
        f"{name}, with its 95% t-interval; for a figure whose best value is 1 the difference of "
        "|log|. Bold: the whole interval is on the better side; italic: on the worse."
    )
    return f"{legend}\n\n" + rows_to_markdown(titles, cells, 2)


def to_terminal(
    rows: Sequence[Row], headline: Headline, label: Label, baseline: str, width: int = 79
) -> str:
    """One figure, a line for each model and a column for each cost, as many as fit."""
    kinds = {row.pairs[headline.key].kind for row in rows}
    found = {(row.entry.model, _cost(row.entry)): row.pairs[headline.key] for row in rows}
    ordered = sorted(rows, key=lambda r: (r.entry.sampler.adaptive, r.entry.sampler.nfe))
    costs = list(dict.fromkeys(_cost(row.entry) for row in ordered))
    models = list(dict.fromkeys(row.entry.model for row in rows))
    first = max(len("NFE"), *(len(label(model)) for model in models))
    costs = costs[: max(1, (width - first) // _COLUMN)]
    lines = [
        f"{headline.title}: {' or '.join(sorted(kinds))} to {label(baseline)}, seed by seed",
        "(+ better, - worse: the whole 95% interval is on that side)",
        f"{'NFE':<{first}}" + "".join(f"{cost!s:>{_COLUMN - 1}} " for cost in costs),
    ]
    for model in models:
        cells = [found.get((model, cost)) for cost in costs]
        text = ["" if c is None else f"{c.value:.3g}{_MARKS[c.verdict]}" for c in cells]
        lines.append(f"{label(model):<{first}}" + "".join(f"{cell:>{_COLUMN}}" for cell in text))
    return "\n".join(line.rstrip() for line in lines)


def _cost(entry: Entry) -> str | int:
    return entry.sampler.solver if entry.sampler.adaptive else entry.sampler.nfe


def _cell(found: Pair) -> str:
    if found.kind == "ratio":
        text = f"×{found.value:.2g} ({found.low:.2g} to {found.high:.2g})"
    else:
        text = f"{found.value:+.2g} ({found.low:+.2g} to {found.high:+.2g})"
    mark = {"better": "**", "worse": "*", "open": ""}[found.verdict]
    return f"{mark}{text}{mark}"


def _exp(value: float) -> float:
    """Infinite where three seeds leave the end of an interval beyond all numbers."""
    return math.exp(value) if value < 700 else math.inf
