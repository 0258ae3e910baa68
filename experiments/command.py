"""What the commands share: reading flags, errors as one line, checks of values, exit statuses.

A command ends with 0; with 1 if nobody reads its output any more; with 2 after a line about
something that the user can set right; with 75 if a signal stopped a run that `--resume` goes on
with; with 130 if it was interrupted.
"""

import contextlib
import dataclasses
import difflib
import io
import itertools
import logging
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
import tyro

T = TypeVar("T")

STOPPED = 75
_NOTHING = "interrupted: nothing was written."
INTERRUPTED = "interrupted: --resume goes on from the newest checkpoint."
# What XLA says where memory or a device is missing.
_NO_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "Unable to allocate")
_NO_DEVICE = ("Unable to initialize backend", "Unknown backend", "No visible")
_LARGE = "--batch-size, --chunk-size, --num-samples or the size of the network"
# Beyond this, `jax.random.key` would need 64-bit integers.
LARGEST = 2**31 - 1


class UserError(Exception):
    """Something that the user can set right; its text is one line for the terminal.

    Any function of the commands may raise it, about what its flags, files and folders are.
    """


@contextlib.contextmanager
def user_errors(*kinds: type[Exception], saying: str = "", ending: str = "") -> Iterator[None]:
    """Turns errors of these kinds, which the user can cause here, into a `UserError`."""
    try:
        yield
    except kinds as error:
        raise UserError(saying + one_line(error) + ending) from error


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks; for a system error also the path."""
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}"
    return " ".join(str(error).split()) or type(error).__name__


class _Steady(io.TextIOBase):
    """Standard error that nobody may be reading: a run does not end because of that."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def isatty(self) -> bool:
        return bool(self._stream) and not self._stream.closed and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError("there is no standard error.")
        return self._stream.fileno()


