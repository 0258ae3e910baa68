"""The comparison: cells that stay, tables that follow from them, figures, and refusals."""

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import shutil
import signal
import statistics
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

import kacjax
from experiments import explosion, runs
from experiments.compare import __main__ as compare
from experiments.compare import figures, redraw, report, table, work
from experiments.compare.__main__ import main
from experiments.compare.config import (
    CompareConfig,
    EvaluationConfig,
    ModelsConfig,
    defaults,
    make_cells,
    make_models,
)
from experiments.compare.table import label
from experiments.compare.work import Work
from experiments.config import PathConfig
from experiments.datasets import Headline
from experiments.datasets.base import draw
from experiments.datasets.vectors import Grid2d, Plane
from experiments.report import Interval, interval, plus_minus

pytestmark = [pytest.mark.usefixtures("compile_once"), pytest.mark.long]

QUICK = [
    *("grid2d", "--clock", "t", "--seeds", "2", "--steps", "12", "--batch-size", "16"),
    *("--width", "8", "--depth", "1", "--checkpoints", "0.5", "1"),
    *("--nfe", "2", "3", "--num-samples", "60", "--adaptive"),
]
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
COMMITTED = sorted([*RESULTS.glob("compare-*.json"), *RESULTS.glob("sweep-*.json")])
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
            return judge(*arguments)

        judge = Work.judge
        patch.setattr(Work, "judge", interrupt)
        assert command(out) == 130
        before = times(out / "cells")
        patch.setattr(Work, "judge", judge)
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
            *(".lock", "config.json", "metrics.jsonl"),
            *("step-000006", "step-000012", "tensorboard"),
        ]
    log = (out / compare.LOG).read_text()
    assert "[1/4] kac-t, seed 0: finished before" in log
    assert "seed 1 is complete" in log


def test_a_finished_comparison_computes_nothing(finished, monkeypatch, capsys):
    out, _ = finished
    before = times(out / "cells")

    def fail(*arguments):
        raise AssertionError

    monkeypatch.setattr(work, "Session", fail)
    monkeypatch.setattr(Work, "judge", fail)
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
        *(["2", "diffusion"], ["2", "Kac, clock t"], ["3", "diffusion"], ["3", "Kac, clock t"]),
        ["", "real data"],
    ]
    means = {}
    for judged in judgements(out):
        if judged["step"] == 12:
            for each in judged["rows"]:
                key = str(each["asked"]), label(judged["model"])
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
    assert "--against must be one of diffusion, kac-t; got 'x'" in capsys.readouterr().err


def damages():
    """Results files that are none, by what is wrong with them."""
    good = json.loads((RESULTS / "compare-spirals.json").read_text())
    without = {name: value for name, value in good.items() if name != "training"}
    first, *rest = good["judgements"]
    yield from ("{", "null", "[" * 100_000, '{"judgements": []}')
    for values in (
        without,
        {**good, "training": 7},
        {**good, "training": {"steps": "many"}},
        {**good, "judgements": {"a": 1}},
        {**good, "real data": None},
        {**good, "data": ["spirals"]},
        {**good, "evaluation": {"nfe": []}},
        {**good, "judgements": [{**first, "field": 3}, *rest]},
        {**good, "judgements": [{**first, "step": "5"}, *rest]},
        {**good, "judgements": [{**first, "model": "$\\bad{$"}, *rest]},
    ):
        yield json.dumps(values)


def test_files_that_hold_no_results_are_refused_in_one_line(tmp_path, capsys):
    for text in damages():
        (tmp_path / "bad.json").write_text(text)
        assert redraw.main([str(tmp_path / "bad.json"), "--out", str(tmp_path / "none")]) == 2
        printed = capsys.readouterr().err
        assert printed.startswith("error: ")
        assert "bad.json" in printed
        assert printed.count("\n") == 1
    assert redraw.main([str(tmp_path / "absent"), "--out", str(tmp_path / "other")]) == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.stem)
def test_committed_tables_are_those_of_committed_results(file, tmp_path, monkeypatch):
    for name in ("curves_figure", "field_figure"):  # Only the texts are compared.
        monkeypatch.setattr(report, name, lambda *given: Figure())
    assert redraw.main([str(file), "--out", str(tmp_path)]) == 0
    assert (tmp_path / report.MARKDOWN).read_text() == file.with_suffix(".md").read_text()
    assert (tmp_path / report.RESULTS).read_text() == file.read_text()


