"""Checkpoints come back bit for bit, on any devices; damaged ones are named and passed over."""

import errno
import os
import pathlib
import shutil
import stat
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kacjax.checkpoints import Checkpoints, manager


def state_of(step):
    key = jax.random.fold_in(jax.random.key(5), step)
    return {
        "network": [jax.random.normal(key, (40, 50)), jnp.zeros((0, 7))],
        "step": jnp.asarray(step),
        "key": key,
        "other": jax.random.key(step, impl="rbg"),
    }


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of the steps 1, 2, 3."""
    with Checkpoints(tmp_path / "deep" / "checkpoints") as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state_of(step), {"data": {"position": step}})
    return tmp_path / "deep" / "checkpoints"


@pytest.mark.long
def test_newest_comes_back(folder):
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state_of(0))
    for like in (state_of(0), abstract):
        with Checkpoints(folder) as checkpoints:
            step, state, description = checkpoints.restore(like)
        assert step == 3
        assert description == {"data": {"position": 3}}
        same(state, state_of(3))


def test_what_comes_back_is_bound_to_no_device(folder):
    """So that it meets the program that what was saved has met, and no other one is compiled."""
    with Checkpoints(folder) as checkpoints:
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state_of(0))
        free, bound = (checkpoints.restore(each).state for each in (like, state_of(0)))
    assert not any(leaf.committed for leaf in jax.tree.leaves(free))
    assert all(leaf.committed for leaf in jax.tree.leaves(bound))


def test_folders_are_as_readable_as_any(folder):
    mask = os.umask(0)
    os.umask(mask)
    for path in (folder, folder / "3", *(p for p in (folder / "3").rglob("*") if p.is_dir())):
        assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~mask


def test_empty_folder_holds_nothing(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == []
        assert checkpoints.restore(state_of(0)) is None


def test_keeps_the_last_and_every_mth(tmp_path):
    with Checkpoints(tmp_path, keep=2, keep_every=4) as checkpoints:
        for step in range(1, 11):
            checkpoints.save(step, {"x": jnp.ones(2)}, {})
        checkpoints.save(10, {"x": jnp.zeros(2)}, {})
        checkpoints.wait()
        assert checkpoints.steps() == [4, 8, 9, 10]
        assert checkpoints.restore({"x": jnp.ones(2)}).state["x"][0] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "4", "8", "9"]


def test_earlier_steps_are_refused(folder, monkeypatch):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(7, state_of(7), {})
        with pytest.raises(ValueError, match=r"step must be above 7, .*checkpoints, got 5\."):
            checkpoints.save(5, state_of(5), {})
        assert checkpoints.steps() == [2, 3, 7]
        monkeypatch.setattr(checkpoints._manager, "save", lambda *args, **options: False)
        with pytest.raises(RuntimeError, match=r"did not save .*checkpoints/8"):
            checkpoints.save(8, state_of(8), {})


def test_one_name_for_two_arrays_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for state in ({"a.b": jnp.ones(1), "a": {"b": jnp.zeros(1)}}, {"": 1, "value": 2}):
            with pytest.raises(ValueError, match=r"two arrays of the state have the name"):
                checkpoints.save(1, state, {})
        assert checkpoints.steps() == []


def largest(step):
    """The file with most of the arrays' bytes."""
    files = [path for path in step.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def folder_for(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "truncated": lambda step: os.truncate(largest(step), largest(step).stat().st_size // 2),
    "deleted": lambda step: largest(step).unlink(),
    "flipped bit": lambda step: flip(largest(step)),
    "description": lambda step: flip(step / "contents" / "metadata"),
    "digests": lambda step: flip(step / "digests.json"),
    "no digests": lambda step: (step / "digests.json").unlink(),
    "deep digests": lambda step: (step / "digests.json").write_text("[" * 100_000),
    "a folder for a file": lambda step: folder_for(largest(step)),
    "no digests left": lambda step: (step / "digests.json").write_text("[]"),
    "emptied": lambda step: [path.unlink() for path in step.rglob("*") if path.is_file()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_is_named_and_the_one_before_used(damage, folder):
    DAMAGES[damage](folder / "3")
    with Checkpoints(folder) as checkpoints:
        with pytest.warns(UserWarning, match=r"checkpoints/3 is damaged: \S.*") as warned:
            step, state, description = checkpoints.restore(state_of(0))
        assert len(warned) == 1
        assert (step, description) == (2, {"data": {"position": 2}})
        same(state, state_of(2))
        # The run goes on and saves at that step again.
        checkpoints.save(3, state_of(30), {})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2, 3]
        same(checkpoints.restore(state_of(0)).state, state_of(30))
    assert (folder / "damaged-3").is_dir()


def test_steps_are_those_on_the_disk_when_reading_fails(folder):
    flip(largest(folder / "3"))
    with Checkpoints(folder) as checkpoints:
        with (
            pytest.warns(UserWarning, match="3 is damaged"),
            pytest.raises(ValueError, match="2 holds another state"),
        ):
            checkpoints.restore({"x": jnp.ones(2)})
        assert checkpoints.steps() == [1, 2]


CONTENTS = {
    "no arrays": lambda step: shutil.rmtree(step / "state"),
    "no description": lambda step: shutil.rmtree(step / "contents"),
    "no file of the description": lambda step: (step / "contents" / "metadata").unlink(),
    "empty description": lambda step: (step / "contents" / "metadata").write_text("{}"),
    "deep description": lambda step: (step / "contents" / "metadata").write_text("[" * 100_000),
}


@pytest.mark.parametrize("change", CONTENTS)
def test_forged_contents_whose_digests_fit_are_damage(change, folder):
    CONTENTS[change](folder / "3")
    (folder / "3" / "digests.json").unlink()
    manager.write_digests(folder / "3")
    with Checkpoints(folder) as checkpoints:
        with pytest.warns(UserWarning, match="checkpoints/3 is damaged: ."):
            assert checkpoints.restore(state_of(0)).step == 2
        assert checkpoints.steps() == [1, 2]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_what_cannot_be_read_is_an_error_and_stays(code, folder, monkeypatch):
    original, unreadable = pathlib.Path.open, largest(folder / "3")

    def fail(path, *args, **options):
        if path == unreadable:
            raise OSError(code, os.strerror(code), str(path))
        return original(path, *args, **options)

    with Checkpoints(folder) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(pathlib.Path, "open", fail)
            with pytest.raises(OSError, match=str(unreadable)) as raised:
                checkpoints.restore(state_of(0))
        assert raised.value.errno == code
        assert checkpoints.steps() == [1, 2, 3]
        same(checkpoints.restore(state_of(0)).state, state_of(3))


@pytest.mark.long
def test_importing_the_library_loads_no_orbax():
    program = "import sys, kacjax, kacjax.checkpoints; print('orbax.checkpoint' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_nothing_whole(folder):
    for step in (1, 2, 3):
        flip(folder / str(step) / "digests.json")
    with Checkpoints(folder) as checkpoints, pytest.warns(UserWarning, match="damaged") as warned:
        assert checkpoints.restore(state_of(0)) is None
    assert len(warned) == 3


# Orbax can do without these, and writes them after the digests.
@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "commit_success.txt"])
def test_orbax_own_notes_do_not_matter(name, folder):
    (folder / "3" / name).write_bytes(b"?")
    with Checkpoints(folder) as checkpoints:
        same(checkpoints.restore(state_of(0)).state, state_of(3))


def test_leftovers_of_a_killed_run_are_swept(folder):
    (folder / "4.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore(state_of(0)).step == 3
        checkpoints.save(4, state_of(4), {})
        checkpoints.wait()
        same(checkpoints.restore(state_of(0)).state, state_of(4))
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3", "4"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"step": jnp.zeros(2)},
            r"3 holds another state: step is int32\[\] there, and float32\[2\]",
        ),
        ({"more": jnp.zeros(2)}, r"more is missing there, and float32\[2\] is wanted"),
        ({"other": jax.random.key(0)}, r"other is key<rbg>\[\] there, and key<fry>\[\]"),
    ],
)
def test_another_structure_is_refused(change, message, folder):
    with Checkpoints(folder) as checkpoints, pytest.raises(ValueError, match=message):
        checkpoints.restore({**state_of(0), **change})
    assert (folder / "3").is_dir()


