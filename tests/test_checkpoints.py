"""Checkpoints come back as they were, or say what is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kacjax.checkpoints import load_checkpoint, load_description, save_checkpoint

TREE = {"w": jnp.arange(6.0).reshape(2, 3), "b": [jnp.ones(2), jnp.asarray(3)]}


def test_round_trip(tmp_path):
    save_checkpoint(tmp_path / "one", TREE, {"steps": 3})
    assert load_description(tmp_path / "one") == {"steps": 3}
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), TREE)
    loaded = load_checkpoint(tmp_path / "one", like)
    jax.tree.map(np.testing.assert_array_equal, loaded, TREE)
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_replaces_only_by_a_whole_one(tmp_path):
    save_checkpoint(tmp_path / "one", TREE, {"steps": 1})
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "one", TREE, {"steps": object()})
    assert load_description(tmp_path / "one") == {"steps": 1}
    save_checkpoint(tmp_path / "one", TREE, {"steps": 2})
    assert load_description(tmp_path / "one") == {"steps": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_missing(tmp_path):
    with pytest.raises(ValueError, match="nowhere holds no readable checkpoint"):
        load_description(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="nowhere holds no checkpoint"):
        load_checkpoint(tmp_path / "nowhere", TREE)


def test_damaged(tmp_path):
    save_checkpoint(tmp_path / "one", TREE, {})
    for file in (tmp_path / "one" / "arrays").rglob("*"):
        if file.is_file():
            file.write_bytes(b"?")
    with pytest.raises(ValueError, match="one is damaged"):
        load_checkpoint(tmp_path / "one", TREE)
    (tmp_path / "one" / "description.json").write_text("{")
    with pytest.raises(ValueError, match="no readable checkpoint"):
        load_description(tmp_path / "one")


def test_unwritable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "one", TREE, {})
