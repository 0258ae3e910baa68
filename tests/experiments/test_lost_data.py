"""Nothing that a run has made is lost, whatever becomes of disks, signals, streams and flags."""

import contextlib
import errno
import gc
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kacjax
from experiments import __main__ as everything
from experiments import gallery, generate, hosts, runs, train
from experiments.command import STOPPED
from experiments.datasets.vectors import Arrays
from experiments.defaults import DEFAULTS
from kacjax.checkpoints import Checkpoints, manager
from kacjax.export import load_notes
from tests.experiments.small_runs import (
    Killed,
    arguments,
    at_step,
    environment,
    fails,
    interrupted,
    kill,
    outcome,
    state_of,
)

pytestmark = pytest.mark.long

# All that a later command reads, but for the lock.
READ = ("config.json", "metrics.jsonl", "velocity.safetensors", "samples.npy", "metrics.json")


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def copy_of(run, tmp_path):
    return shutil.copytree(run.out, tmp_path / "run")


def contents(folder):
    return {name: (folder / name).read_bytes() for name in READ if (folder / name).exists()}


def checkpoints_of(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


# Disks.


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk):
    """Leaves no byte on the disk."""
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", 0) as file:
        while True:
            file.write(bytes(2**16))
    assert shutil.disk_usage(disk).free == 0


def fill_at_step(step):
    def wait_and_fill(disk):
        # Checkpoints are written, and older ones removed, in the background.
        wanted = [str(saved) for saved in range(3, step + 1, 3)][-2:]
        for _ in range(1000):
            if checkpoints_of(disk / "run") == wanted:
                break
            time.sleep(0.02)
        fill(disk)

    return lambda disk, patch: at_step(step, lambda state: wait_and_fill(disk))


def fill_before_samples(disk, patch):
    original = train._draw

    def draw(*given):
        found = original(*given)
        fill(disk)
        return found

    patch.setattr(train, "_draw", draw)
    return patch.context()


@pytest.mark.parametrize(
    ("moment", "left"),
    [
        (fill_at_step(4), ["config.json", "metrics.jsonl", "checkpoints/3"]),
        slow(fill_at_step(0), ["config.json"]),
        slow(fill_at_step(9), ["config.json", "metrics.jsonl", "checkpoints/9"]),
        (fill_before_samples, ["metrics.jsonl", "velocity.safetensors", "checkpoints/10"]),
    ],
)
def test_a_full_disk(moment, left, arrays, disk, monkeypatch, capsys):
    out = disk / "run"
    with monkeypatch.context() as patch, moment(disk, patch):
        line = fails(capsys, train, arguments(arrays.source, out), "No space left on device")
    # What is left of failed writes complains as it goes, which is not to be in the middle of parsing.
    gc.collect()
    assert line.startswith("error: cannot write ")
    assert f"{out}" in line
    assert [name for name in left if not (out / name).exists()] == []
    # Nothing is left half written that the next command could take for whole.
    assert all("tmp" in name for name in checkpoints_of(out) if not name.isdigit())
    assert not (out / "metrics.json").exists()
    (disk / "ballast").unlink()
    assert train.main(arguments(arrays.source, out, "--resume")) == 0
    assert outcome(out) == outcome(arrays.out)
    assert checkpoints_of(out) == ["10", "9"]


def test_a_disk_that_is_full_from_the_start(arrays, disk, capsys):
    fill(disk)
    words = "cannot write ", "No space left on device"
    fails(capsys, train, arguments(arrays.source, disk / "run"), *words)
    (disk / "ballast").unlink()
    # What is left is no run yet: the same command begins it.
    with pytest.raises(KeyboardInterrupt), at_step(0, _interrupt):
        train.train(_config(arrays, disk / "run"))
    assert (disk / "run" / "config.json").exists()


def _interrupt(state):
    raise KeyboardInterrupt


def _config(run, out):
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train", lambda config, command: found.append(config) or True)
        train.main(arguments(run.source, out))
    return found[0]


