"""Decoding: rollouts from a model while its adapter trains, and evaluations between rounds.

`rollout`: folded weights, the plain model and PEFT's TinyLoRA, every side through our generation code, which reads the
prompts' shared beginning and every prompt once; what differs is the adapter alone. `decode`: PEFT as its user runs it,
left-padded prompts through `model.generate(num_return_sequences=...)`, and the plain model both ways. Ours counts the
folding, once a rollout, as training does; merging counts for PEFT's merged adapter too. All sides make the same number
of tokens: no completion ends early. `decode` is measured at the length of the task's answers, which is a rollout of the
demo, and at `new_tokens`: the longer the completion, the less there is to share.

`evaluate`: a whole split against the loop that people write: data order, left padding, no early end. `drafts`: a model
that a small adapter has just changed, with the last completions as drafts and without. Both decode greedily in batches
of one size and score with the task's own scorer, inside the time that is counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from boostlib.adapter import TinyLoRA
from boostlib.bench.measure import Measurement, timed
from boostlib.bench.setup import Setup, Sides
from boostlib.evaluation.decode import Decode
from boostlib.evaluation.drafts import Drafts
from boostlib.evaluation.evaluate import Result, evaluate
from boostlib.evaluation.generate import cut_at, encode, generate
from boostlib.models.subject import Subject
from boostlib.tasks.base import Example

FOLDED, LIVE, MERGED = "folded, folding counted", "PEFT TinyLoRA, live", "PEFT TinyLoRA, merged"
SIZE = 0.3  # of every number of v in `drafts`, with either sign: as after some thirty steps of Adam at 0.01


# --- rollouts


def bench_rollout(setup: Setup) -> list[Measurement]:
    """Tokens a second, all through our generation code."""
    sides = Sides(setup)
    with sides.attached(0.03) as adapter:
        rollout = _Rollout(sides, adapter, setup.new_tokens)
        return [rollout.measured("rollout, our generation code", rollout.ours)]


def bench_decode(setup: Setup) -> list[Measurement]:
    """Tokens a second, PEFT's adapter through `model.generate` as a user calls it, for short and longer completions."""
    sides, found = Sides(setup), []
    with sides.attached(0.03) as adapter:
        for length in (setup.task.max_new_tokens, setup.new_tokens):
            rollout = _Rollout(sides, adapter, length)
            what = f"{len(sides.prompts)} x {setup.trainer.samples} completions of {length} tokens"
            found.append(rollout.measured(f"{what}, the peer as it is used", rollout.as_users, ", model.generate"))
    return found


@dataclass
class _Rollout:
    """Completions of a step's prompts, `new_tokens` each; every way to sample them returns how many tokens it made."""

    sides: Sides
    adapter: TinyLoRA
    new_tokens: int

    def measured(self, what: str, sample: Callable[[nn.Module], int], by: str = "") -> Measurement:
        """Folded weights, in our way, against the plain model, and against PEFT's adapter sampled with `sample`.

        by: names a way to sample that is not ours; the plain model is then sampled in both.
        """
        plain, peer, setup = self.sides.plain, self.sides.peer, self.sides.setup
        calls = {
            "plain model": lambda: self.ours(plain),
            **({f"plain model{by}": lambda: sample(plain)} if by else {}),
            FOLDED: self.folded,
            f"{LIVE}{by}": lambda: sample(peer),
            f"{MERGED}{by}": lambda: self.merged(sample),
        }
        runs, made = timed({name: partial(_seeded, call) for name, call in calls.items()}, setup.repeats)
        tokens = len(self.sides.prompts) * setup.trainer.samples * self.new_tokens
        assert set(made.values()) == {tokens}, f"{made} instead of {tokens} tokens each"
        pairs = [(FOLDED, name) for name in calls if name != FOLDED]
        return Measurement(what, runs, pairs, work={name: {"tokens": tokens} for name in made}, amount=tokens)

    def ours(self, model: nn.Module) -> int:
        """Through our generation code."""
        sides, samples = self.sides, self.sides.setup.trainer.samples
        found = generate(
            model, sides.ours.tokenizer, sides.prompts, self.new_tokens,
            temperature=1.0, samples=samples, stop_at_end=False,
        )  # fmt: skip
        return sum(map(len, found))

    def folded(self) -> int:
        """Through our generation code, folding included."""
        with self.adapter.folded():
            return self.ours(self.sides.ours.model)

    def as_users(self, model: nn.Module) -> int:
        """Through `model.generate` on left-padded prompts."""
        new = {"max_new_tokens": self.new_tokens, "min_new_tokens": self.new_tokens}
        sampling = {"do_sample": True, "top_k": 0, "num_return_sequences": self.sides.setup.trainer.samples, **new}
        return sum(map(len, by_generate(model, self.sides.ours.tokenizer, self.sides.prompts, **sampling)))

    def merged(self, sample: Callable[[nn.Module], int]) -> int:
        """With PEFT's adapter merged before and unmerged after."""
        self.sides.peer.merge_adapter()
        made = sample(self.sides.peer)
        self.sides.peer.unmerge_adapter()
        return made


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


def bench_drafts(setup: Setup) -> list[Measurement]:
    """Seconds for the test split of two tasks: one of short answers, one of long ones."""
    sides = Sides(setup)
    return [_drafted(sides, replace(sides.ours, task=task)) for task in (setup.task, setup.code)]


def _drafted(sides: Sides, subject: Subject) -> Measurement:
    size, name = sides.setup.batch_size, subject.task.name
    before = Drafts(size)
    answers(subject, before)
    before.entry()  # what these cost is not counted

    def drafted() -> tuple[Result, dict[str, int]]:
        drafts = replace(before, known=dict(before.known))
        return answers(subject, drafts), drafts.entry()["drafts"]

    def decoded() -> tuple[Result, dict[str, int]]:
        result = answers(subject, Decode(size))
        return result, {"tokens": result.tokens}

    ours, plain = f"with drafts, {name}", f"all decoded, {name}"
    with sides.attached() as adapter:
        signs = torch.randint(0, 2, adapter.v.shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
        adapter.v.data.copy_(SIZE * signs)
        with adapter.folded():
            runs, found = timed({ours: drafted, plain: decoded}, sides.setup.repeats)
    work = {side: counts for side, (_, counts) in found.items()}
    notes = {"equal completions": _equal(found[ours][0].completions, found[plain][0].completions)}
    return Measurement(f"evaluation of {name} after a small update", runs, [(ours, plain)], work=work, notes=notes)


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