def test_steps_in_time_are_those_of_earlier_tables():
    paths = [PathConfig(), PathConfig(clock="t2"), PathConfig("diffusion")]
    paths += [PathConfig("flow-matching", sigma=0.4), PathConfig("edm"), PathConfig("vp")]
    assert [path.grid_power("time") for path in paths] == [2, 1.5, 4, 1.5, 7, 4]
    assert {path.grid_power("straight") for path in paths} == {2}


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


def made(dataset, **evaluation):
    """Work on a data set that is never begun."""
    config = defaults()["moons"][1]
    config = dataclasses.replace(config, evaluation=EvaluationConfig(**evaluation))
    return Work(config, dataset, print, SimpleNamespace(asked=False))


def cell_of(model, seed):
    return SimpleNamespace(model=model, seed=seed, run=defaults()["moons"][1].runs()[0][1])


def velocity_of(path):
    return SimpleNamespace(path=path, network=None)


def test_models_of_one_seed_start_from_the_same_normals(monkeypatch):
    dataset, priors = Plane("moons"), []

    def generate(velocity, path, key, shape, **options):
        priors.append(np.asarray(path.process.to_normal(1.0, path.sample_prior(key, shape))))
        return np.zeros(shape), 1

    monkeypatch.setattr(kacjax, "generate", generate)
    monkeypatch.setattr(dataset, "quality", lambda samples: {})
    judge = made(dataset, num_samples=50, nfe=(1,), adaptive=()).judge
    for path, seed in (
        (kacjax.kac_path(), 0),
        (kacjax.diffusion_path(), 0),
        (kacjax.kac_path(), 1),
    ):
        judge(cell_of("model", seed), velocity_of(path))
    kac, wiener, other = priors[0], priors[-2], priors[-1]
    # On the atoms, beyond 3.8 deviations, Kac's position does not tell the normal.
    inside = np.abs(wiener) < 3.5
    np.testing.assert_allclose(kac[inside], wiener[inside], atol=1e-3)
    assert np.abs(kac - other).max() > 0.1


def test_a_way_of_generating_may_fail(monkeypatch):
    dataset = Grid2d("grid2d")
    # Bytes hide numbers that are not finite.
    monkeypatch.setattr(dataset, "finish", lambda samples: np.zeros(samples.shape, np.uint8))
    monkeypatch.setattr(dataset, "quality", lambda samples: {"median_distance_to_mode": 1.0})

    def generate(velocity, path, key, shape, solver, **options):
        if solver == "tsit5":
            raise ValueError("solver Tsit5 did not reach rtol=0.001.")
        return np.full(shape, np.nan if options["steps"] == 2 else 1.0), options["steps"]

    monkeypatch.setattr(kacjax, "generate", generate)
    judge = made(dataset, num_samples=5, nfe=(2, 3)).judge
    rows, samples = judge(cell_of("kac-t", 0), velocity_of(kacjax.kac_path()))
    assert samples.shape == (5, 2)
    assert [(row["asked"], row["nfe"], row["quality"] is None) for row in rows] == [
        *((2, 2.0, True), (3, 3.0, False), (0, None, True)),
    ]
    entries = table.make_entries([{"model": "kac-t", "seed": 0, "step": 1, "rows": rows}])
    text = table.to_terminal("title", table.make_lines(entries, dataset.headlines[:1], {}))
    assert [line.split()[-1] for line in text.splitlines()[4:-1] if line] == [
        "failed",
        "1",
        "failed",
    ]
    assert table.to_csv(entries).count("median_distance_to_mode") == 1


def one_row(nfe):
    """A judgement that cost nothing."""
    samples = np.zeros((3, 2), np.float32)
    row = {"solver": "euler", "grid_power": 0.0, "asked": nfe, "nfe": float(nfe)}
    row |= {"seconds_per_sample": 1.0, "quality": Grid2d("grid2d").quality(samples)}
    return [row], samples


