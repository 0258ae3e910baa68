"""Checkpoints: a pytree of arrays and a JSON description, in one folder, by Orbax."""

import json
import pathlib
import shutil
import tempfile
from typing import Any

import jax
import orbax.checkpoint as ocp

_DESCRIPTION = "description.json"
_ARRAYS = "arrays"


def save_checkpoint(folder: str | pathlib.Path, tree: Any, description: dict[str, Any]) -> None:
    """Writes a pytree and its description; the folder appears whole or not at all.

    Args:
        folder: Target; an earlier checkpoint there is replaced after the new one is complete.
        tree: Pytree of arrays.
        description: Anything that JSON can hold; what is needed to rebuild the tree's structure.

    Raises:
        ValueError: If the folder cannot be written.
    """
    folder = pathlib.Path(folder).absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise ValueError(f"checkpoint folder {folder} cannot be written: {error}") from error
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(temporary / _ARRAYS, tree)
        (temporary / _DESCRIPTION).write_text(json.dumps(description, indent=2))
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_description(folder: str | pathlib.Path) -> dict[str, Any]:
    """Reads a checkpoint's description.

    Raises:
        ValueError: If the folder is missing or damaged.
    """
    file = pathlib.Path(folder) / _DESCRIPTION
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no readable checkpoint: {error}") from error


def load_checkpoint(folder: str | pathlib.Path, like: Any) -> Any:
    """Reads the arrays of a checkpoint.

    Args:
        folder: The folder.
        like: Pytree of the same structure, of arrays or `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: If the folder is missing or damaged, or holds another structure.
    """
    arrays = pathlib.Path(folder).absolute() / _ARRAYS
    if not arrays.is_dir():
        raise ValueError(f"{folder} holds no checkpoint: {arrays} is missing.")
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(arrays, abstract)
    except Exception as error:  # Orbax raises errors of many kinds for damaged files.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"the checkpoint {folder} is damaged: {reason}") from error
