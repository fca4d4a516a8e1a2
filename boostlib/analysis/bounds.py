"""Bounds on a run's generalisation gap, executable, with every constant: what a few numbers a round buy, and what not.

    kl(e, p) = e ln(e/p) + (1-e) ln((1-e)/(1-p)) <= nats / n      e: training error on n problems, p: true error
    gap = p - e <= kl_inverse(e, nats / n) - e <= sqrt(nats / (2 n))                                  (Pinsker)

with probability 1 - delta over the draw of the n training problems, where `nats` is one of

    PAC-Bayes    KL + ln(2 sqrt(n) / delta),  KL = sum_t |v_t|^2 / (2 sigma^2)      (Maurer 2004, arXiv cs/0411099)
    single draw  the same, with KL + <v, eps> / sigma in place of KL      (Rivasplata et al. 2020, arXiv 2006.13057)
    Occam        bits ln 2 + ln(1 / delta)                                     (Blumer et al. 1987; Langford 2005)

PAC-Bayes is about the *Gibbs predictor*: the numbers of all merged rounds are v + sigma eps, eps ~ N(0, I), and both
errors are means over eps; the prior is N(0, sigma^2 I). "single draw" is about one eps, drawn once. So the training
error has to be measured under the noise (data/theory has such a table), which costs accuracy. Occam is about the
deterministic model as it is decoded, if its numbers are written down in so many bits: 32 each, as they are stored.

Why the prior may be used: it, the basis (a function of W0) and P (of the seed) are fixed before the training problems
are drawn, and the blocks of "rotate" and "top" depend on the round alone. What the data choose has to be paid for with
the logarithm of the number of choices: sigma from a grid, and which rounds were merged (`which_nats`). What is not paid
for is refused: the plan of a strategy that looks at gradients, and a head fitted to the training split.

Problems that are drawn together (the demo's 7 + 5 and 5 + 7) are not independent: where up to g come together, sums are
dominated by those of n / g independent ones (convexity), so n / g takes the place of n (together=2 for `arithmetic`).

The noise: w_t = v_t + sigma eps_t in every merged round t. One draw is one model W0 + sum_t dW_t(w_t), for which the
single-draw bound holds as it stands, as KL + <v, eps> / sigma is ln(q(w) / p(w)), q the density of the noisy numbers
and p that of the prior; the mean over a few draws only estimates the Gibbs predictor's errors.

What this does not promise: problems are i.i.d. from one source (a sample without replacement, as the demo's splits are,
will do: Hoeffding 1963, theorem 4; p is then the error on all the source's problems), and nothing is said of any other;
the loss is 0/1, so nothing is said of the reward's size; a small gap is not a gain: an untrained model has it too.
"""

import math
from collections.abc import Sequence

import pandas as pd
from scipy.optimize import brentq
from scipy.special import rel_entr
from scipy.stats import binomtest

from boostlib.analysis.dynamics import numbers_of, train_size
from boostlib.common.errors import BoostError
from boostlib.records.ledger import Ledger
from boostlib.records.rows import Base, Round, held_out
from boostlib.run import has_head

FIXED = ("rotate", "top")  # strategies whose plan depends on the round alone
BITS = 32  # of a number as it is stored


def gaussian_kl(square: float, sigma: float) -> float:
    """KL(N(v, sigma^2 I) || N(0, sigma^2 I)) in nats; square: |v|^2 over all merged rounds."""
    if not sigma > 0:
        raise BoostError(f"sigma={sigma}: the noise must be positive")
    return square / (2 * sigma**2)


def pac_bayes_nats(kl: float, n: int, delta: float) -> float:
    """KL + ln(2 sqrt(n) / delta). kl: of the Gibbs predictor, or the log density ratio of a single draw."""
    return kl + math.log(2 * math.sqrt(n) / _checked(delta))


def occam_nats(bits: float, delta: float) -> float:
    """bits ln 2 + ln(1 / delta). bits: in all, of a code agreed on before the data."""
    return bits * math.log(2) + math.log(1 / _checked(delta))


def which_nats(rounds: Sequence[Round]) -> float:
    """-ln(prior of these rounds' pattern of merged and not): 1/2 for all merged, 1/2 shared by the 2^t patterns."""
    return (1 if all(row.merged for row in rounds) else len(rounds) + 1) * math.log(2)


def binary_kl(error: float, true: float) -> float:
    """kl(error, true) in nats, of two error rates in 0..1; infinite where `true` rules out what was seen."""
    return float(rel_entr(error, true) + rel_entr(1 - error, 1 - true))


def kl_inverse(error: float, budget: float) -> float:
    """The largest true error p with kl(error, p) <= budget; budget: nats / n."""
    if not (0 <= error <= 1 and budget >= 0):
        raise BoostError(f"kl_inverse({error}, {budget}): error must lie in 0..1 and budget be at least 0")
    if binary_kl(error, 1 - 1e-15) <= budget:
        return 1.0
    return float(brentq(lambda p: binary_kl(error, p) - budget, error, 1 - 1e-15, xtol=1e-15)) if budget else error


