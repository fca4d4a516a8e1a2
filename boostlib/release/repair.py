"""From a log of a model's failures to a released repair: read, hold out, boost through the gate, write, report.

    DIR/cases.jsonl   what was taken of the log           DIR/README.md     the model card
    DIR/run/          the run: replay, verify, report     DIR/report.html   the page to sign off
    DIR/model/, DIR/lora/ or DIR/repair.bundle            the release: only where the gate promoted a round

The base evaluation decides who failed: a log may be of another state of the model, and the table says how many of its
failures were reproduced. Guards that the model gets wrong before anything is trained are left out. By default 2% of the
guards, rounded up, may be wrong after a round: they are cases that passed once, not all of them safely.

Error rates are the gate's, a round (`strategies/gate.py`): with `alpha` 0.05, four rounds of noise are promoted once in
up to 19% of repairs. Choices: the trainer's settings are those of the demo preset, an adapter has about 12 numbers.

The same call continues what was interrupted; a finished repair is only reported again.
"""

import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from boostlib.adapter import AdapterConfig
from boostlib.boost import boost
from boostlib.common.durable import output_folder, write_durably
from boostlib.common.errors import RunError
from boostlib.common.settings import Count, Flag, Seed, checked
from boostlib.common.targets import target_modules
from boostlib.config import BoostConfig
from boostlib.models.language import load_model
from boostlib.release.card import model_card
from boostlib.release.cases import choose, describe, sound_rows
from boostlib.release.classes import outcomes
from boostlib.release.export import export_bundle, export_merged, export_peft
from boostlib.release.html import write_html
from boostlib.run import Run
from boostlib.strategies.gate import Gate
from boostlib.tasks.error_log import Costs, ErrorLog
from boostlib.tasks.log_rows import SCORES, listed
from boostlib.tasks.logs.reading import read_cases
from boostlib.training.grpo import GRPO

PROMOTED, NOTHING = 0, 3  # exit statuses
ALLOWED = 0.02  # share of the guards that may be wrong
NUMBERS = 12  # of an adapter, about
FILES = {"merged": "model", "peft": "lora", "bundle": "repair.bundle"}
CALLED = {"train": "trained on", "guard": "guards", "test": "held out"}
MEASURED = 32  # cases of each split that a dry run evaluates
From0To1 = Annotated[float, Field(ge=0, lt=1, strict=True, description="a number from 0 to below 1")]


@dataclass(frozen=True)
@checked
class Repair:
    """Settings. most: cases of each split. stop, max_new_tokens: as in `ErrorLog`, default what the log says, else no
    stop and 64. score: of rows that name none. chat: put raw prompts to the model as a user's message. gate: fields of
    `Gate` that differ from those chosen here."""

    held_out: From0To1 = 0.25
    most: Count = 200
    rounds: Count = 4
    seed: Seed = 0
    dtype: str = "auto"
    stop: str | None = None
    max_new_tokens: Count | None = None
    score: Literal[SCORES] | None = None  # type: ignore[valid-type]
    chat: Flag = False
    skip_malformed: Flag = False
    costs: Costs = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)
    release: Literal["merged", "peft", "bundle"] = "merged"


@dataclass(frozen=True)
class Outcome:
    """status: an exit status. reason: in a sentence. table: by split, None where nothing was run."""

    status: int
    reason: str
    table: pd.DataFrame | None = None
    run: Run | None = None


