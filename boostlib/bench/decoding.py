"""Decoding: rollouts from a model while its adapter trains, and evaluations between rounds.

`decode`: folded weights and the plain model through our generation code, which reads the prompts' shared beginning and
every prompt once; PEFT's TinyLoRA and the plain model as their users run them, left-padded prompts through
`model.generate(num_return_sequences=...)`. Ours counts the folding, once a rollout, as training does; merging counts
for PEFT's merged adapter too. All sides make the same number of tokens: no completion ends early. It is measured at the
length of the task's answers, which is a rollout of the demo, and at `new_tokens`: the longer the completion, the less
there is to share.

`evaluate`: a whole split against the loop that people write: data order, left padding, no early end. Both decode
greedily in batches of one size and score with the task's own scorer, inside the time that is counted.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from boostlib.adapter import TinyLoRA
from boostlib.bench.measure import Measurement, timed
from boostlib.bench.setup import Setup, Sides
from boostlib.evaluation.decode import Decode
from boostlib.evaluation.evaluate import Result, evaluate
from boostlib.evaluation.generate import cut_at, encode, generate
from boostlib.models.subject import Subject
from boostlib.tasks.base import Example

FOLDED = "folded, folding counted"


# --- rollouts


def bench_decode(setup: Setup) -> list[Measurement]:
    """Tokens a second, PEFT's adapter through `model.generate` as a user calls it, for short and longer completions."""
    sides = Sides(setup)
    with sides.attached(0.03) as adapter:
        return [_rollouts(sides, adapter, length) for length in (setup.task.max_new_tokens, setup.new_tokens)]


def _rollouts(sides: Sides, adapter: TinyLoRA, length: int) -> Measurement:
    """Completions of a step's prompts, `length` tokens each; every way to sample them returns how many it made."""
    samples, tokenizer = sides.setup.trainer.samples, sides.ours.tokenizer

    def ours(model: nn.Module) -> int:
        found = generate(
            model, tokenizer, sides.prompts, length, temperature=1.0, samples=samples, stop_at_end=False
        )  # fmt: skip
        return sum(map(len, found))

    def as_users(model: nn.Module) -> int:
        new = {"max_new_tokens": length, "min_new_tokens": length}
        sampling = {"do_sample": True, "top_k": 0, "num_return_sequences": samples, **new}
        return sum(map(len, by_generate(model, tokenizer, sides.prompts, **sampling)))

    def folded() -> int:
        with adapter.folded():
            return ours(sides.ours.model)

    def merged() -> int:
        sides.peer.merge_adapter()
        made = as_users(sides.peer)
        sides.peer.unmerge_adapter()
        return made

    calls = {
        "plain model": partial(ours, sides.plain),
        "plain model, model.generate": partial(as_users, sides.plain),
        FOLDED: folded,
        "PEFT TinyLoRA, live, model.generate": partial(as_users, sides.peer),
        "PEFT TinyLoRA, merged, model.generate": merged,
    }
    runs, made = timed({name: partial(_seeded, call) for name, call in calls.items()}, sides.setup.repeats)
    tokens = len(sides.prompts) * samples * length
    assert set(made.values()) == {tokens}, f"{made} instead of {tokens} tokens each"
    return Measurement(
        f"{len(sides.prompts)} x {samples} completions of {length} tokens, the peer as it is used",
        runs,
        [(FOLDED, name) for name in calls if name != FOLDED],
        work={name: {"tokens": tokens} for name in made},
        amount=tokens,
    )


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
