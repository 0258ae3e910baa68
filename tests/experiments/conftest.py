"""Finished runs that tests share, also over the processes of pytest, and how they were made."""

import os

import pytest

from tests.experiments.small_runs import (
    draw_pictures,
    state_of,
    surroundings,
    train_once,
    write_table,
)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder for all processes of pytest."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if os.environ.get("PYTEST_XDIST_WORKER") else folder
    (folder / "experiments").mkdir(exist_ok=True)
    return folder / "experiments"


@pytest.fixture(autouse=True, scope="module")
def as_runs_are_made(shared):
    with surroundings(shared):
        yield


def _kept(run):
    """A run that must be the same after a test as before."""
    before = state_of(run.out)
    yield run
    assert state_of(run.out) == before


@pytest.fixture(scope="session")
def _arrays_once(shared):
    return train_once(shared, "arrays", write_table)


@pytest.fixture(scope="session")
def _images_once(shared):
    return train_once(shared, "images", draw_pictures)


@pytest.fixture
def arrays(_arrays_once):
    """A finished run on a table of three numbers with classes."""
    yield from _kept(_arrays_once)


@pytest.fixture
def images(_images_once):
    """A finished run on a folder of images."""
    yield from _kept(_images_once)
