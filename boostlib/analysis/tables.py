"""Ledgers as tables: what each round did, and what a group of runs gained over the untrained model or another group."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from boostlib.analysis.recorded import Groups, by_seed
from boostlib.common.errors import BoostError
from boostlib.evaluation.evaluate import paired_bootstrap
from boostlib.evaluation.metrics import bootstrap_metrics, metrics
from boostlib.records.ledger import Ledger
from boostlib.records.rows import Base, Round, held_out


def rounds_table(ledger: Ledger) -> pd.DataFrame:
    """One row a round, the untrained model first: failures, fixed, broken, accuracies, norms, steps, seconds.

    "train" is an estimate where a round was evaluated in part (`Round.whole`).
    """
    base = ledger.base
    if base is None:
        raise BoostError(f"{ledger.dir} holds no finished evaluation yet: run it first")
    rows = [{"round": "base", **_scores(base)}]
    rounds = ledger.rounds
    for row in rounds:
        rows.append(
            {
                "round": row.index if row.merged else f"{row.index} ({'rejected' if row.rejected else 'skipped'})",
                "failures": len(row.failures),
                "fixed": len(row.fixed),
                "broken": len(row.broken),
                **_scores(row),
                "adapter norm": row.adapter_norm,
                "update norm": row.update_norm,
                "fold retention": row.fold_retention,
                "steps": row.steps,
                **({"probing batches": row.cost["batches"] - row.steps} if "greedy" in row.extra else {}),
                "seconds": sum(row.seconds.values()),
            }
        )
    columns = list(dict.fromkeys(["round", "failures", "fixed", "broken", *(key for row in rows for key in row)]))
    return pd.DataFrame(rows, columns=columns).set_index("round")


def finished(ledger: Ledger) -> list[Round]:
    """A run's rounds, at least one. Raises BoostError for a run without a finished round."""
    rounds = ledger.rounds
    if not rounds:
        raise BoostError(f"{ledger.dir} has no finished round: let the run finish one")
    return rounds


def require_same_problems(runs: Sequence[Ledger], splits: Sequence[str]) -> None:
    """Raises BoostError, naming both runs, where two were not scored on the same problems of one of `splits`."""
    for run in runs:
        for split in splits:
            hashes = [one.header["identity"].get("data", {}).get(split) for one in (runs[0], run)]
            if hashes[0] != hashes[1]:
                raise BoostError(
                    f"{runs[0].dir} and {run.dir} were not scored on the same problems of {split!r}: runs of one task "
                    "and one set of data can be compared; show others one by one"
                )


