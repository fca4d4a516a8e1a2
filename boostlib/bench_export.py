"""Does a merged export cost anything at inference? Base and export decode in turns, in one process."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from boostlib.adapter import AdapterConfig, TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.bench import interleaved, report
from boostlib.generate import encode, generate
from boostlib.identity import environment
from boostlib.models import load_model
from boostlib.tasks import load_task
from boostlib.update import LowRankUpdate, Weights

ROUNDS = 20


def bench_export(json_path: str | None = None, prompts: int = 16, new_tokens: int = 32) -> dict:
    """Greedy decoding, tokens a second: the embedded model, the same loaded a second time, and a merged export.

    The export is of 20 rounds of 12 random numbers, saved and loaded as `export_merged` leaves it. The second load of
    the base shows how far two equal models differ in this process: the export has to lie within that.
    """
    model, tokenizer = load_model("smollm2")
    ids = encode(tokenizer, [e.prompt for e in load_task("arithmetic").split("train")[:prompts]])
    with tempfile.TemporaryDirectory() as scratch:
        exported = _exported(Path(scratch))
    models = {"base": model, "base, loaded again": load_model("smollm2")[0], "merged export": exported}

    def decode(which: nn.Module) -> Callable[[], float]:
        def timed() -> float:
            start = time.perf_counter()
            generate(which, tokenizer, ids, new_tokens, stop_at_end=False)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            return time.perf_counter() - start

        return timed

    seconds = interleaved({name: decode(which) for name, which in models.items()})
    rates = {name: prompts * new_tokens / value for name, value in seconds.items()}
    return report("merged export, tokens a second", rates, "base", environment(model.device), json_path)


def _exported(folder: Path) -> nn.Module:
    model, _ = load_model("smollm2")
    basis, config, total = SVDBasis.from_model(model, rank=2 * ROUNDS), AdapterConfig(n_tie=18), LowRankUpdate()
    for index in range(ROUNDS):
        adapter = TinyLoRA(basis, config, index)
        adapter.v.data.normal_(std=0.05)
        total = total + adapter.update()
    Weights(model, list(basis)).merge(total)
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder, dtype=model.dtype).to(model.device).eval()
