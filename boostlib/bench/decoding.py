"""Decoding: rollouts from a model while its adapter trains, and evaluations between rounds.

`decode`: folded weights and the plain model through our generation code, which reads the prompts' shared beginning and
every prompt once; PEFT's TinyLoRA and the plain model as their users run them, left-padded prompts through
`model.generate(num_return_sequences=...)`. Ours counts the folding, once a rollout, as training does; merging counts
for PEFT's merged adapter too. All sides make the same number of tokens: no completion ends early. A step of the demo is
measured at the length of the task's answers and at `new_tokens`: the longer the completion, the less there is to share.
A step of the code section is measured for two sides.

    share = tokens a second / limit        limit = GFLOPS / (2 x parameters in linear layers), measured among the sides

The limit is what the machine's own matrix product would allow: nothing but the products of a decoding step, with the
model's own weights, dtype and threads, for as many rows as there are completions. A tied head counts once, looking up
embeddings not at all. Prompts are read within a side's time and not within the limit's, and tokens that several samples
share are computed once: so short answers may come above it.

`evaluate`: a whole split against the loop that people write: data order, left padding, no early end. Both decode
greedily in batches of one size and score with the task's own scorer, inside the time that is counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from boostlib.adapter import TinyLoRA
from boostlib.bench.measure import Measurement, timed
from boostlib.bench.setup import Setup, Sides
from boostlib.evaluation.decode import Decode
from boostlib.evaluation.evaluate import Result, evaluate
from boostlib.evaluation.generate import cut_at, encode, generate
from boostlib.models.subject import Subject
from boostlib.tasks.base import Example, TextTask

FOLDED, USERS = "folded, folding counted", "plain model, model.generate"
LIMIT = "its matrix products alone"


# --- rollouts


class Rollout(NamedTuple):
    """`samples` completions of each prompt, all of `length` tokens."""

    task: TextTask
    prompts: list[list[int]]
    samples: int
    length: int

    @property
    def rows(self) -> int:
        """Completions in all."""
        return len(self.prompts) * self.samples

    def ours(self, model: nn.Module, tokenizer) -> int:
        """Sample by our generation code; how many tokens were made."""
        settings = {"temperature": 1.0, "samples": self.samples, "stop_at_end": False}
        return sum(map(len, generate(model, tokenizer, self.prompts, self.length, **settings)))

    def as_users(self, model: nn.Module, tokenizer) -> int:
        """Sample by `model.generate`; how many tokens were made."""
        new = {"max_new_tokens": self.length, "min_new_tokens": self.length}
        sampling = {"do_sample": True, "top_k": 0, "num_return_sequences": self.samples, **new}
        return sum(map(len, by_generate(model, tokenizer, self.prompts, **sampling)))


def bench_decode(setup: Setup) -> list[Measurement]:
    """Tokens a second, PEFT's adapter through `model.generate` as a user calls it, for short and longer completions;
    and for programs ours and the plain model as a user calls it."""
    sides, steps = Sides(setup), ((setup.task, setup.trainer), (setup.code, setup.code_trainer))
    math, code = (
        Rollout(task, sides.prompts(task, step.prompts), step.samples, task.max_new_tokens) for task, step in steps
    )
    with sides.attached(0.03) as adapter:
        found = [_rollouts(sides, adapter, one) for one in (math, math._replace(length=setup.new_tokens))]
        return [*found, _rollouts(sides, adapter, code, only=(FOLDED, USERS))]


def _rollouts(sides: Sides, adapter: TinyLoRA, rollout: Rollout, only: Sequence[str] = ()) -> Measurement:
    """Every way to sample them, or those in `only`, in turns with the products that none can do without."""
    linears = [m for m in sides.plain.modules() if isinstance(m, nn.Linear)]
    ways = {name: way for name, way in _ways(sides, adapter, rollout).items() if name in (only or (name,))}
    calls = ways | {LIMIT: lambda: _products(linears, rollout)}
    runs, made = timed({name: partial(_seeded, call) for name, call in calls.items()}, sides.setup.repeats)
    tokens, weights = rollout.rows * rollout.length, sum(layer.weight.numel() for layer in linears)
    assert set(made.values()) == {tokens}, f"{made} instead of {tokens} tokens each"
    one = Measurement(
        f"{rollout.task.name}, {len(rollout.prompts)} x {rollout.samples} completions of {rollout.length} tokens",
        runs,
        [(FOLDED, name) for name in ways if name != FOLDED],
        work={name: {"tokens": tokens} for name in made},
        amount=tokens,
        limit=LIMIT,
    )
    rate = 2 * weights * tokens / one.medians[LIMIT] / 1e9
    return replace(one, notes={"GFLOPS of the matrix products": rate, "parameters in linear layers": weights})


def _ways(sides: Sides, adapter: TinyLoRA, rollout: Rollout) -> dict[str, Callable[[], int]]:
    """name -> sample them that way; each returns how many tokens it made."""
    tokenizer = sides.ours.tokenizer

    def folded() -> int:
        with adapter.folded():
            return rollout.ours(sides.ours.model, tokenizer)

    def merged() -> int:
        sides.peer.merge_adapter()
        made = rollout.as_users(sides.peer, tokenizer)
        sides.peer.unmerge_adapter()
        return made

    return {
        "plain model": lambda: rollout.ours(sides.plain, tokenizer),
        USERS: lambda: rollout.as_users(sides.plain, tokenizer),
        FOLDED: folded,
        "PEFT TinyLoRA, live, model.generate": lambda: rollout.as_users(sides.peer, tokenizer),
        "PEFT TinyLoRA, merged, model.generate": merged,
    }


def _products(linears: Sequence[nn.Linear], rollout: Rollout) -> int:
    """x @ W.T of every linear layer for `rows` rows, once a token."""
    dtype, device = linears[0].weight.dtype, linears[0].weight.device
    inputs = {n: torch.randn(rollout.rows, n, dtype=dtype, device=device) for n in {m.in_features for m in linears}}
    for _ in range(rollout.length):
        for layer in linears:
            inputs[layer.in_features] @ layer.weight.T
    return rollout.rows * rollout.length


@torch.no_grad()
def _seeded(sample: Callable[[], int]) -> int:
    torch.manual_seed(0)
    return sample()


def by_generate(model: nn.Module, tokenizer, prompts: Sequence[list[int]], **sampling) -> list[list[int]]:
    """Completions by `model.generate` as its user calls it: prompts padded on the left, every row to the last token."""
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(model.device)
    out = model.generate(**batch, pad_token_id=tokenizer.pad_token_id, **sampling)
    return out[:, batch["input_ids"].shape[1] :].tolist()


# --- evaluations


def bench_evaluate(setup: Setup) -> list[Measurement]:
    """Seconds for the test split of two tasks: one of short answers, one whose completions end early.

    The loop's completions are compared where a task ends them (its `stop`), as its scorer never reads further.
    """
    model, tokenizer = setup.load()
    return [_evaluated(setup, Subject(model, tokenizer, task)) for task in (setup.task, setup.code)]


def _evaluated(setup: Setup, subject: Subject) -> Measurement:
    task, size = subject.task, setup.batch_size
    examples, ours, loop = task.split("test"), f"evaluate, {task.name}", f"generate loop, {task.name}"
    calls = {ours: lambda: answers(subject, Decode(size)), loop: lambda: plain_loop(subject, examples, size)}
    runs, found = timed(calls, setup.repeats)
    result, (ids, right) = found[ours], found[loop]
    cut = [cut_at(row, subject.tokenizer, task.stop) for row in ids] if task.stop else ids
    texts = subject.tokenizer.batch_decode(cut, skip_special_tokens=True)
    notes = {
        "equal completions": _equal(result.completions, texts),
        "equal scores": _equal(result.correct.tolist(), right),
    }
    work = {ours: {"examples": len(result.ids)}, loop: {"examples": len(ids)}}
    return Measurement(f"evaluation of {task.name}, {len(ids)} examples", runs, [(ours, loop)], work=work, notes=notes)


def answers(subject: Subject, decoder: Decode, split: str = "test") -> Result:
    """Our evaluation of a whole split."""
    return evaluate(subject.model, subject.tokenizer, subject.task, split, progress=False, decoder=decoder)


@torch.no_grad()
def plain_loop(subject: Subject, examples: Sequence[Example], batch_size: int) -> tuple[list[list[int]], list[bool]]:
    """(ids of every completion, who was right): batches in data order, left-padded, `max_new_tokens` of the task."""
    tokenizer, found = subject.tokenizer, []
    for start in range(0, len(examples), batch_size):
        prompts = encode(tokenizer, [example.prompt for example in examples[start : start + batch_size]])
        found += by_generate(
            subject.model, tokenizer, prompts, do_sample=False, max_new_tokens=subject.task.max_new_tokens
        )
    texts = tokenizer.batch_decode(found, skip_special_tokens=True)
    return found, [score.correct for score in subject.task.score_many(texts, examples)]


def _equal(ours: Sequence, theirs: Sequence) -> str:
    return f"{sum(a == b for a, b in zip(ours, theirs, strict=True))} of {len(ours)}"
