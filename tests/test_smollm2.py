"""The promises of the core on the real embedded model: every target module of SmolLM2, 12 numbers a round."""

import copy
import time
from dataclasses import replace

import pytest
import torch
from recorded import recorded_run

from boostlib import (
    AdapterConfig,
    BoostConfig,
    Greedy,
    LowRankUpdate,
    SVDBasis,
    TinyLoRA,
    boost,
    epsilon_rank,
    export_bundle,
    load_model,
    preset,
    replay,
)
from boostlib.common.stable import fingerprint_tensors, philox
from boostlib.experiments.methods import prepare
from boostlib.models.embedded import installed_weights
from boostlib.records.bundle import open_record
from boostlib.run import replay_run
from boostlib.strategies.greedy import choose_plan
from boostlib.update import Weights

pytestmark = pytest.mark.skipif(
    installed_weights("smollm2") is None, reason="the embedded model is not installed: python -m boostlib fetch"
)
SIZE = 0.05  # of v: what 8 steps at a learning rate of 0.01 give


@pytest.fixture(scope="module")
def model():
    return load_model("smollm2", dtype="fp32", device="cpu")[0]


@pytest.fixture(scope="module")
def basis(model):
    return SVDBasis.from_model(model, rank=40)


@pytest.fixture(scope="module")
def ids():
    return torch.from_numpy(philox("ids").integers(0, 49000, (2, 24)))


def adapter_with_v(basis, round=0, plan=None, **settings):
    adapter = TinyLoRA(basis, AdapterConfig(n_tie=18, **settings), round, plan)
    noise = philox("v", round).standard_normal(tuple(adapter.v.shape))
    adapter.v.data.copy_(torch.from_numpy(SIZE * noise))
    return adapter


def greedy_plan(basis, round, used):
    """By a made-up gradient; `used` grows."""
    draw = torch.Generator().manual_seed(round)
    gradients = {name: torch.randn(40, 40, generator=draw) * s[:, None] for name, (_, s, _) in basis.items()}
    config = BoostConfig(20, AdapterConfig(n_tie=18, strategy="greedy"), greedy=Greedy(candidates=4))
    plan = [one.pair for one in choose_plan(gradients, basis, config, round, used)]
    for taken, (block, _) in zip(used, plan, strict=True):
        taken.add(block)
    return plan


@pytest.mark.parametrize(("strategy", "rank"), [("rotate", 40), ("top", 2), ("greedy", 40)])
def test_twenty_rounds_of_twelve_numbers_have_the_exact_rank_in_all_210_modules(basis, strategy, rank):
    total, used = LowRankUpdate(), [set() for _ in range(12)]
    for t in range(20):
        plan = greedy_plan(basis, t, used) if strategy == "greedy" else None
        adapter = adapter_with_v(basis, t, plan, strategy=strategy)
        assert adapter.num_parameters == 12
        total = total + adapter.update()
    assert len(total) == 210
    assert {epsilon_rank(b, a, eps=1e-6) for b, a in total.values()} == {rank}


def test_blocks_of_different_rounds_are_orthogonal(basis):
    for u, _, vh in basis.values():
        for block in (u.double().T @ u.double(), vh.double() @ vh.double().T):  # (40, 40)
            assert (block - torch.eye(40, dtype=torch.float64)).abs().max() < 1e-5


def test_at_zero_no_output_bit_changes_and_names_stay_plain(model, basis, ids):
    with torch.no_grad():
        plain, names = model(ids).logits, {name for name, _ in model.named_parameters()}
        adapter = TinyLoRA(basis, AdapterConfig(n_tie=18), 0).attach(model)
        attached, seen = model(ids).logits, {name for name, _ in model.named_parameters()}
        adapter.detach()
    assert torch.equal(plain, attached)
    assert seen - names == {"boost_adapter.v"} and names <= seen


@pytest.mark.parametrize("round", [0, 2])
def test_folded_equals_live(model, basis, ids, round):
    model = copy.deepcopy(model).double()  # in fp32 the layers' own rounding comes to 1e-4 on some CPUs
    adapter = adapter_with_v(basis, round).attach(model)
    try:
        with torch.no_grad():
            live = model(ids).logits
            with adapter.folded():
                folded = model(ids).logits
    finally:
        adapter.detach()
    with torch.no_grad():
        moved = (live - model(ids).logits).abs().max()
    assert moved > 0.05
    assert (live - folded).abs().max() < 1e-4


def test_a_hundred_fold_cycles_in_bf16_leave_every_bit(basis):
    model, _ = load_model("smollm2", dtype="bf16", device="cpu")
    before = fingerprint_tensors(model.named_parameters())
    weights = Weights(model, list(basis))
    adapter = adapter_with_v(basis).attach(model, weights)
    for _ in range(100):
        with adapter.folded():
            pass
    adapter.detach()
    assert fingerprint_tensors(model.named_parameters()) == before


def test_rollback_from_round_20_to_round_7_is_bit_identical(tmp_path):
    """Rounds count from 0 in the ledger: after round 20 is index 19, after round 7 index 6.

    The seconds are printed and not asserted: they say as much about the machine.
    """
    model, _ = load_model("smollm2", dtype="fp32", device="cpu")
    ledger = recorded_run(tmp_path / "run", model, AdapterConfig(n_tie=18), 20, scale=SIZE, hashed=(6, 19))
    file = export_bundle(ledger.dir, tmp_path / "run.bundle", model=model)
    for record in (ledger.dir, file):
        model, _ = load_model("smollm2", dtype="fp32", device="cpu")
        last = replay_run(open_record(record), 19, model)
        assert last.fingerprint() == ledger.rounds[19].weights_fingerprint
        start, worked = time.perf_counter(), time.process_time()
        assert replay(record, 6, model) is model
        seconds, worked = time.perf_counter() - start, time.process_time() - worked
        size = f"bundle {file.stat().st_size:,} bytes"
        print(f"\nrollback from round 20 to 7 by {record.name}: {seconds:.2f} s, {worked:.2f} s of CPU; {size}")
        assert last.fingerprint() == ledger.rounds[6].weights_fingerprint


@pytest.mark.slow
def test_thirty_two_live_rounds_in_one_run_drift_nowhere(tmp_path):
    chosen = preset("smoke")
    options = {"train": 24, "dev": 8, "test": 8}
    chosen = replace(chosen, task_options=options, trainer=replace(chosen.trainer, max_steps=1), dtype="fp32")
    chosen = replace(chosen, boost=replace(chosen.boost, rounds=32))
    model, tokenizer, task = prepare(chosen)
    w0 = {name: p.detach().clone() for name, p in model.named_parameters()}
    run = boost(model, tokenizer, task, chosen.trainer, chosen.boost, tmp_path / "run")
    merged = [row for row in run.rounds if row.merged]
    assert len(run.rounds) == 32 and len(merged) >= 30
    assert {epsilon_rank(b, a, eps=1e-6) for b, a in run.update.values()} == {2 * len(merged)}
    for name, (b, a) in run.update.items():
        exact = w0[f"{name}.weight"].double() + b.double() @ a.double()
        assert (exact - model.get_submodule(name).weight).abs().max() <= 2e-6 * exact.abs().max()
    assert run.rounds[-1].update_norm == pytest.approx(run.update.norm(), rel=1e-12)
    again = replay(tmp_path / "run")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