def test_a_mount_point_is_a_folder_as_any(arrays, disk):
    assert train.main(arguments(arrays.source, disk)) == 0
    assert outcome(disk) == outcome(arrays.out)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files that it cannot read")
def test_checkpoints_that_cannot_be_read_are_not_damaged(arrays, capsys):
    """Those of another user."""
    original = Checkpoints.restore

    def restore(self, like):
        os.seteuid(65534)
        try:
            return original(self, like)
        finally:
            os.seteuid(0)

    # Not below the folder of pytest, which nobody else may enter.
    with tempfile.TemporaryDirectory() as base:
        out = shutil.copytree(arrays.out, Path(base, "run"))
        os.chmod(base, 0o755)
        for path in (out, *out.rglob("*")):
            os.chown(path, 65534, 65534)
        file = out / "checkpoints" / "10" / "digests.json"
        os.chown(file, 0, 0)
        os.chmod(file, 0)
        before = contents(out)
        argv = arguments(arrays.source, out, "--resume")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Checkpoints, "restore", restore)
            fails(capsys, train, argv, f"Permission denied: {file}")
        assert checkpoints_of(out) == ["10", "9"]
        assert contents(out) == before
        os.chmod(file, 0o444)
        assert train.main(argv) == 0
        assert outcome(out) == outcome(arrays.out)


def test_checkpoints_that_the_disk_does_not_give_are_not_damaged(
    arrays, tmp_path, capsys, monkeypatch
):
    out = copy_of(arrays, tmp_path)
    before = contents(out)

    def fail(folder):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder))

    monkeypatch.setattr(manager, "find_damage", fail)
    fails(capsys, train, arguments(arrays.source, out, "--resume"), "Input/output error")
    assert checkpoints_of(out) == ["10", "9"]
    assert contents(out) == before


@pytest.mark.parametrize("damage", ["damaged", "removed"])
def test_a_run_whose_checkpoints_are_all_gone_is_not_begun_anew(damage, arrays, tmp_path, capsys):
    out = copy_of(arrays, tmp_path)
    for number in ("9", "10"):
        if damage == "removed":
            shutil.rmtree(out / "checkpoints" / number)
        else:
            os.truncate(out / "checkpoints" / number / "digests.json", 10)
    before = contents(out)
    # And not the second time either.
    for _ in range(2):
        words = "none of them is whole", "Begin anew: delete it, or train with --overwrite"
        fails(capsys, train, arguments(arrays.source, out, "--resume"), *words)
        assert contents(out) == before
    if damage == "damaged":
        assert checkpoints_of(out) == ["damaged-10", "damaged-9"]


# Folders.


@pytest.mark.parametrize("kind", ["arrays", slow("images")])
def test_a_folder_at_work_is_refused(kind, request, tmp_path, capsys):
    run = request.getfixturevalue(kind)
    out = copy_of(run, tmp_path)
    with runs.locked(out):
        before = state_of(out)
        for flag in ("--resume", "--overwrite"):
            said = f"process {os.getpid()} on ", f" is training in {out}."
            fails(capsys, train, arguments(run.source, out, flag), *said)
            assert state_of(out) == before


def test_a_lock_is_not_passed_over_by_an_error_of_those_who_wait(tmp_path):
    def waiting(other):
        raise BrokenPipeError

    with runs.locked(tmp_path), pytest.raises(BrokenPipeError), runs.locked(tmp_path, waiting):
        raise AssertionError("the folder is at work")


