"""A whole round of the demo, by phase: ours against the same round by TRL as it comes and PEFT's TinyLoRA.

    evaluate train, failures -> adapter -> train -> merge -> evaluate test

The peer evaluates with a plain generate loop, adds its adapter with `get_peft_model` (an SVD each time), trains with
GRPOTrainer and merges with `merge_and_unload`. Ours computes its basis inside the round, with an empty cache, although
a run needs one basis for all of its rounds.
"""

import tempfile

from boostlib.adapter import TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.bench.evaluate import plain_loop
from boostlib.bench.grpo import OURS, PEER, train_ours, train_peer
from boostlib.bench.measure import Measurement, clock, interleaved, phased
from boostlib.bench.setup import Setup, peft_tiny_lora
from boostlib.evaluation.evaluate import evaluate
from boostlib.update import Weights

PHASES = ("evaluate train", "adapter", "train", "merge", "evaluate test")


def bench_round(setup: Setup) -> list[Measurement]:
    """Seconds of one round, by phase; one measured round of each side, without a warm-up."""
    work: dict[str, dict[str, int]] = {}
    passes = interleaved({OURS: lambda: _ours(setup, work), PEER: lambda: _theirs(setup, work)}, 1, warm_up=0)
    return [phased(f"one round of {setup.task.name}", passes, work)]


def _ours(setup: Setup, work: dict) -> dict[str, float]:
    model, tokenizer = setup.load()
    task = setup.task
    with clock() as first:
        result = evaluate(model, tokenizer, task, "train", setup.batch_size, progress=False)
        failed = set(result.failures)
        failures = [example for example in task.split("train") if example.id in failed]
    with clock() as added, tempfile.TemporaryDirectory() as folder:
        adapter = TinyLoRA(SVDBasis.from_model(model, setup.adapter.rank, cache_dir=folder), setup.adapter)
        weights = Weights(model, adapter.names)
        adapter.attach(model, weights)
    with clock() as trained:
        _, done = train_ours(setup, model, tokenizer, failures, adapter)
    with clock() as merged:
        adapter.detach()
        weights.merge(adapter.update())
    with clock() as last:
        evaluate(model, tokenizer, task, "test", setup.batch_size, progress=False)
    work[OURS] = done | {"evaluated": len(task.split("train")) + len(task.split("test"))}
    return dict(zip(PHASES, (one.seconds for one in (first, added, trained, merged, last)), strict=True))


def _theirs(setup: Setup, work: dict) -> dict[str, float]:
    model, tokenizer = setup.load()
    task, examples = setup.task, setup.task.split("train")
    with clock() as first:
        _, right = plain_loop(model, tokenizer, task, examples, setup.batch_size)
        failures = [example for example, correct in zip(examples, right, strict=True) if not correct]
    with clock() as added:
        wrapped = peft_tiny_lora(model, setup.adapter)
    with clock() as trained:
        _, done = train_peer(setup, wrapped, tokenizer, failures)
    with clock() as merged:
        model = wrapped.merge_and_unload()
    with clock() as last:
        plain_loop(model, tokenizer, task, task.split("test"), setup.batch_size)
    work[PEER] = done | {"evaluated": len(examples) + len(task.split("test"))}
    return dict(zip(PHASES, (one.seconds for one in (first, added, trained, merged, last)), strict=True))
