"""Evaluation that saves, against full passes: the model of every recorded round is rebuilt and evaluated whole.

    recall = failures of the full pass that the record knew / failures of the full pass        (training split)
    saved  = tokens of full passes / tokens that the run's own evaluations decoded             (all splits)

For runs with `drafts`; of any other run it shows whether its evaluations can be repeated. A round that learned nothing
evaluated nothing. What a gate rejected is not counted: its weights are not rebuilt.
"""

from pathlib import Path

import pandas as pd
from torch import nn
from tqdm.auto import tqdm

from boostlib.common.errors import RunError
from boostlib.evaluation.evaluate import evaluate
from boostlib.records.bundle import open_record
from boostlib.records.rows import Round
from boostlib.release.export import model_and_tokenizer
from boostlib.run import Run, each_round, replay_run
from boostlib.tasks.base import Task


def audit(
    run_dir: str | Path, task: Task, model: nn.Module | None = None, tokenizer=None, progress: bool = True
) -> pd.DataFrame:
    """One line a round: failures of the full pass, those known, recall, tokens of the full pass and of the run, and by
    how much each held-out accuracy of the record differs. model: as for `replay`.

    Raises RunError where the run cannot be rebuilt, or evaluated some rounds in part.
    """
    ledger = open_record(run_dir)
    if not all(row.whole for row in ledger.rounds):
        raise RunError(f"{run_dir} evaluated some rounds in part, by an option that is gone: it has no full passes")
    model, tokenizer = model_and_tokenizer(ledger, model, tokenizer)
    run = replay_run(ledger, -1, model)
    bar = tqdm(each_round(run), total=len(run.rounds), desc="audit", unit="round", disable=not progress)
    return pd.DataFrame([_line(run, tokenizer, task, row) for row in bar]).set_index("round")


def saving(lines: pd.DataFrame) -> pd.Series:
    """A run's whole: recall over all rounds, and how many times fewer tokens its evaluations decoded."""
    whole = lines.sum()
    return pd.Series(
        {"recall": whole["found"] / whole["failures"], "saved": whole["tokens, full"] / whole["tokens, run"]}
    )


def _line(run: Run, tokenizer, task: Task, row: Round) -> dict:
    found = {split: evaluate(run.model, tokenizer, task, split, progress=False) for split in ("train", *row.metrics)}
    wrong, known = set(found["train"].failures), set(run.ledger.failures_after(row.index + 1))
    tokens = sum(result.tokens for result in found.values())
    return {
        "round": row.index,
        "failures": len(wrong),
        "known": len(known),
        "found": len(wrong & known),
        "recall": len(wrong & known) / len(wrong) if wrong else 1.0,
        "tokens, full": tokens,
        "tokens, run": row.extra["drafts"]["tokens"] if "drafts" in row.extra else 0 if row.skipped else tokens,
        **{f"{name}, record - full": row.metrics[name].accuracy - found[name].accuracy for name in row.metrics},
    }
