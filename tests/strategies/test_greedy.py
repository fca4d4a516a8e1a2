"""Greedy rounds: the probed gradient is autograd's, the choice is the best there is, and it costs what it says."""

import json
import logging
import math
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CoinTask, FakeTrainer, ParityTask, config, same_runs
from torch.utils._python_dispatch import TorchDispatchMode

from boostlib import (
    GRPO,
    AdapterConfig,
    BoostConfig,
    BoostError,
    CrossEntropy,
    Greedy,
    Ledger,
    SVDBasis,
    TinyLoRA,
    boost,
    epsilon_rank,
    replay,
)
from boostlib.__main__ import main
from boostlib.adapter import BoostAdapter, only_trainable
from boostlib.analysis.tables import rounds_table
from boostlib.common.errors import ModelError, TrainingError
from boostlib.common.stable import fingerprint_tensors, normals, philox
from boostlib.config import check_identity
from boostlib.evaluation.sample import SAMPLER
from boostlib.experiments.methods import with_method
from boostlib.experiments.presets import MATH
from boostlib.models.subject import Subject
from boostlib.records.rows import Training
from boostlib.strategies.core_gradient import core_gradients
from boostlib.strategies.greedy import block_norms, choose_plan, used_blocks
from boostlib.tasks.base import Score

IDS = torch.arange(2, 26).view(2, 12)
RECORDED = Path(__file__).resolve().parents[2] / "data" / "runs"
SOFT = CrossEntropy(learning_rate=0.05, batch=8, micro_batch=4, max_steps=2, validation=None)
HARD = GRPO(learning_rate=0.05, prompts=3, samples=4, max_steps=2)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def parts(tiny_llama):
    """parts(dtype): (model, basis of rank 8)."""

    def make(dtype=torch.float32, rank=8):
        model = tiny_llama(dtype=dtype)
        return model, SVDBasis.from_model(model, rank)

    return make


@contextmanager
def explicit_cores(model, basis):
    """What the hooks stand for: W0 + U diag(S) C Vh with C an ordinary parameter, whose gradient autograd takes."""
    holder, hooks = BoostAdapter(1, 1), []
    cores = torch.nn.ParameterDict({n.replace(".", "_"): torch.zeros(basis.rank, basis.rank) for n in basis})
    holder.cores = cores
    for parameter in cores.values():
        parameter.total = torch.zeros_like(parameter)
        parameter.register_hook(parameter.total.add_)  # the sum so far is what the optimizer gets: it takes no step
    with only_trainable(model, holder):
        for name, (u, s, vh) in basis.items():
            core = cores[name.replace(".", "_")]

            def add(module, args, out, core=core, left=u * s, vh=vh):
                return out + args[0].to(vh.dtype) @ vh.T @ core.T @ left.T

            hooks.append(model.get_submodule(name).register_forward_hook(add))
        yield {name: cores[name.replace(".", "_")].total for name in basis}
        for hook in hooks:
            hook.remove()


def loss_of(model):
    return model(input_ids=IDS, labels=IDS).loss


def probed(model, basis, trainer, tokenizer, task, batches=2, seed=5, collect=core_gradients):
    with collect(model, basis) as cores:
        done = trainer.probe(Subject(model, tokenizer, task), task.split("train"), batches, seed)
    return cores, done


def agree(found, expected, rtol=1e-4):
    assert list(found) == list(expected)
    for name in found:
        scale = float(expected[name].abs().max())
        assert scale > 0, name
        torch.testing.assert_close(found[name], expected[name], rtol=rtol, atol=rtol * scale)


# --- the gradient


def test_the_core_is_the_weights_gradient_in_the_basis(parts):
    """In fp64, from the full gradients that the hooks never make."""
    model, basis = parts()
    basis = SVDBasis({name: tuple(t.double() for t in triplet) for name, triplet in basis.items()})
    model = model.double()
    with core_gradients(model, basis) as cores:
        for _ in range(2):  # adds up over backward passes
            loss_of(model).backward()
    loss_of(model).backward()
    for name, (u, s, vh) in basis.items():
        whole = model.get_submodule(name).weight.grad
        torch.testing.assert_close(cores[name], 2 * s[:, None] * (u.T @ whole @ vh.T), rtol=1e-9, atol=1e-12)


