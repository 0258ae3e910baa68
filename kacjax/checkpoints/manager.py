"""Checkpoints of a training run, by Orbax: written aside, made whole at once, checked when read.

A folder holds one checkpoint per saved step. Each has the arrays of the state, a description in
JSON, and the digest of every file, written before Orbax moves it into place: a checkpoint is whole
if its files still are what the digests say. What is not whole is named in a warning, and passed
over for the one before.

The folder is one that all processes see; every process calls every method.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from kacjax._validation import check_count
from kacjax.checkpoints.digests import find_damage, write_digests
from kacjax.checkpoints.leaves import (
    abstract_leaf,
    check_kinds,
    kinds,
    named_leaves,
    stored,
    unstored,
)

# Orbax writes these after the digests; it does without them.
_WRITTEN_LATER = frozenset({"_CHECKPOINT_METADATA", "commit_success.txt"})


class Checkpoint(NamedTuple):
    """What `Checkpoints.restore` returns.

    Attributes:
        step: The step at which it was saved.
        state: The state, with the structure and on the devices that were asked for.
        description: What was saved beside it.
    """

    step: int
    state: Any
    description: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Saving copies the state to the host and returns; files are written in the background.

    Args:
        folder: Where they lie; made if missing. One run at a time writes there.
        keep: How many of the newest are kept. With more than one there is another to fall back to.
        keep_every: Those of every step that is a multiple of this are kept too.

    Raises:
        ValueError: If `keep` or `keep_every` is not a positive integer.
        OSError: If the folder cannot be made.
    """

    def __init__(self, folder: str | pathlib.Path, *, keep: int = 3, keep_every: int | None = None):
        check_count("keep", keep)
        policies: list[Any] = [checkpoint_managers.LatestN(keep)]
        if keep_every is not None:
            check_count("keep_every", keep_every)
            policies.append(checkpoint_managers.EveryNSteps(keep_every))
        self.folder = pathlib.Path(folder).absolute()
        self._saving: int | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=True,
                save_root_metadata=False,
                async_options=ocp.options.AsyncOptions(
                    post_finalization_callback=self._before_commit
                ),
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        # An error on its way out is more to the point than another of closing.
        with contextlib.suppress(*([Exception] if kind else [])):
            self.close()

    def steps(self) -> list[int]:
        """The steps that were saved, rising."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, description: dict[str, Any]) -> None:
        """Begins to save; what was saved at this step before stays.

        Waits for the checkpoint before this one, and reports what went wrong with it.

        Args:
            step: Number of the checkpoint, above those of all others.
            state: Pytree of arrays; random keys and arrays without elements are welcome.
            description: Anything that JSON can hold.

        Raises:
            TypeError: If JSON cannot hold the description.
            ValueError: If there is a checkpoint of a later step, which Orbax would go on from, or
                two arrays of the state have one name.
            OSError: If a checkpoint cannot be written; those before are whole.
        """
        named = named_leaves(state)
        contents = {"description": description, "arrays": kinds(named)}
        json.dumps(contents)
        self.wait()
        steps = self.steps()
        if step in steps:
            return
        if steps and step < steps[-1]:
            raise ValueError(
                f"step must be above {steps[-1]}, the latest saved in {self.folder}, got {step}."
            )
        with self._system_errors(step):
            self._saving = step
            begun = self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(stored(named)), contents=ocp.args.JsonSave(contents)
                ),
            )
        if not begun:
            # Orbax says in this way only that it has its reasons.
            self._saving = None
            raise RuntimeError(f"Orbax did not save the checkpoint {self.folder / str(step)}.")

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
            OSError: If a checkpoint could not be written; those before are whole.
        """
        if self._saving is not None:
            with self._system_errors(self._saving):
                self._manager.wait_until_finished()
            self._saving = None

    def close(self) -> None:
        """Waits, and ends Orbax's threads.

        Raises:
            OSError: As `wait`.
        """
        self.wait()
        self._manager.close()

    def restore(self, like: Any) -> Checkpoint | None:
        """Reads the newest whole checkpoint.

        Newer ones that are not whole are named in a warning and renamed to `damaged-STEP`, so that
        the run can save at their steps again.

        Args:
            like: Pytree of arrays or `jax.ShapeDtypeStruct`, of the structure that was saved. The
                result lies on devices as these do, whatever the devices of the run that saved it;
                what says nothing about devices goes to the first one.

        Returns:
            The checkpoint, or nothing if there is no whole one.

        Raises:
            ValueError: If the newest whole checkpoint has another structure.
        """
        try:
            for step in reversed(self.steps()):
                reason = self._damage(step)
                if not reason:
                    return self._read(step, like)
                warnings.warn(
                    f"checkpoint {self.folder / str(step)} is damaged: {reason}", stacklevel=2
                )
                self._set_aside(step)
            return None
        finally:
            # Also when reading fails: what was set aside is no checkpoint any more.
            self._manager.reload()

    def _read(self, step: int, like: Any) -> Checkpoint:
        """Reads one checkpoint whose files are as they were written."""
        named = {name: abstract_leaf(leaf) for name, leaf in named_leaves(like).items()}
        contents = self._manager.restore(
            step, args=ocp.args.Composite(contents=ocp.args.JsonRestore())
        )["contents"]
        # Compared first: Orbax reports another shape from many threads at once, and casts types.
        check_kinds(self.folder / str(step), contents["arrays"], kinds(named))
        arrays = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(stored(named)))
        )["state"]
        state = jax.tree.unflatten(jax.tree.structure(like), unstored(arrays, named))
        return Checkpoint(step, state, contents["description"])

    def _before_commit(self) -> None:
        """Called by Orbax in the background when all files are there, before it moves them."""
        (temporary,) = self._temporary(self._saving)
        write_digests(temporary)

    def _temporary(self, step: int | None) -> list[pathlib.Path]:
        return list(self.folder.glob(f"{step}.orbax-checkpoint-tmp*"))

    def _damage(self, step: int) -> str:
        """What is wrong with the files of a checkpoint; all processes get the first one's answer."""
        first = jax.process_index() == 0
        return self._agree(find_damage(self.folder / str(step), _WRITTEN_LATER) if first else "")

    def _agree(self, reason: str) -> str:
        """The first process's finding, on all of them."""
        if jax.process_count() == 1:
            return reason
        text = np.zeros(200, np.uint8)
        encoded = np.frombuffer(reason.encode()[:200], np.uint8)
        text[: encoded.size] = encoded
        sent = np.asarray(multihost_utils.broadcast_one_to_all(text))
        return bytes(sent).rstrip(b"\0").decode(errors="replace")

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            aside = self.folder / f"damaged-{step}"
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / str(step)).rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"damaged-{step}")

    @contextlib.contextmanager
    def _system_errors(self, step: int) -> Iterator[None]:
        """Turns what Orbax and TensorStore say of the system's errors into an `OSError`."""
        try:
            yield
        except Exception as error:
            self._saving = None
            for temporary in self._temporary(step):
                shutil.rmtree(temporary, ignore_errors=True)
            # Orbax has struck off the old ones already that this one would have replaced.
            with contextlib.suppress(OSError):
                self._manager.reload()
            code = _error_number(error)
            if code is None:
                raise
            where = str(self.folder / str(step))
            raise OSError(code, os.strerror(code), where) from error


def _error_number(error: BaseException) -> int | None:
    """The system's number of an error, which TensorStore has in its text only."""
    if isinstance(error, OSError):
        return error.errno
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return int(number[1]) if number else None