def test_a_signal_stops_and_the_same_command_continues(finished, tmp_path, monkeypatch):
    """To the same networks as without it."""
    out = tmp_path / "stopped"
    save = work.save_velocity

    def stop(*arguments, **notes):
        os.kill(os.getpid(), signal.SIGTERM)
        return save(*arguments, **notes)

    flags = ["--seeds", "1", "--nfe", "4"]
    monkeypatch.setattr(Work, "judge", lambda *arguments: one_row(4))
    monkeypatch.setattr(work, "save_velocity", stop)
    assert command(out, *flags) == 75
    (cell,) = (out / "cells").iterdir()
    assert (cell / "checkpoints").is_dir()
    assert not (cell / "step-000012").exists()
    monkeypatch.setattr(work, "save_velocity", save)
    assert command(out, *flags) == 0
    assert not (cell / "checkpoints").exists()
    networks = sorted((out / "cells").rglob("velocity.safetensors"))
    assert len(networks) == 4
    for file in networks:
        whole = finished[0] / file.relative_to(out)
        assert file.read_bytes() == whole.read_bytes()


def test_networks_of_further_steps_are_trained_no_longer_than_that(finished, tmp_path, monkeypatch):
    out = tmp_path / "copy"
    shutil.copytree(finished[0], out)
    before = times(out / "cells")
    monkeypatch.setattr(Work, "judge", lambda *arguments: one_row(4))
    assert command(out, "--checkpoints", "0.25", "1", "--seeds", "1", "--overwrite") == 0
    (cell,) = (out / "cells").glob("kac-seed0-*")
    assert (cell / "step-000003" / "velocity.safetensors").is_file()
    rows = [json.loads(line) for line in (cell / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 3
    after = times(out / "cells")
    kept = [path for path in before if path.name in ("velocity.safetensors", "config.json")]
    assert all(after[path] == before[path] for path in kept if path.name != "config.json")


def test_a_changed_configuration_is_never_mixed(finished, tmp_path, capsys, monkeypatch):
    out = tmp_path / "copy"
    shutil.copytree(finished[0], out)
    before = times(out / "cells")
    # Another judgement: networks stay, and get a second judgement.
    with monkeypatch.context() as patch:
        patch.setattr(Work, "judge", lambda *arguments: one_row(4))
        assert command(out, "--nfe", "4", "--overwrite") == 0
    after = times(out / "cells")
    assert {path: after[path] for path in before} == before
    added = {path.name.split("-")[0] for path in after.keys() - before.keys()}
    assert added == {"judged", "samples"}
    rows = list(csv.DictReader(io.StringIO((out / report.CSV).read_text())))
    assert {row["nfe"] for row in rows} == {"4"}
    # Another network: cells of its own, and the old ones are named.
    capsys.readouterr()

    def stop(self):
        raise work.Stopped

    monkeypatch.setattr(Work, "complete", stop)
    assert command(out, "--width", "9", "--overwrite") == 75
    assert "4 cells of other configurations" in capsys.readouterr().out


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize(
    ("flags", "lost"),
    [
        ("--steps 10", True),
        ("--seeds 1", True),
        ("--checkpoints 1", True),
        ("--a 4", True),
        ("--width 9", True),
        ("--num-samples 50", True),
        ("--seeds 3", False),
        ("--clock t t2", False),
        ("--checkpoints 0.25 0.5 1", False),
    ],
)
def test_results_that_would_be_lost_are_refused(
    flags, lost, names, finished, tmp_path, capsys, monkeypatch
):
    """With the names of cells that they hold, and as earlier versions wrote them."""
    results = json.loads((finished[0] / report.RESULTS).read_text())
    assert set(results["cells"]) == {cell.name for cell in (finished[0] / "cells").iterdir()}
    if not names:
        del results["cells"]
    (tmp_path / report.RESULTS).write_text(json.dumps(results))

    def stop(self):
        raise work.Stopped

    monkeypatch.setattr(Work, "complete", stop)
    before = (tmp_path / report.RESULTS).read_bytes()
    argv = ["--out", str(tmp_path), *flags.split()]
    if not lost:
        assert main([*QUICK, *argv]) == 75
        return
    fails(capsys, argv, f"{tmp_path / report.RESULTS} is of another comparison", "--overwrite")
    assert [path.name for path in tmp_path.iterdir()] == [report.RESULTS]
    assert (tmp_path / report.RESULTS).read_bytes() == before
    assert main([*QUICK, *argv, "--overwrite"]) == 75


def test_damaged_results_are_not_replaced_unasked(tmp_path, capsys):
    for text, words in (("{", "cannot be read"), ("{}", "is damaged: 'judgements'")):
        (tmp_path / report.RESULTS).write_text(text)
        fails(capsys, ["--out", str(tmp_path)], f"{tmp_path / report.RESULTS}", words)
        assert (tmp_path / report.RESULTS).read_text() == text


def test_comparisons_may_share_their_cells(finished, tmp_path, monkeypatch):
    out, _ = finished
    before = times(out / "cells")
    monkeypatch.setattr(work, "Session", None)
    assert command(tmp_path / "other", "--cells", str(out / "cells")) == 0
    assert times(out / "cells") == before
    assert not (tmp_path / "other" / "cells").exists()
    text = (out / report.CSV).read_text()
    assert (tmp_path / "other" / report.CSV).read_text() == text


def test_a_cell_on_which_another_process_works_is_waited_for(finished, tmp_path, monkeypatch):
    out = tmp_path / "copy"
    shutil.copytree(finished[0], out)
    (cell,) = (out / "cells").glob("kac-seed1-*")
    part = (cell / "step-000012").rename(tmp_path / "step-000012")
    other = contextlib.ExitStack()
    other.enter_context(runs.locked(cell))
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            part.rename(cell / part.name)
            other.close()

    monkeypatch.setattr(runs.time, "sleep", sleep)
    monkeypatch.setattr(work, "Session", None)
    assert command(out) == 0
    assert len(waits) == 2
    log = (out / compare.LOG).read_text()
    assert log.count("waiting") == 1
    assert f"kac-t, seed 1: process {os.getpid()} on " in log


def test_two_processes_share_the_cells(finished, tmp_path, monkeypatch):
    out = tmp_path / "copy"
    shutil.copytree(finished[0], out)
    (cell,) = (out / "cells").glob("kac-seed0-*")
    part = (cell / "step-000012").rename(tmp_path / "step-000012")
    for later in (out / "cells").glob("*-seed1-*"):
        next(later.glob("step-000012/judged-*.json")).unlink()
    other = contextlib.ExitStack()
    other.enter_context(runs.locked(cell))

    def sleep(seconds):
        # What is free is finished before it waits.
        assert len(list((out / "cells").glob("*-seed1-*/step-000012/judged-*.json"))) == 2
        part.rename(cell / part.name)
        other.close()

    monkeypatch.setattr(runs.time, "sleep", sleep)
    assert command(out) == 0
    log = (out / compare.LOG).read_text()
    assert log.index("seed 1: judged step 12") < log.index("waiting")


def test_a_signal_ends_the_wait_for_another_process(finished, tmp_path, monkeypatch):
    out = tmp_path / "copy"
    shutil.copytree(finished[0], out)
    (cell,) = (out / "cells").glob("kac-seed1-*")
    shutil.rmtree(cell / "step-000012")
    monkeypatch.setattr(runs.time, "sleep", lambda seconds: os.kill(os.getpid(), signal.SIGTERM))
    with runs.locked(cell):
        assert command(out) == 75


def test_damage_is_named(finished, tmp_path, capsys):
    out = tmp_path / "copy"
    shutil.copytree(finished[0], out)
    (cell,) = (out / "cells").glob("kac-seed0-*")
    for file, damage, words in (
        (next(cell.rglob("judged-*.json")), "{", "to compute it again"),
        (next(cell.rglob("judged-*.json")), "[]", "to compute it again"),
        (next(cell.glob("step-000012/samples-*.npy")), "", "to compute it again"),
    ):
        good = file.read_bytes()
        file.write_text(damage)
        fails(capsys, ["--out", str(out)], words)
        file.write_bytes(good)
    # A network that is to be judged, and a configuration that is to be gone on with.
    next(cell.glob("step-000012/judged-*.json")).unlink()
    (cell / "config.json").write_text("{")
    fails(capsys, ["--out", str(out)], "kac-t, seed 0: ", "holds files that are not a run")
    (cell / "config.json").unlink()
    shutil.copy(finished[0] / "cells" / cell.name / "config.json", cell)
    (cell / "step-000012" / "velocity.safetensors").write_text("none")
    fails(capsys, ["--out", str(out)], "velocity.safetensors")


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
        (["--a", "-1"], ["--a must lie between 1e-06 and 1e+06, got -1.0"]),
        (["--c", "nan"], ["--c must lie between"]),
        (["--nfe", "0"], ["--nfe must be an integer of at least 1, got 0"]),
        (["--nfe"], ["--nfe needs at least one value"]),
        (
            ["--nfe", "1", "3", "--solver", "heun"],
            ["--nfe must hold a multiple of 2, the evaluations of a step of heun, got 1 3"],
        ),
        (["--seeds", "0"], ["--seeds must be an integer of at least 1"]),
        (["--seed", "2147483647"], ["--seed plus --seeds must be at most"]),
        (["--checkpoints", "0.5"], ["--checkpoints must lie in (0, 1] and hold 1, got 0.5"]),
        (["--checkpoints", "0", "1"], ["--checkpoints"]),
        (["--grid-power", "0"], ["--grid-power must lie between 0.1 and 20"]),
        (["--tolerance", "-1"], ["--tolerance must lie between"]),
        (["--steps", "0"], ["--steps"]),
        (["--against", "gan"], ["--against must be one of diffusion, kac-t; got 'gan'"]),
        (["--solver", "rk"], ["'rk'", "euler"]),
        (["--ot", "--objective", "lsd"], ["--ot needs --objective flow, got lsd"]),
        (["--clock", "t3"], ["'t3'"]),
        (["--conditional"], ["--conditional"]),
        (["--batch-size", "9", "--accumulate", "2"], ["multiple of 2", "got 9"]),
        (["--out", "/proc/none"], ["/proc/none"]),
    ],
)
def test_wrong_flags(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fails(capsys, flags, *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["cifar10"], "--classifier is missing"),
        (["images", "--data", "folder", "--stream"], "--stream"),
        (["arrays"], "--data"),
        (["arrays", "--data", "none.csv"], "there is no file none.csv"),
        (["moon"], "Perhaps you meant moons?"),
    ],
)
def test_wrong_data(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert printed.count("\n") == 1
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
    assert list(make_models(ModelsConfig())) == ["diffusion", "flow-matching", "kac-t", "kac-t2"]
    grid = make_models(ModelsConfig(a=(9.0, 25.0), c=(3.0, 5.0), clock=("t",)))
    assert list(grid) == [
        *("diffusion", "diffusion-sigma1.67", "diffusion-sigma0.6"),
        *("kac-t-a9-c3", "kac-t-a9-c5", "kac-t-a25-c3", "kac-t-a25-c5"),
    ]
    alone = make_models(ModelsConfig(a=(25.0,), clock=("t",), matched=False))
    assert list(alone) == ["kac-t", "diffusion"]
    sigmas = {c / a**0.5 for a in (9, 25) for c in (3, 5)}
    assert {path.sigma for name, path in grid.items() if "diffusion" in name} == sigmas
    t2 = make_models(ModelsConfig(clock=("t2",)))["flow-matching"]
    assert t2.make() == kacjax.flow_matching_path()
    more = make_models(ModelsConfig(clock=("t",), baselines=("vp", "edm"), sigma_data=0.7))
    assert list(more)[-2:] == ["vp", "edm"]
    assert more["vp"].make() == kacjax.vp_path()
    assert more["edm"].prediction("x0") == kacjax.predictions.EDMPrediction(0.7)
    near = make_models(ModelsConfig(a=(9.0, 9.00000001), clock=("t", "t")))
    assert len(near) == 3


def test_every_kac_model_has_its_control():
    config = defaults()["moons"][1]
    assert config.controls() == {"kac-t": "flow-matching", "kac-t2": "flow-matching"}

    def controls(**models):
        return dataclasses.replace(config, models=ModelsConfig(**models)).controls()

    assert controls(clock=("t",)) == {"kac-t": "diffusion"}
    assert controls(matched=False) == {}
    pairs = controls(a=(9.0,), c=(3.0, 1.2), clock=("t2",), ot=True, baselines=("vp",))
    assert pairs == {
        "kac-t2-a9-c3": "flow-matching",
        "kac-t2-a9-c3-ot": "flow-matching-ot",
        "kac-t2-a9-c1.2": "flow-matching-sigma0.4",
        "kac-t2-a9-c1.2-ot": "flow-matching-sigma0.4-ot",
    }
    taught = controls(clock=("t", "t2"), c=(2.0,), students=(4,), maps=("lsd",))
    assert taught["kac-t-student4"] == "flow-matching-sigma0.667-student4"
    assert taught["kac-t2-lsd"] == "flow-matching-sigma0.667-lsd"


def test_couplings_are_models_of_their_own():
    models = ModelsConfig(clock=("t2",), ot=True, baselines=("edm",))
    config = dataclasses.replace(defaults()["moons"][1], models=models, seeds=1)
    found = {name: run.training.coupling for name, run in config.runs()}
    assert found == {
        **{"flow-matching": "independent", "flow-matching-ot": "ot"},
        **{"kac-t2": "independent", "kac-t2-ot": "ot", "edm": "independent"},
    }
    training = dataclasses.replace(config.training, coupling="ot")
    coupled = dataclasses.replace(config, training=training)
    assert [name for name, _ in coupled.runs()] == ["flow-matching", "kac-t2", "edm"]


def test_panels_show_kac_models_beside_their_controls():
    models = ModelsConfig(a=(9.0, 25.0), clock=("t2",), ot=True, maps=("lsd",), students=(4,))
    config = dataclasses.replace(defaults()["moons"][1], models=models, seeds=1)
    assert compare.shown_models(config, [cell.model for cell in make_cells(config, "")])[:6] == [
        *("flow-matching", "kac-t2-a9-c3", "flow-matching-ot", "kac-t2-a9-c3-ot"),
        *("flow-matching-sigma0.6", "kac-t2-a25-c3"),
    ]


def test_quick_shrinks_what_was_left_at_its_default(monkeypatch):
    default, quick = (defaults(each)["grid2d"][1] for each in (False, True))
    assert quick.training.steps == default.training.steps // 5
    assert (default.seeds, quick.seeds) == (3, 1)
    assert quick.evaluation.num_samples == 2000
    found = []
    monkeypatch.setattr(compare, "compare", lambda config: found.append(config) or 0)
    assert main(["grid2d", "--quick", "--seeds", "3", "--nfe", "7"]) == 0
    assert (found[0].seeds, found[0].training.steps) == (3, quick.training.steps)
    assert found[0].folder() == Path("runs/compare-grid2d-quick")
    assert main(["grid2d", "--seeds", "3"]) == 0
    assert found[1] == default
    assert found[1].folder() == Path("runs/compare-grid2d")


def test_interval_is_students():
    values = [0.3, 0.5, 0.4, 0.9]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = interval(values)
    np.testing.assert_allclose([found.mean - found.half, found.mean + found.half], [low, high])
    assert math.isnan(interval([1.0]).half)


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
    entries = table.make_entries(made_up())
    best = table.best_entries(entries, HEADLINES[0])
    assert {entry.step for entry in best} == {9}
    chosen = {(entry.model, entry.sampler.solver) for entry in best}
    assert chosen == {
        *(("kac-t", "heun"), ("kac-t", "tsit5"), ("diffusion", "euler"), ("diffusion", "tsit5")),
    }
    by_hits = table.best_entries(entries, HEADLINES[1])
    assert ("diffusion", "heun") in {(entry.model, entry.sampler.solver) for entry in by_hits}


def test_terminal_marks_the_best_and_drops_what_does_not_fit():
    best = table.best_entries(table.make_entries(made_up()), HEADLINES[0])
    text = table.to_terminal("title", table.make_lines(best, HEADLINES, {"error": 1e-4}))
    assert "(2.0 ± 12.7)e-4*" in text
    assert "failed" in text
    assert "real data" in text
    narrow = table.to_terminal("title", table.make_lines(best, HEADLINES, {}), width=50)
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
    found = table.pair(headline, own, rival)
    assert (found.kind, found.verdict, found.seeds) == (kind, verdict, 2)
    np.testing.assert_allclose(found.value, value, rtol=1e-12)
    assert found.low <= found.value <= found.high


def test_pairs_leave_out_what_failed_and_single_seeds():
    entries = table.best_entries(table.make_entries(made_up()), HEADLINES[0])
    rows = table.make_pairs(entries, HEADLINES, "diffusion", {})
    # Of the adaptive solver one seed failed, and one alone has no interval.
    assert [entry.sampler.nfe for entry, _, _ in rows] == [5]
    text = table.pairs_to_terminal(rows, HEADLINES[0])
    assert max(map(len, text.splitlines())) < 80
    assert text.startswith("error: ratio to diffusion, seed by seed")
    markdown = table.pairs_to_markdown(rows, HEADLINES)
    assert markdown.count("\n| 5 |") == 1
    assert "against |" not in markdown


def test_pairs_are_with_the_control_of_each():
    models = {"kac-t-a9-c3": 0.2, "kac-t-a9-c1": 0.6, "wide": 0.1, "narrow": 0.3, "vp": 0.5}
    judgements = [
        judged(model, seed, 9, euler_5=(error * (1 + seed), 0.9))
        for model, error in models.items()
        for seed in (0, 1)
    ]
    controls = {"kac-t-a9-c3": "wide", "kac-t-a9-c1": "narrow"}
    entries = table.make_entries(judgements)
    rows = table.make_pairs(entries, HEADLINES, "wide", controls)
    found = {entry.model: (rival, pairs["error"].value) for entry, rival, pairs in rows}
    assert {model: rival for model, (rival, _) in found.items()} == {
        **controls,
        **{"narrow": "wide", "vp": "wide"},
    }
    values = [found[model][1] for model in ("kac-t-a9-c3", "kac-t-a9-c1", "narrow", "vp")]
    np.testing.assert_allclose(values, [2, 2, 3, 5])
    assert "| 5 | Kac t a9 c1 | narrow | " in table.pairs_to_markdown(rows, HEADLINES)
    assert "ratio to wide or narrow, seed" in table.pairs_to_terminal(rows, HEADLINES[0])
    lines = table.pairs_to_csv(rows).splitlines()
    assert any(line.startswith("kac-t-a9-c1,narrow,9,euler,") for line in lines)


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (0.98123, 0.0123, "0.981 ± 0.012"),
        (3.52e-4, 0.4e-4, "(3.5 ± 0.4)e-4"),
        (1.4e-3, 3.1e-5, "(1.40 ± 0.03)e-3"),
        (1e5, 3e3, "(1.00 ± 0.03)e5"),
        (9.97e-3, 4e-4, "(1.00 ± 0.04)e-2"),
        (12.3, 4.56, "12.3 ± 4.6"),
        (1.0, 0.0, "1.0000 ± 0.0000"),
        (0.0, math.nan, "0"),
        (3.52e-4, math.nan, "3.52e-4"),
        (123.4, 567.0, "123 ± 567"),
        (math.inf, math.nan, "inf"),
    ],
)
def test_numbers_are_short(mean, half, text):
    assert plus_minus(Interval(mean, half, 2)) == text