def test_its_blocks_are_the_adapters_own_gradient(parts):
    """<P_i, G[J, J]>, summed over a group, is dL/dv_i of an attached adapter at v = 0, in either scaling."""
    model, basis = parts()
    with core_gradients(model, basis) as cores:
        loss_of(model).backward()
    for scaling in ("paper", "normalized"):
        settings = AdapterConfig(strategy="greedy", blocks=4, n_tie=5, u=3, scaling=scaling)
        choices = choose_plan(cores, basis, BoostConfig(3, settings, greedy=Greedy(candidates=3)), 2)
        adapter = TinyLoRA(basis, settings, 2, [one.pair for one in choices]).attach(model)
        loss_of(model).backward()
        adapter.detach()
        found = torch.from_numpy(np.stack([one.slopes for one in choices])).float()
        torch.testing.assert_close(found, adapter.v.grad, rtol=1e-4, atol=1e-7)
        assert found.abs().min() > 0
    assert len({block for block, _ in adapter.plan}) > 1


def test_cross_entropy_probes_its_training_loss(tiny_classifier, tiny_protein_tokenizer):
    model, task = tiny_classifier(), CoinTask()
    basis = SVDBasis.from_model(model, 8)
    found, done = probed(model, basis, SOFT, tiny_protein_tokenizer, task, 3)
    assert done.steps == len(done.losses) == 3 and done.tokens > 100
    agree(found, probed(model, basis, SOFT, tiny_protein_tokenizer, task, 3, collect=explicit_cores)[0])
    whole, _ = probed(model, basis, replace(SOFT, micro_batch=8), tiny_protein_tokenizer, task, 3)
    agree(found, whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grpo_probes_its_training_loss(parts, tiny_tokenizer, dtype):
    model, basis = parts(dtype)
    task = ParityTask()
    found, done = probed(model, basis, HARD, tiny_tokenizer, task)
    assert done.steps == 2 and max(done.signal) > 0 and done.tokens >= 2 * 12
    if dtype == torch.float32:
        agree(found, probed(model, basis, HARD, tiny_tokenizer, task, collect=explicit_cores)[0])
    assert all(core.dtype == torch.float32 and core.any() for core in found.values())


def test_grpo_probes_more_batches_than_the_failures_fill(parts, tiny_tokenizer):
    model, basis = parts()
    with core_gradients(model, basis):
        done = HARD.probe(Subject(model, tiny_tokenizer, ParityTask()), ParityTask().split("train")[:2], 3, 0)
    assert done.steps == 3


def test_checkpointing_gives_the_same_gradient(parts, tiny_tokenizer):
    model, basis = parts()
    plain, _ = probed(model, basis, HARD, tiny_tokenizer, ParityTask())
    thrifty, _ = probed(model, basis, replace(HARD, gradient_checkpointing=True), tiny_tokenizer, ParityTask())
    agree(thrifty, plain, 1e-3)


@pytest.mark.parametrize("kind", ["texts", "labels"])
def test_probing_leaves_the_model_as_it_was(kind, parts, tiny_classifier, tiny_tokenizer, tiny_protein_tokenizer):
    model = parts()[0] if kind == "texts" else tiny_classifier()
    trainer, tokenizer, task = (
        (HARD, tiny_tokenizer, ParityTask()) if kind == "texts" else (SOFT, tiny_protein_tokenizer, CoinTask())
    )
    before = fingerprint_tensors(model.state_dict())
    probed(model, SVDBasis.from_model(model, 8), trainer, tokenizer, task)
    assert fingerprint_tensors(model.state_dict()) == before and not hasattr(model, "boost_adapter")
    assert all(p.requires_grad and p.grad is None for p in model.parameters()) and not model.training
    assert not any(m._forward_hooks or "forward" in vars(m) for m in model.modules())


def test_listening_changes_no_output_bit_and_refuses_an_attached_adapter(parts):
    model, basis = parts(torch.bfloat16)
    plain = model(input_ids=IDS).logits
    with core_gradients(model, basis):
        assert torch.equal(model(input_ids=IDS).logits, plain)
    TinyLoRA(basis, AdapterConfig(n_tie=7)).attach(model)
    with pytest.raises(ModelError, match="attached already"), core_gradients(model, basis):
        pass


class Shapes(TorchDispatchMode):
    """Remembers the shape of every tensor that an operation makes, views of the model's own aside."""

    def __init__(self, model):
        super().__init__()
        self.seen, self.own = set(), {p.untyped_storage().data_ptr() for p in model.parameters()}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in self.own:
            self.seen.add(tuple(out.shape))
        return out


def test_no_gradient_has_a_weights_shape(parts):
    model, basis = parts()
    weights = {tuple(model.get_submodule(name).weight.shape) for name in basis}
    weights |= {shape[::-1] for shape in weights}
    with core_gradients(model, basis):
        loss = loss_of(model)
        with Shapes(model) as listening:
            loss.backward()
    with Shapes(model) as training:  # the watch is no blind one: full training does make them
        loss_of(model).backward()
    assert weights & training.seen
    assert not weights & listening.seen and (8, 8) in listening.seen


# --- the choice


def test_normals_are_those_of_a_generator_of_their_own():
    keys = [("P", 1, 2, c, "layers.0") for c in range(5)] + [(3,)]
    for shape in ((1, 2, 2), (7, 4)):
        expected = [philox(*key).standard_normal(shape) for key in keys]
        assert np.array_equal(normals(keys, shape), np.stack(expected))


def brute(gradients, basis, config, round, used):
    """The plan by attaching every adapter there is."""
    names, plan, settings = list(basis), [], config.adapter
    for group in range(settings.groups(len(names))):
        best = None
        for block in range(settings.blocks):
            for candidate in range(config.greedy.candidates):
                if block in used[group]:
                    continue
                one = TinyLoRA(basis, settings, round, [(block, candidate)] * settings.groups(len(names)))
                a = torch.zeros(settings.u)
                for i, name in enumerate(names):
                    if one.group(i) == group:
                        left, vh, p = one._factors[name]
                        u, s, _ = basis[name]
                        to_core = (u / s).T @ left  # (K, r): where the block's columns lie, stretched
                        a += (p * (to_core.T @ gradients[name] @ basis[name][2] @ vh.T)).sum(dim=(1, 2))
                if best is None or float(a.norm()) > best[0]:
                    best = (float(a.norm()), block, candidate)
        plan.append(best[1:])
    return plan


@pytest.mark.parametrize("n_tie", [14, 7, 4, 1])
@pytest.mark.parametrize(("u", "scaling"), [(1, "paper"), (3, "normalized"), (2, "paper")])
def test_the_choice_is_the_best_of_all(parts, n_tie, u, scaling):
    _, basis = parts()
    draw = torch.Generator().manual_seed(u + n_tie)
    gradients = {name: torch.randn(8, 8, generator=draw) for name in basis}
    settings = AdapterConfig(strategy="greedy", blocks=4, n_tie=n_tie, u=u, scaling=scaling, seed=3)
    config = BoostConfig(2, settings, greedy=Greedy(candidates=5))
    used = [{g % 4} for g in range(settings.groups(14))]
    choices = choose_plan(gradients, basis, config, 1, used)
    assert [one.pair for one in choices] == brute(gradients, basis, config, 1, used)
    again = choose_plan(gradients, basis, config, 1, used)
    assert [one.pair for one in again] == [one.pair for one in choices]
    assert all(np.linalg.norm(one.slopes) > one.mean for one in choices)


def test_ablations_fix_the_block_or_the_candidate(parts):
    _, basis = parts()
    gradients = {name: torch.randn(8, 8, generator=torch.Generator().manual_seed(i)) for i, name in enumerate(basis)}
    settings = AdapterConfig(strategy="greedy", blocks=4, n_tie=1)
    used = [{0, 2}] * 14
    plans = {
        kind: [
            one.pair
            for one in choose_plan(gradients, basis, BoostConfig(1, settings, greedy=Greedy(choose=kind)), 0, used)
        ]
        for kind in ("both", "block", "candidate")
    }
    assert {c for _, c in plans["block"]} == {0} and {b for b, _ in plans["block"]} == {1, 3}
    assert {b for b, _ in plans["candidate"]} == {1} and len({c for _, c in plans["candidate"]}) > 4
    assert {b for b, _ in plans["both"]} == {1, 3} and len({c for _, c in plans["both"]}) > 4


def test_a_group_without_blocks_left_and_a_nan_are_errors(parts):
    _, basis = parts()
    gradients = {name: torch.ones(8, 8) for name in basis}
    settings = AdapterConfig(strategy="greedy", blocks=2, n_tie=7)
    config = BoostConfig(2, settings, greedy=Greedy(candidates=2))
    with pytest.raises(BoostError, match="group 1 has taken all 2 blocks"):
        choose_plan(gradients, basis, config, 2, [{0}, {0, 1}])
    broken = {**gradients, list(basis)[3]: torch.full((8, 8), math.nan)}
    with pytest.raises(TrainingError, match=f"NaN in the probed gradient of {list(basis)[3]}"):
        choose_plan(broken, basis, config, 0)


def test_block_norms_say_where_the_gradient_lies(parts):
    _, basis = parts()
    gradients = {name: torch.zeros(8, 8) for name in basis}
    gradients[list(basis)[2]][2:4, 2:4] = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    gradients[list(basis)[2]][0, 7] = 9.0  # of no block
    found = block_norms(gradients, basis, AdapterConfig(strategy="greedy", blocks=4))
    assert found.shape == (14, 4) and found[2, 1] == 5 and np.count_nonzero(found) == 1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"candidates": 0}, "candidates=0"), ({"probe_batches": 0}, "probe_batches=0"), ({"choose": "x"}, "choose='x'"),
    ],
)  # fmt: skip
def test_bad_settings_are_named(settings, named):
    with pytest.raises(BoostError, match=named):
        Greedy(**settings)


