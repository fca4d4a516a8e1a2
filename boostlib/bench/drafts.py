"""Evaluating a model that a small adapter has just changed: with the last completions as drafts, and without.

The adapter is as large as a trained one: every number of v is 0.3 or -0.3, as after some thirty steps of Adam at 0.01.
"""

import copy

import torch

from boostlib.adapter import TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.bench.measure import Measurement, clock, interleaved
from boostlib.bench.setup import Setup
from boostlib.evaluation.drafts import Drafts
from boostlib.evaluation.evaluate import evaluate
from boostlib.tasks.base import TextTask

SIZE = 0.3


def bench_drafts(setup: Setup) -> list[Measurement]:
    """Seconds for the test split of two tasks: one of short answers, one of long ones."""
    model, tokenizer = setup.load()
    adapter = TinyLoRA(SVDBasis.from_model(model, setup.adapter.rank), setup.adapter)
    signs = torch.randint(0, 2, adapter.v.shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    adapter.v.data.copy_(SIZE * signs)
    return [_measured(setup, model, tokenizer, task, adapter) for task in (setup.task, setup.code)]


def _measured(setup: Setup, model, tokenizer, task: TextTask, adapter: TinyLoRA) -> Measurement:
    before, last = Drafts(setup.batch_size), {}
    evaluate(model, tokenizer, task, "test", setup.batch_size, progress=False, decoder=before)
    before.record()
    adapter.attach(model)

    def run(name: str, drafts: Drafts | None) -> float:
        with clock() as taken:
            last[name] = evaluate(model, tokenizer, task, "test", setup.batch_size, progress=False, decoder=drafts)
        last[f"{name}, counts"] = drafts.entry()["drafts"] if drafts else {"tokens": last[name].tokens}
        return taken.seconds

    ours, plain = f"with drafts, {task.name}", f"all decoded, {task.name}"
    with adapter.folded():
        runs = interleaved(
            {ours: lambda: run(ours, copy.deepcopy(before)), plain: lambda: run(plain, None)}, setup.repeats
        )
    adapter.detach()
    same = sum(a == b for a, b in zip(last[ours].completions, last[plain].completions, strict=True))
    work = {name: last[f"{name}, counts"] for name in (ours, plain)}
    notes = {"equal completions": f"{same} of {len(last[ours].ids)}"}
    return Measurement(f"evaluation of {task.name} after a small update", runs, [(ours, plain)], work=work, notes=notes)
