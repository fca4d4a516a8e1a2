"""A whole run in one small file: what `replay` needs beside the base model, and proof of what it must give.

    file = "boostlib-bundle 1 " + SHA-256 of the rest + newline, then xz of one safetensors file:
    metadata   `record`: run.json (base id, base fingerprint, identity, environment) and the ledger's lines, unchanged
    tensors    the numbers of every round, a sketch of every merged round, the head of a classifier

The checksum finds damage and careless edits. It is no signature: who can rewrite the file can rewrite the checksum.
"""

import hashlib
import json
import lzma
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from boostlib.common.durable import output_folder, write_durably
from boostlib.common.errors import LedgerError, RunError
from boostlib.common.settings import AnyPath, valid
from boostlib.records.ledger import Ledger, Numbers, require_header
from boostlib.records.rows import Round

MAGIC = b"boostlib-bundle 1 "


class Bundle(Ledger):
    """Reads a bundle as the ledger of the run that it was made of. Raises RunError where it is none or was changed."""

    def __init__(self, file: str | Path):
        super().__init__(file)
        self.path = self.dir
        body = _checked(self.path)
        try:
            length = int.from_bytes(body[:8], "little")
            record = json.loads(json.loads(body[8 : 8 + length])["__metadata__"]["record"])
            self.tensors = load(body)
            self._header, self._text = require_header(record["run"], self.path), record["ledger"].encode()
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RunError(f"{self.path} is no bundle of this version ({error}): export it again") from None

    @property
    def header(self) -> dict[str, Any]:
        """What run.json says in the run's directory."""
        return self._header

    def head(self) -> dict[str, Tensor] | None:
        """The classifier's head; None for a language model."""
        found = _part(self.tensors, "head.")
        return found or None

    def load_numbers(self, index: int) -> Numbers | None:
        """(numbers, {}) of a round: what training noted beside the ledger's line stays in the run's directory."""
        end = f".{index:04d}"
        found = {name.removesuffix(end): tensor for name, tensor in self.tensors.items() if name.endswith(end)}
        found.pop("sketch", None)
        return (found, {}) if found else None

    def v_path(self, index: int) -> Path:
        """The bundle: all rounds lie in it."""
        return self.path

    def sketch(self, row: Round) -> Tensor | None:
        """What the rebuilt update of a merged round must agree with."""
        return self.tensors.get(f"sketch.{row.index:04d}")

    def append(self, *row) -> None:
        """Refused: see the error."""
        raise RunError(f"{self.path} is a bundle, which never changes: continue the run in its directory")

    create = save_numbers = repair = locked = append  # type: ignore[assignment]

    def verify(self) -> list[Round]:
        """As for a run's directory; every merged round must have its sketch. Returns the rounds."""
        rounds = super().verify()
        bare = [row.index for row in rounds if row.merged and self.sketch(row) is None]
        if self.base is None or bare:
            what = f"no sketch of round {bare[0]}" if bare else "no record of the untrained model"
            raise RunError(f"{self.path} has {what}: it is no bundle that was exported; export it again")
        return rounds

    def _good_bytes(self) -> bytes:
        return self._text

    def _round_files(self) -> list[Path]:
        return []

    def _bad(self, number: int, why: str) -> LedgerError:
        return LedgerError(f"{self.path}, ledger line {number + 1}: {why}. Ask for an intact copy of the bundle")


def open_record(path: str | Path) -> Ledger:
    """The ledger in a run's directory, or in a bundle where `path` is a file."""
    path = Path(valid("open_record(", path, AnyPath))
    return Bundle(path) if path.is_file() else Ledger(path)


def write_bundle(
    file: str | Path, ledger: Ledger, sketches: Mapping[int, Tensor], head: Mapping[str, Tensor], count: int
) -> None:
    """Write the first `count` rounds of `ledger`, whole or not at all; the same run gives the same bytes."""
    lines = ledger._good_bytes().splitlines(keepends=True)[: count + 1]
    tensors = {f"sketch.{index:04d}": tensor for index, tensor in sketches.items()}
    tensors |= {f"head.{name}": tensor.detach().cpu().contiguous() for name, tensor in head.items()}
    for row in ledger.rounds[:count]:
        recorded = ledger.load_numbers(row.index)
        if recorded is not None:  # a skipped round may have none
            tensors |= {f"{name}.{row.index:04d}": numbers for name, numbers in recorded[0].items()}
    record = json.dumps({"run": ledger.header, "ledger": b"".join(lines).decode()})
    body = lzma.compress(save(tensors, {"record": record}), preset=9)  # one key: safetensors would shuffle several
    output_folder(Path(file).parent)
    write_durably(Path(file), MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def _checked(path: Path) -> bytes:
    """The body of a bundle, after its checksum was compared."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror or error}): give the file of a bundle") from None
    first, _, body = data.partition(b"\n")
    if not first.startswith(MAGIC):
        raise RunError(f"{path} is no bundle (it does not begin with {MAGIC.decode()!r}): give a run or a bundle")
    if first.removeprefix(MAGIC).decode(errors="replace") != hashlib.sha256(body).hexdigest():
        raise RunError(f"{path} was changed or cut short after it was exported (checksum): ask for an intact copy")
    try:
        return lzma.decompress(body)
    except lzma.LZMAError as error:
        raise RunError(f"{path} cannot be unpacked ({error}): ask for an intact copy") from None


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