def test_more_rounds_than_blocks_and_a_missing_plan_are_errors(parts):
    settings = AdapterConfig(strategy="greedy", blocks=3)
    with pytest.raises(BoostError, match=r"rounds=4.*there are 3: raise AdapterConfig\(blocks"):
        BoostConfig(rounds=4, adapter=settings)
    assert BoostConfig(rounds=3, adapter=settings).adapter.basis_rank(1) == 6
    with pytest.raises(BoostError, match="pass plan="):
        TinyLoRA(parts()[1], settings)


# --- in the loop (crashes, resuming and replay: test_boost.py)


@pytest.fixture
def start(tiny_llama, tiny_tokenizer, tmp_path):
    """start(name, trainer=..., ...): one call of boost on a fresh model with greedy rounds."""

    def run(name="run", rounds=2, trainer=None, task=None, model=None, **more):
        settings = config(rounds, strategy="greedy", **more)
        arguments = model or tiny_llama(), tiny_tokenizer, task or ParityTask(), trainer or HARD, settings
        return boost(*arguments, tmp_path / name, progress=False)

    return run


def test_rounds_with_grpo_record_their_choice_and_replay_from_it(start, tiny_llama, monkeypatch):
    run = start()
    assert same_runs(run.ledger, start("again").ledger)
    for row in run.rounds:
        said = row.extra["greedy"]
        assert said["batches"] == 1 and said["tokens"] >= 12 and said["fallback"] == 0
        assert all(slope > mean > 0 for slope, mean in zip(said["slope"], said["mean"], strict=True))
        assert row.cost["batches"] == row.steps + 1 and row.cost["tokens"] == row.tokens + said["tokens"]
        assert row.cost["seconds"] == row.seconds["probe"] + row.seconds["train"]
        assert row.seconds["probe"] > 0 and set(row.seconds) == {"probe", "train", "merge", "evaluate"}
    assert len({tuple(row.plan) for row in run.rounds}) == 2
    assert rounds_table(run.ledger)["probing batches"].tolist()[1:] == [1, 1]
    monkeypatch.setattr(GRPO, "probe", None)  # neither data nor gradients are asked for again
    rebuilt = replay(run.dir, model=tiny_llama())
    assert fingerprint_tensors(rebuilt.state_dict()) == fingerprint_tensors(run.model.state_dict())


