"""Checkpoints of a training run, by Orbax: written aside, made whole at once, checked when read.

Each holds the digest of every file, written before Orbax moves the checkpoint to its name.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from kacjax._validation import check_count

_DIGESTS = "digests.json"
# Orbax writes these after the digests; it does without them.
_WRITTEN_LATER = {"_CHECKPOINT_METADATA", "commit_success.txt"}


class Checkpoint(NamedTuple):
    """A saved step, its state and the description saved beside it, from `Checkpoints.restore`."""

    step: int
    state: Any
    description: dict[str, Any]


class Checkpoints(contextlib.AbstractContextManager[Any]):
    """The checkpoints of one run, written in the background; all processes call every method.

    Args:
        folder: Where they lie; made if missing. One run at a time writes there.
        keep: How many of the newest are kept. With more than one there is another to fall back to.
        keep_every: Those of every step that is a multiple of this are kept too.

    Raises:
        ValueError: If `keep` or `keep_every` is not a positive integer.
        OSError: If the folder cannot be made.

    Example:
        >>> with kacjax.checkpoints.Checkpoints("checkpoints") as checkpoints:
        ...     checkpoints.save(5, {"w": jnp.ones(2)}, {"data": "moons"})
        ...     checkpoints.wait()
        ...     step, state, description = checkpoints.restore({"w": jnp.zeros(2)})
        >>> step, state["w"].tolist(), description
        (5, [1.0, 1.0], {'data': 'moons'})
    """

    def __init__(self, folder: str | pathlib.Path, *, keep: int = 3, keep_every: int | None = None):
        # Here, so that `import kacjax` does not load it.
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers

        check_count("keep", keep)
        policies: list[Any] = [checkpoint_managers.LatestN(keep)]
        if keep_every is not None:
            check_count("keep_every", keep_every)
            policies.append(checkpoint_managers.EveryNSteps(keep_every))
        self.folder: pathlib.Path = pathlib.Path(folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._args = ocp.args
        self._saving: int | None = None
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
            save_root_metadata=False,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._before_commit),
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        # An error on its way out says more than another of closing.
        with contextlib.suppress(*([Exception] if kind else [])):
            self.close()

    def steps(self) -> list[int]:
        """The steps that were saved, rising."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, description: dict[str, Any]) -> None:
        """Begins to save, once the checkpoint before is written; one of this step stays as it is.

        Args:
            step: Number of the checkpoint, above those of all others.
            state: Pytree of arrays, also of random keys and of arrays without elements.
            description: Anything that JSON can hold.

        Raises:
            TypeError, ValueError: If the description is no JSON, there is a later checkpoint, or
                two arrays of the state have one name.
            OSError: If this or the checkpoint before cannot be written; all others are whole.
        """
        named, args = named_leaves(state), self._args
        # A copy, because it is written after this call has returned.
        contents = json.loads(json.dumps({"description": description, "arrays": _describe(named)}))
        self.wait()
        steps = self.steps()
        if step in steps:
            return
        if steps and step < steps[-1]:
            latest = f"{steps[-1]}, the latest saved in {self.folder}"
            raise ValueError(f"step must be above {latest}, got {step}.")
        both = {"state": args.StandardSave(_stored(named)), "contents": args.JsonSave(contents)}
        self._saving = step
        with self._system_errors():
            if not self._manager.save(step, args=args.Composite(**both)):
                raise RuntimeError(f"Orbax did not save the checkpoint {self.folder / str(step)}.")

    def wait(self) -> None:
        """Waits until everything is written; raises an `OSError` as `save` does."""
        if self._saving is not None:
            with self._system_errors():
                self._manager.wait_until_finished()
            self._saving = None

    def close(self) -> None:
        """Waits, and ends Orbax's threads; raises an `OSError` as `save` does."""
        self.wait()
        self._manager.close()

    def restore(self, like: Any) -> Checkpoint | None:
        """Reads the newest whole checkpoint, or nothing if there is none.

        Newer ones that are not whole are named in a warning and renamed to `damaged-STEP`.

        Args:
            like: Pytree of arrays or `jax.ShapeDtypeStruct`, of the structure that was saved. The
                result lies on devices as these do; what says nothing of them, on the default one.

        Raises:
            ValueError: If the newest whole checkpoint has another structure.
            OSError: If the system cannot read a file that is there: that is no damage.
        """
        try:
            for step in reversed(self.steps()):
                where = self.folder / str(step)
                try:
                    self._check_files(where)
                    return self._read(step, like)
                except (LookupError, RecursionError, FileNotFoundError) as error:
                    warnings.warn(f"checkpoint {where} is damaged: {error}", stacklevel=2)
                    self._set_aside(where)
            return None
        finally:
            # Also when reading fails: what was set aside is no checkpoint any more.
            self._manager.reload()

    def _read(self, step: int, like: Any) -> Checkpoint:
        args, wanted = self._args, {}
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        for name, leaf in named_leaves(like).items():
            sharding = getattr(leaf, "sharding", None) or first
            wanted[name] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        contents = self._manager.restore(step, args=args.Composite(contents=args.JsonRestore()))
        description, saved = (contents["contents"][name] for name in ("description", "arrays"))
        # Compared first: Orbax reports another shape from many threads, and casts types.
        check_same(self.folder / str(step), saved, _describe(wanted))
        state = args.StandardRestore(_stored(wanted))
        arrays = self._manager.restore(step, args=args.Composite(state=state))["state"]
        for name, leaf in wanted.items():
            if not leaf.size:
                bits = to_bits(leaf)
                arrays[name] = jnp.zeros(bits.shape, bits.dtype, device=bits.sharding)
        for name, leaf in named_leaves(like).items():
            if getattr(leaf, "sharding", None) is None:
                # Not bound to a device, as what was saved was not: a program compiled for arrays that
                # are may round otherwise, and a run would not go on bit for bit.
                arrays[name] = jnp.array(np.asarray(arrays[name]))
        leaves = [from_bits(arrays[name], leaf) for name, leaf in wanted.items()]
        return Checkpoint(step, jax.tree.unflatten(jax.tree.structure(like), leaves), description)

    def _before_commit(self) -> None:  # Called in the background, when all files are there.
        write_digests(*self._temporary())

    def _temporary(self) -> list[pathlib.Path]:
        return list(self.folder.glob(f"{self._saving}.orbax-checkpoint-tmp*"))

    def _check_files(self, where: pathlib.Path) -> None:
        """Raises on all processes what is wrong with the files, as the first one sees it."""
        code, reason = 0, ""
        if jax.process_index() == 0:
            try:
                reason = find_damage(where)
            except OSError as error:
                code, reason = error.errno or errno.EIO, str(error.filename)
        text = np.frombuffer(reason.encode()[:300].ljust(300, b"\0"), np.uint8)
        code, text = multihost_utils.broadcast_one_to_all((np.int32(code), text))
        reason = bytes(np.asarray(text)).rstrip(b"\0").decode(errors="replace")
        if code:
            raise OSError(int(code), os.strerror(int(code)), reason)
        if reason:
            raise LookupError(reason)

    def _set_aside(self, where: pathlib.Path) -> None:
        aside = where.with_name(f"damaged-{where.name}")
        if jax.process_index() == 0:
            shutil.rmtree(aside, ignore_errors=True)
            where.rename(aside)
        multihost_utils.sync_global_devices(aside.name)

    @contextlib.contextmanager
    def _system_errors(self) -> Iterator[None]:
        """Turns what Orbax and TensorStore say of the system's errors into an `OSError`."""
        try:
            yield
        except Exception as error:
            for temporary in self._temporary():
                shutil.rmtree(temporary, ignore_errors=True)
            where, self._saving = self.folder / str(self._saving), None
            # Orbax has struck off the old ones already that this one would have replaced.
            with contextlib.suppress(OSError):
                self._manager.reload()
            # TensorStore has the system's number of an error in its text only.
            number = re.search(r"os_error_code='(\d+)'", str(error))
            code = error.errno if isinstance(error, OSError) else number and int(number[1])
            if code is None:
                raise
            raise OSError(code, os.strerror(code), str(where)) from error


