"""Files that exist whole or not at all, whenever the process dies."""

import os
from pathlib import Path

from boostlib.errors import RunError


def write_durably(path: Path, data: bytes) -> None:
    """Write a whole file or none: aside, flushed, renamed, and the rename flushed."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        reached(f"before renaming {path.suffix}")
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except OSError as error:
        raise disk_error(path, error) from error


def reached(point: str) -> None:
    """Called at each point where a crash must be survivable; the crash tests put their fault here."""


def disk_error(path: Path, error: OSError) -> RunError:
    """What to tell a user whose disk refuses."""
    return RunError(
        f"cannot write {path}: {error.strerror or error}. Nothing is lost: free space or fix the permissions, "
        "then run again"
    )
