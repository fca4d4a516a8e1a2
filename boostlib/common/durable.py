"""Files and directories that exist whole or not at all, whenever the process dies."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from boostlib.common.errors import RunError


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
        _flush(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise disk_error(path, error) from error


def output_folder(folder: Path) -> Path:
    """`folder`, made where it is missing. Raises RunError where it is a file, or cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from error
    return folder


def missing(folder: Path) -> list[Path]:
    """`folder` and those above it that are not there yet, the innermost first."""
    return [path for path in (folder, *folder.parents) if not os.path.lexists(path)]


def remove_empty(folders: Iterable[Path]) -> None:
    """Take back folders that were made for nothing: one after the other, until one holds something."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A scratch folder beside `target` to write into; it becomes `target` when all went well, and goes otherwise.

    Raises RunError where `target` exists or cannot be written. A process killed inside leaves a hidden `.NAME-...`.
    """
    require_absent(target)
    made = missing(target.parent)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
            folder = Path(scratch) / target.name
            folder.mkdir()
            yield folder
            for path in (*folder.rglob("*"), folder):
                _flush(path)
            reached("before renaming the directory")
            require_absent(target)  # one that appeared meanwhile
            os.rename(folder, target)
            _flush(target.parent)
    except OSError as error:
        raise disk_error(target, error) from error
    finally:
        remove_empty(made)


def require_absent(target: Path) -> None:
    """Raises RunError where something, even a dangling link, has the name `target`."""
    if os.path.lexists(target):
        raise RunError(f"{target} exists already and is never overwritten: remove it, or give another name")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def reached(point: str) -> None:
    """Called at each point where a crash must be survivable; the crash tests put their fault here."""


def disk_error(path: Path, error: OSError) -> RunError:
    """What to tell a user whose disk refuses."""
    return RunError(
        f"cannot write {path}: {error.strerror or error}. Nothing is lost: free space or fix the permissions, "
        "then run again"
    )
