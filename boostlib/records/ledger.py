"""The record of a run: what it is, then one JSON line a round, appended and never changed.

    RUN/run.json             identity (model, data, adapter, trainer, seed) and the environment it started in
    RUN/ledger.jsonl         line 1: the untrained model's scores; then one line a round
    RUN/rounds/0003.safetensors   the numbers of round 3 (TinyLoRA's v, or a LoRA's factors) and what training did,
                             written before the round's line

A round exists once its line is on disk: each file is written aside, flushed and renamed, the line is flushed before
anything depends on it. Every line carries the SHA-256 of itself and of the line before it, and line 1 that of run.json,
so an edited or missing line, or an edited run.json, is found and named. A last line without its newline is what a crash
leaves; it is dropped. With the numbers, the plan and the seed, a round can be rebuilt without any data.

Line 1 of runs recorded before 26 November 2026 does not vouch for run.json; `replay` compares what it rebuilds with the
rows all the same.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from boostlib.common.durable import disk_error, missing, reached, remove_empty, write_durably
from boostlib.common.errors import LedgerError, RunError
from boostlib.common.stable import fingerprint_json, fingerprint_tensors
from boostlib.records.rows import Base, Round, restore
from boostlib.records.sketch import unpack

Numbers = tuple[dict[str, Tensor], dict[str, Any]]  # of one round: tensors by name, and what training noted
BAD_ROW = (TypeError, KeyError, ValueError, AttributeError)  # of a line that is whole but not a row


class Ledger:
    """Reads and extends the record in `run_dir`. Raises LedgerError on the first bad line it reads."""

    def __init__(self, run_dir: str | Path):
        if not isinstance(run_dir, (str, os.PathLike)) or not str(run_dir).strip():
            raise RunError(f"run_dir={run_dir!r}: must be the name of a directory")
        self.dir = Path(run_dir)
        self.path = self.dir / "ledger.jsonl"

    @property
    def started(self) -> bool:
        """Whether a run was begun here."""
        return (self.dir / "run.json").exists() or self.path.exists()

    @property
    def header(self) -> dict[str, Any]:
        """The content of run.json. Raises RunError where there is no run, or the file is damaged."""
        path = self.dir / "run.json"
        try:
            header = json.loads(path.read_text())
        except FileNotFoundError:
            raise RunError(f"{self.dir} holds no run (no run.json): give the directory of a run") from None
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path} is damaged ({error}): restore it, or start a new run") from None
        return require_header(header, path)

    @property
    def base(self) -> Base | Any:
        """The untrained model's line (Base), None while it is not written."""
        rows = self._rows()
        return self._restored(Base, rows, 0) if rows else None

    @property
    def rounds(self) -> list[Round]:
        """All finished rounds in order."""
        rows = self._rows()
        return [self._restored(Round, rows, number) for number in range(1, len(rows))]

    def failures_after(self, count: int) -> list[str]:
        """Ids that the model gets wrong after the first `count` rounds; newly broken ones come last."""
        failing = dict.fromkeys(self.base.failures)
        for row in self.rounds[:count]:
            for fixed in row.fixed:
                failing.pop(fixed)
            failing.update(dict.fromkeys(row.broken))
        return list(failing)

    def create(self, header: dict[str, Any]) -> None:
        """Write run.json."""
        write_durably(self.dir / "run.json", (json.dumps(header, indent=1) + "\n").encode())

    def discard(self) -> None:
        """Take back run.json where nothing was recorded: the directory may be used for other settings."""
        if not self._good_bytes():
            (self.dir / "run.json").unlink()

    def append(self, row: Base | Round) -> None:
        """Add one line and flush it to the disk; the first one vouches for run.json. On failure the ledger is as
        before."""
        good = self._good_bytes()
        if isinstance(row, Base) and (self.dir / "run.json").exists():
            row = replace(row, run_json=fingerprint_json(self.header))
        lines = good.splitlines()
        previous = json.loads(lines[-1])["chain"] if lines else ""
        payload = asdict(row)
        line = json.dumps({**payload, "chain": _chain(previous, payload)}, separators=(",", ":")) + "\n"
        reached("before the ledger line")
        try:
            with open(self.path, "r+b" if self.path.exists() else "w+b") as file:
                file.truncate(len(good))  # a torn last line of a crash goes here
                file.seek(len(good))
                try:
                    file.write(line.encode())
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(len(good))
                    raise
        except OSError as error:
            raise disk_error(self.path, error) from error
        reached("after the ledger line")

    def save_numbers(self, index: int, numbers: Mapping[str, Tensor], notes: dict[str, Any]) -> None:
        """Write a round's numbers, by name, and what training did."""
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in numbers.items()}
        data = save(whole, metadata={"round": str(index), "notes": json.dumps(notes)})
        reached("before the round file")
        write_durably(self.v_path(index), data)
        reached("after the round file")

    def load_numbers(self, index: int) -> Numbers | None:
        """(numbers by name, notes) of a round, None where the file is missing, cut short or without its notes."""
        try:
            with safe_open(self.v_path(index), framework="pt") as file:
                notes = dict(json.loads(file.metadata()["notes"]))
                return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118, it is no mapping
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def load_v(self, index: int) -> tuple[Tensor, dict[str, Any]] | None:
        """(v, notes) of a round of TinyLoRA, None as for `load_numbers`. Raises RunError where a LoRA trained."""
        recorded = self.load_numbers(index)
        if recorded is None:
            return None
        if "v" not in recorded[0]:
            raise RunError(f"{self.v_path(index)} holds the factors of a LoRA, and no v, which only TinyLoRA has")
        return recorded[0]["v"], recorded[1]

    def v_sha256(self, index: int) -> str:
        """SHA-256 of a round's numbers as they lie on the disk; empty where the file is missing or damaged."""
        recorded = self.load_numbers(index)
        return fingerprint_tensors(sorted(recorded[0].items())) if recorded else ""

    def sketch(self, row: Round) -> Tensor | None:
        """What the rebuilt update of a merged round must agree with, see sketch.py; None in runs that were recorded
        without it."""
        return unpack(row.sketch) if row.sketch else None

    def v_path(self, index: int) -> Path:
        """Where the numbers of a round are kept."""
        return self.dir / "rounds" / f"{index:04d}.safetensors"

    def verify(self) -> list[Round]:
        """Check run.json, every line, every round file's hash and that no line is missing; returns the rounds.

        A directory without a run has none. Raises RunError for a damaged run.json, LedgerError for the rest.
        """
        rounds, base = self.rounds, self.base
        if self.started and (base or (self.dir / "run.json").exists()):
            header = self.header
            if base and base.run_json and base.run_json != fingerprint_json(header):
                raise LedgerError(
                    f"{self.dir / 'run.json'} was edited after the run began: line 1 of the ledger vouches for another "
                    "content. Restore it; nothing of this run can be trusted to be what it says"
                )
        for row in rounds:
            if not self._file_as_written(row.index, row.v_sha256):
                raise self._bad(row.index + 1, f"{self.v_path(row.index)} is missing or was changed")
        later = [path for path in self._round_files() if int(path.stem) > len(rounds)]
        if later:
            raise self._bad(len(rounds) + 1, f"{later[0]} is of a later round than the last line: lines were cut off")
        return rounds

    def repair(self) -> tuple[int, Path | None]:
        """Cut back to the last good round; returns the rounds left, and the new folder in the run's directory that
        keeps the whole old ledger and the files of rounds that were cut, None where nothing had to be cut.

        Nothing is deleted or overwritten. Raises RunError where there is no run.
        """
        _ = self.header
        old = self.path.read_bytes() if self.path.exists() else b""
        lines, rows = old.splitlines(keepends=True), self._rows(stop_at_bad=True)
        good = self._good_rows(rows)
        kept, whole = max(good - 1, 0), good == len(lines)
        first = kept + whole  # of a sound ledger, the numbers of a round that was trained but not recorded stay
        cut = [path for path in self._round_files() if int(path.stem) >= first]
        if whole and not cut:
            return kept, None
        folder = self._new_folder("cut")
        write_durably(folder / self.path.name, old)
        write_durably(self.path, b"".join(lines[:good]))
        for path in cut:
            os.replace(path, folder / path.name)
        return kept, folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run against a second process. Raises RunError where one has it, or the directory is read-only.

        Folders that were made for it go again where no run began.
        """
        made = missing(self.dir)
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            (self.dir / "rounds").mkdir(exist_ok=True)
            file = open(self.dir / ".lock", "w")  # noqa: SIM115
        except OSError as error:
            raise disk_error(self.dir, error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"{self.dir} is in use by another process: stop it, or use another run_dir") from None
            try:
                yield
            finally:
                if made and not self.started:
                    (self.dir / ".lock").unlink(missing_ok=True)
                    remove_empty([self.dir / "rounds", *made])

    def _good_bytes(self) -> bytes:
        try:
            text = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise RunError(f"{self.path} cannot be read ({error.strerror or error}): restore it") from None
        return text[: text.rfind(b"\n") + 1]

    def _round_files(self) -> list[Path]:
        """The files of rounds, and no others that somebody put beside them."""
        names = (self.dir / "rounds").glob("*.safetensors")
        return sorted(path for path in names if re.fullmatch(r"\d{4,}", path.stem))

    def _good_rows(self, rows: list[dict[str, Any]]) -> int:
        """How many of `rows`, from the first on, can be read and have their round's file as it was written."""
        for number, row in enumerate(rows):
            try:
                one = restore(Round if number else Base, row)
            except BAD_ROW:
                return number
            if number and not self._file_as_written(one.index, one.v_sha256):
                return number
        return len(rows)

    def _new_folder(self, name: str) -> Path:
        number = 1
        while (self.dir / f"{name}-{number}").exists():
            number += 1
        folder = self.dir / f"{name}-{number}"
        folder.mkdir()
        return folder

    def _restored(self, kind: type, rows: list[dict[str, Any]], number: int):
        try:
            return restore(kind, rows[number])
        except BAD_ROW as error:
            raise self._bad(number, f"a field is missing or of a wrong type ({error})") from None

    def _file_as_written(self, index: int, sha256: str) -> bool:
        return not sha256 or self.v_sha256(index) == sha256

    def _rows(self, stop_at_bad: bool = False) -> list[dict[str, Any]]:
        rows, previous = [], ""
        for number, line in enumerate(self._good_bytes().splitlines()):
            row, chain, why = _parse(line, previous)
            if why and stop_at_bad:
                break
            if why:
                raise self._bad(number, why)
            rows.append(row)
            previous = chain
        return rows

    def _bad(self, number: int, why: str) -> LedgerError:
        good = f"last good round: {number - 2}" if number > 1 else "no good round before it"
        return LedgerError(
            f"{self.path}, line {number + 1}: {why}. {good}. "
            f"`boostlib verify {self.dir} --repair` cuts the run back to it and keeps what was there"
        )


def require_header(header: Any, where: Path) -> dict[str, Any]:
    """`header` as read. Raises RunError where it is not what a run begins with."""
    if not isinstance(header, dict) or not isinstance(header.get("identity"), dict):
        raise RunError(f"{where} is damaged (it names no identity of a run): restore it, or start a new run")
    return header


def _chain(previous: str, payload: dict[str, Any]) -> str:
    text = previous + json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _parse(line: bytes, previous: str) -> tuple[dict[str, Any], str, str]:
    """(row, its checksum, what is wrong with it)."""
    try:
        row = json.loads(line)
        chain = row.pop("chain")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return {}, "", "it is not a whole JSON line"
    if chain != _chain(previous, row):
        return {}, "", "its checksum does not match: it, or the line before it, was edited or removed"
    return row, chain, ""
