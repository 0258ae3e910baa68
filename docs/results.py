"""The pages of results, made of the files in `benchmarks/results` alone: no number is copied by hand.

MkDocs makes them when it builds the site, see `docs/hooks.py`.
"""

import json
import math
import pathlib
import re
import statistics

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks" / "results"

# What each page is about: its title, and what is said before its tables.
_PAGES = {
    "grid2d": ("grid2d", "Nine modes on {-1, 0, 1}² of deviation 1e-4."),
    "checkerboard": ("checkerboard", "Eight squares of a checkerboard."),
    "spirals": ("spirals", "Two interleaved spirals."),
    "digits": (
        "digits",
        "1,797 real handwritten digits of 8 by 8 pixels, which come with scikit-learn.",
    ),
    "mnist": ("MNIST", "60,000 handwritten digits of 28 by 28 pixels."),
    "cifar10": ("CIFAR-10", "50,000 small color images of ten classes."),
    "few-steps": ("Few steps", "What few evaluations give: students, flow maps and couplings."),
    "learned-noise": (
        "Learned noise",
        "Noise of which the law is learned with the network, beside noise of fixed laws.",
    ),
    "exact": (
        "Exact velocities",
        "What a solver does with the velocity in closed form, and how velocities grow toward the data.",
    ),
    "speed": ("Speed and memory", "Sampling the noise, training, and generating in chunks."),
}
# Files that belong to no comparison, by how their names begin, and the command that makes each.
_OTHERS = {
    "bounded": ("few-steps", "python -m benchmarks.bounded"),
    "compile_time": ("speed", "python -m benchmarks.compile_time"),
    "couplings": ("few-steps", "python -m benchmarks.couplings"),
    "exact_flow": ("exact", "python -m benchmarks.exact_flow"),
    "explosion": ("exact", "python -m experiments.explosion"),
    "features-cifar10": ("cifar10", "python -m experiments.features cifar10 --epochs 4"),
    # The longer name first: the page is that of the first that a file's name begins with.
    "few_step_mnist": ("mnist", "python -m benchmarks.few_step_mnist"),
    "few_step": ("few-steps", "python -m benchmarks.few_step"),
    "generation_memory": ("speed", "python -m benchmarks.generation_memory"),
    "generation_speed": ("speed", "python -m benchmarks.generation_speed"),
    "grid2d_speed": ("speed", "python -m benchmarks.grid2d_speed"),
    "grids": ("exact", "python -m benchmarks.grids"),
    "guidance": ("digits", "python -m benchmarks.guidance digits"),
    "learned_noise": ("learned-noise", "python -m benchmarks.learned_noise"),
    "process_speed": ("speed", "python -m benchmarks.process_speed"),
    "run-digits": ("digits", "python -m experiments.train digits"),
    "tpu_programs": ("speed", "python -m benchmarks.tpu_programs"),
    "train_speed": ("speed", "python -m benchmarks.train_speed"),
}
# Plots that no results file goes with.
_PLOTS = {
    "digits": ("digits", "Generated digits beside real ones"),
    "paths": ("index", "Paths of the Kac process"),
    "velocity": ("index", "Velocity of Kac and of diffusion as t goes to 0"),
}
_PLOT_TITLES = {
    "": "Quality by number of evaluations, or samples",
    "-field": "Norm and Lipschitz constant of the learned velocities",
    "-time-per-sample": "Quality by the time of a sample",
    "-training": "Quality by training steps",
}
# Tables of more rows are folded.
_LONG = 40
_ABOUT = ("commit", "device", "platform", "versions")


def read(name):
    """A results file by its name."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def names():
    """The names of all results files, without their ends."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def page_of(name):
    """The page that a results file stands on."""
    for start, (page, _) in _OTHERS.items():
        if name.startswith(start):
            return page
    results = read(name)
    maps = any(model.endswith(("-lsd", "-meanflow")) for model in results.get("models", ()))
    return "few-steps" if maps or results.get("students") else results.get("data", "other")


