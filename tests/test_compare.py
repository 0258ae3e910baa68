"""The comparison: cells that stay, tables that follow from them, figures, and refusals."""

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import shutil
import statistics
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest
from flax import nnx
from scipy import stats

import kacjax
from experiments import runs
from experiments.compare import (
    cells,
    evaluation,
    figures,
    paired,
    redraw,
    report,
    table,
    training,
    work,
)
from experiments.compare.__main__ import defaults, main
from experiments.compare.config import CompareConfig, EvaluationConfig, Sampler
from experiments.compare.evaluation import Judge, Judgement
from experiments.compare.models import ModelsConfig, make_models
from experiments.compare.subjects import VectorSubject
from experiments.datasets import Headline, make_dataset
from kacjax.training import Trainer

pytestmark = pytest.mark.usefixtures("compile_once")

QUICK = [
    *("grid2d", "--clock", "t", "--seeds", "2", "--steps", "12", "--batch-size", "16"),
    *("--width", "8", "--depth", "1", "--checkpoints", "0.5", "1"),
    *("--nfe", "2", "3", "--num-samples", "60", "--adaptive"),
]
HEADLINES = (
    Headline("error", "error"),
    Headline("hits", "hits", "high", log=False),
    Headline("width", "width", "one"),
)


@pytest.fixture(autouse=True)
def promotion_as_users_have_it():
    """Optax's Adam does not train under strict promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def command(out, *flags):
    return main([*QUICK, "--out", str(out), *flags])


def times(folder):
    files = (path for path in sorted(folder.rglob("*.*")) if path.name != ".lock")
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def finished(compile_once, tmp_path_factory):
    """A comparison of two models and two seeds that was interrupted once, and then continued."""
    out = tmp_path_factory.mktemp("compare") / "grid2d"
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        pytest.MonkeyPatch.context() as patch,
    ):
        judged = []

        def interrupt(*arguments):
            if len(judged) == 3:
                raise KeyboardInterrupt
            judged.append(arguments)
            return save(*arguments)

        save = cells.save_judgement
        patch.setattr(cells, "save_judgement", interrupt)
        assert command(out) == 130
        before = times(out / "cells")
        patch.setattr(cells, "save_judgement", save)
        assert command(out) == 0
    return out, before


def judgements(out):
    """What the cells hold, read without the code that makes tables of it."""
    found = []
    for path in sorted(out.rglob("judged-*.json")):
        config = json.loads((path.parents[1] / "config.json").read_text())
        model = {"kac": "kac-t", "diffusion": "diffusion"}[config["model"]["path"]]
        step = int(path.parent.name.removeprefix("step-"))
        found.append({"model": model, "step": step, **json.loads(path.read_text())})
    return found


@pytest.mark.slow
def test_an_interrupted_comparison_continues_and_leaves_what_is_finished(finished):
    out, before = finished
    after = times(out / "cells")
    assert len([path for path in before if path.name.startswith("judged-")]) == 3
    assert {path: after[path] for path in before} == before
    names = sorted(path.name.rsplit("-", 1)[0] for path in (out / "cells").iterdir())
    assert names == ["diffusion-seed0", "diffusion-seed1", "kac-seed0", "kac-seed1"]
    for path in (out / "cells").iterdir():
        assert sorted(each.name for each in path.iterdir()) == [
            *(".lock", "config.json", "step-000006", "step-000012"),
        ]
    log = (out / report.LOG).read_text()
    assert "[1/4] kac-t, seed 0: trained before" in log
    assert "seed 1 is complete" in log


def test_a_finished_comparison_computes_nothing(finished, monkeypatch, capsys):
    out, _ = finished
    before = times(out / "cells")

    def fail(*arguments):
        raise AssertionError

    monkeypatch.setattr(work, "train", fail)
    monkeypatch.setattr(cells, "save_judgement", fail)
    assert command(out) == 0
    assert times(out / "cells") == before
    printed = capsys.readouterr().out
    terminal = printed[printed.index("grid2d, 12 steps, 2 seeds") :]
    assert "Kac, clock t" in terminal
    lines = terminal.replace(str(out), "").splitlines()
    assert max(map(len, lines)) < 80


def test_the_table_follows_from_the_cells(finished):
    out, _ = finished
    rows = list(csv.DictReader(io.StringIO((out / report.CSV).read_text())))
    found = judgements(out)
    assert len(found) == 8
    # Two models, two steps, two numbers of evaluations.
    keys = {(r["model"], r["step"], r["solver"], r["grid_power"], r["nfe"]) for r in rows}
    assert len(keys) == 8
    for row in rows:
        values = [
            each.get(row["metric"], each["quality"].get(row["metric"]))
            for judged in found
            for each in judged["rows"]
            if judged["model"] == row["model"]
            and judged["step"] == int(row["step"])
            and each["asked"] == int(row["nfe"])
        ]
        assert len(values) == int(row["seeds"]) == 2
        mean = sum(values) / 2
        # Student's t for one degree of freedom is Cauchy: its quantile is a tangent.
        half = math.tan(math.pi * 0.475) * statistics.stdev(values) / math.sqrt(2)
        np.testing.assert_allclose(float(row["mean"]), mean, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(float(row["low"]), mean - half, rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(float(row["high"]), mean + half, rtol=1e-7, atol=1e-12)


def test_markdown_has_the_final_step_and_its_best(finished):
    out, _ = finished
    text = (out / report.MARKDOWN).read_text()
    assert text.startswith("grid2d, 12 steps, 2 seeds: mean ± half-width of 95% t-interval\n")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text[: text.index("Against diffusion")].splitlines()
        if line.startswith("|")
    ]
    assert rows[0][:3] == ["NFE", "model", "median distance"]
    assert {len(row) for row in rows} == {7}
    body = rows[2:]
    assert [row[:2] for row in body] == [
        *(["2", "Kac, clock t"], ["2", "diffusion"], ["3", "Kac, clock t"], ["3", "diffusion"]),
        ["", "real data"],
    ]
    means = {}
    for judged in judgements(out):
        if judged["step"] == 12:
            for each in judged["rows"]:
                key = str(each["asked"]), figures.label(judged["model"])
                means.setdefault(key, []).append(each["quality"]["median_distance_to_mode"])
    for nfe in ("2", "3"):
        best = min((sum(v), model) for (n, model), v in means.items() if n == nfe)[1]
        bold = [row[1] for row in body if row[0] == nfe and row[2].startswith("**")]
        assert bold == [best]


def test_results_hold_every_judgement_and_the_surroundings(finished):
    out, _ = finished
    results = json.loads((out / report.RESULTS).read_text())
    assert results["models"].keys() == {"kac-t", "diffusion"}
    assert results["steps"] == [6, 12]
    assert results["seeds"] == [0, 1]
    assert results["versions"]["jax"]
    assert len(results["judgements"]) == 8
    for judged in results["judgements"]:
        assert [row["nfe"] for row in judged["rows"]] == [2, 3]
        assert len(judged["field"]["t"]) == len(judged["field"]["max_lipschitz"]) > 5


def test_results_alone_give_the_same_tables_and_curves(finished, tmp_path, capsys):
    out, _ = finished
    capsys.readouterr()
    assert redraw.main([str(out / report.RESULTS), "--out", str(tmp_path / "again")]) == 0
    assert "median distance" in capsys.readouterr().out
    first, again = ((f / report.RESULTS).read_text() for f in (out, tmp_path / "again"))
    assert again == first
    first, again = (list(csv.reader((f / report.CSV).open())) for f in (out, tmp_path / "again"))
    assert [row[:6] for row in again] == [row[:6] for row in first]
    # Results are rounded to what float32 holds.
    means = [[float(row[6]) for row in rows[1:]] for rows in (first, again)]
    np.testing.assert_allclose(*means, rtol=1e-6, atol=1e-9)
    curves = {"quality.png", "training.png", "time.png", "field.png"}
    assert {path.name for path in (tmp_path / "again").glob("*.png")} == curves
    assert redraw.main([str(out / report.RESULTS), "--out", str(tmp_path), "--against", "x"]) == 2
    assert "--against must be one of kac-t, diffusion, got x" in capsys.readouterr().err
    for text in ("{", "[]", '{"judgements": []}'):
        (tmp_path / "bad.json").write_text(text)
        assert redraw.main([str(tmp_path / "bad.json"), "--out", str(tmp_path / "none")]) == 2
        printed = capsys.readouterr().err
        assert "bad.json is not a results file of a comparison" in printed
        assert printed.count("\n") == 1
    assert redraw.main([str(tmp_path / "absent"), "--out", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()


def test_results_of_older_versions_are_redrawn(tmp_path, capsys):
    """Their figures and settings had other names."""
    file = Path(__file__).parents[1] / "benchmarks" / "results" / "compare-mnist.json"
    assert "memorisation_ratio" in file.read_text()
    assert redraw.main([str(file), "--out", str(tmp_path)]) == 0
    assert "memorization" in (tmp_path / report.MARKDOWN).read_text()
    assert "memorization_ratio" in (tmp_path / report.CSV).read_text()
    results = json.loads((tmp_path / report.RESULTS).read_text())
    assert results["network"]["prediction"] == "velocity"
    assert results["evaluation"]["grid_power"] == []


def test_steps_in_time_are_those_of_earlier_tables():
    kac, wiener = kacjax.kac_path, kacjax.diffusion_path
    paths = [kac(), kac(clock="t2"), wiener(), kacjax.flow_matching_path(0.4)]
    assert [evaluation.grid_power(path, "time") for path in paths] == [2, 1.5, 4, 1.5]
    assert {evaluation.grid_power(path, "straight") for path in paths} == {2}


def test_pairs_follow_from_the_judgements(finished):
    out, _ = finished
    rows = list(csv.DictReader(io.StringIO((out / report.PAIRED).read_text())))
    assert {(row["model"], row["baseline"]) for row in rows} == {("kac-t", "diffusion")}
    found = {each["model"]: {} for each in judgements(out)}
    for each in json.loads((out / report.RESULTS).read_text())["judgements"]:
        if each["step"] == 12:
            for row in each["rows"]:
                found[each["model"]][each["seed"], row["asked"]] = row["quality"]
    for row in rows:
        own, rival = (
            np.array([found[model][seed, int(row["nfe"])][row["metric"]] for seed in (0, 1)])
            for model in ("kac-t", "diffusion")
        )
        if row["kind"] == "difference" and row["metric"] == "relative_mode_width":
            # Its best value is 1; a width of 0, of a mode that is hit once, has no logarithm.
            own, rival = np.abs(own - 1), np.abs(rival - 1)
        expected = {
            "ratio": lambda q, b: np.exp(np.mean(np.log(q / b))),
            "difference": lambda q, b: np.mean(q - b),
            "difference of |log|": lambda q, b: np.mean(np.abs(np.log(q)) - np.abs(np.log(b))),
        }[row["kind"]](own, rival)
        np.testing.assert_allclose(float(row["value"]), expected, rtol=1e-5, atol=1e-7)
        assert int(row["seeds"]) == 2


def test_figures_are_written(finished):
    out, _ = finished
    names = {"quality.png", "training.png", "time.png", "field.png", "samples.png", "zoom.png"}
    assert {path.name for path in out.glob("*.png")} == names
    assert all(1e4 < path.stat().st_size < 3e5 for path in out.glob("*.png"))


def test_models_of_one_seed_start_from_the_same_normals(monkeypatch):
    subject = VectorSubject("moons")
    config = EvaluationConfig(num_samples=50, nfe=(1,), adaptive=())
    priors = []

    def generate(velocity, path, key, shape, **options):
        priors.append(np.asarray(path.process.to_normal(1.0, path.sample_prior(key, shape))))
        return np.zeros(shape), 1

    monkeypatch.setattr(kacjax, "generate", generate)
    monkeypatch.setattr(evaluation, "measure_field", lambda *arguments: {})
    monkeypatch.setattr(subject.dataset, "quality", lambda samples: {})
    judge = Judge(subject, config)
    for path, seed in (
        (kacjax.kac_path(), 0),
        (kacjax.diffusion_path(), 0),
        (kacjax.kac_path(), 1),
    ):
        judge("model", SimpleNamespace(path=path), seed)
    kac, wiener, other = priors[0], priors[-2], priors[-1]
    # On the atoms, beyond 3.8 deviations, Kac's position does not tell the normal.
    inside = np.abs(wiener) < 3.5
    np.testing.assert_allclose(kac[inside], wiener[inside], atol=1e-3)
    assert np.abs(kac - other).max() > 0.1


def one_row(nfe):
    """A judgement that cost nothing."""
    quality = make_dataset("grid2d").quality(np.zeros((3, 2), np.float32))
    row = {"solver": "euler", "grid_power": 0.0, "asked": nfe, "nfe": float(nfe)}
    statistics = {name: [1.0, 2.0] for name in ("t", "mean_norm", "max_lipschitz")}
    samples = np.zeros((3, 2), np.float32)
    return Judgement([{**row, "seconds_per_sample": 1.0, "quality": quality}], samples, statistics)


def test_a_changed_configuration_is_never_mixed(finished, tmp_path, capsys, monkeypatch):
    out = tmp_path / "copy"
    shutil.copytree(finished[0], out)
    before = times(out / "cells")
    # Another judgement: networks stay, and get a second judgement.
    with monkeypatch.context() as patch:
        patch.setattr(Judge, "__call__", lambda self, model, velocity, seed: one_row(4))
        assert command(out, "--nfe", "4") == 0
    after = times(out / "cells")
    assert {path: after[path] for path in before} == before
    added = {path.name.split("-")[0] for path in after.keys() - before.keys()}
    assert added == {"judged", "samples"}
    rows = list(csv.DictReader(io.StringIO((out / report.CSV).read_text())))
    assert {row["nfe"] for row in rows} == {"4"}
    # Another network: cells of its own, and the old ones are named.
    capsys.readouterr()
    monkeypatch.setattr("experiments.compare.__main__.complete", lambda *arguments: None)
    monkeypatch.setattr(report, "write_all", lambda *arguments: [])
    assert command(out, "--width", "9") == 0
    assert "4 cells of other configurations" in capsys.readouterr().out


def test_comparisons_may_share_their_cells(finished, tmp_path, monkeypatch):
    out, _ = finished
    before = times(out / "cells")
    monkeypatch.setattr(work, "train", None)
    assert command(tmp_path / "other", "--cells", str(out / "cells")) == 0
    assert times(out / "cells") == before
    assert not (tmp_path / "other" / "cells").exists()
    table = (out / report.CSV).read_text()
    assert (tmp_path / "other" / report.CSV).read_text() == table


def test_a_cell_on_which_another_process_works_is_waited_for(finished, tmp_path, monkeypatch):
    out, said = tmp_path / "copy", []
    shutil.copytree(finished[0], out)
    (cell,) = (out / "cells").glob("kac-seed1-*")
    part = (cell / "step-000012").rename(tmp_path / "step-000012")
    other = contextlib.ExitStack()
    other.enter_context(runs.locked(cell))
    original = report.Log.__call__

    def say(log, line):
        original(log, line)
        if "waiting" in line:
            said.append(line)
            part.rename(cell / part.name)
            other.close()

    monkeypatch.setattr(report.Log, "__call__", say)
    monkeypatch.setattr(report, "write_all", lambda *arguments: [])
    monkeypatch.setattr(work, "train", None)
    assert command(out) == 0
    assert len(said) == 1
    assert f"kac-t, seed 1: process {os.getpid()} on " in said[0]


def test_damage_is_named(finished, tmp_path, capsys):
    out = tmp_path / "copy"
    shutil.copytree(finished[0], out)
    (cell,) = (out / "cells").glob("kac-seed0-*")
    for file, damage, words in (
        (next(cell.rglob("judged-*.json")), "{", "is damaged, delete it to compute it again"),
        (cell / "config.json", "[]", "holds another configuration"),
        (cell / "config.json", "{", "is damaged"),
    ):
        good = file.read_text()
        file.write_text(damage)
        fails(capsys, ["--out", str(out)], words)
        file.write_text(good)


def fails(capsys, flags, *words):
    """The command exits with 2 and one line on stderr that holds these words."""
    capsys.readouterr()
    assert main([*QUICK, *flags]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    for word in words:
        assert word in printed


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--a", "-1"], ["--a must be positive and finite, got -1.0"]),
        (["--c", "nan"], ["--c must be positive"]),
        (["--nfe", "0"], ["--nfe must be an integer of at least 1, got 0"]),
        (["--nfe"], ["--nfe"]),
        (["--seeds", "0"], ["--seeds must be an integer of at least 1"]),
        (["--checkpoints", "0.5"], ["--checkpoints must lie in (0, 1] and hold 1, got 0.5"]),
        (["--checkpoints", "0", "1"], ["--checkpoints"]),
        (["--grid-power", "0"], ["--grid-power must be positive"]),
        (["--tolerance", "-1"], ["--tolerance must be positive"]),
        (["--steps", "0"], ["--steps"]),
        (["--against", "gan"], ["--against must be one of kac-t, diffusion, got gan"]),
        (["--solver", "rk"], ["'rk'", "euler"]),
        (["--clock", "t3"], ["'t3'"]),
        (["--out", "/proc/none"], ["/proc/none"]),
    ],
)
def test_wrong_flags(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fails(capsys, flags, *words)
    assert list(tmp_path.iterdir()) == []


def test_help_fits_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for page in (["--help"], ["grid2d", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(page)
        assert stop.value.code == 0
        rest = capsys.readouterr().out.splitlines()[1:]
        assert max(map(len, rest)) <= 80


def test_models_are_all_combinations():
    names = [model.name for model in make_models(ModelsConfig())]
    assert names == ["kac-t", "kac-t2", "diffusion", "flow-matching"]
    grid = make_models(ModelsConfig(a=(9.0, 25.0), c=(3.0, 5.0), clock=("t",), matched=True))
    assert [model.name for model in grid] == [
        *("kac-t-a9-c3", "kac-t-a9-c5", "kac-t-a25-c3", "kac-t-a25-c5"),
        *("diffusion", "diffusion-sigma1.67", "diffusion-sigma0.6"),
    ]
    for model in grid:
        path = model.path.make()
        if isinstance(path.process, kacjax.WienerProcess) and path.process.sigma != 1:
            assert any(
                abs(path.process.sigma - c / a**0.5) < 1e-12 for a in (9, 25) for c in (3, 5)
            )
    t2 = make_models(ModelsConfig(clock=("t2",)))[1]
    assert t2.path.make() == kacjax.flow_matching_path()


def test_quick_shrinks_what_was_left_at_its_default():
    default = defaults()["grid2d"][1]
    quick = dataclasses.replace(default, quick=True).quickened(default)
    assert quick.training.steps == default.training.steps // 5
    assert quick.seeds == 1
    assert quick.evaluation.num_samples == 2000
    mine = dataclasses.replace(default, quick=True, seeds=2).quickened(default)
    assert mine.seeds == 2
    assert default.quickened(default) == default


def test_interval_is_students():
    values = [0.3, 0.5, 0.4, 0.9]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = table.interval(values)
    np.testing.assert_allclose([found.mean - found.half, found.mean + found.half], [low, high])
    assert math.isnan(table.interval([1.0]).half)


def judged(model, seed, step, **rows):
    """A judgement with one row for each `solver_nfe=(error, hits)`."""
    entries = []
    for name, (error, hits) in rows.items():
        solver, nfe = name.split("_")
        quality = None if error is None else {"error": error, "hits": hits, "width": 1.1}
        common = {"nfe": float(nfe) or 77.0, "seconds_per_sample": 1e-5 * (1 + float(nfe))}
        power = 0.0 if solver == "tsit5" else 2.0
        entry = {"solver": solver, "grid_power": power, "asked": int(nfe), "quality": quality}
        entries.append({**entry, **common})
    return {"model": model, "seed": seed, "step": step, "rows": entries}


def made_up():
    return [
        judged("kac-t", 0, 9, euler_5=(0.1, 0.9), heun_5=(0.2, 0.8), tsit5_0=(0.1, 0.5)),
        judged("kac-t", 1, 9, euler_5=(0.3, 0.7), heun_5=(0.1, 0.8), tsit5_0=(0.1, 0.5)),
        judged("diffusion", 0, 9, euler_5=(1e-4, 0.9), heun_5=(2.0, 1.0), tsit5_0=(None, 0)),
        judged("diffusion", 1, 9, euler_5=(3e-4, 0.9), heun_5=(2.0, 1.0), tsit5_0=(0.2, 0.5)),
        judged("kac-t", 0, 4, euler_5=(0.5, 0.1)),
    ]


def test_the_best_way_to_generate_is_chosen_by_its_mean():
    entries = table.final(table.make_entries(made_up()))
    assert {entry.step for entry in entries} == {9}
    best = table.best_samplers(entries, HEADLINES[0])
    chosen = {(entry.model, entry.sampler.solver) for entry in best}
    assert chosen == {
        *(("kac-t", "heun"), ("kac-t", "tsit5"), ("diffusion", "euler"), ("diffusion", "tsit5")),
    }
    by_hits = table.best_samplers(entries, HEADLINES[1])
    assert ("diffusion", "heun") in {(entry.model, entry.sampler.solver) for entry in by_hits}


def test_terminal_marks_the_best_and_drops_what_does_not_fit():
    entries = table.final(table.make_entries(made_up()))
    best = table.best_samplers(entries, HEADLINES[0])
    text = table.to_terminal("title", best, HEADLINES, figures.label, {"error": 1e-4})
    assert "(2.0 ± 12.7)e-4*" in text
    assert "failed" in text
    assert "real data" in text
    narrow = table.to_terminal("title", best, HEADLINES, figures.label, {}, width=50)
    assert max(map(len, narrow.splitlines())) <= 50
    assert "hits" not in narrow


@pytest.mark.parametrize(
    ("headline", "own", "rival", "kind", "value", "verdict"),
    [
        (HEADLINES[0], [0.1, 0.11], [0.2, 0.22], "ratio", 0.5, "better"),
        (HEADLINES[0], [0.2, 0.22], [0.1, 0.11], "ratio", 2.0, "worse"),
        (HEADLINES[0], [0.1, 0.4], [0.2, 0.2], "ratio", 1.0, "open"),
        (HEADLINES[0], [0.0, 0.1], [0.1, 0.2], "difference", -0.1, "better"),
        (HEADLINES[1], [0.9, 0.8], [0.8, 0.7], "difference", 0.1, "better"),
        (HEADLINES[1], [0.7, 0.6], [0.8, 0.7], "difference", -0.1, "worse"),
        (HEADLINES[2], [0.5, 2.0], [4.0, 0.25], "difference of |log|", -math.log(2), "better"),
        (HEADLINES[2], [0.0, 0.1], [1.5, 1.4], "difference", 0.5, "worse"),
    ],
)
def test_pairs_know_which_way_is_better(headline, own, rival, kind, value, verdict):
    found = paired.pair(headline, own, rival)
    assert (found.kind, found.verdict, found.seeds) == (kind, verdict, 2)
    np.testing.assert_allclose(found.value, value, rtol=1e-12)
    assert found.low <= found.value <= found.high


def test_pairs_leave_out_what_failed_and_single_seeds():
    entries = table.best_samplers(table.final(table.make_entries(made_up())), HEADLINES[0])
    rows = paired.make_rows(entries, HEADLINES, "diffusion")
    # Of the adaptive solver one seed failed, and one alone has no interval.
    assert [row.entry.sampler.nfe for row in rows] == [5]
    text = paired.to_terminal(rows, HEADLINES[0], figures.label, "diffusion")
    assert max(map(len, text.splitlines())) < 80
    assert text.startswith("error: ratio to diffusion, seed by seed")
    markdown = paired.to_markdown(rows, HEADLINES, figures.label, "diffusion")
    assert markdown.count("\n| 5 |") == 1
    assert paired.default_baseline(["kac-t", "flow-matching", "diffusion"]) == "flow-matching"
    assert paired.default_baseline(["kac-t", "kac-t2"]) == "kac-t2"


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (0.98123, 0.0123, "0.981 ± 0.012"),
        (3.52e-4, 0.4e-4, "(3.5 ± 0.4)e-4"),
        (12.3, 4.56, "12.3 ± 4.6"),
        (1.0, 0.0, "1.0000 ± 0.0000"),
        (0.0, math.nan, "0"),
        (3.52e-4, math.nan, "3.52e-4"),
        (123.4, 567.0, "123 ± 567"),
    ],
)
def test_numbers_are_short(mean, half, text):
    assert table.plus_minus(table.Interval(mean, half, 2)) == text


def test_every_axis_has_its_label():
    entries = table.make_entries(made_up())
    last = table.best_samplers(table.final(entries), HEADLINES[0])
    euler = [entry for entry in entries if entry.sampler.solver == "euler"]
    ramp = {"t": [0.1, 1.0], "mean_norm": [2.0, 1.0], "max_lipschitz": [3.0, 1.0]}
    curves = {"max_component": [1.0, 2.0], "max_lipschitz": [1.0, 3.0]}
    explosion = {"times": [1.0, 0.1], "exact": curves, "learned": curves, "bound": [4.0, 4.0]}
    for figure, panels in (
        (figures.quality_figure(last, HEADLINES, {"error": 1e-4}), 3),
        (figures.training_figure(euler, HEADLINES, Sampler("euler", 2.0, 5)), 3),
        (figures.time_figure(last, HEADLINES[0]), 2),
        (figures.field_figure({"kac-t": [ramp, ramp], "diffusion": [ramp, ramp]}), 2),
        (figures.explosion_figure({"kac-t": explosion, "diffusion": explosion}), 2),
    ):
        assert len(figure.axes) == panels
        assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)
        (legend,) = figure.legends
        labels = [text.get_text() for text in legend.get_texts()]
        assert labels == ["Kac, clock t", "diffusion"]


def test_training_that_was_stopped_gives_the_same_networks(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_SAVE_EVERY", 0.0)
    trainer = Trainer(
        kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1),
        kacjax.kac_path(),
        steps=6,
        batch_size=8,
        steps_per_call=1,
    )
    source = trainer.device_data(np.random.default_rng(0).normal(size=(20, 2)))
    key, folder = jax.random.key(1), tmp_path / "state"

    def run(into, steps=(2, 6), until=6):
        def keep(step, velocity, record):
            if step > until:
                raise KeyboardInterrupt
            # Training goes on in the velocity's memory.
            into[step] = jax.tree.map(np.array, velocity.network.params), record["loss"]

        training.train(trainer, source, lambda: trainer.init(key), steps, keep, folder)

    whole, stopped, rest = {}, {}, {}
    run(whole)
    assert not folder.exists()
    with pytest.raises(KeyboardInterrupt):
        run(stopped, until=2)
    begun = []
    monkeypatch.setattr(Trainer, "init", lambda *arguments: begun.append(1))
    run(rest, (6,))
    assert begun == []
    for step, part in ((2, stopped), (6, rest)):
        chex.assert_trees_all_equal(whole[step], part[step])


def test_relative_width_of_modes():
    dataset = make_dataset("grid2d")
    real = np.asarray(dataset._fresh(7, 18_000))
    # The median absolute deviation of 2,000 points has a relative error of 2.6 %; the mean over 18
    # of them one of 0.6 %: the bound is at 8 deviations.
    assert abs(dataset.relative_width(real) - 1) < 0.05
    modes = np.round(real)
    assert abs(dataset.relative_width(modes + 2 * (real - modes)) / 2 - 1) < 0.05
    centers = np.tile(np.array([[0.0, 0.0], [1.0, -1.0]], np.float32), (50, 1))
    assert dataset.relative_width(centers) == 0
    assert dataset.relative_width(np.full((10, 2), 0.5, np.float32)) == 0


def test_configurations_have_names_of_their_own():
    """Everything but the folder and the number of seeds changes the name of a cell."""
    default = defaults()["moons"][1]

    def name(config: CompareConfig):
        return cells.make_cells(config)[0].folder.name

    first = name(default)
    assert name(dataclasses.replace(default, seeds=5)) == first
    assert name(dataclasses.replace(default, checkpoints=(1.0,))) == first
    for group, field, value in (
        ("training", "steps", 5),
        ("training", "learning_rate", 0.1),
        ("network", "width", 5),
        ("models", "a", (4.0,)),
    ):
        changed = dataclasses.replace(getattr(default, group), **{field: value})
        assert name(dataclasses.replace(default, **{group: changed})) != first