def run(body: Callable[[], int | None], interrupted: str = _NOTHING) -> int:
    """Runs a command, says in one line what the user can set right, and returns the exit status."""
    # Orbax reports through them at length what an error says in a line.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    _keep_programs()
    before, sys.stderr = sys.stderr, _Steady(sys.stderr)
    try:
        status = body() or 0
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except OSError as error:
        if error.filename is not None:
            raise
        # Of the standard output, of which Python would complain once more as it ends.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 1
        print(f"error: cannot print: {one_line(error)}.", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        said = one_line(error)
        if isinstance(error, MemoryError) or any(word in said for word in _NO_MEMORY):
            print(f"error: out of memory: {_shorten(said)} Lower {_LARGE}.", file=sys.stderr)
        elif any(word in said for word in _NO_DEVICE):
            print(f"error: no device for JAX: {_shorten(said)}", file=sys.stderr)
        else:
            raise
        return 2
    finally:
        sys.stderr = before


def _keep_programs() -> None:
    """Has JAX keep what takes a second to compile for later commands, unless the user has chosen."""
    if jax.config.jax_compilation_cache_dir is not None:
        return
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(root, "kacjax", "programs")
    with contextlib.suppress(OSError):  # Without it commands only take longer.
        os.makedirs(folder, exist_ok=True)
        if os.access(folder, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", folder)


def _shorten(text: str) -> str:
    return (text if len(text) < 160 else text[:157] + "...").rstrip(".") + "."


def start(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Runs the `main` of a command as the program: its arguments, and its exit status."""
    sys.unraisablehook = _report_unraisable
    sys.exit(main(sys.argv[1:]))


def _report_unraisable(details: Any) -> None:
    """Reports as Python does, but not of writes that end after a first one has failed."""
    if str(details.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(details)


def parse(
    kind: Any,
    argv: Sequence[str],
    name: str,
    doc: str | None,
    needed: Mapping[str, str] | None = None,
) -> Any:
    """Reads a dataclass, or one of several under a name, from the command line.

    Args:
        kind: A dataclass, or a dictionary of pairs of a line about each and its defaults.
        argv: The arguments.
        name: The command.
        doc: The docstring of its module. The help begins with the first line and ends with the
            examples; of one of several, in place of `digits` in them.
        needed: Flags without which one of several is no command.
    """
    prog, (about, *lines) = f"python -m experiments.{name}", str(doc).splitlines()
    shown = "\n\n" + "\n".join(f"  {line}" for line in lines if line.startswith("python -m "))
    said = io.StringIO()
    # Flags carry no group's prefix.
    options: dict[str, Any] = {"config": (tyro.conf.AvoidSubcommands, tyro.conf.OmitArgPrefixes)}
    try:
        with contextlib.redirect_stderr(said):
            if not isinstance(kind, dict):
                options |= {"prog": prog, "args": argv, "description": about + shown}
                return _at_home(tyro.cli(kind, **options))
            if argv and argv[0] in kind:
                data, *rest = argv
                about, default = kind[data]
                named = shown.replace("digits", f"{data} {(needed or {}).get(data, '')}".strip())
                options |= {"prog": f"{prog} {data}", "args": rest, "description": about + named}
                return _at_home(tyro.cli(type(default), default=default, **options))
            options |= {"prog": prog, "args": list(argv), "description": about + shown}
            return tyro.extras.overridable_config_cli(kind, **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
    if isinstance(kind, dict) and argv and argv[0] not in kind:
        check_choice("data", argv[0], kind)
    raise UserError(_flatten(said.getvalue()))


def _at_home(value: Any) -> Any:
    """The same, where `~` in any path is the home directory."""
    if type(value) is tuple:
        return tuple(map(_at_home, value))
    if dataclasses.is_dataclass(value):
        return dataclasses.replace(value, **{n: _at_home(each) for n, each in vars(value).items()})
    # Unlike the method of `Path`, this leaves the name of an unknown user as it is.
    return Path(os.path.expanduser(value)) if isinstance(value, Path) else value


def command(
    kind: type, body: Callable[[Any], None], name: str, doc: str | None, interrupted: str = _NOTHING
) -> Callable[[Sequence[str]], int]:
    """The `main` of a command: it reads its flags, does its work and returns its exit status."""
    return lambda argv: run(lambda: body(parse(kind, argv, name, doc)), interrupted)


def continuing(name: str, argv: Sequence[str]) -> str:
    """The command line that goes on with a run, to be shown where it is stopped."""
    flags = [each for each in argv if each not in ("--overwrite", "--resume")]
    return shlex.join(["python", "-m", f"experiments.{name}", *flags, "--resume"])


def _flatten(box: str) -> str:
    """The sentences of tyro's framed message in one line, without its pointers to the help."""
    rows = re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()
    # The title is in the frame, or where the terminal knows no frames a section of its own.
    framed = [row.strip("│ ") for row in rows if not row.startswith(("╭", "╰"))]
    sections = re.split(r"[─-]{4,}", " ".join(framed))[len(framed) == len(rows) :]
    sentences = []
    for section in map(str.strip, sections):
        guess = re.match(r"Perhaps you meant: (--\S+)", section)
        if guess:
            sentences.append(f"Perhaps you meant {guess[1]}?")
        elif section.startswith("Missing from"):
            sentences.append(f"missing {', '.join(re.findall(r'--[a-z-]+', section))}.")
        elif section and not section.startswith(("For full", "Argument help")):
            sentences.append(section.removeprefix("Error parsing ").rstrip(".") + ".")
    return " ".join(sentences)


def optional(metavar: str, default: str) -> Any:
    """How --help shows a flag without which something else decides."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


def check_range(name: str, value: Any, low: float, high: float) -> None:
    """Raises a `UserError` unless a number lies between two."""
    if not (math.isfinite(value) and low <= value <= high):
        raise UserError(f"{name} must lie between {low:g} and {high:g}, got {value}.")


def check_count(name: str, value: Any, low: int = 1, high: int = LARGEST) -> None:
    """Raises a `UserError` unless `value` is an integer between two."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UserError(f"{name} must be an integer of at least {low}, got {value!r}.")
    if value > high:
        raise UserError(f"{name} must be at most {high:,}, got {value:,}.")


def check_ladder(name: str, steps: Sequence[int], above: str, first: int) -> None:
    """Raises a `UserError` unless students have falling steps, each a divisor of the one before."""
    if any(a % b or a == b for a, b in itertools.pairwise([first, *steps])):
        shown = " ".join(map(str, steps))
        raise UserError(
            f"{name} must fall from {above} {first}, each dividing the one before; got {shown}."
        )


def check_choice(name: str, value: Any, known: Collection[str]) -> None:
    """Raises a `UserError` unless `value` is one of the known names; suggests the nearest."""
    if isinstance(value, str) and value in known:
        return
    near = difflib.get_close_matches(str(value), known, 1)
    guess = f" Perhaps you meant {near[0]}?" if near else ""
    raise UserError(f"{name} must be one of {', '.join(known)}; got {value!r}.{guess}")


def available_memory() -> int:
    """Bytes of memory that the device, or on a CPU the machine, has."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
