"""Writing a file whole or not at all."""

import contextlib
import os
import pathlib
import uuid
from collections.abc import Callable
from typing import Any, BinaryIO


def write_atomically(path: str | os.PathLike[str], write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file that appears whole or not at all, and replaces an earlier one.

    The content goes to a temporary file in the same folder, which is renamed once it is on disk.
    If anything fails, the temporary file is removed and the earlier file stays as it was.

    Args:
        path: The target; its folder must exist.
        write: Called with a binary stream, which can seek, to write the content to.

    Raises:
        OSError: If the file cannot be written.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "greeting.txt")
        >>> write_atomically(path, lambda stream: stream.write(b"hello"))
        >>> open(path, "rb").read()
        b'hello'
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
