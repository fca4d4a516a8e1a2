"""A paired one-sided test for changes that cost different amounts: is the net gain more than luck?

    p = P( sum_i s_i |g_i| >= sum_i g_i )        s_i = -1 or +1 with probability 1/2 each, independent

g_i is what case i gained: its cost where it was fixed, minus its cost where it was broken, 0 where nothing changed
(such cases drop out). Null hypothesis: each case that changed is as likely to have been broken as fixed. The test is
exact, so under the null P(p <= alpha) <= alpha for every alpha. With equal costs it is the one-sided sign test, or
McNemar's exact test: fixed ~ Binomial(changed, 1/2).

Departures: costs are grouped by value and their binomials convolved, exact up to `MOST` combinations; beyond that (many
different costs) scipy draws 9,999 sign flips from a fixed seed, whose p-value counts the observed one and so stays
valid. Not covered: cases that change together. Near-duplicates in a log count as independent, so p is then too small.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.stats import binom, permutation_test

from boostlib.common.stable import stable_seed

MOST = 1_000_000  # combinations of the distinct costs' counts that are enumerated


def sign_flip_p(gains: Sequence[float] | np.ndarray) -> float:
    """P-value of the sum of `gains` (n,) against sign flips; small: more was gained than luck explains. 1.0 for none.

    Six significant digits, so that it reads the same on every machine.
    """
    changed = np.asarray(gains, dtype=float)
    changed = changed[changed != 0]
    sizes, counts = np.unique(np.abs(changed), return_counts=True)
    if not len(changed):
        return 1.0
    exact = math.prod(int(n) + 1 for n in counts) <= MOST
    p = _exact(sizes, counts, changed) if exact else _sampled(changed)
    return float(f"{min(p, 1.0):.6g}")


def _exact(sizes: np.ndarray, counts: np.ndarray, changed: np.ndarray) -> float:
    """P(sum of size * Binomial(count, 1/2) >= what was fixed)."""
    total, chance = np.zeros(1), np.ones(1)
    for size, count in zip(sizes, counts, strict=True):
        up = np.arange(count + 1)
        total = np.add.outer(total, size * up).ravel()
        chance = np.multiply.outer(chance, _chances(int(count))).ravel()
    fixed = changed[changed > 0].sum()
    return float(chance[total >= fixed - 1e-9 * np.abs(changed).sum()].sum())


@cache
def _chances(count: int) -> np.ndarray:
    """(count + 1,) chances of so many heads in `count` throws; scipy takes long for one call."""
    return binom.pmf(np.arange(count + 1), count, 0.5)


def _sampled(changed: np.ndarray) -> float:
    rng = np.random.default_rng(stable_seed("sign flips", len(changed)))
    return permutation_test(
        (changed, np.zeros_like(changed)),
        lambda x, y, axis: (x - y).sum(axis=axis),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=9_999,
        rng=rng,
    ).pvalue


def promotion_rate(changed: int, share_fixed: float, alpha: float = 0.05) -> float:
    """Chance that `changed` cases of equal cost, each fixed with probability `share_fixed`, give p <= alpha: the power.

    At share_fixed 0.5 it is the test's size, at most alpha.
    """
    fixed = np.arange(changed + 1)
    passes = binom.sf(fixed - 1, changed, 0.5) <= alpha  # P(X >= fixed) under the null
    return float(binom.pmf(fixed, changed, share_fixed)[passes].sum())
