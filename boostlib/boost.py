"""BoostLoRA (arXiv 2604.27308, algorithm 1): grow an update of high rank from adapters of a few numbers each.

    repeat for t in rounds:
      1 evaluate the current model on the whole training set
      2 failures = the examples it gets wrong
      3 train a fresh adapter, in the t-th block of singular directions, on the failures only
      4 merge it into the weights and discard it

Step 1 of a round is the evaluation that closed the round before it. Departures: a round that could learn nothing is
recorded with its reason and merges nothing; every round is on disk before the next begins, so a run can be stopped at
any instant and continued by the same call. Ours too, and off by default: a gate that merges only rounds that pay,
greedy rounds, which first look where training would gain most (choose.py), a step 1 that evaluates only a part of the
training set in most rounds (incremental.py), and a step 3 that leaves out failures that taught nothing (resting.py).
"""

import logging
import time
from pathlib import Path

from torch import nn
from tqdm.auto import tqdm

from boostlib import world
from boostlib.adapter import TinyLoRA
from boostlib.choose import chosen, fresh_adapter, resting_now, training_examples
from boostlib.drafts import Drafts
from boostlib.errors import DataError
from boostlib.evaluate import Result, evaluate
from boostlib.gate import Gate
from boostlib.identity import BoostConfig, round_seed
from boostlib.incremental import Pass
from boostlib.judge import judge, require_sound_guards, stopped
from boostlib.partial import complete, settle, train_pass
from boostlib.resting import entry
from boostlib.rounds import Base, Round, Scores, Training, pack_bits, pack_logits
from boostlib.run import Run, open_run
from boostlib.tasks.base import Task

log = logging.getLogger(__name__)


def boost(
    model: nn.Module,
    tokenizer,
    task: Task,
    trainer,
    config: BoostConfig | None = None,
    run_dir: str | Path = "runs/boost",
    progress: bool = True,
    gate: Gate | None = None,
) -> Run:
    """Boost `model` in place for `config.rounds` rounds, recording them in `run_dir`; continues what is there.

    trainer: anything with `settings()` and `train(model, tokenizer, task, examples, adapter, seed, on_step)`, such as
    GRPO or CrossEntropy; for greedy rounds `probe(model, tokenizer, task, examples, batches, seed)` too. gate: merge a
    round only where its rule says so (see gate.py); None, as in the paper, merges all. Raises RunError where run_dir
    holds another run. Ctrl-C leaves a run that the same call continues.
    Called in each of several launched processes, it is one run of them all, see world.py.
    """
    config = config or BoostConfig()
    if config.resting:
        config.resting.check(trainer)
    if gate:
        gate.check(task)
        config = gate.scoring(config)
    with open_run(model, task, trainer, config, run_dir, gate) as run:
        progress = progress and world.is_main()
        bar = tqdm(total=config.rounds, desc="rounds", unit="round", initial=len(run.rounds), disable=not progress)
        try:
            if run.base is None:
                bar.set_postfix_str("evaluating the untrained model")
                base = base_row(model, tokenizer, task, config, run.fingerprint(), progress, run.drafts)
                _require_sound_guards(run, task, base)
                run.ledger.append(base)
                if run.drafts:
                    run.drafts.record()  # what this evaluation cost is no round's
            for t in range(len(run.rounds), config.rounds):
                if stopped(run.rounds):
                    _say(bar, f"stopped by the gate: {run.rounds[-1].extra['gate']['reason']}")
                    break
                failures = run.ledger.failures_after(t)  # 1 and 2
                if not failures:
                    _say(bar, "nothing is answered wrongly any more: no failures left to train on")
                    break
                bar.set_postfix_str(f"round {t}: looking where to train")
                adapter, choice = fresh_adapter(run, tokenizer, task, trainer, failures, t)
                trained = _train(run, tokenizer, task, trainer, failures, adapter, choice, bar)  # 3
                _merge_and_record(run, tokenizer, task, failures, adapter, trained, bar)  # 4
                bar.update()
        except KeyboardInterrupt:
            log.warning(
                "stopped after %d of %d rounds: the same call continues %s", len(run.rounds), config.rounds, run.dir
            )
            raise
        finally:
            bar.close()
    return run


