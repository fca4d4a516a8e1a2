"""What one training step holds at its highest, and what the two ways to hold less cost.

    whole = one micro-batch a step     parts = four, one after the other     checkpointed = activations computed twice

All three take the same step on the same failures: the gradient is the same up to rounding. Checkpointing runs every
completion's prompt, where the other two run what all prompts begin with once. Memory is the kernel's high-water mark,
see probe.py.
"""

from dataclasses import replace

from boostlib.adapter import TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.bench.measure import Measurement, clock, interleaved
from boostlib.bench.probe import reset_peak, resident
from boostlib.bench.setup import Setup
from boostlib.update import Weights

WHOLE, PARTS, CHECKPOINTED = "one micro-batch", "four micro-batches", "checkpointed"


def bench_memory(setup: Setup) -> list[Measurement]:
    """Seconds and MB of a step the three ways."""
    model, tokenizer = setup.load()
    examples, work = setup.task.split("train"), {}
    whole = replace(setup.trainer, max_steps=1, max_samples=setup.trainer.samples)  # no second try
    quarter = max(1, min(whole.micro_batch, whole.prompts * whole.samples) // 4)
    trainers = {
        WHOLE: whole,
        PARTS: replace(whole, micro_batch=quarter),
        CHECKPOINTED: replace(whole, gradient_checkpointing=True),
    }
    basis = SVDBasis.from_model(model, setup.adapter.rank)
    weights = Weights(model, list(basis))

    def step(name: str) -> tuple[float, float]:
        adapter = TinyLoRA(basis, setup.adapter).attach(model, weights)
        try:
            reset_peak()
            with clock() as taken:
                done = trainers[name].train(model, tokenizer, setup.task, examples, adapter, seed=3)
        finally:
            adapter.detach()
        work[name] = {"steps": done.steps, "tokens": done.tokens}
        return taken.seconds, resident("VmHWM") / 1e6

    passes = interleaved({name: lambda name=name: step(name) for name in trainers}, setup.repeats)
    seconds, memory = ({name: [pair[i] for pair in found] for name, found in passes.items()} for i in (0, 1))
    pairs = [(PARTS, WHOLE), (CHECKPOINTED, WHOLE)]
    return [
        Measurement("one training step, time", seconds, pairs, work=work),
        Measurement("one training step, peak memory", memory, pairs, unit="MB", work=work),
    ]
