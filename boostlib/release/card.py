"""The model card of an export, written from the ledger alone: what was trained, on which failures, and what it did.

Nothing in it is typed by hand or measured anew, so it cannot disagree with the run. Held-out gains are paired 95%
bootstrap intervals, as in `report`. Classes are in it where a task is given that has them.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from boostlib.evaluation.evaluate import paired_bootstrap
from boostlib.models.embedded import EMBEDDED
from boostlib.records.ledger import Ledger
from boostlib.records.rows import Base, Round
from boostlib.release.classes import class_report
from boostlib.release.mistakes import pair_report
from boostlib.run import Run
from boostlib.tasks.base import Task, TextLabelTask

PAIRS = 20  # that a card lists
USE = {
    "merged": "A plain transformers model: `AutoModelForCausalLM.from_pretrained(folder)`. No adapter, no extra cost.",
    "encoder": "An encoder and its head, `head.safetensors`: `boostlib.load_classifier(folder)`. In transformers: "
    "`AutoModel.from_pretrained(folder)`, the mean of its last states over a text's tokens but special ones, times "
    "`weight`, plus `bias`; of several classes, the place of the largest number in `classes`, a JSON list as bytes.",
    "peft": "A LoRA in PEFT's format: `PeftModel.from_pretrained(base, folder)`. Base: see the fingerprint below.",
}


def model_card(run: Run, count: int, use: str, files: Mapping[str, str], task: Task | None = None) -> str:
    """Markdown for `run`, whose model is the one after the first `count` rounds.

    use: how the files are loaded, see USE, and what else to tell who does. files: exported file -> SHA-256.
    """
    ledger, rounds = run.ledger, run.rounds[:count]
    name = ledger.header["identity"]["model"]["name"]
    parts = [
        _front_matter(name, "peft" if "adapter_model.safetensors" in files else "transformers"),
        f"# {name}, boosted: {sum(row.merged for row in rounds)} rounds\n\n{use}",
        _training(ledger, rounds),
        _scores(ledger.base, rounds),
        "## Rounds\n\n" + markdown(_rounds(rounds)),
    ]
    if task is not None and count == len(ledger.rounds):
        table = class_report(ledger, task).reset_index()
        parts.append("## Classes of errors\n\n" + markdown(table.round(3)))
        if isinstance(task, TextLabelTask) and ledger.base.metrics:
            split = list(ledger.base.metrics)[-1]
            pairs = pair_report(ledger, task, split).reset_index()
            parts.append(f"## Mistakes by pair, {split}\n\n" + markdown(pairs.head(PAIRS).round(3)))
    parts += [_changes(ledger, rounds), _provenance(ledger, count, run.fingerprint(), files), _replaying(ledger, count)]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown(table: pd.DataFrame) -> str:
    """A table in GitHub's Markdown, without its index."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.astype(object).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def licence_note(name: str) -> str:
    """What is known of the licence of the base."""
    if name in EMBEDDED:
        return f"The base model is under {EMBEDDED[name].licence}; this model is derived from it."
    return f"The licence of the base model, `{name}`, holds for what is derived from it: read it at the base's source."


def _front_matter(name: str, library: str) -> str:
    licence = [f"license: {EMBEDDED[name].licence.lower()}"] if name in EMBEDDED else []
    lines = [f"base_model: {json.dumps(name)}", *licence, f"library_name: {library}", "tags: [boostlora]"]
    return "\n".join(["---", *lines, "---"])


def _training(ledger: Ledger, rounds: Sequence[Round]) -> str:
    identity, failures = ledger.header["identity"], {id for row in rounds for id in row.failures if row.merged}
    adapter, task = identity["adapter"], identity["task"]
    numbers = sum(row.num_parameters for row in rounds if row.merged)
    skipped = [f"round {row.index} ({row.skipped or row.rejected})" for row in rounds if not row.merged]
    lines = [
        f"- Task: `{task['name']}`, settings `{json.dumps(task, sort_keys=True)}`.",
        f"- Trained on the model's own failures: {len(failures)} different examples over the merged rounds, "
        f"{len(ledger.base.failures)} failures to begin with.",
        f"- Adapters: {adapter['strategy']}, rank {adapter['rank']} a round, {numbers} trained numbers in all; "
        f"settings `{json.dumps(adapter, sort_keys=True)}`.",
        f"- Trainer: `{json.dumps(identity['trainer'], sort_keys=True)}`, seed {identity['seed']}.",
        *([f"- Not merged: {'; '.join(skipped)}."] if skipped else []),
    ]
    return "## What it was trained on\n\n" + "\n".join(lines)


