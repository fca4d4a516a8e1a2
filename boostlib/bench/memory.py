"""What one training step holds at its highest, and what the two ways to hold less cost.

    whole = one micro-batch a step     parts = four, one after the other     checkpointed = activations computed twice

All three take the same step on the same failures: the gradient is the same up to rounding. Checkpointing runs every
completion's prompt, where the other two run what all prompts begin with once. Memory is the kernel's high-water mark,
see probe.py.
"""

from dataclasses import replace

from boostlib.adapter import TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.bench.measure import Measurement
from boostlib.bench.probe import attached, time_and_memory
from boostlib.bench.setup import Setup
from boostlib.models.subject import Subject
from boostlib.records.rows import Training
from boostlib.training.grpo import GRPO
from boostlib.update import Weights

WHOLE, PARTS, CHECKPOINTED = "one micro-batch", "four micro-batches", "checkpointed"


def bench_memory(setup: Setup) -> list[Measurement]:
    """Seconds and MB of a step the three ways."""
    model, tokenizer = setup.load()
    examples = setup.task.split("train")
    whole = replace(setup.trainer, max_steps=1, max_samples=setup.trainer.samples)  # no second try
    quarter = max(1, min(whole.micro_batch, whole.prompts * whole.samples) // 4)
    trainers = {
        WHOLE: whole,
        PARTS: replace(whole, micro_batch=quarter),
        CHECKPOINTED: replace(whole, gradient_checkpointing=True),
    }
    basis = SVDBasis.from_model(model, setup.adapter.rank)
    weights = Weights(model, list(basis))

    def step(trainer: GRPO) -> Training:
        with attached(TinyLoRA(basis, setup.adapter), model, weights) as adapter:
            return trainer.train(Subject(model, tokenizer, setup.task), examples, adapter, seed=3)

    calls = {name: lambda trainer=trainer: step(trainer) for name, trainer in trainers.items()}
    return time_and_memory("one training step", calls, [(PARTS, WHOLE), (CHECKPOINTED, WHOLE)], setup.repeats)
