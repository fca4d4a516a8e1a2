"""The record of a run that several processes share: on the disk of the main process, in the memory of all.

Every process makes the same calls. The main process holds the lock, writes through to its `Ledger` and reads it once;
what it read and wrote is sent to the others, which touch no file: the run's directory need not exist where they are.
Rows carry the main process's times. A row, or a round's numbers, on which the processes disagree is never written.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from boostlib.common import world
from boostlib.common.stable import fingerprint_tensors
from boostlib.records.ledger import Ledger, Numbers
from boostlib.records.rows import Base, Round

LOCAL = ("seconds",)  # of a row: what may differ from process to process


def record_of(run_dir: str | Path) -> Ledger:
    """The ledger in `run_dir`, to extend: shared where several processes do this run."""
    return SharedLedger(run_dir) if world.size() > 1 else Ledger(run_dir)


class SharedLedger(Ledger):
    """Usable inside `locked`, and afterwards to read."""

    def __init__(self, run_dir: str | Path):
        super().__init__(run_dir)
        self._disk = Ledger(run_dir)
        self._header: dict[str, Any] | None = None
        self._text = b""
        self._trained: dict[int, Numbers | None] = {}

    @property
    def started(self) -> bool:
        """Whether a run was begun in the main process's directory."""
        return self._header is not None or bool(self._text)

    @property
    def header(self) -> dict[str, Any]:
        """The content of run.json. Raises RunError where there is no run."""
        return self._disk.header if self._header is None else self._header

    def create(self, header: dict[str, Any]) -> None:
        """Write run.json, as the main process has it."""
        self._header = world.on_main(lambda: self._disk.create(header) or header)

    def discard(self) -> None:
        """Take back run.json where nothing was recorded."""
        world.on_main(self._disk.discard)
        self._header = None

    def append(self, row: Base | Round) -> None:
        """Add one line. Raises RunError where the processes do not have the same row."""
        name = f"round {row.index}" if isinstance(row, Round) else "the untrained model"
        world.require_agreement(name, {key: value for key, value in asdict(row).items() if key not in LOCAL})
        self._text = world.on_main(lambda: self._disk.append(row) or self._disk._good_bytes())

    def save_numbers(self, index: int, numbers: Mapping[str, Tensor], notes: dict[str, Any]) -> None:
        """Write a round's numbers. Raises RunError where the processes do not have the same ones."""
        world.require_agreement(f"round {index}", {"numbers": fingerprint_tensors(numbers)})
        disk = self._disk
        self._trained[index] = world.on_main(
            lambda: disk.save_numbers(index, numbers, notes) or disk.load_numbers(index)
        )

    def load_numbers(self, index: int) -> Numbers | None:
        """(numbers, notes) of a round, None where the main process has no whole file of it."""
        return self._trained.get(index)

    def verify(self) -> list[Round]:
        """Check the main process's files; returns the rounds."""
        return world.on_main(self._disk.verify)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run: the main process takes the lock, and all have its content inside."""
        with ExitStack() as lock:
            world.on_main(lambda: lock.enter_context(self._disk.locked()))
            self._header, self._text, self._trained = world.on_main(self._content)
            yield

    def _content(self) -> tuple[dict[str, Any] | None, bytes, dict]:
        rounds = {int(path.stem): self._disk.load_numbers(int(path.stem)) for path in self._disk._round_files()}
        header = self._disk.header if (self._disk.dir / "run.json").exists() else None
        return header, self._disk._good_bytes(), rounds

    def _good_bytes(self) -> bytes:
        return self._text
