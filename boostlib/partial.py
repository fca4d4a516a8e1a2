"""A round's passes over the training split where evaluation is incremental; which ids and why, see incremental.py."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from boostlib.evaluate import evaluate
from boostlib.incremental import Pass, carried, draw, last_entry, stale_ids
from boostlib.rounds import pack_bits
from boostlib.run import Run
from boostlib.tasks.base import Task


def train_pass(
    run: Run, tokenizer, task: Task, failures: Sequence[str], index: int, progress: bool, full: bool = False
) -> Pass:
    """Evaluate the model as it stands on the known failures and a sample of the rest; on everything where the round's
    number, `full`, or the lack of any failure asks for it."""
    config, ids = run.config, [example.id for example in task.split("train")]
    failing = frozenset(failures)
    sample = draw(config.seed, index, ids, failing, last_entry(config.incremental, run.rounds)["next"])
    full = full or config.incremental.is_full(index)
    seen = Pass(ids, failing, sample, {}, {})
    seen = _grown(seen, run, tokenizer, task, ids if full else failing | sample, progress)
    return seen if seen.failures else complete(seen, run, tokenizer, task, progress)


def complete(seen: Pass, run: Run, tokenizer, task: Task, progress: bool) -> Pass:
    """The full pass that `seen` is a part of: evaluates the rest."""
    return seen if seen.full else _grown(seen, run, tokenizer, task, seen.rest, progress)


def settle(
    run: Run,
    tokenizer,
    task: Task,
    failures: Sequence[str],
    index: int,
    tried: Pass | None,
    merged: bool,
    last: bool,
    progress: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(training scores to put into a round's line, its entry), with the model as the round left it.

    tried: the pass over the model with the round merged, None where training was skipped. last: a gate ends the run.
    A round that merged nothing is evaluated only where a full pass is due and something is not known for sure; its
    scores are else those before it, and {} stands for them.
    """
    incremental, before = run.config.incremental, last_entry(run.config.incremental, run.rounds)
    seen = tried if merged else None
    if not merged and not before["full"] and (last or incremental.is_full(index)):
        seen = train_pass(run, tokenizer, task, failures, index, progress, full=True)
    if seen is None:
        entry = carried(before, len(task.split("train")))
    else:
        after = incremental.next_size(before["next"], seen.regressions, len(seen.ids))
        entry = seen.entry(before["next"], after, stale_ids(incremental, run.rounds, seen.ids))
    if tried and not merged:
        entry["tried"] = pack_bits(id in tried.right for id in tried.ids)
    return seen.scores() if seen else {}, entry


def _grown(seen: Pass, run: Run, tokenizer, task: Task, ids: Collection[str], progress: bool) -> Pass:
    wanted = set(ids)
    examples = [example for example in task.split("train") if example.id in wanted]
    size, vllm = run.config.batch_size, run.config.vllm
    found = evaluate(run.model, tokenizer, task, "train", size, examples, progress, run.drafts, vllm)
    right = dict(zip(found.ids, found.correct.tolist(), strict=True))
    strict = dict(zip(found.ids, found.strict.tolist(), strict=True))
    return replace(seen, right={**seen.right, **right}, strict={**seen.strict, **strict})
