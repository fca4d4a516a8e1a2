"""Evaluations between rounds: checked drafts against decoding every completion anew.

`drafts`: rounds are trained as in a run, with few steps, and after each the training split is evaluated both ways on
the same weights, in turns. Three tasks: answers of four tokens, programs of at most 80, and worked-out answers of at
most 256. The first evaluation, in which there are no drafts yet, is not counted. Where the two decide an example
differently, the smallest gap between the two largest logits along its completion is noted: rounding explains a tie.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from tqdm.auto import tqdm

from boostlib.adapter import TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.bench.decoding import answers
from boostlib.bench.measure import Measurement, clock
from boostlib.bench.setup import Setup
from boostlib.common.stable import round_seed
from boostlib.evaluation.decode import Decode
from boostlib.evaluation.drafts import Drafts
from boostlib.evaluation.evaluate import Result
from boostlib.evaluation.generate import prompts_of
from boostlib.models.subject import Subject
from boostlib.tasks.base import TextTask
from boostlib.training.grpo import GRPO
from boostlib.update import Weights

DRAFTS, ANEW = "drafts, checked", "every completion anew"
ROUNDS, STEPS = 5, 2


def bench_drafts(setup: Setup) -> list[Measurement]:
    """Seconds of the evaluations after each of five rounds, by task; tokens decoded and decisions are in the notes."""
    small = GRPO(learning_rate=setup.trainer.learning_rate, prompts=8, samples=4, max_steps=STEPS)
    cases = (
        (setup.task, replace(setup.trainer, max_steps=STEPS)),
        (setup.code, replace(setup.code_trainer, max_steps=STEPS)),
        (setup.worked_out, small),
    )
    with tqdm(total=2 * (ROUNDS + 1) * len(cases), desc="drafts", unit="pass", leave=False) as bar:
        return [_compared(setup, task, trainer, bar) for task, trainer in cases]


def _compared(setup: Setup, task: TextTask, trainer: GRPO, bar: tqdm) -> Measurement:
    subject = Subject(*setup.load(), task, on_step=bar.set_postfix)
    drafts = Drafts(setup.batch_size)
    decoders = {DRAFTS: drafts, ANEW: Decode(setup.batch_size)}
    runs: dict[str, list[float]] = {name: [] for name in decoders}
    tokens, decided, ties = dict.fromkeys(decoders, 0), 0, []
    for number, _ in enumerate(_rounds(setup, subject, trainer)):
        found: dict[str, Result] = {}
        for name in (*decoders,) if number % 2 else reversed((*decoders,)):
            seconds: dict[str, float] = {}
            bar.set_postfix_str(f"{task.name}, after {number} rounds: {name}")
            with clock(seconds, name):
                found[name] = answers(subject, decoders[name], "train")
            bar.update()
            if number:
                runs[name].append(seconds[name])
        made = drafts.entry()["drafts"]["tokens"]
        if number:
            tokens[DRAFTS] += made
            tokens[ANEW] += found[ANEW].tokens
            decided += len(found[ANEW].ids)
            ties += _ties(subject, drafts, found, number)
    notes = {"decided": decided, "decided differently": len(ties), "ties": "; ".join(ties) or "none"}
    work = {name: {"tokens decoded": count} for name, count in tokens.items()}
    return Measurement(
        f"{task.name}, evaluation of {decided // ROUNDS} examples after each of {ROUNDS} rounds",
        runs, [(DRAFTS, ANEW)], work=work, notes=notes,
    )  # fmt: skip


def _rounds(setup: Setup, subject: Subject, trainer: GRPO) -> Iterator[None]:
    """The untrained model, then the model after each round, trained on what it got wrong."""
    basis = SVDBasis.from_model(subject.model, setup.adapter.rank * ROUNDS)
    weights = Weights(subject.model, list(basis))
    yield
    for index in range(ROUNDS):
        failed = set(answers(subject, Decode(setup.batch_size), "train").failures)
        adapter = TinyLoRA(basis, setup.adapter, index).attach(subject.model, weights)
        examples = [one for one in subject.task.split("train") if one.id in failed]
        trainer.train(subject, examples, adapter, round_seed(0, index))
        adapter.detach()
        weights.merge(adapter.update())
        yield


@torch.no_grad()
def _ties(subject: Subject, drafts: Drafts, found: Mapping[str, Result], number: int) -> list[str]:
    """Every example that is decided differently, with the smallest gap along its completion."""
    examples, sides = subject.task.split("train"), [result.correct for result in found.values()]
    differ = [examples[i] for i in np.flatnonzero(sides[0] != sides[1])]
    ties = []
    for example, prompt in zip(differ, prompts_of(subject, differ), strict=True):
        ids = torch.tensor([prompt + drafts.known[tuple(prompt)]], device=subject.model.device)
        first, second = subject.model(ids).logits[0, len(prompt) - 1 : -1].float().topk(2).values.unbind(-1)
        ties.append(f"{example.id}, round {number}: {float((first - second).min()):.2g}")
    return ties
