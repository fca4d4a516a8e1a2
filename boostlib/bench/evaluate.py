"""Evaluation of a whole split against the loop that people write: data order, left padding, no early end.

Both decode greedily in batches of the same size and score with the task's own scorer, inside the time that is counted.
The loop's completions are compared where a task ends them (its `stop`), as its scorer never reads further.
"""

from collections.abc import Sequence

import torch
from torch import nn

from boostlib.bench.decode import left_padded
from boostlib.bench.measure import Measurement, clock, interleaved
from boostlib.bench.setup import Setup
from boostlib.evaluation.evaluate import evaluate
from boostlib.evaluation.generate import cut_at, encode
from boostlib.tasks.base import Example, TextTask


def bench_evaluate(setup: Setup) -> list[Measurement]:
    """Seconds for the test split of two tasks: one of short answers, one whose completions end early."""
    model, tokenizer = setup.load()
    return [_measured(setup, model, tokenizer, task) for task in (setup.task, setup.code)]


def _measured(setup: Setup, model: nn.Module, tokenizer, task: TextTask) -> Measurement:
    examples, last = task.split("test"), {}

    def ours() -> float:
        with clock() as taken:
            last["ours"] = evaluate(model, tokenizer, task, "test", setup.batch_size, progress=False)
        return taken.seconds

    def loop() -> float:
        with clock() as taken:
            last["loop"] = plain_loop(model, tokenizer, task, examples, setup.batch_size)
        return taken.seconds

    runs = interleaved({f"evaluate, {task.name}": ours, f"generate loop, {task.name}": loop}, setup.repeats)
    ids, right = last["loop"]
    cut = [cut_at(row, tokenizer, task.stop) for row in ids] if task.stop else ids
    texts = tokenizer.batch_decode(cut, skip_special_tokens=True)
    same = sum(a == b for a, b in zip(last["ours"].completions, texts, strict=True))
    scored = sum(a == b for a, b in zip(last["ours"].correct.tolist(), right, strict=True))
    return Measurement(
        f"evaluation of {task.name}, {len(examples)} examples",
        runs,
        [tuple(runs)],
        work={name: {"examples": n} for name, n in zip(runs, (len(last["ours"].ids), len(ids)), strict=True)},
        notes={"equal completions": f"{same} of {len(ids)}", "equal scores": f"{scored} of {len(ids)}"},
    )


@torch.no_grad()
def plain_loop(
    model: nn.Module, tokenizer, task: TextTask, examples: Sequence[Example], batch_size: int
) -> tuple[list[list[int]], list[bool]]:
    """(ids of every completion, who was right): batches in data order, left-padded, `task.max_new_tokens` each."""
    found: list[list[int]] = []
    for start in range(0, len(examples), batch_size):
        prompts = encode(tokenizer, [example.prompt for example in examples[start : start + batch_size]])
        ids, mask = left_padded(prompts, tokenizer.pad_token_id, model.device)
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=task.max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
        found += out[:, ids.shape[1] :].tolist()
    texts = tokenizer.batch_decode(found, skip_special_tokens=True)
    return found, [score.correct for score in task.score_many(texts, examples)]
