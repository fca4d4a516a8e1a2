"""Ranks from thin factors agree with dense linear algebra. That disjoint blocks add up: test_rank_theorem.py."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boostlib import effective_rank, epsilon_rank, subspace_overlap
from boostlib.rank import singular_values

sizes = st.integers(1, 12)
seeds = st.integers(0, 2**31)


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30)
@given(seeds, sizes, sizes, st.integers(1, 15))
def test_thin_factors_agree_with_the_dense_svd(seed, out, inner, k):
    b, a = randn(seed, out, k), randn(seed + 1, k, inner)
    dense = torch.linalg.svdvals(b.double() @ a.double())
    thin = singular_values(b, a)
    n = min(len(dense), len(thin))
    torch.testing.assert_close(thin[:n], dense[:n], rtol=1e-9, atol=1e-9 * float(dense[0]))
    assert n == min(out, inner, k)
    assert float(dense[n:].sum()) < 1e-9 * float(dense[0])
    for eps in (0.5, 0.1, 1e-6):
        if (dense / dense[0] - eps).abs().min() > 1e-9:
            assert epsilon_rank(b, a, eps) == int((dense > eps * dense[0]).sum())
    p = dense[:n] / dense[:n].sum()
    assert effective_rank(b, a) == pytest.approx(float(torch.exp(-torch.special.xlogy(p, p).sum())), rel=1e-6)


def test_effective_rank_of_equal_values_is_their_number():
    assert effective_rank(torch.eye(7)[:, :4], torch.eye(4, 9)) == pytest.approx(4)
    assert effective_rank(torch.ones(5, 1), torch.ones(1, 3)) == pytest.approx(1)


def test_epsilon_counts_above_its_share_of_the_largest():
    b, a = torch.diag(torch.tensor([1.0, 0.1, 0.002, 0.0005])), torch.eye(4)
    assert [epsilon_rank(b, a, eps) for eps in (0.5, 0.01, 1e-3, 1e-6)] == [1, 2, 3, 4]


def test_a_zero_update_has_rank_zero():
    zero = torch.zeros(6, 2), torch.ones(2, 5)
    assert epsilon_rank(*zero) == 0
    assert effective_rank(*zero) == 0.0
    assert effective_rank(torch.zeros(6, 0), torch.zeros(0, 5)) == 0.0
    assert epsilon_rank(torch.zeros(6, 0), torch.zeros(0, 5)) == 0


def test_overlap_is_zero_for_orthogonal_and_one_for_contained():
    rows = torch.linalg.qr(randn(0, 20, 20)).Q
    mix = randn(1, 4, 4).double() + 3 * torch.eye(4)
    assert subspace_overlap(rows[:4], rows[4:8]) < 1e-12
    assert subspace_overlap(mix.float() @ rows[:4], rows[:4]) == pytest.approx(1, abs=1e-6)
    assert subspace_overlap(rows[:2], rows[:6]) == pytest.approx(1, abs=1e-6)
    angle = 0.3
    tilted = math.cos(angle) * rows[:1] + math.sin(angle) * rows[1:2]
    assert subspace_overlap(rows[:1], tilted) == pytest.approx(math.cos(angle) ** 2, abs=1e-6)