def test_description_must_be_json(folder):
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(TypeError):
            checkpoints.save(4, state_of(4), {"object": object()})
        assert checkpoints.steps() == [1, 2, 3]


@pytest.mark.parametrize("options", [{"keep": 0}, {"keep_every": 0}])
def test_bad_counts(options, tmp_path):
    with pytest.raises(ValueError, match=r"keep.* must be an integer of at least 1, got 0"):
        Checkpoints(tmp_path, **options)


def test_full_disk_leaves_the_old_ones_whole(folder, monkeypatch):
    def fail(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(manager, "write_digests", fail)
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(4, state_of(4), {})
    with pytest.raises(OSError, match=r"No space left on device.*checkpoints/4"):
        checkpoints.wait()
    assert checkpoints.steps() == [1, 2, 3]
    same(checkpoints.restore(state_of(0)).state, state_of(3))
    checkpoints.close()
    monkeypatch.undo()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "3"]
    with Checkpoints(folder) as checkpoints:
        same(checkpoints.restore(state_of(0)).state, state_of(3))


def test_what_tensorstore_says_of_a_full_disk(folder, monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device [os_error_code='28']")

    with Checkpoints(folder) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", fail)
        with pytest.raises(OSError, match="No space left on device") as raised:
            checkpoints.save(4, state_of(4), {})
    assert raised.value.errno == errno.ENOSPC


DEVICES = """
import jax, numpy as np, sys
from jax.sharding import NamedSharding, PartitionSpec as P
from kacjax.checkpoints import Checkpoints

split = NamedSharding(jax.make_mesh((len(jax.devices()),), ("fsdp",)), P("fsdp"))
state = {"w": jax.device_put(np.arange(80.0, dtype=np.float32).reshape(16, 5), split)}
with Checkpoints(sys.argv[1]) as checkpoints:
    found = checkpoints.restore(state)
    if found is not None:
        assert found.state["w"].sharding == split
        np.testing.assert_array_equal(found.state["w"], state["w"])
        checkpoints.save(found.step + 1, found.state, {})
    else:
        checkpoints.save(1, state, {})
print(len(jax.devices()), None if found is None else found.step)
"""


@pytest.mark.slow
def test_restores_on_another_number_of_devices(tmp_path):
    for count, expected in ((8, "8 None"), (1, "1 1"), (8, "8 2")):
        environment = {
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
            "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),
        }
        done = subprocess.run(
            [sys.executable, "-c", DEVICES, str(tmp_path / "checkpoints")],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == expected


def test_the_description_is_that_of_the_call(tmp_path):
    """It is written in the background, when the caller may have gone on with it."""
    description = {"sums": [1.0], "nested": {"steps": 1}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": jnp.ones(2)}, description)
        description["sums"].append(2.0)
        description["nested"]["steps"] = 2
        checkpoints.wait()
        found = checkpoints.restore({"w": jnp.ones(2)})
    assert found.description == {"sums": [1.0], "nested": {"steps": 1}}
