"""GRPO on the same prompts with the same settings: ours against TRL's trainer as it comes, on PEFT's TinyLoRA.

    rollout = sampling completions     loss = forward and backward pass     rest = scoring, optimizer, setting up

The peer gets every setting of ours, among them no gradient checkpointing and no autocast, which TRL would turn on by
default and which would only slow it down here. What differs is ours: folding, shared prompts, rows left out.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from datasets import Dataset
from torch import nn
from transformers import PrinterCallback

from boostlib.adapter import TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.bench.measure import Measurement, clock, interleaved, phased
from boostlib.bench.setup import Setup, peft_tiny_lora
from boostlib.models.subject import Subject
from boostlib.tasks.base import Example
from boostlib.update import Weights

OURS, PEER = "boostlib", "TRL + PEFT"
PHASES = {"_generate_single_turn": "rollout", "_prepare_inputs": "prepare", "training_step": "step"}


def bench_grpo(setup: Setup) -> list[Measurement]:
    """Seconds of one step, by phase, a fresh trainer every time."""
    one = replace(setup, trainer=replace(setup.trainer, max_steps=1))
    model, tokenizer = one.load()
    peer = one.load()[0]
    examples = one.task.split("train")
    basis, work = SVDBasis.from_model(model, one.adapter.rank), {}
    weights = Weights(model, list(basis))  # kept over rounds, as in a run

    def ours() -> dict[str, float]:
        adapter = TinyLoRA(basis, one.adapter).attach(model, weights)
        try:
            seconds, work[OURS] = train_ours(one, model, tokenizer, examples, adapter)
        finally:
            adapter.detach()
        return seconds

    def theirs() -> dict[str, float]:
        wrapped = peft_tiny_lora(peer, one.adapter)
        try:
            seconds, work[PEER] = train_peer(one, wrapped, tokenizer, examples)
        finally:
            wrapped.unload()
        return seconds

    passes = interleaved({OURS: ours, PEER: theirs}, one.repeats)
    return [phased("one GRPO step", passes, work)]


def train_ours(setup: Setup, model: nn.Module, tokenizer, examples: Sequence[Example], adapter: TinyLoRA):
    """(seconds by phase, work done) of our trainer on an attached adapter."""
    from boostlib.training.trl import FoldingTrainer  # TRL takes seconds to import

    once = replace(setup.trainer, max_samples=setup.trainer.samples)  # no second try: the peer has none
    with clock() as taken, phases(FoldingTrainer) as seen:
        once.train(Subject(model, tokenizer, setup.task), examples, adapter)
    return _by_phase(taken.seconds, seen)


def train_peer(setup: Setup, wrapped: nn.Module, tokenizer, examples: Sequence[Example]):
    """(seconds by phase, work done) of TRL's trainer on PEFT's adapter."""
    from trl import GRPOTrainer

    base = wrapped.get_base_model()
    with clock() as taken, phases(GRPOTrainer) as seen, tempfile.TemporaryDirectory() as scratch:
        trainer = _trl_trainer(GRPOTrainer, setup, wrapped, tokenizer, examples, scratch)
        trainer.train()
    vars(base).pop("forward", None)  # TRL leaves its own there: the next trainer would wrap it once more
    wrapped.eval()
    return _by_phase(taken.seconds, seen)


def _trl_trainer(kind: type, setup: Setup, wrapped: nn.Module, tokenizer, examples: Sequence[Example], scratch: str):
    from boostlib.training.trl import Pass, reward_function

    own, task = setup.trainer, setup.task
    trainer = kind(
        wrapped,
        reward_function(task, examples),
        Pass(own, Subject(wrapped, tokenizer, task), examples, seed=0).config(scratch, own.learning_rate),
        Dataset.from_list([{"prompt": e.prompt, "index": i} for i, e in enumerate(examples)]),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


@contextmanager
def phases(trainer: type) -> Iterator[dict[str, float]]:
    """Inside, seconds spent in the methods of `PHASES`, and completions and steps, are counted in what is yielded."""
    seen = dict.fromkeys([*PHASES.values(), "completions", "steps"], 0)

    def counted(method: str):
        plain, phase = getattr(trainer, method), PHASES[method]

        def call(self, *args, **kwargs):
            with clock() as taken:
                out = plain(self, *args, **kwargs)
            seen[phase] += taken.seconds
            seen["completions"] += len(out[0]) if phase == "rollout" else 0
            seen["steps"] += phase == "step"
            return out

        return call

    with patch.multiple(trainer, **{method: counted(method) for method in PHASES}):
        yield seen


def _by_phase(whole: float, seen: dict[str, float]) -> tuple[dict[str, float], dict[str, int]]:
    loss = seen["step"] - seen["prepare"]
    seconds = {"rollout": seen["rollout"], "loss": loss, "rest": whole - seen["rollout"] - loss}
    return seconds, {name: seen[name] for name in ("steps", "completions")}