def _train(
    run: Run, tokenizer, task: Task, trainer, failures: list[str], adapter: TinyLoRA, choice: dict, bar
) -> Training:
    """Train the adapter on the failures, or take up what a killed process had trained already."""
    index, start = adapter.round, time.perf_counter()
    recorded = run.ledger.load_v(index)
    if recorded is not None:
        adapter.v.data.copy_(recorded[0])
        return Training(**recorded[1])

    accuracy = (run.rounds[-1] if index else run.base).train_accuracy
    status = {"round": index, "failures": len(failures), "accuracy": f"{accuracy:.3f}"}

    def show(step: dict) -> None:
        values = {name: f"{value:.3f}" for name, value in step.items() if isinstance(value, float)}
        bar.set_postfix(**status, step=f"{step['step']}/{step['of']}", **values)

    bar.set_postfix(**status)
    adapter.attach(run.model, run.weights)
    try:
        examples, seed = training_examples(run, task, failures), round_seed(run.config.seed, index)
        trained = trainer.train(run.model, tokenizer, task, examples, adapter, seed=seed, on_step=show)
    finally:
        adapter.detach()
    adapter.v.data.mul_(run.config.shrinkage)
    trained.seconds, trained.choice = time.perf_counter() - start, choice
    run.ledger.save_v(index, adapter.v, vars(trained))
    return trained


def _merge_and_record(
    run: Run, tokenizer, task: Task, failures: list[str], adapter: TinyLoRA, trained: Training, bar
) -> None:
    """Merge (unless nothing was learned), evaluate, let the gate judge, and write the round's line: after it the round
    exists."""
    last = run.rounds[-1] if run.rounds else run.base
    start = time.perf_counter()
    update, before = adapter.update(), run.weights.update
    retention = 1.0 if trained.skipped else run.weights.merge(update)
    folded = time.perf_counter()
    scores, verdict, seen = _scored(run, tokenizer, task, failures, adapter.round, trained, not bar.disable)
    extra, decision = verdict | chosen(trained.choice), verdict.get("gate", {}).get("decision", "promote")
    merged = not trained.skipped and decision == "promote"
    if not merged and not trained.skipped:  # rejected: the model and its scores are those before the round
        run.weights.set(before)
        scores = _unchanged(last, failures)
    if run.config.incremental:
        found = settle(run, tokenizer, task, failures, adapter.round, seen, merged, decision == "stop", not bar.disable)
        scores, extra["incremental"] = scores | found[0], found[1]
    if run.drafts:
        extra["drafts"] = run.drafts.record()
    if run.config.resting:
        extra["resting"] = entry(failures, resting_now(run, failures), trained.groups)
    row = Round(
        index=adapter.round,
        num_parameters=adapter.num_parameters,
        degrees_of_freedom=adapter.config.degrees_of_freedom(len(run.basis)),
        plan=adapter.plan,
        adapter_norm=update.norm(),
        update_norm=run.update.norm(),
        fold_retention=retention,
        seconds={
            **({"probe": trained.choice["seconds"]} if trained.choice else {}),
            "train": round(trained.seconds, 2),
            "merge": round(folded - start, 2),
            "evaluate": round(time.perf_counter() - folded, 2),
        },
        seed=round_seed(run.config.seed, adapter.round),
        v_sha256=run.ledger.v_sha256(adapter.round),
        weights_fingerprint=run.fingerprint() if merged else last.weights_fingerprint,
        extra=extra,
        **fixed_and_broken(failures, scores),
        **trained.record(),
    )
    run.ledger.append(row)
    _tell(bar, row)


