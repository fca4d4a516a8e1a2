"""BoostLoRA (arXiv 2604.27308, algorithm 1): grow an update of high rank from adapters of a few numbers each.

    repeat for t in rounds:
      1 evaluate the current model on the whole training set
      2 failures = the examples it gets wrong
      3 train a fresh adapter, in the t-th block of singular directions, on the failures only
      4 merge it into the weights and discard it

Step 1 of a round is the evaluation that closed the round before it. Departures: a round that could learn nothing is
recorded with its reason and merges nothing; every round is on disk before the next begins, so a run can be stopped at
any instant and continued by the same call. What the paper fixes and a user may choose otherwise stands behind
`run.choices` (strategies/choices.py): the adapter of a round, whom it trains on, how a pass is decoded, whether it is
merged.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from boostlib.common.errors import BoostError
from boostlib.common.stable import round_seed
from boostlib.config import BoostConfig, circumstances
from boostlib.evaluation.scoring import base_row, fixed_and_broken, score_splits, unchanged
from boostlib.records.rows import Round, Training
from boostlib.records.sketch import pack, sketch
from boostlib.run import Run, open_run
from boostlib.strategies.choices import Adapter
from boostlib.tasks.base import Task


def boost(
    model: nn.Module,
    tokenizer,
    task: Task,
    trainer,
    config: BoostConfig | None = None,
    run_dir: str | Path = "runs/boost",
    progress: bool = True,
    gate=None,
) -> Run:
    """Boost `model` in place for `config.rounds` rounds, recording them in `run_dir`; continues what is there.

    trainer: anything with `settings()` and `train(run, examples, adapter, seed)`, such as GRPO or CrossEntropy; for
    greedy rounds `probe(run, examples, batches, seed)` too. gate: a Gate, which merges a round only where its rule says
    so; None, as in the paper, merges all. Raises RunError where run_dir holds another run. Ctrl-C leaves a run that the
    same call continues. Called in each of several launched processes, it is one run of them all, see common/world.py.
    """
    if gate:
        gate.check(task)
    with open_run(Run(model, tokenizer, task, trainer, config or BoostConfig(), gate), run_dir, progress) as run:
        if run.base is None:
            begin(run)
        for t in range(len(run.rounds), run.config.rounds):
            failures = run.ledger.failures_after(t)  # 1 and 2
            over = run.choices.merging.ended(run) or ("" if failures else "nothing is answered wrongly any more")
            if over:
                run.progress.say(over)
                break
            run.progress.at(f"round {t}: looking where to train")
            adapter, choice = run.choices.learner.fresh(run, failures)
            trained = train(run, failures, adapter, choice)  # 3
            merge(run, failures, adapter, trained)  # 4
    return run


def begin(run: Run) -> None:
    """Evaluate and record the untrained model; one that cannot be, or will not do, leaves no run behind."""
    run.progress.at("evaluating the untrained model")
    try:
        base = base_row(run, run.fingerprint(), run.progress.shown)
        run.choices.merging.begin(run, base)
    except BoostError:
        run.ledger.discard()
        raise
    run.ledger.append(base)


def train(run: Run, failures: Sequence[str], adapter: Adapter, choice: dict) -> Training:
    """Train the adapter on the failures, or take up what a killed process had trained already."""
    index, start = adapter.round, time.perf_counter()
    recorded = run.ledger.load_numbers(index)
    if recorded is not None and adapter.restore(recorded[0]):
        return Training.restored(recorded[1])
    accuracy = (run.rounds[-1] if index else run.base).train_accuracy
    run.progress.at(round=index, failures=len(failures), accuracy=f"{accuracy:.3f}")
    adapter.attach(run.model, run.weights)
    try:
        examples = run.choices.whom(run, failures)
        trained = run.trainer.train(run, examples, adapter, round_seed(run.config.seed, index))
    finally:
        adapter.detach()
    trained.seconds, trained.choice = time.perf_counter() - start, choice
    run.ledger.save_numbers(index, adapter.numbers, vars(trained))
    return trained


def merge(run: Run, failures: Sequence[str], adapter: Adapter, trained: Training) -> None:
    """Merge the adapter unless it learned nothing, evaluate, and write the round's line: after it the round exists."""
    last, before, start = (run.rounds or (run.base,))[-1], run.update, time.perf_counter()
    update = adapter.update()
    retention = 1.0 if trained.skipped else run.weights.merge(update)
    folded = time.perf_counter()
    tried = unchanged(last, failures) if trained.skipped else score_splits(run, run.progress.shown)
    merged, verdict = run.choices.merging.judge(run, failures, tried, trained.skipped)
    if not merged:
        run.weights.set(before)
    row = Round(
        index=adapter.round,
        num_parameters=adapter.num_parameters,
        degrees_of_freedom=adapter.degrees_of_freedom,
        plan=adapter.plan,
        adapter_norm=update.norm(),
        update_norm=run.update.norm(),
        fold_retention=retention,
        seconds={
            **trained.times(),
            "merge": round(folded - start, 2),
            "evaluate": round(time.perf_counter() - folded, 2),
        },
        seed=round_seed(run.config.seed, adapter.round),
        v_sha256=run.ledger.v_sha256(adapter.round),
        weights_fingerprint=run.fingerprint() if merged else last.weights_fingerprint,
        extra=verdict | trained.entry() | run.decoder.entry(),
        sketch=pack(sketch(update, adapter.groups())) if merged else "",
        circumstances=circumstances(run.basis, run.config.learner.rank, run.model.device),
        **fixed_and_broken(failures, tried if merged else unchanged(last, failures)),
        **trained.record(),
    )
    run.ledger.append(row)
    run.progress.round(row)
