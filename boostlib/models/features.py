"""Pooled features of an encoder, kept on disk: the untrained encoder reads a data set once, not once an epoch or a
seed.

    <cache>/features/<hash of the tokens>-<fingerprint of the encoder>.safetensors      features (n, hidden) fp32

The tokens stand for sequences, length limit and tokenizer; the fingerprint for every weight of the encoder. Labels
and the head are not part of the key: they do not enter the features.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from boostlib.common import world
from boostlib.common.durable import write_durably
from boostlib.common.errors import RunError
from boostlib.common.stable import cache_dir, fingerprint_json, fingerprint_tensors
from boostlib.models.classifier import SequenceClassifier, run_batches
from boostlib.models.sequences import Encoded

log = logging.getLogger(__name__)


def features(
    model: SequenceClassifier,
    tokenizer,
    encoded: Sequence[Encoded],
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
    keep: bool = False,
) -> Tensor:
    """(n, hidden) fp32 on the CPU, from the cache where the same encoder has read the same tokens before.

    keep: write what was computed to the cache. A cache that cannot be written costs time, not the run.
    """
    folder = cache_dir() / "features"
    parts = [world.size()] if world.size() > 1 else []
    shapes = [[one.ids for one in encoded], batch_size, *parts]  # a batch's shape moves the last bits
    tokens = fingerprint_json(shapes)[:24]
    known = keep or any(folder.glob(f"{tokens}-*"))
    path = folder / f"{tokens}-{encoder_fingerprint(model)[:24]}.safetensors" if known else None
    found = _read(path, len(encoded)) if path else None
    if world.total(found is None) == 0:  # known to every process
        if on_batch:
            on_batch(len(world.share(encoded)))
        return found

    def read(part: Sequence[Encoded]) -> list[Tensor]:
        rows = run_batches(model, tokenizer, part, model.features, batch_size, on_batch)
        return [row.clone() for row in rows]  # a view would be sent with all that it is a view of

    found = torch.stack(world.spread(encoded, read))
    if keep and world.is_main():
        _write(path, found)
    return found


@torch.no_grad()
def logits(
    model: SequenceClassifier,
    tokenizer,
    encoded: Sequence[Encoded],
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """(n,) fp32 on the CPU: the head on `features`."""
    pooled = features(model, tokenizer, encoded, batch_size, on_batch)
    return model.head(pooled.to(model.device)).squeeze(-1).cpu()


def encoder_fingerprint(model: SequenceClassifier) -> str:
    """SHA-256 over the encoder's weights."""
    return fingerprint_tensors(model.encoder.named_parameters())


def _read(path: Path, count: int) -> Tensor | None:
    with contextlib.suppress(OSError, SafetensorError, KeyError):  # not there, or cut short: computed anew
        found = load_file(path)["features"]
        return found if len(found) == count else None
    return None


def _write(path: Path, found: Tensor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, save({"features": found.contiguous()}))
    except (OSError, RunError) as error:
        log.warning("features not cached under %s: %s", path, error)
        with contextlib.suppress(OSError):
            os.unlink(path.with_name(f".{path.name}.tmp"))
