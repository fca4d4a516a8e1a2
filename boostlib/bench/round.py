"""A whole round, against TRL's trainer as it comes, on PEFT's TinyLoRA.

TRL gets every setting of ours, among them no gradient checkpointing and no autocast, which it would turn on by default
and which would only slow it down here. What differs is ours: folding, shared prompts, rows left out.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PrinterCallback

from boostlib.adapter import TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.bench.decoding import answers, plain_loop
from boostlib.bench.measure import Measurement, clock, phased
from boostlib.bench.setup import Setup, peft_tiny_lora
from boostlib.evaluation.decode import Decode
from boostlib.models.subject import Subject
from boostlib.records.rows import Training
from boostlib.tasks.base import Example, TextTask
from boostlib.training.grpo import GRPO
from boostlib.update import Weights

Phases = tuple[dict[str, float], dict[str, int]]  # (seconds by phase, work done)


def bench_round(setup: Setup) -> list[Measurement]:
    """Seconds of one round, by phase; one measured round of each side, without a warm-up.

    evaluate train, failures -> adapter -> train -> merge -> evaluate test

    The peer evaluates with a plain generate loop, adds its adapter with `get_peft_model` (an SVD each time), trains
    with GRPOTrainer and merges with `merge_and_unload`. Ours computes its basis inside the round, with an empty cache,
    although a run needs one basis for all of its rounds.
    """
    sides = {"boostlib": _our_round, "TRL + PEFT": _their_round}
    with tqdm(total=5 * len(sides), desc="round", unit="phase", leave=False) as bar:
        return [phased(f"one round of {setup.task.name}", {name: one(setup, bar) for name, one in sides.items()})]


@contextmanager
def _phase(bar: tqdm, seconds: dict[str, float], phase: str) -> Iterator[None]:
    bar.set_postfix_str(phase)
    with clock(seconds, phase):
        yield
    bar.update()


def _our_round(setup: Setup, bar: tqdm) -> Phases:
    seconds: dict[str, float] = {}
    subject, decoder = Subject(*setup.load(), setup.task, on_step=bar.set_postfix), Decode(setup.batch_size)
    with _phase(bar, seconds, "evaluate train"):
        result = answers(subject, decoder, "train")
        failed = set(result.failures)
        failures = [example for example in setup.task.split("train") if example.id in failed]
    with _phase(bar, seconds, "adapter"), tempfile.TemporaryDirectory() as folder:
        basis = SVDBasis.from_model(subject.model, setup.adapter.rank, cache_dir=folder)
        adapter = TinyLoRA(basis, setup.adapter)
        weights = Weights(subject.model, adapter.names)
        adapter.attach(subject.model, weights)
    with _phase(bar, seconds, "train"), completions(setup.task) as made:
        once = replace(setup.trainer, max_samples=setup.trainer.samples)  # no second try: the peer has none
        steps = once.train(subject, failures, adapter).steps
    with _phase(bar, seconds, "merge"):
        adapter.detach()
        weights.merge(adapter.update())
    with _phase(bar, seconds, "evaluate test"):
        last = answers(subject, decoder)
    return seconds, {"steps": steps, "completions": sum(made), "evaluated": len(result.ids) + len(last.ids)}


def _their_round(setup: Setup, bar: tqdm) -> Phases:
    seconds: dict[str, float] = {}
    subject, size = Subject(*setup.load(), setup.task, on_step=bar.set_postfix), setup.batch_size
    examples, test = setup.task.split("train"), setup.task.split("test")
    with _phase(bar, seconds, "evaluate train"):
        _, right = plain_loop(subject, examples, size)
        failures = [example for example, correct in zip(examples, right, strict=True) if not correct]
    with _phase(bar, seconds, "adapter"):
        wrapped = peft_tiny_lora(subject.model, setup.adapter)
    with _phase(bar, seconds, "train"), completions(setup.task) as made:
        steps = _train_with_trl(setup.trainer, replace(subject, model=wrapped), failures)
    with _phase(bar, seconds, "merge"):
        subject.model = wrapped.merge_and_unload()
    with _phase(bar, seconds, "evaluate test"):
        plain_loop(subject, test, size)
    return seconds, {"steps": steps, "completions": sum(made), "evaluated": len(examples) + len(test)}


def _train_with_trl(own: GRPO, subject: Subject, examples: Sequence[Example]) -> int:
    """Steps of TRL's trainer as it comes, with our settings, on PEFT's adapter, which the subject's model carries."""
    from trl import GRPOTrainer  # takes seconds to import

    from boostlib.training.trl import Pass, Recorder, reward_function

    with tempfile.TemporaryDirectory() as scratch:
        trainer = GRPOTrainer(
            subject.model,
            reward_function(subject.task, examples),
            Pass(own, subject, examples, seed=0).config(scratch, own.learning_rate),
            Dataset.from_list([{"prompt": e.prompt, "index": i} for i, e in enumerate(examples)]),
            processing_class=subject.tokenizer,
            callbacks=[Recorder(Training(), subject.on_step)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    vars(subject.model.get_base_model()).pop("forward", None)  # TRL leaves its own there
    subject.model.eval()
    return trainer.state.global_step


@contextmanager
def completions(task: TextTask) -> Iterator[list[int]]:
    """How many completions of `task` are scored inside, call by call."""
    made: list[int] = []
    plain = type(task).score_many

    def counted(self, texts, examples):
        made.append(len(texts))
        return plain(self, texts, examples)

    with patch.object(type(task), "score_many", counted):
        yield made
