"""Samples follow the softmax, and depend on their key alone."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from boostlib.common.stable import philox, uniforms
from boostlib.evaluation.sample import BLOCK, Draws, choose

SIZES = (1, 5, BLOCK, BLOCK + 1, 3 * BLOCK - 7)


def chosen(logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return choose(logits, torch.arange(len(logits)), u)


def reference(logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    ends = torch.softmax(logits.double(), -1).cumsum(-1)
    return torch.searchsorted(ends, u[:, None], right=True)[:, 0].clamp_max(logits.shape[1] - 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_token_is_that_of_the_inverse_distribution_function(size, dtype):
    generator = torch.Generator().manual_seed(size)
    logits = (3 * torch.randn(400, size, generator=generator)).to(dtype)
    u = torch.rand(400, generator=generator, dtype=torch.float64)
    found, wanted = chosen(logits, u), reference(logits, u)
    near = (found != wanted).sum()
    assert near <= (0 if dtype is torch.float64 else 1)  # fp32: u within rounding of a boundary


@pytest.mark.parametrize("size", SIZES)
def test_what_has_no_probability_is_never_taken(size):
    logits = torch.full((6, size), -torch.inf)
    places = torch.tensor([0, size // 3, size // 2, size - 1, 0, size - 1])
    logits[torch.arange(6), places] = 1.0
    edge = torch.tensor([0.0, 0.0, 1 - 2**-53, 1 - 2**-53, 1 - 2**-53, 0.5], dtype=torch.float64)
    assert chosen(logits, edge).tolist() == places.tolist()


def test_completions_may_stand_at_one_row():
    logits, at = torch.randn(3, 700, dtype=torch.float64), torch.tensor([2, 0, 2, 2, 1])
    u = torch.rand(5, dtype=torch.float64)
    assert torch.equal(choose(logits, at, u), chosen(logits[at], u))


def test_the_draws_leave_the_logits_as_they_were():
    logits = torch.randn(3, 10)
    before = logits.clone()
    chosen(logits, torch.rand(3, dtype=torch.float64))
    assert torch.equal(logits, before)


def test_samples_follow_the_softmax():
    """Chi-square over 200,000 draws from 600 tokens, those expected fewer than 20 times taken together."""
    logits = 2 * torch.randn(600, generator=torch.Generator().manual_seed(0))
    draws = Draws(("chi",)).numbers(range(1000), 200).flatten()
    counts = np.zeros(600)
    for part in draws.split(5000):
        counts += np.bincount(
            choose(logits[None], torch.zeros(len(part), dtype=torch.long), part).numpy(), minlength=600
        )
    expected = torch.softmax(logits.double(), 0).numpy() * len(draws)
    rare = expected < 20
    observed = np.append(counts[~rare], counts[rare].sum())
    assert chisquare(observed, np.append(expected[~rare], expected[rare].sum())).pvalue > 0.01


def test_a_row_that_is_not_finite_is_named():
    logits = torch.zeros(2, 4)
    logits[1, 2] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        chosen(logits, torch.rand(2, dtype=torch.float64))


def test_a_completion_has_its_stream_whoever_samples_it():
    whole = Draws(("a", 1)).numbers(range(6), 3)
    assert torch.equal(Draws(("a", 1), first=4).numbers(range(2), 3), whole[4:])
    assert torch.equal(Draws(("a", 1)).numbers([5, 2], 3), whole[[5, 2]])
    assert not (Draws(("a", 2)).numbers(range(6), 3) == whole).any()


def test_a_stream_depends_on_its_key_alone():
    keys = [(7, "step", i) for i in range(5)]
    whole = uniforms(keys, 9)
    assert np.array_equal(whole, np.stack([philox(*key).random(9) for key in keys]))
    assert np.array_equal(uniforms(keys[::-1], 9), whole[::-1])
    assert np.array_equal(uniforms(keys, 4), whole[:, :4])
    assert len(np.unique(whole)) == whole.size