def test_a_round_that_was_trained_keeps_its_recorded_plan(start, monkeypatch):
    """Another machine's gradient differs in its last bits: a resumed round must not choose again."""

    class Killed(BaseException):
        pass

    def die(point):
        if point == "after the round file":
            raise Killed

    whole = start("whole", rounds=1, trainer=FakeTrainer())
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("boostlib.records.ledger.reached", die)
        start("cut", rounds=1, trainer=FakeTrainer())
    monkeypatch.setattr(FakeTrainer, "probe", None)
    assert same_runs(whole.ledger, start("cut", rounds=1, trainer=FakeTrainer()).ledger)


def test_an_interrupt_while_probing_leaves_the_model_and_the_run_to_go_on_with(start, tiny_llama):
    class Interrupted(FakeTrainer):
        def probe(self, subject, *arguments):
            super().probe(subject, *arguments)
            if len(self.trained) == 1:
                raise KeyboardInterrupt
            return Training(steps=1, tokens=12)

    model = tiny_llama()
    with pytest.raises(KeyboardInterrupt):
        start("cut", trainer=Interrupted(), model=model)
    assert fingerprint_tensors(model.state_dict()) == fingerprint_tensors(tiny_llama().state_dict())
    assert not any(m._forward_hooks for m in model.modules()) and all(p.requires_grad for p in model.parameters())
    whole = start("whole", trainer=FakeTrainer())
    assert same_runs(whole.ledger, start("cut", trainer=FakeTrainer(), model=model).ledger)


