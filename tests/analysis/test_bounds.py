"""Bounds on the gap: constants against exact probabilities, tables against ledgers, noise against densities."""

import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers import FakeTrainer, ParityTask, config
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import binom

from boostlib import Ledger, boost
from boostlib.analysis.bounds import (
    binary_kl,
    certify,
    gap_bound,
    gap_table,
    gaussian_kl,
    kl_inverse,
    occam_nats,
    pac_bayes_nats,
    which_nats,
)
from boostlib.common.errors import BoostError, RunError
from boostlib.experiments.methods import finetune
from boostlib.plots.theory import plot_bounds
from boostlib.records.rows import Training
from boostlib.run import Run

rates = st.floats(0, 1)


@pytest.fixture
def run(tiny_llama, tiny_tokenizer, tmp_path):
    """`run(rounds, **settings)`: a finished run on the parity task."""

    def build(rounds: int = 3, trainer=None, **settings):
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        trainer = trainer or FakeTrainer(scale=0.3)
        return boost(tiny_llama(), tiny_tokenizer, ParityTask(), trainer, config(rounds, **settings), folder, False)

    return build


# --- constants


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 64, 256, 5000])
def test_maurers_constant(n):
    """E exp(n kl(k/n, p)), k binomial, is the same for every p and at most 2 sqrt(n)."""
    k = np.arange(n + 1)
    choose = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    own = np.array([i * math.log(i / n) if i else 0.0 for i in k])
    total = np.exp(choose + own + own[::-1]).sum()
    for p in (0.1, 0.5):
        kls = np.array([binary_kl(i / n, p) for i in k])
        mean = np.exp(binom.logpmf(k, n, p) + n * kls).sum()
        assert mean == pytest.approx(total, rel=1e-6)
    assert total <= 2 * math.sqrt(n) * (1 + 1e-12)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("delta", [0.05, 0.3])
def test_one_models_bound_is_broken_no_more_often_than_delta(p, delta):
    """bits = 0: one model fixed beforehand. The chance that its bound lies below p is summed exactly."""
    n = 60
    for inverse in (True, False):
        chance = 0.0
        for k in range(n + 1):
            nats = occam_nats(0, delta)
            bound = k / n + gap_bound(nats, n, k / n if inverse else None)
            chance += binom.pmf(k, n, p) * (bound < p)
        assert chance <= delta
    assert chance > 0 or p in (0.05, 0.9)


@given(rates, st.floats(1e-4, 3))
def test_the_inverse_inverts_and_is_never_looser_than_pinsker(error, budget):
    p = kl_inverse(error, budget)
    assert error <= p <= 1
    if p < 1 - 1e-9:  # closer to 1 no float64 is near the solution
        assert binary_kl(error, p) == pytest.approx(budget, rel=1e-4)
    assert p - error <= math.sqrt(budget / 2) + 1e-9


def test_numbers_by_hand():
    assert kl_inverse(0.0, 0.5) == pytest.approx(1 - math.exp(-0.5))
    assert (kl_inverse(0.3, 0), kl_inverse(1.0, 0.2)) == (0.3, 1.0)
    assert pac_bayes_nats(gaussian_kl(0.18, 0.1), 256, 0.05) == pytest.approx(9 + math.log(2 * 16 / 0.05))
    assert occam_nats(96 * 32, 0.05) == pytest.approx(3072 * math.log(2) + math.log(20))
    assert gap_bound(8.0, 100) == pytest.approx(0.2) and gap_bound(1e9, 100) == 1


def test_bad_numbers_are_named():
    for call, named in (
        (lambda: gaussian_kl(1, 0), "sigma=0"),
        (lambda: pac_bayes_nats(1, 10, 0), "delta=0"),
        (lambda: occam_nats(1, 1.5), "delta=1.5"),
        (lambda: kl_inverse(1.2, 1), "1.2"),
    ):
        with pytest.raises(BoostError, match=named):
            call()


# --- the table of a ledger


