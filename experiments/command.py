"""What the commands share: reading flags, and errors as one line."""

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import tyro

T = TypeVar("T")

# Flags carry no group's prefix, and switches have no --no- twin.
MARKERS = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


class UserError(Exception):
    """Something that the user can set right; its text is one line for the terminal."""


@contextlib.contextmanager
def user_errors(*kinds: type[Exception], saying: str = "") -> Iterator[None]:
    """Turns errors of these kinds, which the user can cause here, into a `UserError`."""
    try:
        yield
    except kinds as error:
        raise UserError(saying + one_line(error)) from error


def one_line(error: Exception) -> str:
    """The message of an error without line breaks; for a system error also the path."""
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}"
    return " ".join(str(error).split()) or type(error).__name__


def run(body: Callable[[], None], interrupted: str = "interrupted: nothing was written.") -> int:
    """Runs a command: 0 on success, 2 after printing a user's error as one line.

    Args:
        body: The command.
        interrupted: What to say when the user stops it; the status is then 130.
    """
    try:
        body()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    return 0


def parse(read: Callable[[], T]) -> T:
    """Calls tyro, and raises what it has to say about wrong flags as a `UserError`."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return read()
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_flatten(said.getvalue())) from None


def parse_flags(kind: type[T], argv: Sequence[str] | None, prog: str, description: str) -> T:
    """Reads a dataclass from the command line."""
    return parse(
        lambda: tyro.cli(kind, args=argv, prog=prog, description=description, config=MARKERS)
    )


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
