"""Evaluation that saves, against full passes: the model of every recorded round is rebuilt and evaluated whole.

    recall = failures of the full pass that the record knew / failures of the full pass        (training split)
    saved  = tokens of full passes / tokens that the run's own evaluations decoded             (all splits)

For runs with `drafts` or `incremental`; of any other run it shows whether its evaluations can be repeated. A round that
learned nothing evaluated nothing. What a gate rejected is not counted: its weights are not rebuilt.
"""

from pathlib import Path

import pandas as pd
from torch import nn
from tqdm.auto import tqdm

from boostlib.bundle import open_record
from boostlib.evaluate import Result, evaluate
from boostlib.export import model_and_tokenizer
from boostlib.incremental import evaluated_bits
from boostlib.rounds import Round
from boostlib.run import Run, each_round, replay_run
from boostlib.tasks.base import Task


def audit(
    run_dir: str | Path,
    task: Task,
    model: nn.Module | None = None,
    tokenizer=None,
    batch_size: int = 64,
    progress: bool = True,
) -> pd.DataFrame:
    """One line a round: failures of the full pass, those known, recall, tokens of the full pass and of the run, and by
    how much each held-out accuracy of the record differs. model: as for `replay`.

    Raises RunError where the run cannot be rebuilt.
    """
    ledger = open_record(run_dir)
    model, tokenizer = model_and_tokenizer(ledger, model, tokenizer)
    run = replay_run(ledger, -1, model)
    bar = tqdm(each_round(run), total=len(run.rounds), desc="audit", unit="round", disable=not progress)
    return pd.DataFrame([_line(run, tokenizer, task, row, batch_size) for row in bar]).set_index("round")


def saving(lines: pd.DataFrame) -> pd.Series:
    """A run's whole: recall over all rounds, and how many times fewer tokens its evaluations decoded."""
    whole = lines.sum()
    return pd.Series(
        {"recall": whole["found"] / whole["failures"], "saved": whole["tokens, full"] / whole["tokens, run"]}
    )


def _line(run: Run, tokenizer, task: Task, row: Round, batch_size: int) -> dict:
    def answers(split: str, examples=None) -> Result:
        return evaluate(run.model, tokenizer, task, split, batch_size, examples, progress=False)

    seen, rest = (answers("train", part) if part else None for part in _parts(task, row))
    train = [result for result in (seen, rest) if result]
    others = {split: answers(split) for split in row.metrics}
    wrong = {id for result in train for id in result.failures}
    known = set(run.ledger.failures_after(row.index + 1))
    tokens = sum(result.tokens for result in (*train, *others.values()))
    own = 0 if row.skipped else tokens - (rest.tokens if rest else 0)
    return {
        "round": row.index,
        "failures": len(wrong),
        "known": len(known),
        "found": len(wrong & known),
        "recall": len(wrong & known) / len(wrong) if wrong else 1.0,
        "tokens, full": tokens,
        "tokens, run": row.extra["drafts"]["tokens"] if "drafts" in row.extra else own,
        **{f"{name}, record - full": row.metrics[name].accuracy - one.accuracy for name, one in others.items()},
    }


def _parts(task: Task, row: Round) -> tuple[list, list]:
    """The training examples that the run evaluated after the round, and the others."""
    examples = task.split("train")
    done = evaluated_bits(row) if "incremental" in row.extra else [True] * len(examples)
    pairs = list(zip(examples, done, strict=True))
    return [example for example, one in pairs if one], [example for example, one in pairs if not one]
