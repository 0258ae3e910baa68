"""Digests of a folder's files: written once, they tell later whether the files are the same."""

import hashlib
import json
import pathlib

DIGESTS = "digests.json"


def write_digests(folder: pathlib.Path) -> None:
    """Writes the digest of every file in the folder into one more file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): _digest(path) for path in files}
    (folder / DIGESTS).write_text(json.dumps(digests))


def find_damage(folder: pathlib.Path, exempt: frozenset[str] = frozenset()) -> str:
    """What is wrong with the files that were there at `write_digests`; empty if nothing is.

    Args:
        folder: The folder.
        exempt: Files that may have changed since.
    """
    try:
        digests = json.loads((folder / DIGESTS).read_text())
        for name in digests.keys() - exempt:
            if _digest(folder / name) != digests[name]:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{pathlib.Path(error.filename).relative_to(folder)} is missing"
    except OSError as error:
        return f"a file cannot be read: {error}"
    except (ValueError, AttributeError):
        return f"{DIGESTS} is not what was written"
    return ""


def _digest(file: pathlib.Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
