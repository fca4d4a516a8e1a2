"""One probing batch of a greedy round beside one training step: seconds, and the highest resident memory of each.

Both sample completions of the same failures and run forward and backward passes; probing keeps a K x K core a module,
training v alone. Memory is the kernel's high-water mark, reset before each (Linux), so it counts the model and
everything else that the process holds, W0 included as in a run; both sides run once before anything is measured.
"""

from dataclasses import replace
from pathlib import Path

from boostlib.adapter import TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.bench.measure import Measurement, clock, interleaved
from boostlib.bench.setup import Setup
from boostlib.core_gradient import core_gradients
from boostlib.update import Weights

PROBE, STEP = "one probing batch", "one training step"
CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def bench_probe(setup: Setup) -> list[Measurement]:
    """Seconds and MB of both, on the demo's failures; ours is the probing, the peer is the training step."""
    model, tokenizer = setup.load()
    examples, work = setup.task.split("train"), {}
    trainer = replace(setup.trainer, max_steps=1, max_samples=setup.trainer.samples)  # no second try
    adapter = replace(setup.adapter, strategy="greedy")
    basis = SVDBasis.from_model(model, adapter.basis_rank(setup.rounds))
    weights = Weights(model, list(basis))

    def probe() -> tuple[float, float]:
        reset_peak()
        with clock() as taken, core_gradients(model, basis):
            done = trainer.probe(model, tokenizer, setup.task, examples, 1, seed=3)
        work[PROBE] = {"steps": done.steps, "tokens": done.tokens}
        return taken.seconds, resident("VmHWM") / 1e6

    def step() -> tuple[float, float]:
        one = TinyLoRA(basis, setup.adapter).attach(model, weights)
        try:
            reset_peak()
            with clock() as taken:
                done = trainer.train(model, tokenizer, setup.task, examples, one, seed=3)
        finally:
            one.detach()
        work[STEP] = {"steps": done.steps, "tokens": done.tokens}
        return taken.seconds, resident("VmHWM") / 1e6

    passes = interleaved({PROBE: probe, STEP: step}, setup.repeats)
    seconds, memory = ({name: [pair[i] for pair in found] for name, found in passes.items()} for i in (0, 1))
    return [
        Measurement("probing, time", seconds, [(PROBE, STEP)], work=work),
        Measurement("probing, peak memory", memory, [(PROBE, STEP)], unit="MB", work=work),
    ]


def reset_peak() -> None:
    """The high-water mark of this process falls to what it holds now."""
    CLEAR.write_text("5")


def resident(field: str) -> int:
    """Bytes of resident memory: "VmRSS" now, "VmHWM" at its highest since `reset_peak`."""
    return next(int(line.split()[1]) * 1024 for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
