"""How tests compile: compiling takes most of their time."""

import functools
import inspect

import jax
import pytest

try:
    from jax._src import compiler
except ImportError:
    compiler = None


ARGUMENT = "env_options_overrides"


def _quicker() -> dict[str, bool]:
    # XLA's earlier code generator for CPUs compiles two to three times faster than its new one.
    # Where it is gone, or JAX has changed within, tests only take longer.
    get_options = getattr(compiler, "get_compile_options", None)
    if get_options is None or ARGUMENT not in inspect.signature(get_options).parameters:
        return {}
    options = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:
        return {}
    return options


OPTIONS = _quicker()
FLAGS = "".join(f" --{name}={str(value).lower()}" for name, value in OPTIONS.items())
"""The same for other processes, to be appended to `XLA_FLAGS`."""


def compile_quickly(patch: pytest.MonkeyPatch) -> None:
    """Sets the options for all that is compiled while the patch lasts.

    There is no public way to do that but for a whole process, or for one function at a time.
    """
    if not OPTIONS:
        return
    original = compiler.get_compile_options

    @functools.wraps(original)
    def with_options(*arguments, **others):
        others[ARGUMENT] = OPTIONS | dict(others.get(ARGUMENT) or {})
        return original(*arguments, **others)

    patch.setattr(compiler, "get_compile_options", with_options)
