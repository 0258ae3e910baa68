"""The benchmarks run, at sizes that measure nothing."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

import kacjax
from benchmarks import (
    accelerator,
    bounded,
    common,
    compile_time,
    couplings,
    exact_flow,
    few_step,
    few_step_mnist,
    generation_memory,
    generation_speed,
    grid2d_speed,
    grids,
    guidance,
    learned_noise,
    process_speed,
    profile_table,
    table_method,
    tpu_programs,
    train_speed,
    unet_flops,
)

pytestmark = pytest.mark.long

ROOT = pathlib.Path(__file__).parents[1]
PATHS = [grids.PATHS["kac, clock t"], grids.PATHS["diffusion"]]


@pytest.fixture(autouse=True)
def standard_promotion():
    """Types are promoted as users have it: the table method and Optax's schedules rely on that."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder for the results of this test."""
    for module in (common, train_speed):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    return tmp_path


@pytest.fixture
def tiny(monkeypatch):
    """Few samples, permutations and steps for `exact_flow`."""
    small = {"NUM": 20, "PERMUTATIONS": 9, "STEPS": (4, 8), "FINEST": 16}
    small |= {"LAYERS": ((5, 0.3), (5, 0.1)), "TOLERANCES": (1e-2,), "TRIP_TOLERANCES": (1e-2,)}
    # The others are told apart by their names alone.
    small |= {"FIXED": ("euler", "ab2"), "ADAPTIVE": ("tsit5",)}
    for name, value in small.items():
        monkeypatch.setattr(exact_flow, name, value)
    return grids.data_sets()["9 points"]


@pytest.mark.parametrize("path", PATHS)
def test_exact_flow_reaches_the_data(tiny, path):
    reached = exact_flow.reach(path, *tiny, "straight")
    assert reached["median distance"] < 1e-3
    counted = exact_flow.shares(path, *tiny, "straight")
    assert len(counted) == (3 if exact_flow.has_atoms(path) else 2)
    assert all(0 <= row["total variation"] <= 1 for row in list(counted.values())[1:])


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_exact_flow_orders_and_round_trip(tiny, x64, path):
    found = exact_flow.orders(path, *tiny, "straight")
    assert set(found) == {"euler", "ab2"}
    errors = np.array([row["rms error"] for row in found.values()])
    assert np.all(np.isfinite(errors))
    assert np.all(errors[:, 1] < errors[:, 0])
    adaptive = exact_flow.adaptive(path, *tiny, "straight")
    assert all(row["0.01"]["mean evaluations"] > 6 for row in adaptive.values())
    assert exact_flow.round_trip(path, *tiny, "straight")["0.01"]["evaluations to encode"] > 6


def test_a_permutation_test_sees_another_law(tiny):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 50, 2))
    assert exact_flow.permutation_test(x, y + 3) == pytest.approx(0.1)
    assert exact_flow.permutation_test(x, y) > 0.1


def test_grids_judge_by_the_law_of_the_data():
    data, weights = grids.data_sets()["9 points"]
    rng = np.random.default_rng(0)
    good = data[rng.choice(9, 4000, p=weights)].astype(np.float64)
    result = grids.judge(good, data, weights)
    assert result["median distance"] == 0
    assert result["total variation of shares"] < 0.05
    assert abs(result["energy distance"]) < 0.05
    assert grids.judge(good + 1, data, weights)["energy distance"] > 0.5


def test_process_speed_counts_and_times_every_method(monkeypatch):
    monkeypatch.setattr(process_speed, "torch_loop", None)
    table = table_method.build_table(process_speed.A, process_speed.C, process_speed.T, 20, 64)
    row = process_speed.measure_shape((4, 2), table, 0.0)
    times = row["milliseconds"]
    assert {"wiener", "kac", "table in jax", "kac, poisson-beta"} <= set(times)
    assert row["ratio to wiener"]["wiener"] == 1
    assert min(times.values()) > 0
    assert row["operations"]["table in jax, look-up"]["gather instructions"] > 0