def write_digests(folder: pathlib.Path) -> None:
    """Writes the digest of every file in the folder into one more file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): _digest(path) for path in files}
    (folder / _DIGESTS).write_text(json.dumps(digests))


def find_damage(folder: pathlib.Path) -> str:
    """What is wrong with the files that were there at `write_digests`; empty if nothing is."""
    try:
        digests = json.loads((folder / _DIGESTS).read_text())
        for name in digests.keys() - _WRITTEN_LATER:
            if _digest(folder / name) != digests[name]:
                return f"{name} is not what was written"
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        return f"{pathlib.Path(error.filename).relative_to(folder)} is missing"
    except (ValueError, AttributeError, RecursionError):
        return f"{_DIGESTS} is not what was written"
    return ""


def _stored(named: dict[str, Any]) -> dict[str, Any]:
    """What Orbax is given of named leaves, concrete or abstract: it refuses empty arrays."""
    return {name: to_bits(leaf) for name, leaf in named.items() if leaf.size}


def _digest(file: pathlib.Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves by name, in the tree's order; a Flax variable has the name of its attribute."""
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        if (name := name or "value") in named:
            raise ValueError(f"two arrays of the state have the name {name}; rename one of them.")
        named[name] = leaf
    return named


def to_bits(leaf: Any) -> Any:
    """An array as it is stored, concrete or abstract: random keys as their bits."""
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    if isinstance(leaf, jax.Array):
        return jax.random.key_data(leaf)
    return jax.eval_shape(jax.random.key_data, leaf).update(sharding=leaf.sharding)


def from_bits(array: Any, leaf: Any) -> Any:
    """The inverse of `to_bits`, for the array that the abstract `leaf` describes."""
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return array
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), leaf)
    return jax.random.wrap_key_data(array, impl=found[0])


def _describe(named: dict[str, Any]) -> dict[str, str]:
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in named.items()}


def check_same(where: object, saved: dict[str, str], wanted: dict[str, str]) -> None:
    """Raises a `ValueError` that names the first leaf in which two descriptions differ."""
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise ValueError(
                f"{where} holds another state: {name} is {saved.get(name, 'missing')} there, "
                f"and {wanted.get(name, 'missing')} is wanted."
            )