def first_and_last(runs: Sequence[Ledger], split: str, after: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Who of the held-out `split` is right untrained, and after `after` rounds (None: all): (runs, n) bool each.

    Raises BoostError for a run without a finished round, or not scored on `split`, or of other problems than the first.
    """
    require_same_problems(runs, [split])
    ends = [(run.base, finished(run)[:after][-1]) for run in runs]
    before, after_it = (np.array([held_out(row, split).bits() for row in rows]) for rows in zip(*ends, strict=True))
    return before, after_it


def gains_table(groups: Groups, split: str = "test") -> pd.DataFrame:
    """One row a group of runs (seeds): accuracy of base and boosted, gain with a paired 95% bootstrap interval.

    The interval resamples problems (base and boosted answer kept together) and, with several runs, runs as well.
    """
    rows = {name: _gain(name, runs, split) for name, runs in groups.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def versus_table(groups: Groups, other: str, split: str = "test", after: int | None = None) -> pd.DataFrame:
    """One row a group: its accuracy after `after` rounds (default: all) minus that of the group named `other`, paired
    over problems and seeds, 95% interval. Compares the seeds that both have; "by seed" is the difference of each.

    The interval resamples seeds too, but three of them, resampled, understate what other seeds would do: read "by seed"
    beside it. Raises BoostError where no seed is shared, for a run without a finished round, or not scored on `split`.
    """
    if other not in groups:
        raise BoostError(f"versus_table has no runs of {other!r}; it has {', '.join(groups) or 'none'}")
    rows, reference = [], by_seed(groups[other])
    for label in (label for label in groups if label != other):
        runs = by_seed(groups[label])
        seeds = sorted(runs.keys() & reference.keys())
        if not seeds:
            raise BoostError(f"{label} and {other} share no seed: a paired comparison needs one")
        require_same_problems([*runs.values(), *reference.values()], [split])
        ours, theirs = (first_and_last([side[seed] for seed in seeds], split, after)[1] for side in (runs, reference))
        gain, low, high = paired_bootstrap(theirs, ours)
        differences = " ".join(f"{gap:+.3f}" for gap in ours.mean(axis=1) - theirs.mean(axis=1))
        rows.append((label, ", ".join(map(str, seeds)), ours.mean(), theirs.mean(), gain, low, high, differences))
    columns = ["method", "seeds", split, f"{split}, {other}", "difference", "low", "high", "by seed"]
    return pd.DataFrame(rows, columns=columns).set_index("method")


def choice_table(groups: Groups, other: str, split: str = "test", after: int | None = None) -> pd.DataFrame:
    """What greedy rounds bought and cost: one row a group, after so many rounds (None: all), against `other`.

    Everything is at equal cost: a probing batch counts as much as an optimizer step. "difference" is that of `split`
    accuracy to `other`, paired over problems and seeds, with its 95% interval; fixed and broken are training problems,
    summed over rounds and seeds; "probing" is the share of a round's time (probing, training, merging and evaluation)
    that probing took.
    """
    rows, against = {}, versus_table(groups, other, split, after)
    for label, runs in groups.items():
        rows[label] = {"seeds": len(runs), **_choice(runs, split, after)}
        if label in against.index:
            found = against.loc[label]
            rows[label]["difference"] = f"{found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
            rows[label]["by seed"] = found["by seed"]
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method").fillna("")


def _choice(runs: Sequence[Ledger], split: str, after: int | None) -> dict:
    done = [finished(run)[:after] for run in runs]
    rounds = [row for rows in done for row in rows]
    start, end = (bits.mean() for bits in first_and_last(runs, split, after))
    gains = [rows[-1].train_accuracy - run.base.train_accuracy for rows, run in zip(done, runs, strict=True)]
    steps = sorted({f"{row.steps} + {row.cost['batches'] - row.steps}" for row in rounds if row.steps})
    probing = [row.seconds.get("probe", 0.0) / sum(row.seconds.values()) for row in rounds if row.merged]
    fixed, broken = _moved(rounds)
    return {
        "steps + probing": ", ".join(steps),
        split: end,
        f"{split} gain": end - start,
        "train gain": np.mean(gains),
        "fixed / broken": f"{fixed} / {broken}",
        "broken per fixed": broken / fixed if fixed else float("nan"),
        "probing": f"{np.mean(probing):.0%}",
    }


def classification_table(
    groups: Groups, split: str = "test", plain: Mapping[str, np.ndarray] | None = None
) -> pd.DataFrame:
    """One row a classifier: accuracy, F1, AUC and the gain in accuracy over the linear probe, with 95% intervals.

    plain: name -> logits (n,) of rows without a run, such as `metrics.floors`. The linear probe is the first group's
    untrained model. Intervals resample examples and, with several runs, runs as well; "" where nothing is compared.
    """
    if not groups:
        raise BoostError("classification_table got no runs: its first row is their untrained model")
    probe = next(iter(groups.values()))[0].base.metrics[split]
    if not probe.logits:
        raise BoostError("classification_table is for two classes: of more, see gains_table and label_report")
    labels = probe.labels()
    rows = [_classified(name, labels, logits) for name, logits in (plain or {}).items()]
    rows.append(_classified("linear probe", labels, probe.scores()))
    for name, runs in groups.items():
        gain = _gain(name, runs, split)
        logits = np.array([run.rounds[-1].metrics[split].scores() for run in runs], dtype=float)  # (runs, n)
        kept = {key: gain[key] for key in ("runs", "parameters a round", "degrees of freedom", "steps")}
        change = f"{gain['gain']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"
        moved = f"{gain['fixed']} / {gain['broken']}"
        rows.append(_classified(name, labels, logits) | kept | {"gain": change, "fixed / broken (train)": moved})
    table = pd.DataFrame(rows).set_index("method")
    return table.astype(object).where(table.notna(), "")


def _classified(name: str, labels: np.ndarray, logits: np.ndarray) -> dict:
    found = bootstrap_metrics(labels, logits)
    cells = {metric: f"{mean:.3f} ({low:.3f} to {high:.3f})" for metric, (mean, low, high) in found.items()}
    return {"method": name, **cells}


def provenance(ledgers: Sequence[Ledger]) -> str:
    """Device, precision, seeds and dates of some runs, for a caption."""
    headers = [ledger.header for ledger in ledgers]
    devices = sorted({f"{h['environment']['device']} ({h['identity']['model']['dtype']})" for h in headers})
    dates = sorted({h["environment"]["date"][:10] for h in headers})
    seeds = sorted({h["identity"]["seed"] for h in headers})
    return (
        f"{', '.join(devices)}; seeds {', '.join(map(str, seeds))}; {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}"
    )


def _gain(name: str, runs: Sequence[Ledger], split: str) -> dict:
    unfinished = [str(run.dir) for run in runs if run.base is None or not run.rounds]
    if not runs or unfinished:
        raise BoostError(f"{name}: no finished round in {', '.join(unfinished) or 'an empty list of runs'}")
    before, after = first_and_last(runs, split)
    gain, low, high = paired_bootstrap(before, after)
    rounds = [row for run in runs for row in run.rounds]
    fixed, broken = _moved(rounds)
    return {
        "runs": len(runs),
        "rounds": len(runs[0].rounds),
        "parameters a round": runs[0].rounds[0].num_parameters,
        "degrees of freedom": runs[0].rounds[0].degrees_of_freedom,
        "steps": sum(row.steps for row in rounds) / len(runs),
        "base": before.mean(),
        "boosted": after.mean(),
        "gain": gain,
        "low": low,
        "high": high,
        "strict gain": np.mean([r.rounds[-1].metrics[split].strict - r.base.metrics[split].strict for r in runs]),
        "fixed": fixed,
        "broken": broken,
    }


def _moved(rounds: Sequence[Round]) -> tuple[int, int]:
    """Training problems (fixed, broken), summed over rounds."""
    return sum(len(row.fixed) for row in rounds), sum(len(row.broken) for row in rounds)


def _scores(row: Base | Round) -> dict[str, float]:
    """Accuracies by split; strict ones of texts; F1 and AUC, or the mean F1 of several classes, of a classifier, which
    has no format to be strict about."""
    texts = not any(metric.logits or metric.classes for metric in row.metrics.values())
    scores = {"train": row.train_accuracy, **({"train strict": row.train_strict} if texts else {})}
    for split, metric in row.metrics.items():
        if texts:
            scores |= {split: metric.accuracy, f"{split} strict": metric.strict}
        elif metric.classes:
            mean = f1_score(metric.labels(), metric.said(), average="macro")
            scores |= {split: metric.accuracy, f"{split} mean F1": mean}
        else:
            found = metrics(metric.labels(), metric.scores())
            scores |= {split: found["accuracy"], f"{split} F1": found["F1"], f"{split} AUC": found["AUC"]}
    return scores
