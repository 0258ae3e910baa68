"""A network's numbers with a description, as one safetensors file that tells when it is damaged."""

import hashlib
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import nnx
from safetensors.numpy import save

from kacjax.checkpoints.leaves import check_kinds, kinds, named_leaves

Arrays = dict[str, np.ndarray]


def write_file(
    file: str | pathlib.Path,
    kind: str,
    header: dict[str, Any],
    state: Any,
    dtype: Any = None,
) -> None:
    """Writes a file; it appears whole or not at all.

    Args:
        file: Target; replaced if it exists.
        kind: Name and version of what it holds.
        header: A description that JSON can hold.
        state: The network's variables, from `nnx.split`.
        dtype: Type that the numbers are rounded to; by default their own.

    Raises:
        OSError: If the file cannot be written.
    """
    leaves = named_leaves(nnx.to_pure_dict(state))
    arrays = {name: np.array(leaf, dtype, order="C") for name, leaf in leaves.items()}
    text = json.dumps({"format": kind, **header})
    # One entry: the library writes several in random order, and equal runs must give equal files.
    content = save(arrays, {"kacjax": f"{_digest(text, arrays)} {text}"})
    file = pathlib.Path(file)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def read_file(file: str | pathlib.Path, kind: str) -> tuple[dict[str, Any], Arrays]:
    """The header and the arrays of a file.

    Raises:
        ValueError: If the file is damaged or holds something else.
        OSError: If there is no such file, or it cannot be read.
    """
    try:
        with safetensors.safe_open(file, framework="np") as stream:
            entries = stream.metadata() or {}
            arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} is damaged or no safetensors file: {error}") from error
    if "kacjax" not in entries:
        raise ValueError(f"{file} is a safetensors file, but none of kacjax.")
    digest, _, text = entries["kacjax"].partition(" ")
    if digest != _digest(text, arrays):
        raise ValueError(f"{file} is damaged: its content is not what was written.")
    header = json.loads(text)
    if header.get("format") != kind:
        raise ValueError(f"{file} has the format {header.get('format')}, wanted is {kind}.")
    return header, arrays


def fill(file: str | pathlib.Path, model: nnx.Module, arrays: Arrays) -> tuple[Any, Any]:
    """Structure and variables of a network, with the numbers of a file for its own.

    Raises:
        ValueError: If the arrays are not those of the network.
    """
    graphdef, state = nnx.split(model)
    pure = nnx.to_pure_dict(state)
    check_kinds(file, kinds(arrays), kinds(named_leaves(pure)))
    leaves = [jnp.asarray(arrays[name]) for name in named_leaves(pure)]
    nnx.replace_by_pure_dict(state, jax.tree.unflatten(jax.tree.structure(pure), leaves))
    return graphdef, state


def _digest(text: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(text.encode())
    for name, kind in sorted(kinds(arrays).items()):
        digest.update(f"{name}:{kind}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
