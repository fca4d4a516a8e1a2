"""One probing batch of a greedy round beside one training step: seconds, and the highest resident memory of each.

Both sample completions of the same failures and run forward and backward passes; probing keeps a K x K core a module,
training v alone. Memory is the kernel's high-water mark, reset before each (Linux), so it counts the model and
everything else that the process holds, W0 included as in a run; both sides run once before anything is measured.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import nn

from boostlib.adapter import TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.bench.measure import Measurement, clock, interleaved
from boostlib.bench.setup import Setup
from boostlib.models.subject import Subject
from boostlib.records.rows import Training
from boostlib.strategies.core_gradient import core_gradients
from boostlib.update import Weights

PROBE, STEP = "one probing batch", "one training step"
CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def bench_probe(setup: Setup) -> list[Measurement]:
    """Seconds and MB of both, on the demo's failures; ours is the probing, the peer is the training step."""
    model, tokenizer = setup.load()
    subject, examples = Subject(model, tokenizer, setup.task), setup.task.split("train")
    trainer = replace(setup.trainer, max_steps=1, max_samples=setup.trainer.samples)  # no second try
    adapter = replace(setup.adapter, strategy="greedy")
    basis = SVDBasis.from_model(model, adapter.basis_rank(setup.rounds))
    weights = Weights(model, list(basis))

    def probe() -> Training:
        with core_gradients(model, basis):
            return trainer.probe(subject, examples, 1, seed=3)

    def step() -> Training:
        with attached(TinyLoRA(basis, setup.adapter), model, weights) as one:
            return trainer.train(subject, examples, one, seed=3)

    return time_and_memory("probing", {PROBE: probe, STEP: step}, [(PROBE, STEP)], setup.repeats)


@contextmanager
def attached(adapter: TinyLoRA, model: nn.Module, weights: Weights) -> Iterator[TinyLoRA]:
    """`adapter` on `model`, which is plain again afterwards."""
    try:
        yield adapter.attach(model, weights)
    finally:
        adapter.detach()


def time_and_memory(
    what: str, calls: Mapping[str, Callable[[], Training]], pairs: Sequence[tuple[str, str]], repeats: int
) -> list[Measurement]:
    """Seconds of each call, and the process's highest resident memory in it, in MB."""
    work: dict[str, dict[str, int]] = {}

    def measured(name: str) -> tuple[float, float]:
        reset_peak()
        with clock() as taken:
            done = calls[name]()
        work[name] = {"steps": done.steps, "tokens": done.tokens}
        return taken.seconds, resident("VmHWM") / 1e6

    passes = interleaved({name: lambda name=name: measured(name) for name in calls}, repeats)
    seconds, memory = ({name: [pair[i] for pair in found] for name, found in passes.items()} for i in (0, 1))
    return [
        Measurement(f"{what}, time", seconds, pairs, work=work),
        Measurement(f"{what}, peak memory", memory, pairs, unit="MB", work=work),
    ]


def reset_peak() -> None:
    """The high-water mark of this process falls to what it holds now."""
    CLEAR.write_text("5")


def resident(field: str) -> int:
    """Bytes of resident memory: "VmRSS" now, "VmHWM" at its highest since `reset_peak`."""
    return next(int(line.split()[1]) * 1024 for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