def _scores(base: Base, rounds: Sequence[Round]) -> str:
    last = (rounds or (base,))[-1]
    rows = [{"split": "train (trained on)", "n": "", "before": base.train_accuracy, "after": last.train_accuracy}]
    for split, scores in base.metrics.items():
        before, after = np.array(scores.bits()), np.array(last.metrics[split].bits())
        gain, low, high = paired_bootstrap(before, after)
        row = {"split": split, "n": scores.n, "before": scores.accuracy, "after": last.metrics[split].accuracy}
        rows.append({**row, "gain": f"{gain:+.3f} ({low:+.3f} to {high:+.3f})"})
    table = pd.DataFrame(rows).fillna("")
    return "## Scores\n\nAccuracy, with the paired 95% bootstrap interval of the gain.\n\n" + markdown(table)


def _rounds(rounds: Sequence[Round]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "round": [row.index for row in rounds],
            "merged": ["yes" if row.merged else "no" for row in rounds],
            "failures": [len(row.failures) for row in rounds],
            "fixed": [len(row.fixed) for row in rounds],
            "broken": [len(row.broken) for row in rounds],
            "train": [row.train_accuracy for row in rounds],
            "norm of the update": [row.adapter_norm for row in rounds],
            "numbers, SHA-256": [row.v_sha256[:16] for row in rounds],
            "weights, SHA-256": [row.weights_fingerprint[:16] for row in rounds],
        }
    )


def _changes(ledger: Ledger, rounds: Sequence[Round]) -> str:
    """Net changes from the untrained model to the last of `rounds`, on the training set."""
    before, after = set(ledger.base.failures), set(ledger.failures_after(len(rounds)))
    broken = [id for id in ledger.failures_after(len(rounds)) if id not in before]
    named = f" Broken: {', '.join(f'`{_cell(id)}`' for id in broken[:20])}" if broken else ""
    more = f" and {len(broken) - 20} more" if len(broken) > 20 else ""
    return (
        "## What it fixed and what it broke\n\nOn the training set, against the untrained model: "
        f"{len(before - after)} fixed, {len(broken)} broken, {len(before & after)} still wrong.{named}{more}"
    )


def _provenance(ledger: Ledger, count: int, weights: str, files: Mapping[str, str]) -> str:
    model, where = ledger.header["identity"]["model"], ledger.header["environment"]
    same = weights == [ledger.base, *ledger.rounds][count].weights_fingerprint
    rebuilt = "bit for bit those of the run" if same else "not bit for bit those of the run: other device or versions"
    lines = [
        f"- Base: `{model['name']}` in {model['dtype']}, fingerprint `{model['fingerprint']}`. "
        f"{licence_note(model['name'])}",
        f"- Target weights of this model: `{weights}`, {rebuilt}.",
        f"- Basis: {json.dumps(ledger.header['basis'], sort_keys=True)}",
        f"- Started {where['date']} on {where['device']}, {where['threads']} threads; versions: "
        + ", ".join(f"{key} {value}" for key, value in where.items() if key not in ("date", "device", "threads")),
        *(f"- `{name}`: SHA-256 `{digest}`" for name, digest in files.items()),
    ]
    return "## Provenance\n\n" + "\n".join(lines)


def _replaying(ledger: Ledger, count: int) -> str:
    name = ledger.dir.name
    return (
        "## Replay and rollback\n\nFrom the run's directory or its bundle, without any data:\n\n"
        f"```\npython -m boostlib verify {name} --weights\n"
        f"python -m boostlib replay {name} --round {count - 1}\n```\n\n"
        "An earlier round, or -1 for the untrained model, is the rollback."
    )


def _cell(value) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("`", "'").replace("\n", " ")