def gap_bound(nats: float, n: int, error: float | None = None) -> float:
    """Bound on p - e: by the inverse of kl if the training error is given, else Pinsker's sqrt(nats / (2 n)) or 1."""
    return min(1.0, math.sqrt(nats / (2 * n))) if error is None else kl_inverse(error, nats / n) - error


def gap_table(
    ledger: Ledger, sigmas: Sequence[float] = (0.03, 0.1), delta: float = 0.05, together: int = 1
) -> pd.DataFrame:
    """Bounds and the measured gap after 0, 1, ... rounds; nothing is run.

    Bounds on train minus true accuracy: one column a sigma (under its number), PAC-Bayes by Pinsker, of the Gibbs
    predictor; "occam", 32 bits a number, by the inverse of kl, of the run as it was. Each kind holds for all rows
    together with probability 1 - delta, PAC-Bayes for all sigmas: row t gets delta / ((t + 1)(t + 2)), which adds up to
    no more than delta over any number of rows, so the number of rounds may be chosen after looking.

    "train" and "gap" (train minus test accuracy) are of the run as it was, without noise: "occam" alone bounds that
    gap, and says nothing where it is at least "train". "low" and "high": the gap's interval at 1 - delta for the true
    accuracy, exact for independent problems (Clopper-Pearson), one row at a time. "v": |v| over the rounds so far,
    "numbers" how many. Which rounds were merged is paid for (`which_nats`). together: how many training problems at
    most were drawn together. Rounds whose training accuracy is an estimate (`Round.whole`) have no row.

    Raises BoostError for a run whose plan or head came from the training data.
    """
    require_fixed_before_the_data(ledger)
    n, rounds, rows, square, numbers = train_size(ledger) // together, ledger.rounds, [], 0.0, 0
    for t, row in enumerate((ledger.base, *rounds)):
        if isinstance(row, Round) and row.merged:
            v = numbers_of(ledger, row.index)
            square, numbers = square + float(v.double().square().sum()), numbers + v.numel()
        if isinstance(row, Round) and not row.whole:
            continue
        share, paid = delta / ((t + 1) * (t + 2)), which_nats(rounds[:t])
        pac = [pac_bayes_nats(gaussian_kl(square, s) + paid, n, share / len(sigmas)) for s in sigmas]
        occam = gap_bound(occam_nats(BITS * numbers, share) + paid, n, 1 - row.train_accuracy)
        measured = _measured_gap(row, 1 - delta)
        bounds = (*(gap_bound(nats, n) for nats in pac), occam)
        rows.append((t, math.sqrt(square), numbers, *bounds, row.train_accuracy, *measured))
    return pd.DataFrame(rows, columns=["rounds", "v", "numbers", *sigmas, "occam", "train", "gap", "low", "high"])


def _measured_gap(row: Base | Round, level: float) -> tuple[float, float, float]:
    """(train minus test accuracy, low, high)."""
    scores = held_out(row, "test")
    ends = binomtest(sum(scores.bits()), scores.n).proportion_ci(level, method="exact")
    return row.train_accuracy - scores.accuracy, row.train_accuracy - ends.high, row.train_accuracy - ends.low


def certify(scores: pd.DataFrame, delta: float = 0.05, together: int = 1) -> pd.DataFrame:
    """What is promised of each draw's model, of scores under noise: single-draw bounds, all rows together at 1 - delta.

    scores: a row a draw, with n (training problems), nats (of a single draw, see above), choices (`which_nats` of the
    run), train and test. Adds "gap" (train minus test), "pinsker" and "tight" (bounds on train minus true accuracy, the
    second by the inverse of kl) and "at least" (the true accuracy that is promised). The column "choices" is paid for,
    that the number of rounds was chosen after looking is not. together: as in `gap_table`. Raises BoostError without
    the column.
    """
    if "choices" not in scores:
        raise BoostError('these scores have no column "choices", which says what to pay: add which_nats of their run')
    share, rows = delta / len(scores), []
    for row in scores.to_dict("records"):
        n, error = row["n"] // together, 1 - row["train"]
        nats = max(0.0, pac_bayes_nats(row["nats"] + row["choices"], n, share))
        at_least = 1 - kl_inverse(error, nats / n)
        rows.append((row["train"] - row["test"], gap_bound(nats, n), row["train"] - at_least, at_least))
    return scores.join(pd.DataFrame(rows, columns=["gap", "pinsker", "tight", "at least"], index=scores.index))


def require_fixed_before_the_data(ledger: Ledger) -> None:
    """Raises BoostError where the training data gave a run its head or its plan."""
    adapter = ledger.header["identity"]["adapter"]
    if not isinstance(adapter, dict) or adapter["strategy"] == "lora":
        raise BoostError(f"{ledger.dir} trained {adapter}: these bounds are about adapters of a few numbers")
    if has_head(ledger):
        raise BoostError(f"{ledger.dir} has a head fitted to the training split, which no bound here pays for")
    if adapter["strategy"] not in FIXED:
        raise BoostError(
            f"{ledger.dir} chose its plan from the data ({adapter['strategy']}), which is not paid for here"
        )


def _checked(delta: float) -> float:
    if not 0 < delta < 1:
        raise BoostError(f"delta={delta}: must lie between 0 and 1")
    return delta
