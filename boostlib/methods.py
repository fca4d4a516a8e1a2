"""The methods that a section compares, each made from the same preset with the same number of optimizer steps.

rotate     BoostLoRA: the next block of directions each round, trained on failures
top        the same rounds, always in the top block (the paper's ablation)
monolithic one adapter over all directions of all rounds at once, as many parameters as one round, one long round on the
           failures (the paper's ablation)
tinylora   one adapter in the top block, one long round on the whole training set
full       all weights, one long round on the whole training set
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from boostlib.boost import boost
from boostlib.errors import BoostError
from boostlib.finetune import finetune
from boostlib.ledger import Ledger
from boostlib.models import load_model
from boostlib.presets import Preset
from boostlib.tasks import load_task

METHODS = ("rotate", "top", "monolithic", "tinylora", "full")
LABELS = {
    "rotate": "BoostLoRA (rotate)",
    "top": "rounds in the top block",
    "monolithic": "monolithic, one round",
    "tinylora": "TinyLoRA, one shot",
    "full": "full fine-tuning",
}


def with_method(chosen: Preset, method: str) -> Preset:
    """The preset changed to `method`. One-round methods get the steps of all rounds together."""
    if method not in METHODS:
        raise BoostError(f"no method {method!r}; there are {', '.join(METHODS)}")
    if method in ("rotate", "top"):
        return replace(chosen, boost=replace(chosen.boost, adapter=replace(chosen.boost.adapter, strategy=method)))
    adapter = replace(chosen.boost.adapter, strategy="top")
    if method == "monolithic":
        adapter = replace(adapter, rank=adapter.rank * chosen.boost.rounds)
    trainer = replace(chosen.trainer, max_steps=chosen.boost.rounds * chosen.trainer.max_steps, epochs=1000.0)
    if method == "full":
        trainer = replace(trainer, learning_rate=chosen.full_learning_rate)
    train_on = "failures" if method == "monolithic" else "all"
    return replace(chosen, trainer=trainer, boost=replace(chosen.boost, rounds=1, train_on=train_on, adapter=adapter))


def run_method(chosen: Preset, run_dir: str | Path, data_dir: str | None = None, full: bool = False) -> Ledger:
    """Run, or continue, what `with_method` gave, on a freshly loaded model; returns its ledger. full: all weights."""
    task = load_task(chosen.task, data_dir=data_dir, **chosen.task_options)
    model, tokenizer = load_model(chosen.model, dtype=chosen.dtype)
    if full:
        return finetune(model, tokenizer, task, chosen.trainer, chosen.boost, run_dir)
    return boost(model, tokenizer, task, chosen.trainer, chosen.boost, run_dir).ledger


def recorded_runs(folder: str | Path, section: str, preset: str) -> Mapping[str, Sequence[Ledger]]:
    """Runs by label, from directories `<section>-<preset>-<method>-seed<k>` of `folder`; {} where there are none."""
    found = {}
    for method in METHODS:
        paths = sorted(Path(folder).glob(f"{section}-{preset}-{method}-seed*"))
        if paths:
            found[LABELS[method]] = [Ledger(path) for path in paths]
    return found