def test_what_would_be_lost_is_refused(arrays, tmp_path, capsys):
    finished = "a finished run: go on with it by --resume, replace it with --overwrite"
    fails(capsys, train, arguments(arrays.source, arrays.out), finished)
    fails(capsys, train, ["moons", "--out", arrays.out], finished)
    fails(capsys, train, ["moons", "--out", arrays.out, "--resume"], 'data set was "arrays"')
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    for flags in ([], ["--overwrite"], ["--resume"]):
        fails(capsys, train, ["moons", "--out", foreign, *flags], "files that are not a run")
        fails(capsys, train, ["moons", "--out", foreign / "thesis.tex", *flags], "is a file")
        fails(capsys, train, ["moons", "--out", foreign / "thesis.tex" / "run", *flags], "thesis")
    assert (foreign / "thesis.tex").read_text() == "years of work"
    assert [path.name for path in tmp_path.rglob("*")] == ["foreign", "thesis.tex"]


def test_the_folder_is_looked_at_first(tmp_path, monkeypatch, capsys):
    """Before anything of the data, and `.` as any folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "make_dataset", None)
    (tmp_path / "thesis.tex").write_text("years of work")
    for flags in ([], ["--overwrite"], ["--resume"]):
        fails(capsys, train, ["moons", "--out", ".", *flags], "files that are not a run")


@pytest.mark.parametrize("where", [".", "link", slow("home")])
def test_unusual_names_of_folders(where, arrays, tmp_path, monkeypatch):
    """The folder itself; a link to nowhere; the home folder."""
    work, target = tmp_path / "work", tmp_path / "target"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(target))
    if where == "link":
        (work / "link").symlink_to(target / "run")
    name = {"home": "~/run"}.get(where, where)
    out = work if where == "." else target / "run"
    assert train.main(arguments(arrays.source, name)) == 0
    assert outcome(out) == outcome(arrays.out)
    assert [path.name for path in work.iterdir() if where != "."] == ["link"] * (where == "link")
    # The link is the run, also for those who look at it.
    assert train.main(arguments(arrays.source, name, "--resume")) == 0


def test_flags_that_make_no_sense_keep_what_overwrite_would_replace(images, capsys):
    for flags in ("--batch-size 9 --accumulate 2", "--attention 5", "--data /nowhere"):
        argv = [*arguments(images.source, images.out, "--overwrite"), *flags.split()]
        fails(capsys, train, argv)


def test_overwrite_replaces_a_run_and_keeps_other_files(tmp_path):
    out = tmp_path / "run"
    first, second = DEFAULTS["moons"][1], DEFAULTS["grid2d"][1]
    with runs.open_run(out, first):
        for name in ("zoom.png", ".saved"):
            (out / name).touch()
        (out / "checkpoints" / "3").mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    with runs.open_run(out, _with(second, overwrite=True)):
        assert runs.load_config(out).data == "grid2d"
    names = {path.name for path in out.iterdir()}
    assert names - {".lock"} == {"config.json", "notes.txt"}
    assert (out / "notes.txt").read_text() == "mine"


def _with(config, **changes):
    return type(config)(**{**vars(config), **changes})


@pytest.mark.slow
def test_overwrite_begins_anew(arrays, tmp_path):
    out = tmp_path / "run"
    interrupted(arrays.source, out, 7, "--seed", 1)
    assert train.main(arguments(arrays.source, out, "--overwrite")) == 0
    assert outcome(out) == outcome(arrays.out)


def test_a_command_after_a_kill_is_told_of_resume(arrays, tmp_path, capsys):
    out = tmp_path / "run"
    interrupted(arrays.source, out, 4)
    said = "a run that is not finished: go on with it by --resume"
    fails(capsys, train, arguments(arrays.source, out), said)


# Flags.


def test_a_refused_resume_leaves_the_run_as_it_is(arrays, tmp_path, capsys):
    out = copy_of(arrays, tmp_path)
    # Not as it would be written.
    text = json.dumps(json.loads((out / "config.json").read_text()))
    (out / "config.json").write_text(text)
    before = contents(out)
    other = tmp_path / "flowers.csv"
    other.write_text(arrays.source.read_text().replace("rose", "tulip"))
    for source, flags, said in (
        (arrays.source, ["--a", "4"], "--a was 9.0, is 4.0"),
        (arrays.source, ["--steps", "9"], "--steps was 10, is 9"),
        (other, ["--num-samples", "3"], "these are not the data with which"),
    ):
        fails(capsys, train, arguments(source, out, "--resume", *flags), said)
        assert contents(out) == before
        assert checkpoints_of(out) == ["10", "9"]


def test_results_of_earlier_steps_go_with_the_first_new_one(arrays, tmp_path, capsys):
    out, more = copy_of(arrays, tmp_path), ["--resume", "--steps", 30]
    results = {path.name for path in out.glob("*.png")} | {"metrics.json", "samples.npy"}
    # Nothing is lost before that.
    with at_step(10, kill), pytest.raises(Killed):
        train.main(arguments(arrays.source, out, *more))
    assert results <= {path.name for path in out.iterdir()}
    with at_step(11, kill), pytest.raises(Killed):
        train.main(arguments(arrays.source, out, *more))
    assert not results & {path.name for path in out.iterdir()}
    fails(capsys, train, arguments(arrays.source, out), "a run that is not finished")
    fails(capsys, gallery, ["--runs", out], "metrics.json")


def test_a_byte_order_mark_is_no_damage(arrays, tmp_path, capsys):
    out = copy_of(arrays, tmp_path)
    text = (out / "config.json").read_text()
    (out / "config.json").write_text(text, encoding="utf-8-sig")
    assert train.main(arguments(arrays.source, out, "--resume")) == 0
    assert outcome(out) == outcome(arrays.out)


# What comes after the training.


def out_of_memory(*given, **options):
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")


def refuse(*given, **options):
    raise ValueError("the solver has reached its limit.")


@pytest.mark.parametrize(
    ("where", "name", "failure", "said"),
    [
        (kacjax, "generate", refuse, "the solver has reached its limit."),
        (kacjax, "generate", out_of_memory, "out of memory: RESOURCE_EXHAUSTED"),
        (Arrays, "quality", refuse, "the samples cannot be judged: the solver has reached"),
    ],
)
def test_a_network_stays_whatever_comes_after_it(
    where, name, failure, said, arrays, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(where, name, failure)
        fails(capsys, train, arguments(arrays.source, out), said)
    network = "velocity.safetensors"
    assert (out / network).read_bytes() == (arrays.out / network).read_bytes()
    assert (out / "samples.npy").exists() == (name == "quality")
    assert not (out / "metrics.json").exists()
    assert checkpoints_of(out) == ["10", "9"]
    assert train.main(arguments(arrays.source, out, "--resume")) == 0
    assert outcome(out) == outcome(arrays.out)


def test_a_network_of_nan_is_named(arrays, tmp_path, capsys):
    velocity = kacjax.load_velocity(arrays.out)
    broken = jax.tree.map(
        lambda x: (
            x * jnp.nan if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating) else x
        ),
        velocity,
    )
    kacjax.save_velocity(tmp_path / "nan.safetensors", broken, load_notes(arrays.out))
    argv = ["--run", tmp_path / "nan.safetensors", "--out", tmp_path / "x.npy"]
    said = "the network holds numbers that are not finite"
    fails(capsys, generate, [*argv, "--solver-steps", "2"], said)
    assert not (tmp_path / "x.npy").exists()


# Signals.


@pytest.mark.parametrize(
    ("kind", "number", "step"),
    [
        ("arrays", signal.SIGTERM, 4),
        ("arrays", signal.SIGHUP, 4),
        # The last call: what comes after it is left to the next command.
        ("arrays", signal.SIGUSR1, 9),
        slow("arrays", signal.SIGINT, 4),
        slow("images", signal.SIGTERM, 4),
    ],
)
def test_signals_save_and_say_how_to_go_on(kind, number, step, request, tmp_path, capfd):
    run, out = request.getfixturevalue(kind), tmp_path / "a run"
    with at_step(step, lambda state: signal.raise_signal(number)):
        assert train.main(arguments(run.source, out)) == STOPPED == 75
    printed = capfd.readouterr()
    assert "stopping after this call" in printed.err
    *_, said, command = printed.out.splitlines()
    saved = checkpoints_of(out)[0 if step == 9 else -1]
    assert said == f"stopped at step {saved}; to go on:"
    assert not (out / "metrics.json").exists()
    assert shlex.split(command)[:3] == ["python", "-m", "experiments.train"]
    assert train.main(shlex.split(command)[3:]) == 0
    assert outcome(out) == outcome(run.out)


def test_a_second_signal_stops_at_once(arrays, tmp_path, capfd):
    def twice(state):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with at_step(4, twice):
        assert train.main(arguments(arrays.source, tmp_path / "run")) == 130
    assert "--resume goes on from the newest checkpoint" in capfd.readouterr().err


def test_a_terminal_that_ends_may_say_so_twice(capfd):
    with hosts.StopSignals() as stop:
        for _ in range(3):
            signal.raise_signal(signal.SIGHUP)
        assert stop.asked
    assert capfd.readouterr().err.count("stopping after this call") == 3


def test_signals_after_the_last_checkpoint_act_as_usual(arrays, tmp_path, capfd, monkeypatch):
    """On a finished run, which has only its samples to draw."""
    out = copy_of(arrays, tmp_path)

    def finish(session):
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train, "finish", finish)
    # Shells start background jobs with SIGINT ignored, and these tests with them.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert train.main(arguments(arrays.source, out, "--resume")) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    said = capfd.readouterr().err
    assert "--resume goes on from the newest checkpoint" in said
    assert "stopping after" not in said


# Streams.


def full():
    return open("/dev/full", "w", buffering=1)


def dead():
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", buffering=1)


def closed():
    stream = dead()
    try:
        stream.close()
    finally:
        return stream  # noqa: B012


@pytest.mark.parametrize("stream", [full, dead, slow(closed), slow(lambda: None)])
def test_standard_error_that_breaks_does_not_end_a_run(stream, arrays, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream())
        # All that a run may say: progress, and a checkpoint that is passed over.
        patch.setattr("experiments.log._LINES", 0)
        interrupted(arrays.source, out, 7)
        os.truncate(out / "checkpoints" / "6" / "digests.json", 10)
        assert train.main(arguments(arrays.source, out, "--resume")) == 0
    assert outcome(out) == outcome(arrays.out)


@pytest.mark.parametrize(
    ("stream", "status", "said"),
    [
        (dead, 1, ""),
        (full, 2, "error: cannot print: No space left on device.\n"),
        (lambda: None, 0, ""),
    ],
)
def test_standard_output_that_breaks_is_a_line_at_most(
    stream, status, said, arrays, tmp_path, monkeypatch, capsys
):
    argv = ["--runs", str(arrays.out), "--out", str(tmp_path)]
    for command, flags in ((gallery, argv), (everything, [])):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream())
            assert command.main(flags) == status
        assert capsys.readouterr().err == said


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2> >(true)", ">/dev/full 2>&1"])
def test_streams_that_the_shell_breaks(redirection, arrays, shared, tmp_path):
    out = tmp_path / "run"
    argv = shlex.join(arguments(arrays.source, out))
    command = f"{shlex.quote(sys.executable)} -m experiments.train {argv} {redirection}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, env=environment(shared / "processes")
    )
    assert done.returncode == (2 if redirection.startswith(">") else 0)
    assert outcome(out)[0] == outcome(arrays.out)[0]
    assert np.load(out / "samples.npy").shape == (20, 3)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["", ".train digits --help", ".process --a 4 --out {}"])
def test_a_pipe_that_nobody_reads_is_no_error(command, tmp_path):
    flags = command.format(shlex.quote(str(tmp_path)))
    line = f"{shlex.quote(sys.executable)} -m experiments{flags} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
