"""The methods that a section compares, each made from the same preset with the same number of optimizer steps.

rotate     BoostLoRA: the next block of directions each round, trained on failures
greedy     the same rounds, each group in the block and with the P that the failures' gradient favours; ours, not the
           paper's, and each round pays for its probing batches on top
top        the same rounds, always in the top block (the paper's ablation)
monolithic one adapter over all directions of all rounds at once, as many parameters as one round, one long round on the
           failures (the paper's ablation)
tinylora   one adapter in the top block, one long round on the whole training set
lora       PEFT's LoRA of rank 1 on the same modules, one long round on the whole training set
full       all weights, one long round on the whole training set
"""

from dataclasses import replace
from pathlib import Path

from boostlib.adapter import STRATEGIES
from boostlib.analysis.recorded import METHODS
from boostlib.boost import boost
from boostlib.common import world
from boostlib.common.errors import BoostError
from boostlib.experiments.finetune import finetune
from boostlib.experiments.presets import Preset
from boostlib.models.classifier import HEAD_FILE, load_classifier, read_head
from boostlib.models.language import load_model
from boostlib.records.ledger import Ledger
from boostlib.run import Run
from boostlib.tasks import load_task
from boostlib.training.cross_entropy import CrossEntropy
from boostlib.training.probe import train_head


def with_method(chosen: Preset, method: str) -> Preset:
    """The preset changed to `method`. One-round methods get the steps of all rounds together."""
    if method not in METHODS:
        raise BoostError(f"no method {method!r}; there are {', '.join(METHODS)}")
    if method in STRATEGIES:
        return replace(chosen, boost=replace(chosen.boost, adapter=replace(chosen.boost.adapter, strategy=method)))
    adapter = replace(chosen.boost.adapter, strategy="top")
    if method == "monolithic":
        adapter = replace(adapter, rank=adapter.rank * chosen.boost.rounds)
    trainer = replace(chosen.trainer, max_steps=chosen.boost.rounds * chosen.trainer.max_steps, epochs=1000.0)
    if method in ("lora", "full"):
        rate = chosen.full_learning_rate if method == "full" else chosen.lora_learning_rate
        trainer = replace(trainer, learning_rate=rate)
    train_on = "failures" if method == "monolithic" else "all"
    boost = replace(chosen.boost, rounds=1, train_on=train_on, adapter=adapter, drafts=False)
    return replace(chosen, trainer=trainer, boost=boost)


def with_size(chosen: Preset, parameters: int) -> Preset:
    """The preset with an adapter of so many numbers, at the learning rate that was tuned for that size."""
    if parameters not in chosen.sizes:
        raise BoostError(
            f"preset {chosen.name!r} has no size {parameters}; it has {', '.join(map(str, chosen.sizes)) or 'none'}"
        )
    n_tie, u, learning_rate = chosen.sizes[parameters]
    adapter = replace(chosen.boost.adapter, n_tie=n_tie, u=u)
    trainer = replace(chosen.trainer, learning_rate=learning_rate)
    return replace(chosen, trainer=trainer, boost=replace(chosen.boost, adapter=adapter))


def prepare(chosen: Preset, data_dir: str | None = None, run_dir: str | Path | None = None):
    """(model, tokenizer, task) of a preset, freshly loaded; a classifier with its head, trained where `run_dir` has
    none.

    A run that goes on takes the head that it began with, so that it stays the same model whatever machine continues it.
    """
    task = load_task(chosen.task, data_dir=data_dir, **chosen.task_options)
    if not isinstance(chosen.trainer, CrossEntropy):
        return *load_model(chosen.model, dtype=chosen.dtype), task
    model, tokenizer = load_classifier(chosen.model, dtype=chosen.dtype)
    recorded = run_dir is not None and world.on_main((Path(run_dir) / HEAD_FILE).is_file)
    if recorded:
        model.set_head(world.on_main(lambda: read_head(run_dir)), Path(run_dir) / HEAD_FILE)
    else:
        train_head(model, tokenizer, task, chosen.boost.batch_size)
    return model, tokenizer, task


def run_method(
    chosen: Preset,
    run_dir: str | Path,
    data_dir: str | None = None,
    full: bool = False,
    lora_rank: int | None = None,
) -> Ledger:
    """Run, or continue, what `with_method` gave, on a freshly loaded model; returns its ledger.

    full: all weights. lora_rank: a LoRA of that rank. Else BoostLoRA's adapters.
    """
    model, tokenizer, task = prepare(chosen, data_dir, run_dir)
    if full or lora_rank:
        return finetune(Run(model, tokenizer, task, chosen.trainer, chosen.boost), run_dir, lora_rank)
    return boost(model, tokenizer, task, chosen.trainer, chosen.boost, run_dir, gate=chosen.gate).ledger