def test_the_table_is_the_ledgers_numbers_put_into_the_bounds(run):
    ledger = run().ledger
    table = gap_table(ledger, sigmas=(0.1, 1.0), delta=0.08)
    vs = [ledger.load_v(t)[0].double() for t in range(3)]
    assert table["numbers"].tolist() == [0, 6, 12, 18]
    square = sum(float((v**2).sum()) for v in vs[:2])
    row, scored = table.loc[2], ledger.rounds[1]
    assert row["v"] == pytest.approx(square**0.5)
    share, which = 0.08 / 12, math.log(2)  # row 2 gets 1 / (3 * 4); all of its rounds were merged
    nats = square / 2 + which + math.log(2 * 12**0.5 * 2 / share)
    assert row[1.0] == pytest.approx(min(1, math.sqrt(nats / 24)))
    error = 1 - scored.train_accuracy
    assert row["occam"] == pytest.approx(gap_bound(occam_nats(32 * 12, share) + which, 12, error))
    assert row["gap"] == pytest.approx(scored.train_accuracy - scored.metrics["test"].accuracy)
    assert (table.low < table.gap).all() and (table.gap < table.high).all()
    assert (table[0.1] >= table[1.0]).all()


def test_the_interval_covers_the_true_accuracy(run):
    """Clopper-Pearson, against its defining tail probabilities."""
    row, scores = gap_table(run(1).ledger, delta=0.1).loc[1], run(1).rounds[0].metrics["test"]
    k, n = sum(scores.bits()), scores.n
    train = row.train
    if k:
        assert binom.sf(k - 1, n, train - row.high) == pytest.approx(0.05)
    if k < n:
        assert binom.cdf(k, n, train - row.low) == pytest.approx(0.05)


def test_the_prior_over_patterns_is_one_and_a_later_round_changes_no_row(run):
    """The prior masses that which_nats pays for add up to at most 1, and the rows' shares to at most delta."""
    short, long = (run(rounds, trainer=FakeTrainer(scale=0.1)).ledger for rounds in (2, 3))
    for t in range(4):
        patterns = product((False, True), repeat=t)
        rounds = [[replace(long.rounds[0], skipped="" if merged else "no") for merged in one] for one in patterns]
        assert sum(math.exp(-which_nats(one)) for one in rounds) <= 1
    one, two = (gap_table(ledger, sigmas=(5.0,), delta=0.5) for ledger in (short, long))
    pd.testing.assert_frame_equal(one, two[:3])
    nats = 24 * two[5.0] ** 2 - two.v**2 / 50 - math.log(2)
    assert (2 * math.sqrt(12) / np.exp(nats)).tolist() == pytest.approx([0.5 / 2, 0.5 / 6, 0.5 / 12, 0.5 / 20])


def test_a_round_that_was_not_merged_has_no_noise_but_its_choice_is_paid_for(run):
    all_merged = gap_table(run(3).ledger, sigmas=(5.0,), delta=0.5)
    skipped = gap_table(run(3, trainer=FakeTrainer(scale=0.3, skip=(1,))).ledger, sigmas=(5.0,), delta=0.5)
    assert skipped["numbers"].tolist() == [0, 6, 6, 12]
    assert skipped[5.0][1] == all_merged[5.0][1] < skipped[5.0][2]
    n, kl = 12, skipped["v"][2] ** 2 / 50
    paid = math.sqrt((kl + 3 * math.log(2) + math.log(2 * n**0.5 * 12 / 0.5)) / (2 * n))
    assert skipped[5.0][2] == pytest.approx(min(1, paid))


def test_what_the_data_chose_is_refused(run, tiny_llama, tiny_tokenizer, tmp_path):
    ledger = run(1).ledger
    header = ledger.header
    header["identity"]["adapter"]["strategy"] = "greedy"
    ledger.create(header)
    with pytest.raises(BoostError, match=r"plan from the data \(greedy\), which is not paid for"):
        gap_table(ledger)
    header["identity"]["adapter"]["strategy"] = "rotate"
    ledger.create(header)
    assert gap_table(ledger, sigmas=(9.0,))[9.0][1] < 1
    (ledger.dir / "head.safetensors").write_bytes(b"any")
    with pytest.raises(BoostError, match="a head fitted to the training split"):
        gap_table(ledger)

    class Nudge(FakeTrainer):
        def train(self, subject, examples, adapter=None, seed=0):
            return Training(steps=1)

    finetune(Run(tiny_llama(), tiny_tokenizer, ParityTask(), Nudge(), config(1)), tmp_path / "full")
    with pytest.raises(BoostError, match="all weights"):
        gap_table(Ledger(tmp_path / "full"))