def repair(
    log: str | Path | pd.DataFrame,
    model: Any,
    out: str | Path,
    settings: Repair | None = None,
    trainer: Any = None,
    dry_run: bool = False,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Repair `model`, a name or a pair of model and tokenizer, by `log`, and write the release into the folder `out`.

    dry_run: measure a step and a small evaluation, say how long all would take, and leave nothing behind. Raises
    DataError where the log is malformed, all of it listed; RunError where `out` holds another repair.
    """
    settings, trainer = settings or Repair(), trainer or GRPO()
    reading = read_cases(log, settings.score)
    rows, problems = sound_rows(reading, settings.skip_malformed)
    say(describe(reading, rows, settings.costs))
    chosen = choose(reading, rows, settings.held_out, settings.most)
    for title, found in (("malformed, skipped", problems), ("left out", chosen.left_out)):
        if found:
            say("\n".join([f"{title}: {len({where for where, _ in found})}", *listed(found)]))
    taken = [f"{chosen.count(split)} {name}" for split, name in CALLED.items()]
    more = [f"{count} more {CALLED[split]}" for split, count in sorted(chosen.left.items())]
    say(f"taken: {', '.join(taken)}" + (f"; not needed: {', '.join(more)}" if more else ""))
    fewest = math.ceil(math.log2(1 / settings.gate.get("alpha", Gate.alpha)))
    if chosen.count("train") < fewest:
        return Outcome(
            NOTHING, f"{chosen.count('train')} failures to train on, and a gain of fewer than {fewest} never passes"
        )
    if settings.chat:
        chosen.rows = [_as_chat(row) for row in chosen.rows]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if dry_run else output_folder(Path(out))
        task = _task(folder, chosen.text(), {**reading.settings, **_given(settings)})
        gate = _gate(task, settings)
        loaded, tokenizer = load_model(model, settings.dtype) if isinstance(model, (str, Path)) else model
        n_tie = math.ceil(len(target_modules(loaded)) / NUMBERS)
        config = BoostConfig(
            settings.rounds, AdapterConfig(n_tie=n_tie, seed=settings.seed), settings.seed, held_out=gate.splits()
        )
        if dry_run:
            return Outcome(PROMOTED, _estimate((loaded, tokenizer, task, trainer, config), folder / "measured", gate))
        run = boost(loaded, tokenizer, task, trainer, config, folder / "run", gate=gate)
    return _finish(run, folder, settings.release, {str(row["id"]): row.get("logged") for row in chosen.rows})


def _finish(run: Run, folder: Path, form: str, logged: Mapping[str, str | None]) -> Outcome:
    """Write page and release, and say what came out."""
    merged, table = sum(row.merged for row in run.rounds), _table(run, logged)
    if run.rounds:
        write_html(run.ledger, run.task, folder / "report.html")
    if merged:
        release(run, folder, form)
        reason = f"{merged} of {len(run.rounds)} rounds promoted: {folder / FILES[form]}, {folder / 'report.html'}"
        return Outcome(PROMOTED, reason, table, run)
    why = run.rounds[-1].rejected or run.rounds[-1].skipped if run.rounds else "the model gets every failure right"
    return Outcome(NOTHING, f"nothing worth promoting: {why}", table, run)


def release(run: Run, folder: Path, form: str) -> None:
    """The model in `form`, and its card; what is there already is kept. Raises RunError where that is of another state
    of the run."""
    card, target = folder / "README.md", folder / FILES[form]
    if card.is_file() and run.fingerprint() not in card.read_text():
        raise RunError(f"{folder} holds a release of an earlier state of this run: move {target.name} and {card.name}")
    if not target.exists():
        if form == "merged":
            export_merged(run.dir, target, model=run.model, tokenizer=run.tokenizer, task=run.task)
        elif form == "peft":
            export_peft(run.dir, target, model=run.model, task=run.task)
        else:
            export_bundle(run.dir, target, model=run.model)
    if form == "bundle":
        use = f"A bundle: `boostlib replay {target.name}` rebuilds the model on its base."
        write_durably(card, model_card(run, len(run.rounds), use, {}, run.task).encode())
    else:
        shutil.copyfile(target / "README.md", card)


def _task(folder: Path, cases: str, options: dict[str, Any]) -> ErrorLog:
    """The cases as a task, written once. Raises RunError where `folder` was begun with others."""
    path = folder / "cases.jsonl"
    if not path.exists():
        write_durably(path, cases.encode())
    elif path.read_text() != cases:
        raise RunError(f"{folder} holds a repair of other cases (another log or hold-out): give another --out")
    return ErrorLog(path=path, **options)


def _given(settings: Repair) -> dict[str, Any]:
    names = ("stop", "max_new_tokens", "costs")
    return {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}


def _gate(task: ErrorLog, settings: Repair) -> Gate:
    guards = len(task.split("guard")) if "guard" in task.splits else 0
    chosen = {
        "guard": "guard" if guards else None,
        "adjacent": ("test",) if "test" in task.splits else (),
        "allowed_guards": math.ceil(ALLOWED * guards),
        "failing_guards": "leave out",
    }
    return Gate(**{**chosen, **settings.gate})


def _as_chat(row: dict[str, Any]) -> dict[str, Any]:
    if "prompt" not in row:
        return row
    rest = {name: value for name, value in row.items() if name != "prompt"}
    return rest | {"messages": [{"role": "user", "content": row["prompt"]}]}


def _estimate(parts: tuple, folder: Path, gate: Gate) -> str:
    """How long it would take, by one step and one evaluation of a part of the cases."""
    model, tokenizer, task, trainer, config = parts
    sizes = {split: len(task.split(split)) for split in ("train", *config.held_out)}
    few = replace(task, limits={split: min(MEASURED, size) for split, size in sizes.items()})
    once = replace(trainer, max_steps=1, max_samples=trainer.samples)
    run = boost(model, tokenizer, few, once, replace(config, rounds=1), folder, progress=False, gate=gate)
    case = run.base.seconds / sum(few.limits.values())
    step = run.rounds[0].seconds["train"] / max(1, run.rounds[0].steps) if run.rounds else 0.0
    steps = config.rounds * trainer.num_steps(sizes["train"])
    minutes = ((config.rounds + 1) * sum(sizes.values()) * case + steps * step) / 60
    return (
        f"at most about {minutes:.1f} minutes: {config.rounds} rounds, {steps} steps of {step:.1f} s, and "
        f"{config.rounds + 1} evaluations of {sum(sizes.values())} cases at {case:.2f} s each, as measured here"
    )


def _table(run: Run, logged: Mapping[str, str | None]) -> pd.DataFrame:
    """A row a split: cases, logged and reproduced failures, wrong before and after, fixed, broken, costs."""
    rows = {}
    for split in ("train", *run.config.held_out):
        examples = run.task.split(split)
        before, after = (~right for right in outcomes(run.ledger, split, examples))  # who is wrong
        cost, failed = np.array([e.cost for e in examples]), np.array([logged.get(e.id) == "failed" for e in examples])
        rows[CALLED[split]] = {
            "cases": len(examples),
            "logged failures": failed.sum(),
            "reproduced": (failed & before).sum(),
            "wrong before": before.sum(),
            "wrong after": after.sum(),
            "fixed": (before & ~after).sum(),
            "broken": (after & ~before).sum(),
            "cost before": cost[before].sum(),
            "cost after": cost[after].sum(),
        }
    return pd.DataFrame(rows.values(), index=list(rows))
