"""The table of peers: counts against whole wrapped models, ranks against the formulas."""

import pandas as pd
import pytest
import torch
from peft import get_peft_model

from boostlib import AdapterConfig, LowRankUpdate, SVDBasis, TinyLoRA, epsilon_rank, target_modules
from boostlib.analysis.peers import NOISE, PEERS, one_of_each, peers_table
from boostlib.common.errors import ModelError
from boostlib.rank import EXACT

ROUNDS = 4
ADAPTER = AdapterConfig(rank=2, u=1, n_tie=5)  # 14 modules: 3 numbers


@pytest.fixture(scope="module")
def table(tiny_llama) -> pd.DataFrame:
    return peers_table(tiny_llama(), ADAPTER, ROUNDS).set_index(["method", "built with", "smallest setting"])


def by_method(table: pd.DataFrame, column: str) -> dict[str, list]:
    return {name: list(rows[column]) for name, rows in table.groupby("method")}


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_counts_are_those_of_wrapping_the_whole_model(tiny_llama, table, peer):
    model = tiny_llama()
    whole = get_peft_model(model, peer.config(target_modules=target_modules(model)))
    count = sum(p.numel() for p in whole.parameters() if p.requires_grad)
    assert table.loc[(peer.name, "PEFT", peer.setting), "numbers"] == count
    small, counts = one_of_each(tiny_llama(), target_modules(tiny_llama()))
    assert len(small["layers"]) == 4 < 14 and sum(counts) == 14


def test_counts_follow_the_formulas(tiny_llama, table, tmp_path):
    model = tiny_llama()
    shapes = [model.get_submodule(name).weight.shape for name in target_modules(model)]
    out, both = sum(shape[0] for shape in shapes), sum(map(sum, shapes))
    assert by_method(table, "numbers") == {
        "LoRA": [both],
        "PiSSA": [both],
        "AdaLoRA": [both + 14],
        "DoRA": [both + out],
        "VeRA": [out + 14],
        "LoRA-XS": [14, 4 * 14],
        "TinyLoRA": [1, 3],
        "BoostLoRA": [3],
    }
    basis = SVDBasis.from_model(model, rank=2, cache_dir=tmp_path)
    assert TinyLoRA(basis, ADAPTER).num_parameters == 3
    assert (table[f"numbers, {ROUNDS} rounds"] == ROUNDS * table["numbers"]).all()


def test_measured_ranks_follow_the_formulas(table):
    assert by_method(table, "rank") == {
        "LoRA": ["1"],
        "PiSSA": ["2"],
        "AdaLoRA": ["1"],
        "DoRA": ["32-64"],
        "VeRA": ["1"],
        "LoRA-XS": ["1", "2"],
        "TinyLoRA": ["2", "2"],
        "BoostLoRA": ["2"],
    }
    after = by_method(table, f"rank, {ROUNDS} rounds")
    peft_tiny, own_tiny = after.pop("TinyLoRA")
    assert peft_tiny.startswith("2") and own_tiny == "2"
    assert after == {
        "LoRA": ["4"],
        "PiSSA": ["8"],
        "AdaLoRA": ["4"],
        "DoRA": ["32-64"],
        "VeRA": ["1"],
        "LoRA-XS": ["1", "2"],
        "BoostLoRA": ["8"],
    }


def test_tying_changes_no_modules_rank(tiny_llama, tmp_path):
    basis = SVDBasis.from_model(tiny_llama(), rank=2 * ROUNDS, cache_dir=tmp_path)
    total, draw = LowRankUpdate(), torch.Generator().manual_seed(0)
    for t in range(ROUNDS):
        tied = TinyLoRA(basis, ADAPTER, t)
        tied.v.data.normal_(std=NOISE, generator=draw)
        total += tied.update()
    assert [epsilon_rank(b, a, EXACT) for b, a in total.values()] == [2 * ROUNDS] * 14


def test_the_table_is_the_same_each_time_and_touches_neither_model_nor_seed(tiny_llama, table):
    model = tiny_llama()
    before = {name: p.clone() for name, p in model.named_parameters()}
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    again = peers_table(model, ADAPTER, ROUNDS)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.equals(table.reset_index()[again.columns])
    assert {n: p.requires_grad for n, p in model.named_parameters()} == dict.fromkeys(before, True)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_more_rounds_than_directions_are_refused(tiny_llama):
    with pytest.raises(ModelError, match="basis of rank 40"):
        peers_table(tiny_llama(), ADAPTER, rounds=20)