def test_probing_sees_the_failures_with_seeds_of_its_own(start):
    asked = []

    class Watching(FakeTrainer):
        def probe(self, subject, examples, batches, seed=0):
            asked.append(([e.id for e in examples], batches, seed))
            return super().probe(subject, examples, batches, seed)

    run = start(trainer=Watching(), greedy=Greedy(candidates=4, probe_batches=2))
    for row, (wrong, *_) in zip(run.rounds, asked, strict=True):
        assert set(wrong) == set(row.failures)
        assert row.extra["greedy"]["batches"] == 2 and row.extra["greedy"]["tokens"] == 24
    assert {batches for _, batches, _ in asked} == {2}
    assert len({seed for *_, seed in asked} | {row.seed for row in run.rounds}) == 4  # none of them training's


def test_failures_without_a_signal_fall_back_and_say_so(start, caplog):
    class Hopeless(ParityTask):
        def score(self, completion, example):
            return Score(False, False)

    with caplog.at_level(logging.WARNING):
        run = start(task=Hopeless(), trainer=replace(HARD, max_samples=4))
    assert [row.plan for row in run.rounds] == [[(0, 0)] * 2] * 2  # skipped rounds use up no block
    assert all(row.skipped and row.extra["greedy"]["fallback"] == 2 for row in run.rounds)
    assert "round 0: no learning signal in the probing batches for 2 of 2 groups" in caplog.text