@pytest.mark.slow
def test_generation_memory():
    seconds, peak = generation_memory.generate(5, chunk_size=2)
    assert seconds > 0
    assert peak > 50


@pytest.mark.slow
def test_few_step():
    seeds = [few_step.measure("moons", few_step.PATHS["kac"], 0, 2, num=30)]
    table = few_step.summary(seeds)
    assert list(table["student"]) == ["4", "1"]
    assert all(np.isfinite(mean) for row in table.values() for mean, _ in row.values())


@pytest.mark.slow
def test_few_step_mnist(monkeypatch):
    monkeypatch.setattr(few_step_mnist, "TEACHER", (1, 2))
    monkeypatch.setattr(few_step_mnist, "TEACHER_STEPS", 8)
    monkeypatch.setattr(guidance, "SCALES", (1, 4))
    monkeypatch.setattr(guidance, "mnist", guidance.digits)
    numbers = {"steps": 2, "student_steps": 2, "batch_size": 16}
    budget = argparse.Namespace(**numbers, num_samples=20, guided_samples=20)
    table = few_step_mnist.summary([few_step_mnist.measure(budget, 0, "kac, a=25 c=2")])
    assert {kind: list(rows) for kind, rows in table.items()} == {
        "teacher": ["1", "2"],
        "student": ["4", "2", "1"],
        "guidance": ["1", "4"],
    }


@pytest.mark.slow
@pytest.mark.parametrize("noise", learned_noise.NOISES)
def test_learned_noise(noise):
    found = learned_noise.measure("breast cancer", noise, 0, 3, num=50)
    assert np.isfinite(found["tail distance"])
    assert np.all(np.diff(found["quantiles"], axis=1) >= 0)


def test_tails_and_laws_of_learned_noise():
    """Deviation 1, no distance from itself, and all of it where nothing lies in the tails."""
    process = learned_noise.student(4.0).process
    n = np.linspace(-3, 3, 13, dtype=np.float32)
    law = stats.t(4, scale=0.5**0.5)
    np.testing.assert_allclose(process.from_normal(1.0, n), law.ppf(stats.norm.cdf(n)), atol=0.01)
    x = np.random.default_rng(0).normal(size=(1000, 2))
    assert learned_noise.tail_distance(x, x) == 0
    assert learned_noise.tail_distance(0 * x, x) == pytest.approx(1, abs=0.02)


@pytest.mark.slow
def test_bounded(monkeypatch):
    monkeypatch.setattr(bounded, "EVALUATIONS", (1, 2))
    found = [bounded.measure("moons", method, 0, 2, num=30) for method in bounded.METHODS]
    assert all(np.isfinite(value) for row in found for value in row.values())


@pytest.mark.slow
def test_guidance(monkeypatch):
    monkeypatch.setattr(guidance, "SCALES", (1, 4))
    seeds = [guidance.measure(guidance.digits(), guidance.PATHS["kac, a=9 c=3"], 0, 2, 20)]
    table = guidance.summary(seeds)
    assert list(table) == ["1", "4"]
    assert table["1"]["not finite"][0] == 0
    assert 0 <= table["4"]["of the class"][0] <= 1


def test_an_interval_of_three():
    mean, half = common.mean_and_half([1.0, 2.0, 3.0])
    assert (mean, half) == (2, pytest.approx(stats.t.ppf(0.975, 2) / 3**0.5, rel=1e-3))
    assert common.mean_and_half([1.0]) == (1, None)
    assert [common.show_interval(0.01234, half) for half in (None, 0.0056)] == [
        "0.0123",
        "0.0123 ± 0.006",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["independent", "ot"])
def test_couplings(how, monkeypatch):
    monkeypatch.setattr(couplings, "EVALUATIONS", (1, 2))
    arguments = "8 gaussians", couplings.PATHS["kac"], couplings.COUPLINGS[how], 0, 2
    table = couplings.summary([couplings.measure(*arguments, num=30)])
    assert table["length over distance"][0] > 0.99
    assert all(np.isfinite(mean) for mean, _ in table["energy distance"].values())