def test_solvers_have_the_evaluations_that_their_steps_make_up():
    config = EvaluationConfig(nfe=(1, 4, 6), solver=("heun", "rk4", "euler"), adaptive=())
    found = {}
    for sampler in config.samplers():
        found.setdefault(sampler.solver, []).append(sampler.nfe)
    assert found == {"heun": [4, 6], "rk4": [4], "euler": [1, 4, 6]}


def test_every_axis_has_its_label():
    entries = table.make_entries(made_up())
    last = table.best_entries(entries, HEADLINES[0])
    euler = [entry for entry in entries if entry.sampler.solver == "euler"]
    ramp = {"t": [0.1, 1.0], "mean_norm": [2.0, 1.0], "max_lipschitz": [3.0, 1.0]}
    curves = {"max_component": [1.0, 2.0], "max_lipschitz": [1.0, 3.0]}
    explosions = {"times": [1.0, 0.1], "exact": curves, "learned": curves, "bound": [4.0, 4.0]}
    by_nfe = [figures.Curve(each, *figures.BY_NFE) for each in HEADLINES]
    by_step = [figures.Curve(each, "steps", *[lambda e: e.step] * 2) for each in HEADLINES]
    costs = [figures.COST, figures.Curve(HEADLINES[0], *figures.BY_TIME)]
    for figure, panels in (
        (figures.curves_figure(last, by_nfe, {"error": 1e-4}), 3),
        (figures.curves_figure(euler, by_step), 3),
        (figures.curves_figure(last, costs), 2),
        (figures.field_figure({"kac-t": [ramp, ramp], "diffusion": [ramp, ramp]}), 2),
        (explosion.explosion_figure({"kac-t": explosions, "diffusion": explosions}), 2),
    ):
        assert len(figure.axes) == panels
        assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)
        (legend,) = figure.legends
        labels = [text.get_text() for text in legend.get_texts()]
        assert labels == ["Kac, clock t", "diffusion"]


def test_relative_width_of_modes():
    dataset = Grid2d("grid2d")
    real = draw(kacjax.data.target("grid2d"), 7, 18_000)
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

    def name(config: CompareConfig, fingerprint: str = ""):
        return make_cells(config, fingerprint)[0].folder.name

    first = name(default)
    skip = dataclasses.replace(default.training, on_nonfinite="skip")
    assert name(dataclasses.replace(default, training=skip)) == first
    assert name(default, "of other data") != first
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
