"""Does a merged export cost anything at inference? Base and export decode in turns, in one process."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import nn

from boostlib.adapter import TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.bench.measure import Measurement, clock, interleaved
from boostlib.bench.setup import Setup
from boostlib.evaluation.generate import encode, generate
from boostlib.update import LowRankUpdate, Weights

EXPORT, BASE = "merged export", "base"


def bench_export(setup: Setup) -> list[Measurement]:
    """Greedy decoding: the embedded model, the same loaded a second time, and a merged export.

    The export is of `setup.rounds` rounds of random numbers, saved and loaded as `export_merged` leaves it. The second
    load of the base shows how far two equal models differ in this process: the export has to lie within that.
    """
    model, tokenizer = setup.load()
    ids = encode(tokenizer, [e.prompt for e in setup.task.split("train")[: setup.prompts]])
    with tempfile.TemporaryDirectory() as scratch:
        exported = _exported(setup, Path(scratch))
    models = {EXPORT: exported, BASE: model, "base, loaded again": setup.load()[0]}
    work: dict[str, dict[str, int]] = {}

    def decode(name: str, which: nn.Module) -> Callable[[], float]:
        def timed() -> float:
            with clock() as taken:
                found = generate(which, tokenizer, ids, 2 * setup.new_tokens, stop_at_end=False)
            work[name] = {"tokens": sum(map(len, found))}
            return taken.seconds

        return timed

    runs = interleaved({name: decode(name, which) for name, which in models.items()}, setup.repeats)
    tokens = work[BASE]["tokens"]
    pairs = [(EXPORT, BASE), ("base, loaded again", BASE)]
    return [Measurement("merged export, greedy decoding", runs, pairs, work=work, amount=tokens)]


def _exported(setup: Setup, folder: Path) -> nn.Module:
    model, _ = setup.load()
    rank, total = setup.adapter.rank * setup.rounds, LowRankUpdate()
    basis = SVDBasis.from_model(model, rank)
    for index in range(setup.rounds):
        adapter = TinyLoRA(basis, setup.adapter, index)
        adapter.v.data.normal_(std=0.05)
        total = total + adapter.update()
    Weights(model, list(basis)).merge(total)
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder, dtype=model.dtype).to(model.device).eval()
