"""Randomness and fingerprints that are the same on every device, in every process and after a resume.

Every random choice of a run comes from NumPy's counter-based Philox generator, keyed by a BLAKE2 hash of what the
choice is for: (seed, round, module name). Python's own `hash` is salted per process and torch's generators differ
between devices, so neither is used.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def stable_seed(*parts: int | str, bits: int = 32) -> int:
    """A seed of `bits` bits from any mix of numbers and strings, equal in every process."""
    return int.from_bytes(_blake(*parts).digest()[: bits // 8], "little")


def round_seed(seed: int, index: int) -> int:
    """The seed that a run with `seed` trains its round `index` with; within what trainers take, 31 bits."""
    return stable_seed(seed, "train", index) % 2**31


def philox(*parts: int | str) -> np.random.Generator:
    """A NumPy generator that depends on `parts` alone."""
    return np.random.Generator(np.random.Philox(key=stable_seed(*parts, bits=128)))


def normals(keys: Iterable[Sequence[int | str]], shape: tuple[int, ...]) -> np.ndarray:
    """(keys, *shape) fp64: row i is `philox(*keys[i]).standard_normal(shape)`, at a fifth of the time."""
    return np.stack([generator.standard_normal(shape) for generator in _each(keys)])


def uniforms(keys: Iterable[Sequence[int | str]], count: int) -> np.ndarray:
    """(keys, count) fp64 in [0, 1): row i is `philox(*keys[i]).random(count)`."""
    return np.stack([generator.random(count) for generator in _each(keys)])


def _each(keys: Iterable[Sequence[int | str]]) -> Iterator[np.random.Generator]:
    """`philox(*key)` for one key after the other: one generator set back, since making it costs more than a draw."""
    bits = np.random.Philox(key=0)
    fresh, generator = bits.state, np.random.Generator(bits)
    for key in keys:
        fresh["state"]["key"] = np.frombuffer(_blake(*key).digest()[:16], dtype="<u8").astype(np.uint64)
        bits.state = fresh
        yield generator


def fingerprint_tensors(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the given order; independent of the device."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items() if isinstance(tensors, Mapping) else tensors:
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint_json(value: Any) -> str:
    """SHA-256 of the canonical JSON form of `value`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def fingerprint_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_dir() -> Path:
    """Where converted models and bases are kept: `BOOSTLIB_CACHE`, else `~/.cache/boostlib`."""
    return Path(os.environ.get("BOOSTLIB_CACHE") or Path.home() / ".cache" / "boostlib")


def _blake(*parts: int | str):
    return hashlib.blake2b("\x1f".join(str(part) for part in parts).encode(), digest_size=32)
