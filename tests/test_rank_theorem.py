"""The rank theorem (stated in rank.py) on the real basis, adapter and update, over random shapes, spectra and ties.

What is checked is stronger than a count: the singular values of the dense sum are those of all rounds' cores together.
"""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from boostlib import AdapterConfig, LowRankUpdate, SVDBasis, TinyLoRA, epsilon_rank
from boostlib.analysis.growth import core_of, fresh_svd_rounds, fresh_table
from boostlib.common.errors import BoostError, ModelError
from boostlib.rank import EXACT

seeds = st.integers(0, 2**31)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("bases")


class Blocks(nn.Module):
    """Linear layers with the given weights inside an nn.ModuleList."""

    def __init__(self, weights: list[torch.Tensor]):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(w.shape[1], w.shape[0], bias=False) for w in weights)
        for layer, weight in zip(self.layers, weights, strict=True):
            layer.weight.data = weight.float()


def orthonormal(seed: int, rows: int, columns: int) -> torch.Tensor:
    """(rows, columns) fp64, rows >= columns."""
    noise = torch.randn(rows, rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(noise).Q[:, :columns]


def with_spectrum(seed: int, out: int, inner: int, values: list[float]) -> torch.Tensor:
    """(out, inner) fp64 with these singular values."""
    k = len(values)
    left, right = orthonormal(seed, out, k), orthonormal(seed + 1, inner, k)
    return left * torch.tensor(values, dtype=torch.float64) @ right.T


SPECTRA = {
    "falling": lambda k: [1 / (1 + i) for i in range(k)],
    "constant, as of an orthogonal matrix": lambda k: [0.7] * k,
    "repeated in blocks": lambda k: [2.0 ** -(i // 3) for i in range(k)],
    "one large": lambda k: [50.0] + [1.0] * (k - 1),
}


@st.composite
def problems(draw, most_rounds: int = 5):
    """(weights, config, rounds): tall, wide and square weights that are just large enough, or larger."""
    r, rounds = draw(st.integers(1, 3)), draw(st.integers(1, most_rounds))
    seed = draw(seeds)
    weights = []
    for i in range(draw(st.integers(1, 4))):
        out, inner = (r * rounds + draw(st.integers(0, 8)) for _ in range(2))
        spectrum = SPECTRA[draw(st.sampled_from(sorted(SPECTRA)))]
        weights.append(with_spectrum(seed + 2 * i, out, inner, spectrum(min(out, inner))))
    config = AdapterConfig(rank=r, u=draw(st.integers(1, 4)), n_tie=draw(st.integers(1, 4)), seed=seed)
    return weights, config, rounds


def adapters(weights, config: AdapterConfig, rounds: int, cache, blocks=None) -> list[TinyLoRA]:
    """Rounds with random numbers between 0.1 and 1 in size; blocks: which block each takes, default by strategy."""
    basis = SVDBasis.from_model(Blocks(weights), rank=config.basis_rank(rounds), cache_dir=cache)
    made, generator = [], torch.Generator().manual_seed(config.seed)
    for t in range(rounds):
        plan = None if blocks is None else [(blocks[t], 0)] * config.groups(len(basis))
        one = TinyLoRA(basis, config, t, plan)
        size = 0.1 + 0.9 * torch.rand(one.v.shape, generator=generator)
        one.v.data.copy_(size * torch.where(torch.rand(one.v.shape, generator=generator) < 0.5, -1, 1))
        made.append(one)
    return made


def summed(rounds: list[TinyLoRA]) -> LowRankUpdate:
    return sum((one.update() for one in rounds), start=LowRankUpdate())


def dense_values(update: LowRankUpdate, name: str) -> torch.Tensor:
    b, a = update[name]
    return torch.linalg.svdvals(b.double() @ a.double())


def core_values(rounds: list[TinyLoRA], name: str) -> torch.Tensor:
    """Singular values of every round's own update of one weight, all together, descending."""
    parts = [dense_values(one.update(), name)[: one.config.rank] for one in rounds]
    return torch.cat(parts).sort(descending=True).values


def clear(values: torch.Tensor) -> bool:
    """Whether the smallest lies well above what counts as zero: a core drawn at random may come close to singular."""
    return float(values[-1]) > 100 * EXACT * float(values[0])


@settings(max_examples=60)
@given(problem=problems())
def test_singular_values_of_the_sum_are_those_of_all_cores_and_ranks_add(problem, cache):
    weights, config, rounds = problem
    made = adapters(weights, config, rounds, cache)
    total = summed(made)
    for name, (b, a) in total.items():
        expected = core_values(made, name)
        found = dense_values(total, name)
        torch.testing.assert_close(found[: len(expected)], expected, rtol=0, atol=1e-5 * float(expected[0]))
        assert (found[len(expected) :] < 1e-9 * found[0]).all()
        if clear(expected):
            assert epsilon_rank(b, a, EXACT) == int((found > EXACT * found[0]).sum()) == config.rank * rounds


@settings(max_examples=25)
@given(problem=problems(), zero=st.sets(st.integers(0, 4)), tied=st.booleans())
def test_rounds_at_zero_add_nothing_and_every_group_counts_for_itself(problem, zero, tied, cache):
    """Some rounds keep v = 0, in all groups (a skipped round) or, untied, in the first group alone."""
    weights, config, rounds = problem
    made = adapters(weights, config, rounds, cache)
    for t in zero & set(range(rounds)):
        made[t].v.data[slice(None) if tied else slice(0, 1)] = 0
    total = summed(made)
    for index, (name, (b, a)) in enumerate(total.items()):
        still = zero & set(range(rounds)) if tied or made[0].group(index) == 0 else set()
        moving = [one for t, one in enumerate(made) if t not in still]
        if moving and not clear(core_values(moving, name)):
            continue
        assert epsilon_rank(b, a, EXACT) == config.rank * len(moving)
        assert epsilon_rank(b, a, EXACT) == torch.linalg.matrix_rank(b.double() @ a.double(), rtol=EXACT)


@settings(max_examples=25)
@given(problem=problems(), data=st.data())
def test_rank_is_r_times_the_blocks_that_were_used(problem, data, cache):
    weights, config, rounds = problem
    blocks = data.draw(st.lists(st.integers(0, rounds - 1), min_size=rounds, max_size=rounds))
    made = adapters(weights, config, rounds, cache, blocks)
    total = summed(made)
    for name, (b, a) in total.items():
        by_block = [summed([one for one, k in zip(made, blocks, strict=True) if k == block]) for block in set(blocks)]
        values = torch.cat([dense_values(part, name)[: config.rank] for part in by_block]).sort(descending=True).values
        assert epsilon_rank(b, a, EXACT) <= config.rank * len(set(blocks))
        if clear(values):
            assert epsilon_rank(b, a, EXACT) == config.rank * len(set(blocks))


def test_a_singular_core_adds_its_own_rank_alone(cache):
    """u = 2 and v on a root of det(v_1 P_1 + v_2 P_2), which at r = 3 is real: the hypothesis and the count fail."""
    weights, config = [with_spectrum(3, 9, 11, SPECTRA["falling"](9))], AdapterConfig(rank=3, u=2, n_tie=1, seed=5)
    [one, other] = adapters(weights, config, 2, cache)
    [name], lefts = one.names, []
    for v in ([1.0, 0.0], [0.0, 1.0]):
        one.v.data.copy_(torch.tensor([v]))
        lefts.append(one.update()[name][0].double())  # U diag(S) P_i
    roots = torch.linalg.eigvals(torch.linalg.pinv(lefts[1]) @ lefts[0])
    one.v.data.copy_(torch.tensor([[1.0, -float(roots.real[roots.imag == 0][0])]]))
    assert epsilon_rank(*one.update()[name], EXACT) == 2
    assert epsilon_rank(*summed([one, other])[name], EXACT) == 5


# --- where it must fail loudly


@settings(max_examples=25)
@given(seed=seeds, out=st.integers(4, 14), inner=st.integers(4, 14), data=st.data())
def test_a_rank_deficient_weight_is_used_up_to_its_rank_and_refused_beyond(seed, out, inner, data, cache):
    rank = data.draw(st.integers(1, min(out, inner) - 1))
    more = data.draw(st.integers(rank + 1, min(out, inner)))
    whole = with_spectrum(seed + 9, 16, 16, SPECTRA["falling"](16))
    weights = [whole, with_spectrum(seed, out, inner, SPECTRA["falling"](rank))]
    with pytest.raises(
        ModelError, match=rf"layers\.1 has numerical rank {rank}, fewer than the {more} .* at most {rank} "
    ):
        SVDBasis.from_model(Blocks(weights), rank=more, cache_dir=cache)
    made = adapters(weights, AdapterConfig(rank=1, n_tie=1, seed=seed), rank, cache)
    assume(all(clear(core_values(made, name)) for name in made[0].names))
    assert [epsilon_rank(b, a, EXACT) for b, a in summed(made).values()] == [rank, rank]


@settings(max_examples=15)
@given(problem=problems())
def test_more_rounds_than_the_smallest_side_holds_are_refused(problem, cache):
    weights, config, rounds = problem
    side = min(min(w.shape) for w in weights)
    too_many = side // config.rank + 1
    with pytest.raises(ModelError, match=rf"rank {config.rank * too_many} was asked for.*between 1 and {side}"):
        adapters(weights, config, too_many, cache)
    basis = SVDBasis.from_model(Blocks(weights), rank=config.basis_rank(rounds), cache_dir=cache)
    with pytest.raises(BoostError, match=f"needs {config.rank * (rounds + 1)} singular directions"):
        TinyLoRA(basis, config, rounds)


# --- a fresh SVD of the merged weight each round


def falls_on(values: list[float], cores: list[float]) -> list[int]:
    """Which direction of a weight with these singular values each round of rank 1 takes, by sorting alone."""
    values, taken = list(values), []
    for t, core in enumerate(cores):
        order = sorted(range(len(values)), key=lambda i: -values[i])
        assume(all(values[i] > 1.02 * values[j] for i, j in zip(order, order[1:], strict=False)))  # no near ties
        taken.append(order[t])
        values[order[t]] = abs(values[order[t]] * (1 + core))
    return taken


@settings(max_examples=60)
@given(
    seed=seeds,
    cores=st.lists(st.floats(-0.9, 0.9).filter(lambda c: abs(c) > 0.05), min_size=2, max_size=6),
    more=st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_a_fresh_svd_takes_a_direction_again_exactly_where_sorting_says_so(seed, cores, more):
    values = [1.25**-i for i in range(len(cores) + min(more))]
    weight = with_spectrum(seed, len(cores) + more[0], len(cores) + more[1], values)
    taken = falls_on(values, cores)
    rounds = fresh_svd_rounds(weight, [torch.tensor([[core]]) for core in cores])
    again = [k in taken[:t] for t, k in enumerate(taken)]
    assert rounds.overlaps == pytest.approx([float(used) for used in again], abs=1e-6)
    assert rounds.ranks == [len(set(taken[: t + 1])) for t in range(len(taken))]


@settings(max_examples=25)
@given(problem=problems(most_rounds=4), seed=seeds)
def test_without_a_crossing_a_fresh_svd_is_the_fixed_basis(problem, seed):
    """Cores of norm below the gaps between blocks: no value changes place with one of another block."""
    weights, config, rounds = problem
    r, (out, inner) = config.rank, weights[0].shape
    weight = with_spectrum(seed, out, inner, [4.0 ** -(i // r) for i in range(min(out, inner))])
    cores = [torch.randn(r, r, generator=torch.Generator().manual_seed(seed + t)) for t in range(rounds)]
    cores = [0.5 * core / torch.linalg.matrix_norm(core, 2) for core in cores]  # values stay within 0.5 .. 1.5
    found = fresh_svd_rounds(weight, cores)
    assert max(found.overlaps) < 1e-12
    assume(all(torch.linalg.cond(core) < 1e3 for core in cores))
    assert found.ranks == [r * (t + 1) for t in range(rounds)]


def test_a_crossing_costs_rank():
    weight = with_spectrum(0, 12, 10, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
    eye = torch.eye(2)
    kept = fresh_svd_rounds(weight, [0.5 * eye, 0.5 * eye, 0.5 * eye])
    assert (kept.ranks, max(kept.overlaps)) == ([2, 4, 6], pytest.approx(0, abs=1e-12))
    lost = fresh_svd_rounds(weight, [torch.diag(torch.tensor([0.5, -0.3])), 0.5 * eye])  # 0.9 -> 0.63, below 0.7
    assert lost.ranks == [2, 3]
    assert lost.overlaps == pytest.approx([0, 0.5])
    with pytest.raises(BoostError, match="7 rounds of rank 2 need 14 directions"):
        fresh_svd_rounds(weight, [eye] * 7)


def test_cores_are_read_off_updates_and_the_table_holds_their_fresh_rounds(cache):
    weights = [with_spectrum(7, out, inner, SPECTRA["falling"](9)) for out, inner in ((9, 14), (14, 9), (9, 9))]
    config, rounds = AdapterConfig(rank=2, u=2, n_tie=2, seed=3), 3
    model, made = Blocks(weights), adapters(weights, config, rounds, cache)
    updates = [one.update() for one in made]
    table = fresh_table(model, updates, made[0].names[1:])
    basis = SVDBasis.from_model(model, rank=config.basis_rank(rounds), cache_dir=cache)
    assert table.module.tolist() == [name for name in made[0].names[1:] for _ in range(rounds)]
    for name, rows in table.groupby("module"):
        weight, (u, s, vh), cores = model.get_submodule(name).weight.detach(), basis[name], []
        for t, update in enumerate(updates):
            cores.append(core_of(weight, *update[name]))
            span = slice(t * config.rank, (t + 1) * config.rank)
            again = (u[:, span] * s[span]).double() @ cores[-1] @ vh[span].double()
            torch.testing.assert_close(again, (update[name][0] @ update[name][1]).double(), rtol=1e-4, atol=1e-5)
        found = fresh_svd_rounds(weight, cores)
        assert (rows.rounds.tolist(), rows.exact.tolist()) == ([1, 2, 3], found.ranks)
        assert rows.overlap.tolist() == pytest.approx(found.overlaps, abs=1e-9)