def number(value):
    """A number as short as it may be."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return "–"
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e6):
        return f"{int(value):,}"
    return f"{value:.3g}"


def interval(mean, half, digits):
    """A mean with its interval, if it has one."""
    return f"{mean:.{digits}g}" if half is None else f"{mean:.{digits}g} ± {half:.1g}"


def show(value):
    """What stands in a cell: a number, a text, or a list of few."""
    if isinstance(value, list):
        if len(value) > 6:
            return f"{number(value[0])} … {number(value[-1])} ({len(value)} values)"
        return ", ".join(map(show, value))
    return number(value).replace("|", "\\|")


def table(header, rows):
    """A table in Markdown; columns of numbers are set to the right."""
    body = [[show(cell) for cell in row] for row in rows]
    numeric = [
        all(re.match(r"^[-(*]*[\d–]", row[i]) or not row[i] for row in body)
        for i in range(len(header))
    ]
    rule = ["---:" if right and i else "---" for i, right in enumerate(numeric)]
    lines = [header, rule, *body]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def tables_of(value):
    """Tables of a nest of dictionaries: a row for each innermost one, by its way down."""
    found = {}

    def visit(value, way):
        plain = {k: v for k, v in value.items() if not isinstance(v, dict)}
        if plain:
            found.setdefault(tuple(plain), []).append((way, plain))
        for key, part in value.items():
            if isinstance(part, dict):
                visit(part, (*way, key))

    visit(value, ())
    parts = []
    for columns, rows in found.items():
        if len(rows) == 1:  # Rather a line for each.
            ((way, row),) = rows
            parts.append(table([" / ".join(way), "value"], list(row.items())))
            continue
        made = table(["", *columns], [[" / ".join(way), *row.values()] for way, row in rows])
        if len(rows) > _LONG:
            made = f'??? info "{len(rows)} rows"\n\n' + "".join(
                f"    {line}\n" for line in made.splitlines()
            )
        parts.append(made)
    return "\n".join(parts)


def about(results):
    """A line about what was run, where and when."""
    parts = []
    if isinstance(seeds := results.get("seeds"), list):
        parts.append(f"seeds {', '.join(map(str, seeds))}")
    if "steps" in results and isinstance(results["steps"], list):
        parts.append(f"{results['steps'][-1]:,} steps")
    training = results.get("training", {})
    if "batch_size" in training:
        parts.append(f"batches of {training['batch_size']}")
    if "num_samples" in results.get("evaluation", {}):
        parts.append(f"{results['evaluation']['num_samples']:,} samples")
    device = results.get("device", {})
    parts.append(device if isinstance(device, str) else device.get("kind", ""))
    if jax := results.get("versions", {}).get("jax"):
        parts.append(f"JAX {jax}")
    if isinstance(commit := results.get("commit"), str):
        parts.append(f"commit {commit.partition('+')[0][:7]}")
    return ", ".join(part for part in parts if part)


def plots_of(name):
    """The plots that go with a results file, each with the longest name that fits."""
    every = sorted(FOLDER.glob("*.png"))
    return [p for p in every if owner(p.stem) == name]


def owner(plot):
    """The results file that a plot goes with, or None."""
    fitting = [name for name in names() if plot == name or plot.startswith(f"{name}-")]
    return max(fitting, key=len, default=None)


def picture(path, title):
    """A plot on a page."""
    return f"![{title}](files/{path.name})\n"


def comparison(name):
    """A comparison or sweep: what was compared, its table as it was written, and its plots."""
    results, text = read(name), (FOLDER / f"{name}.md").read_text()
    caption, _, rest = text.partition("\n\n")
    models = ", ".join(f"`{model}` ({_path(path)})" for model, path in results["models"].items())
    parts = [f"## {name}\n", caption.replace("\n", ", ") + ".\n", f"Models: {models}.\n"]
    if students := results.get("students"):
        parts.append(tables_of({"student": students}))
    parts += [f"{about(results)}. File: `benchmarks/results/{name}.json`.\n", rest.strip() + "\n"]
    for plot in plots_of(name):
        kind = plot.stem.removeprefix(name)
        parts.append(picture(plot, f"{_PLOT_TITLES.get(kind, kind)}, {name}"))
    return "\n".join(parts)


def _path(path):
    """The numbers of a path that matter to its kind."""
    kind = path["path"]
    numbers = {"kac": ("a", "c", "clock"), "diffusion": ("sigma",), "flow-matching": ("sigma",)}
    return ", ".join(
        [kind, *(f"{n} = {show(path[n])}" for n in numbers.get(kind, ()) if n in path)]
    )


def without_profiles(results):
    """Results without the long lists of a profile's operations."""
    return {
        key: without_profiles(value) if isinstance(value, dict) else value
        for key, value in results.items()
        if key != "longest"
    }


