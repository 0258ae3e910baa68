"""How tests compile: compiling takes most of their time."""

import functools

import jax
import pytest
from jax._src import compiler


def _quicker() -> dict[str, bool]:
    # XLA's earlier code generator for CPUs compiles two to three times faster than its new one.
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
    original = compiler.get_compile_options

    @functools.wraps(original)
    def with_options(*arguments, env_options_overrides=None, **others):
        options = OPTIONS | dict(env_options_overrides or {})
        return original(*arguments, env_options_overrides=options, **others)

    patch.setattr(compiler, "get_compile_options", with_options)