def test_what_couplings_cost():
    rows = couplings.speed(16, 0.0)
    assert rows["ot"]["cost of a pair"] < rows["independent"]["cost of a pair"]
    assert rows["ot"]["milliseconds"] > 0


def test_grid2d_speed():
    assert 0 < grid2d_speed.noise_share(2, 4, 1.0) < 1
    network = grid2d_speed.Perceptron(nnx.Rngs(0))
    path, data = kacjax.kac_path(), np.zeros((8, 2), np.float32)
    run = kacjax.fit(
        network, path, data, jax.random.key(0), 2, 4, prediction="velocity", progress=False
    )
    assert np.all(np.isfinite(run.losses))


@pytest.mark.slow
def test_generation_speed(monkeypatch):
    monkeypatch.setattr(generation_speed, "matrix_peak", lambda dtype: {"4": 1e12})
    result = generation_speed.measure("tiny", 2, 2, "float32", 0.0)
    assert set(result["seconds"]) == {"generate", "network alone"}
    assert all(0 < share < 1 for share in result["share of the matrix peak"].values())


def test_a_profile_says_what_takes_long(tmp_path):
    @jax.jit
    def step(x):
        with jax.named_scope("products"):
            for _ in range(10):
                x = x @ x
        return jnp.sin(x)

    x = jnp.eye(200)
    program = step.lower(x).compile()
    program(x)
    with jax.profiler.trace(str(tmp_path)):
        for _ in range(3):
            jax.block_until_ready(program(x))
    profile = profile_table.summarize(tmp_path, program.as_text(), steps=3)
    assert profile["milliseconds of a step"] == pytest.approx(sum(profile["by kind"].values()))
    assert next(iter(profile["by kind"])) == "matrix product"
    text = profile_table.show(profile)
    assert "matrix product" in text
    assert "products/dot_general" in text


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("loop_convert_fusion_3", "elementwise"),
        ("cudnn-conv-bw-filter.72", "convolution"),
        ("conv_general_dilated.3", "convolution"),
        ("reduce-precision.1", "elementwise"),
        ("input_reduce_fusion_7", "reduction"),
        ("all-gather-start.1", "between devices"),
        ("gather_fusion", "look-up or scatter"),
        ("gemm_fusion_dot.270", "matrix product"),
        ("wrapped_concatenate.38", "copy or transpose"),
    ],
)
def test_kinds_of_operations(name, kind):
    assert profile_table.kind_of(name) == kind


HLO = """
ENTRY %main (p: f32[8,16]) -> f32[8,16] {
  %a = f32[8,16]{1,0} all-reduce(%p), replica_groups={}
  %b = (bf16[2,16]{1,0}, bf16[16,16]{1,0}) all-gather-start(%q), dimensions={0}
  ROOT %c = f32[1,16]{1,0} reduce-scatter(%a), dimensions={0}
  %d = f32[3]{0} gather(%a, %i)
  %e = f32[3]{0} copy(%d)
}
"""