def explosion(results):
    """The largest components, norms and Lipschitz constants at the earliest time and in the middle."""
    rows = []
    for model, found in results["models"].items():
        for which in ("exact", "learned"):
            field, last = found[which], len(found[which]["t"]) - 1
            for i in (last // 2, last):
                bound = found.get("bound") or [math.inf] * (last + 1)
                columns = ("t", "max_component", "mean_norm", "max_lipschitz")
                known = "" if bound[i] is None or math.isinf(bound[i]) else bound[i]
                rows.append([model, which, *(field[c][i] for c in columns), known])
    header = [
        "model",
        "velocity",
        "t",
        "largest component",
        "mean norm",
        "largest Lipschitz constant",
    ]
    return table([*header, "bound of the exact velocity"], rows)


def few_steps(name="few_step"):
    """The energy distance of teachers, students and flow maps by number of evaluations."""
    results, rows = read(name), []
    for setting, found in results.items():
        if not isinstance(found, dict) or "mean and half-width" not in found:
            continue
        for kind, by_count in found["mean and half-width"].items():
            for count, (mean, half) in sorted(by_count.items(), key=lambda pair: int(pair[0])):
                rows.append([setting, kind, int(count), interval(mean, half, 2)])
    caption = (
        f"Energy distance of {results['samples']:,} samples, {results['seeds']} seeds with 95 % "
        f"t-intervals, teachers of {results['steps']:,} training steps.\n\n"
    )
    return caption + table(["data, path", "model", "evaluations", "energy distance"], rows)


def tpu_programs(results):
    """A row for each compiled program; sizes in MB, estimates in milliseconds."""
    header = [
        *("program", "network", "chips", "state", "images a chip"),
        *("arguments + temporaries, MB", "sent, MB", "gathers", "copies"),
        *("arithmetic", "memory", "collectives", "estimate, ms"),
    ]
    rows = []
    for row in results["programs"]:
        sent = sum(
            size
            for sizes in row["collectives"].values()
            for kind, size in sizes.items()
            if kind != "count"
        )
        held = f"{row['argument bytes'] / 1e6:.0f} + {row['temporary bytes'] / 1e6:.0f}"
        ms = row["milliseconds"]
        rows.append(
            [
                *(row["program"], row["size"], f"{row['topology']} ({row['chips']})"),
                *(row["state"], row["images a chip"], held, sent / 1e6),
                *(row["gathers"], row["copies"]),
                *(ms["arithmetic"], ms["memory"], ms["collectives"], ms["estimate"]),
            ]
        )
    return table(header, rows)


def guidance(results):
    """A row for each path and scale, means with their intervals."""
    rows, figures = [], []
    for setting, found in results.items():
        if not isinstance(found, dict) or "mean and half-width" not in found:
            continue
        for scale, row in found["mean and half-width"].items():
            figures = max(figures, list(row), key=len)
            rows.append([setting, float(scale), *(interval(*pair, 3) for pair in row.values())])
    # Not every path has every figure.
    width = 2 + len(figures)
    rows = [row + ["–"] * (width - len(row)) for row in rows]
    return table(["data, path", "guidance", *figures], rows)


def few_step_mnist(results):
    """Fréchet distances of teachers and students by evaluations, and what guidance does to teachers."""
    caption = (
        f"{results['num_samples']:,} samples ({results['guided_samples']:,} under guidance), "
        f"{results['seeds']} seeds with 95 % t-intervals; teachers of {results['steps']:,} steps of "
        f"{results['batch_size']} images, students of {results['student_steps']:,} each.\n\n"
    )
    rows, guided, figures = [], [], []
    for path, found in results["found"].items():
        for kind, by_count in found["mean and half-width"].items():
            for count, row in by_count.items():
                cells = [interval(*pair, 3) for pair in row.values()]
                if kind == "guidance":
                    figures = list(row)
                    guided.append([path, float(count), *cells])
                else:
                    rows.append([path, kind, int(count), *cells])
    head = ["path", "model", "evaluations", "Fréchet distance", "of the class"]
    return caption + table(head, rows) + "\n" + table(["path", "guidance", *figures], guided)


def learned_noise(results):
    """Distances for each kind of noise, and what rate and speed were learned."""
    rows, figures = [], []
    for setting, found in results.items():
        if isinstance(found, dict) and "mean and half-width" in found and "true" not in found:
            figures = list(found["mean and half-width"])
            cells = [interval(*pair, 2) for pair in found["mean and half-width"].values()]
            rows.append([setting, *cells])
    learned = results["learned rate"]["mean and half-width"]
    cells = [interval(*pair, 4) for pair in learned.values()]
    true = ", ".join(
        f"`{name} = {show(value)}`" for name, value in results["learned rate"]["true"].items()
    )
    return (
        f"{results['seeds']} seeds with 95 % t-intervals, {results['samples']:,} samples, "
        f"{results['steps']:,} steps.\n\n{table(['data, noise', *figures], rows)}\n"
        f"Learned from Kac noise of {true}:\n\n{table(list(learned), [cells])}"
    )


def other(name):
    """A results file that is no comparison."""
    results = read(name)
    command = next((c for start, (_, c) in _OTHERS.items() if name.startswith(start)), name)
    parts = [f"## {name}\n"]
    if what := results.get("what"):
        parts.append(what[0].upper() + what[1:] + ".\n")
    parts.append(f"`{command}`: {about(results)}. File: `benchmarks/results/{name}.json`.\n")
    if name == "few_step_mnist":
        parts.append(few_step_mnist(results))
    elif name == "learned_noise":
        parts.append(learned_noise(results))
    elif name.startswith(("few_step", "bounded")):
        parts.append(few_steps(name))
    elif name == "guidance":
        parts.append(guidance(results))
    elif name == "explosion":
        parts.append(explosion(results))
    elif name.startswith("run-"):
        parts.append(tables_of({"quality": results["quality"]}))
    elif name.startswith("tpu_programs"):
        parts.append(tpu_programs(results))
    else:
        skipped = (*_ABOUT, "what")
        parts.append(
            tables_of({k: v for k, v in without_profiles(results).items() if k not in skipped})
        )
    parts += [picture(plot, name) for plot in plots_of(name)]
    return "\n".join(parts)


def pages():
    """The texts of the pages by the names of their files."""
    bodies = {page: [] for page in (*_PAGES, "index", *map(page_of, names()))}
    for name in names():
        page, compared = page_of(name), (FOLDER / f"{name}.md").exists()
        bodies[page].append(comparison(name) if compared else other(name))
    for plot, (page, title) in _PLOTS.items():
        bodies[page].insert(0, picture(FOLDER / f"{plot}.png", title))
    texts, rows = {}, []
    for page in bodies.keys() - {"index"} - _PAGES.keys():  # To be given a title above.
        _PAGES[page] = (page, "")
    for page, (title, lead) in _PAGES.items():
        texts[f"results/{page}.md"] = "\n".join([f"# {title}\n", lead + "\n", *bodies[page]])
        files = ", ".join(f"`{name}`" for name in names() if page_of(name) == page)
        rows.append([f"[{title}]({page}.md)", files])
    lead = (
        "Every table and plot that is committed in `benchmarks/results`, a page for each data set. "
        "These pages are made of those files by `docs/results.py`; no number is copied by hand. "
        "What they say, in words, is on [another page](../report.md).\n"
    )
    summary = "## At 20 evaluations\n\n" + headlines(20)
    index = ["# Results\n", lead, table(["page", "files"], rows), summary, *bodies["index"]]
    texts["results/index.md"] = "\n".join(index)
    return texts


# The comparison that speaks for a data set.
_HEADLINES = ("grid2d-a25-c2", "checkerboard", "spirals", "digits", "mnist", "cifar10-controls")
_MODELS = ("Kac, clock t", "Kac, clock t²", "diffusion", "flow matching")
# Which column of a table, where it is not the first.
_COLUMNS = {"digits": "2-sample acc.", "mnist": "Fréchet dist.", "cifar10": "Fréchet dist."}


def headlines(nfe, link=""):
    """One figure of quality for each data set and model, at a number of evaluations."""
    rows = []
    for name in _HEADLINES:
        lines = (FOLDER / f"compare-{name}.md").read_text().splitlines()
        cells = [
            [c.strip() for c in line.strip("| ").split(" | ")] for line in lines if "|" in line
        ]
        header, data = cells[0], name.partition("-")[0]
        column = header.index(_COLUMNS.get(data, header[2]))
        at = {}
        for row in cells:  # A later table has the ratios.
            if row[0] == str(nfe):
                at.setdefault(row[1], row[column].strip("*"))
        page = f"[{_PAGES[data][0]}]({link}{data}.md#compare-{name})"
        rows.append([page, header[column], *(at.get(model, "–") for model in _MODELS)])
    caption = (
        f"Solved in straight coordinates by `ab2` with {nfe} evaluations. Smaller is better in every "
        "row, but for the two-sample accuracy, which is best at 0.5. Means over three seeds with 95 % "
        "t-intervals. Kac has `a = 9, c = 3`, on grid2d `a = 25, c = 2`.\n\n"
    )
    return caption + table(["data", "figure", *_MODELS], rows)


# Comparisons in which Kac's control, flow matching with noise of its deviation, is the one against
# which the seeds are compared.
_CONTROLLED = ("mnist-controls", "mnist-ot", "mnist", "cifar10-controls", "digits")
_CONTROLLED += (
    "digits-few-steps",
    "spirals",
    "spirals-few-steps",
    "checkerboard",
    "grid2d",
    "grid2d-few-steps",
)


def ratio(own, other):
    """The mean ratio of three pairs between the ends of its 95 % t-interval."""
    logs = [math.log(a / b) for a, b in zip(own, other, strict=True)]
    half = 4.303 * statistics.stdev(logs) / math.sqrt(3)
    mean = statistics.mean(logs)
    return tuple(math.exp(value) for value in (mean - half, mean, mean + half))


def _label(model):
    """What the tables of a comparison call a Kac model."""
    known = dict(zip(("kac-t", "kac-t2"), _MODELS, strict=False))
    return known.get(model) or model.replace("-", " ").replace("kac", "Kac")


def matched(link=""):
    """Kac against flow matching with noise of the same deviation, seed by seed."""
    rows, verdicts = [], {"**": "better", "*": "worse", "": "no difference seen"}
    for name in _CONTROLLED:
        results = read(f"compare-{name}")
        # Students and maps have tables of their own.
        kac = {
            _label(model): path
            for model, path in results["models"].items()
            if re.fullmatch(r"kac-t2?(-a[\d.e+-]+-c[\d.e+-]+)?(-ot)?", model)
        }
        text = (FOLDER / f"compare-{name}.md").read_text()
        lines = text[text.index("\nAgainst ") :].splitlines()
        cells = [[c.strip() for c in x.strip("| ").split(" | ")] for x in lines if x[:1] == "|"]
        data = results["data"]
        column = cells[0].index(_COLUMNS.get(data, "energy distance"))
        page = f"[{_PAGES[data][0]}]({link}{page_of(f'compare-{name}')}.md#compare-{name})"
        for row in cells:
            if row[0] not in ("10", "20") or row[1] not in kac:
                continue
            mark, path = re.match(r"\**", row[column])[0], kac[row[1]]
            setting = f"`a = {show(path['a'])}, c = {show(path['c'])}`, clock {path['clock']}"
            setting = setting.replace("t2", "t²") + ", coupled" * row[1].endswith(" ot")
            sigma = f"{path['c'] / path['a'] ** 0.5:.3g}"
            found = row[column].strip("*")
            rows.append(
                [page, setting, sigma, int(row[0]), cells[0][column], found, verdicts[mark]]
            )
    head = [
        "data",
        "Kac",
        "sigma of the control",
        "evaluations",
        "figure",
        "Kac over control",
        "Kac is",
    ]
    caption = (
        "A ratio (×) of figures that are best when small, or a difference, seed by seed, mean and 95 % "
        "t-interval of three seeds. Better or worse is said where the whole interval is on one side. The "
        "control has the clock t², and where Kac is coupled to the data by optimal transport in the "
        "batch so is its control; a diffusion, which has the clock t and noise of deviation 1, is in the "
        "tables that the first column links to.\n\n"
    )
    return caption + table(head, rows)


def calculator(T=1.0):
    """What follows from `a` and `c`, by the formulas of the process."""
    rows = []
    for a, c in ((4, 2), (9, 2), (9, 3), (16, 3), (25, 2), (25, 5), (64, 8)):
        variance = c**2 / a * T - c**2 / (2 * a**2) * -math.expm1(-2 * a * T)
        stay = math.exp(-a * T)
        whole = f"1 in {1 / stay:,.0f}" if stay > 1e-9 else f"{stay:.1e}"
        rows.append([a, c, f"{c / math.sqrt(a):.2f}", f"{math.sqrt(variance):.2f}", whole, c * T])
    header = [
        "`a`",
        "`c`",
        "`c / sqrt(a)`",
        "deviation at `T = 1`",
        "no turn until `T`, `exp(-aT)`",
    ]
    return table([*header, "cone at `T`"], rows)


def all_few_steps(link=""):
    """The tables of few steps, and links to the comparisons that have students or maps."""
    every = [name for name in names() if page_of(name) == "few-steps"]
    parts = [few_steps(name) for name in every if name.startswith("few_step")]
    if more := [name for name in every if not name.startswith("few_step")]:
        listed = ", ".join(f"[{name}]({link}few-steps.md#{name.lower()})" for name in more)
        parts.append(f"More: {listed}.\n")
    return "\n".join(parts)


_TABLES = {
    "headlines": headlines,
    "matched": matched,
    "calculator": calculator,
    "few-steps": all_few_steps,
}


def fill(text):
    """The text of a page with the tables that it asks for: `<!-- results: NAME NUMBER -->`."""

    def made(found):
        name, *rest = found[1].split()
        values = [int(part) if part.isdigit() else part for part in rest]
        return _TABLES[name](*values)

    return re.sub(r"<!-- results: (.+?) -->", made, text)