def _scored(
    run: Run, tokenizer, task: Task, failures: list[str], index: int, trained: Training, progress: bool
) -> tuple[dict, dict, Pass | None]:
    """(scores with the round merged, the gate's entry, who was evaluated where that may be a part)."""
    if trained.skipped:
        scores = _unchanged(run.rounds[-1] if run.rounds else run.base, failures)
        return scores, _judged(run, task, failures, scores, trained), None
    seen = train_pass(run, tokenizer, task, failures, index, progress) if run.config.incremental else None
    scores = score_splits(run.model, tokenizer, task, run.config, progress, seen, run.drafts)
    verdict = _judged(run, task, failures, scores, trained)
    if seen and run.gate and "train" in run.gate.value_on and verdict["gate"]["decision"] == "promote":
        seen = complete(seen, run, tokenizer, task, progress)  # a sample may reject a round, but not promote it
        scores |= seen.scores()
        verdict = _judged(run, task, failures, scores, trained)
    return scores, verdict, seen


def _judged(run: Run, task: Task, failures: list[str], scores: dict, trained: Training) -> dict:
    """What a gate adds to a round's line; nothing without one."""
    if not run.gate:
        return {}
    return {"gate": judge(run.gate, task, run.base, run.rounds, failures, scores, trained.skipped)}


def _require_sound_guards(run: Run, task: Task, base: Base) -> None:
    """An untrained model that fails its guards leaves no run behind."""
    if run.gate:
        try:
            require_sound_guards(run.gate, task, base)
        except DataError:
            run.ledger.discard()
            raise


def score_splits(
    model: nn.Module,
    tokenizer,
    task: Task,
    config: BoostConfig,
    progress: bool = True,
    seen: Pass | None = None,
    drafts: Drafts | None = None,
) -> dict:
    """The whole training set, or what `seen` knows of it, and every held-out split, as a ledger keeps them."""
    splits = config.held_out if seen else ("train", *config.held_out)
    results = {
        split: evaluate(
            model, tokenizer, task, split, config.batch_size, progress=progress, drafts=drafts, vllm=config.vllm
        )
        for split in splits
    }
    train = seen.scores() if seen else _train_scores(results.pop("train"))
    return {**train, "metrics": {split: _scores(result) for split, result in results.items()}}


def _train_scores(train: Result) -> dict:
    return {
        "failures": train.failures,
        "train_accuracy": train.accuracy,
        "train_strict": train.strict_accuracy,
    }


def _scores(result: Result) -> Scores:
    logits = "" if result.logits is None else pack_logits(result.logits)
    return Scores(result.accuracy, result.strict_accuracy, pack_bits(result.correct), logits)


def base_row(
    model, tokenizer, task: Task, config: BoostConfig, fingerprint: str, progress: bool = True, drafts=None
) -> Base:
    """The untrained model's line."""
    start = time.perf_counter()
    scores = score_splits(model, tokenizer, task, config, progress, drafts=drafts)
    return Base(**scores, weights_fingerprint=fingerprint, seconds=round(time.perf_counter() - start, 2))


def fixed_and_broken(failures: list[str], scores: dict) -> dict:
    """A round's scores in terms of the failures it started from: who was fixed, who was broken."""
    before, after = set(failures), set(scores["failures"])
    return {
        **scores,
        "failures": failures,
        "fixed": [id for id in failures if id not in after],
        "broken": [id for id in scores["failures"] if id not in before],
    }


def _unchanged(last: Base | Round, failures: list[str]) -> dict:
    """A skipped or rejected round changed no weight: the scores are the last ones."""
    return {
        "failures": failures,
        "train_accuracy": last.train_accuracy,
        "train_strict": last.train_strict,
        "metrics": last.metrics,
    }


def _tell(bar, row: Round) -> None:
    if row.skipped:
        log.warning("round %d skipped: %s", row.index, row.skipped)
    elif row.rejected:
        log.warning("round %d not merged: %s", row.index, row.rejected)
    elif row.fold_retention < 0.9:
        log.warning(
            "round %d: only %.0f%% of the update survived the cast to the model's dtype; load the model with "
            'dtype="float32", or train with a higher learning rate',
            row.index,
            100 * row.fold_retention,
        )
    held_out = " ".join(f"{name} {scores.accuracy:.3f}" for name, scores in row.metrics.items())
    _say(
        bar,
        f"round {row.index}: {len(row.failures)} failures, fixed {len(row.fixed)}, broken {len(row.broken)}, "
        f"train {row.train_accuracy:.3f} {held_out}",
    )


def _say(bar, text: str) -> None:
    if not bar.disable:
        bar.write(text)