def test_what_a_program_for_tpus_sends():
    """All-reduce passes an array twice, reduce-scatter as much as the all-gather of its result."""

    class Program:
        def memory_analysis(self):
            return types.SimpleNamespace(argument_size_in_bytes=1, temp_size_in_bytes=2)

        def cost_analysis(self):
            return {"flops": 5.0, "bytes accessed": 1e9}

        def as_text(self):
            return HLO

    row = tpu_programs.read_program(Program())
    assert row["collectives"] == {
        "all-reduce": {"f32": 512, "count": 1},
        "all-gather": {"bf16": 512, "count": 1},
        "reduce-scatter": {"f32": 64, "count": 1},
    }
    assert (row["gathers"], row["copies"]) == (1, 1)
    peak = tpu_programs.Peak(1e12, 1e12, 1e9)
    ms = tpu_programs.roofline(row | {"matrix flops by hand": 3e9}, 8, peak)
    assert ms["collectives"] == pytest.approx(1e-6 * (2 * 512 + 512 + 8 * 64) * 7 / 8)
    assert ms["arithmetic"] == pytest.approx(3)
    assert ms["memory"] == pytest.approx(1)
    assert ms["estimate"] == pytest.approx(3 + ms["collectives"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["training", "generation", "distillation"])
def test_programs_for_tpus(name):
    """The tiny network, compiled for eight chips in a process of its own."""
    pytest.importorskip("libtpu")
    code = (
        "from benchmarks import tpu_programs as t; import json;"
        f"print(json.dumps(t.measure({name!r}, 'tiny', 'v5e:2x4', False, 2)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["chips"] == 8
    assert 0 < row["argument bytes"] < 1e9
    assert ("all-reduce" in row["collectives"]) == (name != "generation")
    assert row["milliseconds"]["estimate"] > 0


@pytest.mark.long
def test_compile_time():
    network = kacjax.models.MLP(2, width=8, depth=1, classes=3, rngs=nnx.Rngs(0))
    rows = compile_time.measure_pair(network, (2,), 4)
    assert list(rows)[::2] == ["fit", "generate"]
    assert all(min(row.values()) > 0 for row in rows.values())


@pytest.mark.parametrize("steps_per_call", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_train_speed(results, steps_per_call):
    size = kacjax.models.unet_size("tiny") | {"channels": 4, "multipliers": (1, 2)}
    model = kacjax.models.UNet((8, 8, 1), rngs=nnx.Rngs(0), **size)
    ours = train_speed.JaxTraining(
        model, 2, {"xla_cpu_enable_fast_math": False}, steps_per_call=steps_per_call
    )
    row = train_speed.measure_batch(ours, 2, steps=4, turns=2)
    assert int(ours.state.step) == 10
    assert len(row["images per second"]["kacjax"]) == 2
    assert "torch" not in row
    # The optimizer, for one, adds to three times the forward pass by hand.
    assert row["step flops per image, XLA"] > unet_flops.forward_flops(model.config)
    train_speed.write_size("a", row)
    file = train_speed.write_size("b", row)
    assert file.parent == results
    assert '"a"' in file.read_text()


def test_options_of_the_compiler():
    assert train_speed.read_option("a=true") == ("a", True)
    assert train_speed.read_option("a=4") == ("a", 4)
    assert train_speed.read_option("a=FUSION,CUBLAS") == ("a", "FUSION,CUBLAS")
    with pytest.raises(Exception, match="NAME=VALUE"):
        train_speed.read_option("a")


@pytest.mark.slow
def test_every_stage_of_the_accelerator_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["accelerator", "--dry-run", "--minutes", "20", "--out", str(tmp_path)]
    )
    assert accelerator.main() == 0
    report = json.loads((tmp_path / "accelerator.json").read_text())
    states = {entry["stage"]: entry["status"] for entry in report["stages"]}
    data = "status 0" if os.environ.get("KACJAX_DATA") else "no data"
    assert (states["law"], states["noise"], states["train"]) == ("status 0",) * 3
    assert states["mnist"] == data
    assert "images/s at 2" in capsys.readouterr().out


def test_a_stage_that_takes_too_long_is_stopped_and_said(tmp_path):
    def stage(*command):
        return accelerator.Stage(
            "one", list(command), [], 1, lambda result: result["best"], "*.json"
        )

    code = "import sys, time; print('begun', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code]
    entry = accelerator.run_stage(stage(*command), command, 1.0, tmp_path)
    assert entry["status"] == "stopped after 1 s"
    assert entry["seconds"] < 30
    (tmp_path / "found.json").write_text('{"best": "3 images/s"}')
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    entry = accelerator.run_stage(stage(*command), command, 60.0, tmp_path)
    assert (entry["status"], entry["headline"]) == ("status 3", "3 images/s")
    (tmp_path / "found.json").write_text("{}")
    entry = accelerator.run_stage(stage(*command), command, 60.0, tmp_path)
    assert "no headline: KeyError('best')" in entry["headline"]


def test_stages_are_named(monkeypatch, tmp_path, capsys):
    argv = ["accelerator", "--stages", "warp", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit, match="2"):
        accelerator.main()
    assert "--stages must be among law, noise, train" in capsys.readouterr().err
