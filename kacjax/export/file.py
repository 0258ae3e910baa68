"""Arrays with a description, as one safetensors file that tells when it is damaged."""

import errno
import hashlib
import json
import pathlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors.numpy import save

from kacjax._files import write_atomically
from kacjax.checkpoints.leaves import check_same, from_bits, named_leaves, to_bits

Arrays = dict[str, np.ndarray]


def write_file(file: str | pathlib.Path, kind: str, header: dict[str, Any], arrays: Arrays) -> None:
    """Writes named arrays and a header that JSON can hold; `kind` is the format and its version."""
    file = pathlib.Path(file)
    if file.is_dir():
        raise ValueError(f"file must be the name of a file, got the folder {file}.")
    if not file.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(file.parent))
    text = json.dumps({"format": kind, **header})
    # One entry: the library writes several in random order, and equal runs must give equal files.
    content = save(arrays, {"kacjax": f"{_digest(text, arrays)} {text}"})
    write_atomically(file, lambda stream: stream.write(content))


def read_file(file: str | pathlib.Path, kind: str) -> tuple[dict[str, Any], Arrays]:
    """The header and the arrays; a `ValueError` if the file is damaged or holds something else."""
    file = pathlib.Path(file)
    if file.exists() and not file.is_file():
        raise ValueError(f"{file} is not a file with content.")
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
    try:
        header = json.loads(text)
        found = header["format"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} has no header that can be read: {error}") from error
    if found != kind:
        raise ValueError(f"{file} has the format {found}, wanted is {kind}.")
    return header, arrays


def named_arrays(tree: Any) -> Arrays:
    """The arrays of a pytree by name, random keys as their bits; other leaves are left out."""
    named = named_leaves(eqx.filter(tree, _is_array))
    return {name: np.array(to_bits(leaf), order="C") for name, leaf in named.items()}


def fill(where: str, like: Any, arrays: Arrays) -> Any:
    """A pytree whose arrays, which may be abstract, are replaced by the named ones of a file.

    Shapes are compared before anything is made. Arrays keep the type that they have in the file.

    Raises:
        ValueError: If the arrays are not those of the tree, or are of 64 bits and JAX is not.
    """
    abstract, rest = eqx.partition(like, _is_array)
    named = named_leaves(abstract)
    wanted = {name: to_bits(leaf) for name, leaf in named.items()}
    check_same(where, _shapes(arrays), _shapes(wanted))
    leaves = []
    for name, leaf in named.items():
        array = jnp.asarray(arrays[name])
        if array.dtype != arrays[name].dtype:
            raise ValueError(f"{where} holds {arrays[name].dtype}: set jax_enable_x64 to read it.")
        leaves.append(from_bits(array, leaf))
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(abstract), leaves), rest)


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _shapes(named: dict[str, Any]) -> dict[str, str]:
    return {name: f"an array of shape {tuple(leaf.shape)}" for name, leaf in named.items()}


def _digest(text: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}:{array.dtype}{list(array.shape)}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