def test_blocks_of_a_group_are_disjoint_over_merged_rounds_and_ranks_add(start):
    run = start(rounds=4, trainer=FakeTrainer(skip=(1,)), n_tie=4)
    assert used_blocks(run.rounds, 4) == [{row.plan[g][0] for row in run.rounds if row.merged} for g in range(4)]
    assert all(len(used) == 3 for used in used_blocks(run.rounds, 4))
    assert {epsilon_rank(*factors, eps=1e-6) for factors in run.update.values()} == {6}
    assert len({block for row in run.rounds for block, _ in row.plan}) == 4


# --- identity and the command line


def test_recorded_runs_are_the_same_runs_as_before():
    paths = sorted(RECORDED.glob("*/run.json"))
    adapters = [json.loads(path.read_text())["identity"]["adapter"] for path in paths]
    kept = [adapter for adapter in adapters if isinstance(adapter, dict) and adapter["strategy"] != "greedy"]
    assert len(kept) >= 27
    assert all(AdapterConfig(**adapter).settings() == adapter for adapter in kept)
    settings = AdapterConfig(strategy="greedy", blocks=7).settings()
    assert settings["blocks"] == 7 and AdapterConfig(**settings).blocks == 7


def test_a_recorded_run_is_continued_by_its_preset(tmp_path):
    """Everything that can be computed without the model: the adapter's part and no new keys."""
    path = RECORDED / "math-demo-rotate-seed1"
    identity = Ledger(path).header["identity"]
    chosen = with_method(MATH["demo"].with_seed(1), "rotate").boost
    check_identity(Ledger(path), {**identity, "adapter": chosen.adapter.settings()})


def test_a_recorded_greedy_run_goes_on_without_the_settings_that_are_gone(tmp_path):
    """Two settings had no effect at 0, which is how most runs were recorded; one that used them is another run."""
    path = RECORDED / "math-equal-greedy-seed0"
    identity = Ledger(path).header["identity"]
    assert identity["greedy"]["guard"] == identity["greedy"]["start"] == 0
    check_identity(Ledger(path), {**identity, "greedy": asdict(Greedy())})
    started = RECORDED / "math-onestart-greedy-seed0"
    with pytest.raises(BoostError, match=r"greedy.start was 0\.02, is None"):
        check_identity(Ledger(started), {**Ledger(started).header["identity"], "greedy": asdict(Greedy())})


def test_a_run_of_the_sampler_of_before_is_not_continued():
    ledger = Ledger(RECORDED / "math-demo-rotate-seed0")
    identity = ledger.header["identity"]
    with pytest.raises(BoostError, match="begun with another sampler.*not continued.*another run_dir"):
        check_identity(ledger, {**identity, "trainer": {**identity["trainer"], "sampler": SAMPLER}})


def test_greedys_settings_are_part_of_a_greedy_runs_identity_alone(start):
    identity = start(trainer=FakeTrainer(), rounds=1).ledger.header["identity"]
    assert identity["greedy"]["candidates"] == 4 and identity["adapter"]["blocks"] == 4
    with pytest.raises(BoostError, match="greedy.candidates was 4, is 5"):
        start(trainer=FakeTrainer(), rounds=1, greedy=Greedy(candidates=5, probe_batches=1))


def test_the_method_and_its_options(tmp_path, monkeypatch, capsys):
    made = []

    def instead(chosen, run_dir, *arguments, **more):
        made.append((chosen, run_dir))
        raise BoostError("stopped here")

    monkeypatch.setattr("boostlib.experiments.methods.run_method", instead)
    options = "--candidates 16 --probe-batches 1 --choose block --blocks 5"
    assert main(["boost", "--method", "greedy", "--seed", "2", *options.split()]) == 1
    (chosen, run_dir) = made.pop()
    assert chosen.boost.adapter == replace(MATH["demo"].boost.adapter, strategy="greedy", blocks=5, seed=2)
    assert chosen.boost.greedy == Greedy(16, 1, "block")
    assert run_dir == "runs/arithmetic-demo-greedy-seed2"
    assert main(["boost", "--candidates", "5"]) == 1
    assert "--candidates says how greedy rounds choose: add --method greedy" in capsys.readouterr().err and not made
