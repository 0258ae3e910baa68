"""Counts what is compiled."""

import contextlib

import jax


@contextlib.contextmanager
def count_compilations():
    """A list to which the name of every compilation in the block is added."""
    names = []
    active = True

    def listen(event, duration, **_):
        if active and event == "/jax/core/compile/backend_compile_duration":
            names.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        active = False
