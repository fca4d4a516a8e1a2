"""What data/runs/README.md says of evaluation between rounds is what the recorded runs say."""

from pathlib import Path

import pytest

from boostlib import Ledger

RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_runs_with_drafts_are_those_of_full_passes_weights_included(seed):
    full, drafts = (Ledger(RUNS / f"math-short{kind}-rotate-seed{seed}") for kind in ("full", "drafts"))
    assert len(full.rounds) == len(drafts.rounds) == 10
    for one, two in zip(full.rounds, drafts.rounds, strict=True):
        for what in ("failures", "fixed", "broken", "train_accuracy", "metrics", "v_sha256", "weights_fingerprint"):
            assert getattr(one, what) == getattr(two, what), (one.index, what)


def test_a_recorded_run_that_was_evaluated_in_part_stays_readable():
    run = Ledger(RUNS / "math-shortincremental-rotate-seed0")
    assert len(run.verify()) == 10 and not all(row.whole for row in run.rounds)
