"""LoRA rounds: recorded, resumed, rolled back and exported as TinyLoRA's are, with factors for numbers."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from helpers import CoinTask, FakeTrainer, ParityTask, config, ends_as_undisturbed, prints, same_runs
from peft import PeftModel

from boostlib import (
    GRPO,
    BoostConfig,
    BoostError,
    LoRAConfig,
    boost,
    evaluate,
    export_bundle,
    export_peft,
    replay,
    target_modules,
)
from boostlib.analysis.bounds import require_fixed_before_the_data
from boostlib.analysis.growth import growth_table, recorded_updates
from boostlib.analysis.isolation import isolation
from boostlib.common.errors import RunError
from boostlib.common.stable import fingerprint_tensors, philox, round_seed
from boostlib.experiments.methods import finetune, run_method, with_method
from boostlib.experiments.presets import MATH
from boostlib.models.subject import Subject
from boostlib.rank import EXACT, epsilon_rank
from boostlib.records.bundle import Bundle
from boostlib.records.rows import Training
from boostlib.release.export import verify_weights
from boostlib.run import Run
from boostlib.strategies.lora import LoRA
from boostlib.training.cross_entropy import CrossEntropy
from boostlib.update import Weights


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@dataclass
class Shake(FakeTrainer):
    """Adds noise, from the seed and the examples, to whatever trains; keeps what A was before."""

    scale: float = 0.1
    learning_rate: float = 0.1
    max_steps: int = 1
    epochs: float = 1.0

    def train(self, subject, examples, adapter=None, seed=0) -> Training:
        self.first = getattr(self, "first", []) + [adapter.update()]
        self.given.append([e.id for e in examples])
        draw = philox("shake", seed, *self.given[-1])
        with torch.no_grad():
            for parameter in subject.model.parameters():
                if parameter.requires_grad:
                    parameter += self.scale * torch.from_numpy(draw.standard_normal(tuple(parameter.shape))).float()
        if adapter.round in self.skip:
            return Training(skipped="nothing to learn")
        return Training(steps=1, samples=2, rewards=[0.5], signal=[1.0])


LORA = config(3, lora=LoRAConfig())


@pytest.fixture
def start(tiny_llama, tiny_tokenizer, tmp_path):
    """start(name="run", settings=LORA, trainer=None): one call of boost on a fresh model."""

    def run(name="run", settings=LORA, trainer=None, dtype=torch.float32):
        parts = tiny_tokenizer, ParityTask(), trainer or Shake(), settings, tmp_path / name
        return boost(tiny_llama(dtype=dtype), *parts, progress=False)

    return run


# --- what is recorded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_agree_with_the_models_that_are_rolled_back_to(start, tiny_llama, tiny_tokenizer, dtype):
    run, task = start(dtype=dtype), ParityTask()
    shapes = [tiny_llama().get_submodule(name).weight.shape for name in run.basis]
    for k, row in enumerate(run.rounds):
        model = replay(run.dir, k, tiny_llama(dtype=dtype))
        assert fingerprint_tensors((n, model.get_submodule(n).weight) for n in run.basis) == row.weights_fingerprint
        assert row.train_accuracy == evaluate(model, tiny_tokenizer, task, "train", progress=False).accuracy
        assert row.plan == [] and row.merged and row.update_norm > row.adapter_norm * 0.9
        assert row.num_parameters == sum(map(sum, shapes)) == row.degrees_of_freedom + len(shapes)
    assert len({row.weights_fingerprint for row in [run.base, *run.rounds]}) == 4
    assert prints(replay(run.dir, -1, tiny_llama(dtype=dtype))) == prints(tiny_llama(dtype=dtype))
    assert run.ledger.header["identity"]["adapter"] == {"strategy": "lora", "rank": 1}


def test_a_rounds_file_holds_its_factors_and_no_more(start):
    run = start()
    for index, row in enumerate(run.rounds):
        numbers, notes = run.ledger.load_numbers(index)
        assert set(numbers) == {f"{name}.{part}" for name in run.basis for part in "BA"} and notes["steps"] == 1
        assert sum(one.numel() for one in numbers.values()) == row.num_parameters
        size = run.ledger.v_path(index).stat().st_size
        assert 0 < size - 4 * row.num_parameters < 250 * len(numbers)  # a header of names and offsets
    with pytest.raises(RunError, match="factors of a LoRA"):
        run.ledger.load_v(0)


@pytest.mark.parametrize("rank", [1, 3])
def test_ranks_of_rounds_add_up(start, tiny_llama, rank):
    run = start(settings=replace(LORA, lora=LoRAConfig(rank)))
    assert {epsilon_rank(*pair, EXACT) for pair in run.update.values()} == {3 * rank}
    table = growth_table(recorded_updates(run.ledger, tiny_llama()))
    assert [set(part.exact) for _, part in table.groupby("rounds")] == [{rank}, {2 * rank}, {3 * rank}]


def test_every_round_starts_from_zero_and_from_an_a_of_its_own(start):
    def draws(settings, name):
        trainer = Shake()
        start(name, settings, trainer)
        assert all(update.norm() == 0 for update in trainer.first)
        return [update["model.layers.0.self_attn.q_proj"][1] for update in trainer.first]

    one, again, other = draws(LORA, "a"), draws(LORA, "b"), draws(replace(LORA, seed=1), "c")
    assert all(torch.equal(x, y) for x, y in zip(one, again, strict=True))
    assert len({fingerprint_tensors({"A": a}) for a in [*one, *other]}) == 6


def test_the_model_ends_plain_at_the_last_round(start, tiny_llama):
    run = start()
    assert list(run.model.state_dict()) == list(tiny_llama().state_dict())
    assert all(p.requires_grad for p in run.model.parameters())
    assert [*map(type, run.model.modules())] == [*map(type, tiny_llama().modules())]
    assert prints(run.model) == prints(replay(run.dir, model=tiny_llama()))


def test_it_trains_on_failures_or_on_all(start):
    trainers = {"failures": Shake(), "all": Shake()}
    runs = {whom: start(whom, replace(LORA, train_on=whom), trainer) for whom, trainer in trainers.items()}
    order = [e.id for e in ParityTask().split("train")]
    assert trainers["all"].given == [order] * 3
    rows = runs["failures"].rounds
    assert trainers["failures"].given == [[id for id in order if id in row.failures] for row in rows]


def test_a_skipped_round_merges_nothing(start, tiny_llama):
    run = start(trainer=Shake(skip=(1,)))
    assert [row.merged for row in run.rounds] == [True, False, True]
    assert {b.shape[1] for b, _ in run.update.values()} == {2}
    assert prints(run.model) == prints(replay(run.dir, model=tiny_llama()))


# --- going on


def test_a_resumed_run_equals_an_uninterrupted_one(start):
    whole = start("whole")
    for rounds in (1, 2, 3):
        parts = start("parts", replace(LORA, rounds=rounds))
    assert same_runs(whole.ledger, parts.ledger) and prints(whole.model) == prints(parts.model)


def test_a_kill_at_any_instant_is_survived(start, die_at):
    points = die_at(None)
    whole = start("whole", replace(LORA, rounds=2))
    assert len(points) > 6
    ends_as_undisturbed(lambda name: start(name, replace(LORA, rounds=2)), whole, die_at, len(points))


def test_a_round_that_was_trained_is_not_trained_again(start, die_at):
    points = die_at(None)
    start("whole", replace(LORA, rounds=1))
    die_at(points.index("after the round file"))
    with pytest.raises(BaseException, match="after the round file"):
        start("cut", replace(LORA, rounds=1))
    die_at(None)
    trainer = Shake()
    assert start("cut", replace(LORA, rounds=1), trainer).rounds[0].merged and not trainer.given


@pytest.mark.parametrize("other", [config(3), replace(LORA, lora=LoRAConfig(2)), replace(LORA, train_on="all")])
def test_another_learner_is_another_run(start, other):
    start()
    with pytest.raises(RunError, match="another identity: (adapter|train_on)"):
        start(settings=other, trainer=FakeTrainer(scale=0.1))


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(BoostError, match="greedy strategy chooses among TinyLoRA's blocks"):
        config(3, strategy="greedy", lora=LoRAConfig())
    with pytest.raises(BoostError, match=r"LoRAConfig\(rank=0\)"):
        LoRAConfig(rank=0)
    with pytest.raises(BoostError, match=r"BoostConfig\(lora=1\)"):
        BoostConfig(lora=1)


# --- given away


def test_peft_loads_all_rounds_as_one_lora(start, tiny_llama, tiny_tokenizer, tmp_path):
    model = tiny_llama()
    for part in (model, tiny_tokenizer):
        part.save_pretrained(tmp_path / "base")
    run = start()
    export_peft(run.dir, tmp_path / "lora", model=tiny_llama())
    lora = PeftModel.from_pretrained(model, tmp_path / "lora").eval()
    ids = torch.arange(2, 40)[None]
    with torch.no_grad():
        plain, merged = tiny_llama()(ids).logits, run.model(ids).logits
        torch.testing.assert_close(lora(ids).logits, merged, atol=1e-4, rtol=1e-4)
    assert lora.peft_config["default"].r == 3 and (plain - merged).abs().max() > 0.1


def test_a_bundle_rebuilds_every_round(start, tiny_llama, tmp_path):
    run = start(trainer=Shake(skip=(1,)))
    file = export_bundle(run.dir, tmp_path / "run.bundle", model=tiny_llama())
    for k in (2, 1, 0, -1):
        assert prints(replay(file, k, tiny_llama())) == prints(replay(run.dir, k, tiny_llama()))
    assert Bundle(file).verify() == run.rounds
    assert set(verify_weights(Bundle(file), tiny_llama()).weights) == {"bit for bit"}


def test_numbers_of_another_adapter_are_refused(start, tiny_llama):
    run = start(settings=replace(LORA, rounds=1))
    header = run.ledger.header
    path = run.dir / "run.json"
    for adapter in ({"strategy": "lora", "rank": 2}, config(1).adapter.settings()):
        header["identity"]["adapter"] = adapter
        path.write_text(json.dumps(header))
        ledger = run.ledger.path.read_text()
        run.ledger.path.write_text(ledger)
        with pytest.raises(BoostError, match="run.json"):
            replay(run.dir, model=tiny_llama())


def test_analyses_of_v_refuse_a_lora(start, tiny_llama, tiny_tokenizer):
    run = start()
    with pytest.raises(BoostError, match="adapters of a few numbers"):
        require_fixed_before_the_data(run.ledger)
    with pytest.raises(RunError, match="rounds of LoRA"):
        isolation(run.ledger, Subject(tiny_llama(), tiny_tokenizer, ParityTask()))


# --- trained for real


def test_grpo_trains_rounds_of_lora_and_rollouts_see_what_was_merged(tiny_llama, tiny_tokenizer, tmp_path):
    trainer = GRPO(learning_rate=0.01, prompts=4, samples=4, max_steps=1)
    settings, runs = replace(LORA, rounds=2), []
    for name in "ab":
        parts = tiny_tokenizer, ParityTask(), trainer, settings, tmp_path / name
        runs.append(boost(tiny_llama(), *parts, progress=False))
    assert same_runs(runs[0].ledger, runs[1].ledger) and all(row.adapter_norm > 0 for row in runs[0].rounds)


def test_cross_entropy_trains_rounds_of_lora(tiny_classifier, tiny_protein_tokenizer, tmp_path):
    trainer = CrossEntropy(learning_rate=0.01, batch=4, micro_batch=4, max_steps=4, validation=None)
    parts = tiny_protein_tokenizer, CoinTask(), trainer, replace(LORA, rounds=2), tmp_path
    run = boost(tiny_classifier(), *parts, progress=False)
    assert [(row.merged, row.steps) for row in run.rounds] == [(True, 4)] * 2 and run.rounds[0].adapter_norm > 0
    assert prints(run.model) == prints(replay(run.dir, model=tiny_classifier()))


def test_folded_adds_to_what_is_merged(tiny_llama):
    model, ids = tiny_llama(), torch.arange(2, 30)[None]
    names = target_modules(model)
    weights = Weights(model, names)
    for seed in range(2):
        lora = LoRA(names, seed=seed).attach(model, weights)
        with torch.no_grad():
            for parameter in filter(lambda p: p.requires_grad, model.parameters()):
                parameter.normal_(0, 0.1)
            live = model(ids).logits
            with lora.folded():
                torch.testing.assert_close(model(ids).logits, live, atol=1e-4, rtol=1e-4)
        lora.detach()
        weights.merge(lora.update())
        with torch.no_grad():
            torch.testing.assert_close(model(ids).logits, live, atol=1e-4, rtol=1e-4)


# --- the eight cells


def test_learner_examples_and_rounds_are_free_of_each_other():
    demo = replace(MATH["demo"], boost=replace(MATH["demo"].boost, rounds=20))
    found = set()
    for method in ("rotate", "tinylora", "lorarounds", "lora"):
        for whom in ("failures", "all"):
            made = with_method(demo, method, whom)
            steps, rate = made.boost.rounds * made.trainer.max_steps, made.trainer.learning_rate
            assert steps == 160 and made.boost.train_on == whom
            assert rate == (demo.lora_learning_rate if "lora" in method[:4] else demo.trainer.learning_rate)
            found.add((made.boost.lora is not None or method == "lora", whom, made.boost.rounds))
    assert len(found) == 8
    assert with_method(demo, "lorarounds").boost.train_on == "failures"
    with pytest.raises(BoostError, match="full fine-tuning"):
        with_method(demo, "full", "failures")


def test_lora_in_one_shot_trains_on_failures_too_and_begins_as_the_rounds_do(
    tiny_llama, tiny_tokenizer, tmp_path, start
):
    trainer, rounds = Shake(), Shake()
    once = Run(tiny_llama(), tiny_tokenizer, ParityTask(), trainer, config(1))
    ledger = finetune(once, tmp_path / "once", lora_rank=1)
    start("rounds", trainer=rounds)
    assert trainer.given == [rounds.given[0]] and set(trainer.given[0]) == set(ledger.base.failures)
    assert ledger.header["identity"]["train_on"] == "failures" and ledger.rounds[0].seed == round_seed(0, 0)
    for name, (_, a) in trainer.first[0].items():
        assert torch.equal(a, rounds.first[0][name][1])


def test_a_preset_runs_rounds_of_lora(tiny_llama, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("boostlib.experiments.methods.prepare", lambda *_: (tiny_llama(), tiny_tokenizer, ParityTask()))
    small = replace(MATH["smoke"], trainer=Shake(), boost=replace(LORA, lora=None, rounds=2))
    ledger = run_method(with_method(small, "lorarounds", "all"), tmp_path)
    assert len(ledger.verify()) == 2 and ledger.header["identity"]["train_on"] == "all"