def test_a_lost_round_file_is_named(run):
    ledger = run(2).ledger
    ledger.v_path(1).unlink()
    with pytest.raises(RunError, match="0001"):
        gap_table(ledger)


def test_problems_drawn_together_count_once(run):
    """Pairs that are answered alike: n / 2 keeps the promise, exactly, where n would break it more often."""
    n, delta = 60, 0.1
    for p in (0.2, 0.5, 0.8):
        right, wrong = 0.0, 0.0
        for k in range(n // 2 + 1):
            error, chance = 2 * k / n, binom.pmf(k, n // 2, p)
            right += chance * (error + gap_bound(occam_nats(0, delta), n // 2, error) < p)
            wrong += chance * (error + gap_bound(occam_nats(0, delta), n, error) < p)
        assert right <= delta and right < wrong
    ledger = run(1).ledger
    one, two = (gap_table(ledger, sigmas=(9.0,), together=g)[9.0][0] for g in (1, 2))
    assert one == pytest.approx(min(1, math.sqrt(math.log(2 * 2 * 12**0.5 * 2 / 0.05) / 24)))
    assert two == pytest.approx(min(1, math.sqrt(math.log(2 * 2 * 6**0.5 * 2 / 0.05) / 12)))
    scores = pd.DataFrame({"n": [12], "nats": [1.0], "choices": [0.0], "train": [0.5], "test": [0.5]})
    assert certify(scores, together=2)["at least"].equals(certify(scores.assign(n=6))["at least"])


def test_certificates_by_hand():
    scores = pd.DataFrame({"sigma": [0.1, 0.1], "draw": [0, 1], "n": 256, "kl": 9.0, "nats": [6.5, -50.0],
                           "choices": 0.5, "train": [0.5, 0.5], "test": [0.45, 0.55]})  # fmt: skip
    found = certify(scores, delta=0.1)
    nats = 6.5 + 0.5 + math.log(2 * 16 / 0.05)
    assert found["pinsker"][0] == pytest.approx(math.sqrt(nats / 512))
    assert found["at least"][0] == pytest.approx(1 - kl_inverse(0.5, nats / 256))
    assert found["tight"][0] == pytest.approx(0.5 - found["at least"][0]) and found["tight"][0] < found["pinsker"][0]
    assert found["gap"].tolist() == pytest.approx([0.05, -0.05])
    assert found["pinsker"][1] == 0 and found["at least"][1] == 0.5
    with pytest.raises(BoostError, match='no column "choices"'):
        certify(scores.drop(columns="choices"))


# --- files and figures


def test_the_figure_draws_the_table(run):
    table = gap_table(run().ledger, sigmas=(1.0, 2.0))
    ax = plot_bounds(table)
    drawn = {tuple(line.get_ydata()) for line in ax.lines}
    for column in ("gap", "occam", 1.0, 2.0):
        assert tuple(table[column]) in drawn
    names = {text.get_text() for text in ax.texts}
    assert names >= {"measured,\nwithout noise", "Occam,\n32 bits", "PAC-Bayes,\nσ = 1"}
    plt.close("all")


# --- what is committed


def test_committed_measurements_are_of_the_committed_run():
    data = Path(__file__).resolve().parents[2] / "data"
    ledger = Ledger(data / "runs" / "math-growth-rotate-seed0")
    noise = pd.read_csv(data / "theory" / f"{ledger.dir.name}-noise.csv")
    square = sum(float((ledger.load_v(row.index)[0].double() ** 2).sum()) for row in ledger.rounds)
    assert noise["kl"].to_numpy() == pytest.approx((square / (2 * noise["sigma"] ** 2)).to_numpy(), rel=1e-5)
    assert noise["choices"].to_numpy() == pytest.approx(which_nats(ledger.rounds), rel=1e-5)
    assert (noise["n"] == 256).all() and noise["device"].notna().all() and noise["date"].notna().all()
    moved = pd.read_csv(data / "theory" / f"{ledger.dir.name}-isolation-round0.csv")
    wrong = set(ledger.rounds[0].failures)
    assert moved.correct.tolist() == [id not in wrong for id in moved.id]
    assert set(moved.id[moved.changed]) >= set(moved.id) & {*ledger.rounds[0].fixed, *ledger.rounds[0].broken}
