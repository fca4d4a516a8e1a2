"""vLLM in the model's place, with a fake engine below TRL's own code: what it is sent, and what comes back."""

import json
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_vllm import Record, install
from helpers import CoinTask, FakeTrainer, ParityTask, config, rows, saved

import boostlib.training.trl
from boostlib import GRPO, VLLM, BoostConfig, BoostError, SVDBasis, TinyLoRA, boost, evaluate, load_model
from boostlib.__main__ import main
from boostlib.adapter import AdapterConfig
from boostlib.common.errors import ModelError, TrainingError
from boostlib.common.stable import fingerprint_tensors
from boostlib.config import run_identity
from boostlib.evaluation.generate import end_tokens
from boostlib.evaluation.sample import SAMPLER
from boostlib.evaluation.vllm import INSTALL, SET
from boostlib.experiments.presets import CODE, MATH
from boostlib.models.subject import Subject
from boostlib.strategies.lora import LoRA
from boostlib.training.trl import FoldingTrainer
from boostlib.update import LowRankUpdate, Weights

FAST = dict(prompts=3, samples=4, max_steps=2, learning_rate=0.05)
SERVER = VLLM(server="http://localhost:8000")
RUNS = sorted((Path(__file__).parents[2] / "data/runs").glob("*/run.json"))
ADAPTER = AdapterConfig(n_tie=7, u=3)


@pytest.fixture
def folder(lively, tiny_tokenizer, tmp_path) -> str:
    """A saved model and its tokenizer."""
    return saved(tmp_path / "model", lively(), tiny_tokenizer)


@pytest.fixture
def fake(folder, monkeypatch) -> Record:
    return install(Record(served=folder), monkeypatch)


@pytest.fixture(params=["gpu", "cpu", "server"])
def where(request, fake) -> VLLM:
    """An engine in this process, by either way of sending it weights, or a server."""
    fake.on_cpu = request.param == "cpu"
    return SERVER if request.param == "server" else VLLM()


@pytest.fixture
def load(folder):
    """load(dtype): (model, tokenizer), fresh."""
    return lambda dtype="float32": load_model(folder, dtype=dtype, device="cpu")


@pytest.fixture
def attached(load, tmp_path):
    """attached(dtype): (model, tokenizer, adapter, merged, basis): `merged` was added by a first round, and the second
    round's adapter is on the model."""

    def build(dtype="float32"):
        model, tokenizer = load(dtype)
        basis = SVDBasis.from_model(model, rank=4, cache_dir=tmp_path)
        weights, merged = Weights(model, list(basis)), update(basis, 0, torch.full((2, 3), 0.5))
        weights.merge(merged)
        return model, tokenizer, TinyLoRA(basis, ADAPTER, round=1).attach(model, weights), merged, basis

    return build


def update(basis, index: int, v: torch.Tensor) -> LowRankUpdate:
    adapter = TinyLoRA(basis, ADAPTER, round=index)
    adapter.v.data.copy_(v)
    return adapter.update()


def untrained(model) -> str:
    return fingerprint_tensors((name, p) for name, p in model.named_parameters() if name != "boost_adapter.v")


def train(model, tokenizer, adapter, where=None, seed=0, task=None, **settings):
    task = task or ParityTask()
    chosen = {"use_vllm": True, "vllm": where} if where else {}
    trainer = GRPO(**{**FAST, **chosen, **settings})
    return trainer.train(Subject(model, tokenizer, task), task.split("train"), adapter, seed)


# --- what the engine is sent


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_step_samples_from_the_folded_weights_under_plain_names(attached, load, fake, where, dtype):
    model, tokenizer, adapter, merged, basis = attached(dtype)
    plain, vs = load(dtype)[0], []
    fake.on_push = lambda: vs.append(adapter.v.detach().clone())
    assert train(model, tokenizer, adapter, where).steps == len(fake.pushes) == 2
    assert not vs[0].any() and vs[1].any()
    weights = Weights(plain, list(basis))
    for v, push in zip(vs, fake.pushes, strict=True):
        weights.set(merged + update(basis, 1, v))  # W_t + dW from W0, on a model that was never trained
        expected = dict(plain.named_parameters())
        assert list(push) == list(expected)
        assert all(tensor.dtype == expected[name].dtype for name, tensor in push.items())
        assert all(torch.equal(tensor, expected[name]) for name, tensor in push.items())
    assert not torch.equal(*(push[f"{adapter.names[0]}.weight"] for push in fake.pushes))


@pytest.mark.parametrize("breaks", ["", "model.layers.1.mlp.down_proj.weight"])
def test_the_model_has_its_adapter_back_whatever_happens(attached, fake, where, breaks):
    model, tokenizer, adapter, _, _ = attached()
    names, weights = [name for name, _ in model.named_parameters()], untrained(model)
    fake.breaks = breaks
    if breaks:
        with pytest.raises(BoostError, match="did not take the weights.*the link broke.*without vllm"):
            train(model, tokenizer, adapter, where)
    else:
        train(model, tokenizer, adapter, where)
    assert names[-1] == "boost_adapter.v" and [name for name, _ in model.named_parameters()] == names
    assert untrained(model) == weights
    assert not {"named_parameters", "forward"} & set(vars(model)) and adapter._live
    assert model.name_or_path == fake.served


@pytest.mark.parametrize("strategy", ["rotate", "greedy"])
def test_a_run_keeps_one_engine_and_each_round_sends_its_own_weights(load, fake, tmp_path, where, strategy):
    trainer = GRPO(**FAST, use_vllm=True, vllm=where)
    model, tokenizer = load()
    run = boost(model, tokenizer, ParityTask(), trainer, config(3, strategy=strategy), tmp_path / "run", progress=False)
    assert len(fake.made) == 1 and fake.made[0].get("joined", 1) == 1
    before, sent = run.base.weights_fingerprint, iter(fake.pushes)
    assert [row.merged for row in run.rounds] == [True] * 3
    for row in run.rounds:
        first, *_ = [next(sent) for _ in range(row.cost["batches"])]
        assert fingerprint_tensors((n, first[f"{n}.weight"]) for n in run.weights.modules) == before
        before = row.weights_fingerprint
    assert next(sent, None) is None


def test_a_lora_is_sent_folded_under_plain_names_too(load, fake, where):
    model, tokenizer = load()
    plain = dict(load()[0].named_parameters())
    names = [n.removesuffix(".weight") for n in plain if ".q_proj." in n or ".down_proj." in n]
    lora = LoRA(names, rank=1)
    lora.attach(model, Weights(model, names))
    train(model, tokenizer, lora, where)
    lora.detach()
    assert all(list(push) == list(plain) for push in fake.pushes) and len(fake.pushes) == 2
    moved = [name for name in plain if not torch.equal(fake.pushes[1][name], plain[name])]
    assert moved == [f"{name}.weight" for name in names]
    assert all(torch.equal(fake.pushes[0][name], plain[name]) for name in plain)  # B is 0


# --- what comes back


@pytest.mark.parametrize("stop", [None, "[a-z!-/]"])
def test_training_is_that_of_the_built_in_sampler_on_the_same_completions(attached, fake, monkeypatch, where, stop):
    model, tokenizer, adapter, *_ = attached()
    task, found, complete = ParityTask(stop=stop, max_new_tokens=4), [], boostlib.training.trl.complete

    def watched(*arguments):
        ids, logps = complete(*arguments)
        found.append(ids)
        return ids, logps

    monkeypatch.setattr(boostlib.training.trl, "complete", watched)
    by_vllm = train(model, tokenizer, adapter, where, task=task, micro_batch=4)
    again, tokenizer, twin, *_ = attached()
    replayed = iter(list(found))
    monkeypatch.setattr(FoldingTrainer, "_sample", lambda *_: next(replayed))
    built_in = train(again, tokenizer, twin, task=task)
    assert vars(built_in) == vars(by_vllm) and len(found) == 2
    assert any(len(row) < 4 for row in found[0]) == bool(stop)
    assert adapter.v.abs().min() > 0
    torch.testing.assert_close(adapter.v, twin.v, rtol=1e-3, atol=1e-4)


def test_completions_that_the_engine_finds_far_less_likely_than_the_trainer_are_not_learned_from(
    attached, fake, monkeypatch
):
    model, tokenizer, adapter, *_ = attached()
    complete = boostlib.training.trl.complete

    def other(*arguments):
        ids, logps = complete(*arguments)
        return ids, [[logp - 2.0 for logp in row] for row in logps]  # as if it ran with other weights

    monkeypatch.setattr(boostlib.training.trl, "complete", other)
    with pytest.raises(TrainingError, match="no trained number moved"):
        train(model, tokenizer, adapter, VLLM())
    assert not adapter.v.any()


def test_rollouts_ask_for_what_the_settings_and_the_task_say(attached, fake, where):
    model, tokenizer, adapter, *_ = attached()
    train(model, tokenizer, adapter, where, task=ParityTask(max_new_tokens=3), temperature=0.8)
    kinds = ("temperature", "max_tokens", "top_p", "top_k", "min_p", "repetition_penalty")
    assert [tuple(one[kind] for kind in kinds) for one in fake.asked] == [(0.8, 3, 1.0, 0, 0.0, 1.0)] * 2


def test_equal_seeds_sample_alike_in_this_process_whenever_the_engine_was_made(attached, fake, monkeypatch):
    def v(seed: int) -> torch.Tensor:
        model, tokenizer, adapter, *_ = attached()
        train(model, tokenizer, adapter, VLLM(), seed=seed)
        return adapter.v.detach()

    made, kept, other = v(3), v(3), v(4)
    monkeypatch.setattr("boostlib.evaluation.vllm._ENGINES", {})
    assert torch.equal(made, kept) and torch.equal(made, v(3)) and not torch.equal(made, other)
    assert len(fake.made) == 2


@pytest.mark.parametrize("stop", [None, "[a-z!-/]"])
def test_evaluation_finds_what_plain_decoding_finds(attached, fake, where, stop):
    model, tokenizer, adapter, *_ = attached()  # its weights are not those of the folder
    adapter.detach()
    task = ParityTask(max_new_tokens=5, stop=stop)
    plain = evaluate(model, tokenizer, task, progress=False)
    found = evaluate(model, tokenizer, task, progress=False, decoder=where)
    assert found.completions == plain.completions and len(set(found.completions)) > 3
    assert (found.correct == plain.correct).all() and found.tokens == plain.tokens
    assert [(one["temperature"], one["max_tokens"]) for one in fake.asked] == [(0.0, 5)]
    stops = [one.get("stop_token_ids") or one["generation_kwargs"]["stop_token_ids"] for one in fake.asked]
    assert stops == [end_tokens(model, tokenizer)]


def test_a_run_evaluated_with_vllm_decodes_nothing_itself(load, fake, tmp_path, monkeypatch, where):
    task, chosen = ParityTask(), config(3)

    def run(name: str, **settings):
        model, tokenizer = load()
        return boost(
            model, tokenizer, task, FakeTrainer(), replace(chosen, **settings), tmp_path / name, progress=False
        )

    plain = run("plain")
    monkeypatch.setattr(sys.modules["boostlib.evaluation.decode"], "generate", None)
    fast = run("fast", vllm=where)
    assert rows(fast.ledger) == rows(plain.ledger)
    assert "vllm" not in plain.ledger.header["identity"] and fast.ledger.header["identity"]["vllm"] is True
    run("fast", vllm=VLLM(server="http://elsewhere:1"))  # the same run: nothing is left to do
    with pytest.raises(BoostError, match="vllm was"):
        run("plain", vllm=where)


# --- how the engine is made


def test_settings_reach_trl_and_the_model_is_read_from_its_folder(load, fake, folder, monkeypatch):
    model, tokenizer = load()
    model.name_or_path = "smollm2"  # as load_model leaves an embedded model
    monkeypatch.setattr("boostlib.models.language.installed_weights", lambda name: Path(folder))
    monkeypatch.setattr("boostlib.models.language.convert", lambda name: Path(folder))
    task = ParityTask(test=2)
    for where in (VLLM(memory=0.4), VLLM(server="https://gpu2:9000")):
        evaluate(model, tokenizer, task, "test", progress=False, decoder=where)
    assert fake.made[0]["model"] == folder and fake.made[0]["gpu_memory_utilization"] == 0.4
    assert fake.made[1] == {"base_url": "https://gpu2:9000", "joined": 1}
    assert model.name_or_path == "smollm2"


def test_an_engine_outlives_its_first_model_but_not_its_dtype(load, fake):
    for dtype in ("float32", "float32", "bfloat16"):
        model, tokenizer = load(dtype)
        evaluate(model, tokenizer, ParityTask(), "test", progress=False, decoder=VLLM())
    assert len(fake.made) == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("on_cpu", [False, True])
def test_an_engine_in_this_process_computes_in_the_dtype_of_the_model_and_compiles_nothing_on_a_cpu(
    load, fake, dtype, on_cpu
):
    fake.on_cpu = on_cpu
    evaluate(*load(dtype), ParityTask(), "test", progress=False, decoder=VLLM())
    assert fake.made[0]["dtype"] == dtype and fake.made[0].get("enforce_eager", False) == on_cpu


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("on_cpu", [False, True])
def test_making_an_engine_does_not_pass_for_a_launch_and_leaves_the_threads(load, fake, monkeypatch, on_cpu, fails):
    monkeypatch.setenv("MASTER_PORT", "1234")
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    fake.on_cpu, before = on_cpu, {name: os.environ.get(name) for name in SET}
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    torch.set_num_threads(2)
    if fails:
        monkeypatch.setattr("trl.generation.vllm_generation.VLLMGeneration._init_vllm", broken_half_way)
    try:
        with pytest.raises(BoostError, match="no room") if fails else nullcontext():
            evaluate(*load(), ParityTask(), "test", progress=False, decoder=VLLM())
        assert torch.get_num_threads() == 2 and torch.set_num_threads is set_threads
    finally:
        torch.set_num_threads(threads)
    assert {name: os.environ.get(name) for name in SET} == before and before["RANK"] is None


def broken_half_way(self):
    os.environ["RANK"] = "0"
    torch.set_num_threads(1)
    raise RuntimeError("no room")


# --- identity


def test_recorded_runs_keep_their_trainer(load):
    fields = set(GRPO().settings())
    trainers = [json.loads(path.read_text())["identity"]["trainer"] for path in RUNS]
    recorded = [trainer for trainer in trainers if trainer["kind"] == "grpo"]
    assert len(recorded) > 10
    for trainer in recorded:  # those of before `sampler` sampled with torch's own generator
        assert set(trainer) | {"sampler"} == fields


def test_whether_vllm_samples_is_identity_and_where_it_runs_is_not(load, fake):
    model, _ = load()
    here, there = (GRPO(use_vllm=True, vllm=where) for where in (VLLM(), SERVER))
    assert here.settings() == there.settings()
    assert here.settings() | {"sampler": SAMPLER} == {**GRPO().settings(), "use_vllm": True}
    plain, one, other = (
        run_identity(model, ParityTask(), GRPO(), BoostConfig(vllm=where)) for where in (None, VLLM(), SERVER)
    )
    assert one == other == {**plain, "vllm": True} and "vllm" not in plain


def test_no_preset_turns_it_on():
    chosen = [preset for section in (MATH, CODE) for preset in section.values()]
    assert chosen and not any(preset.trainer.use_vllm or preset.boost.vllm for preset in chosen)


# --- what cannot be


def test_without_vllm_each_option_says_what_to_install(load, monkeypatch):
    monkeypatch.setattr("boostlib.evaluation.vllm.find_spec", lambda name: None)
    model, tokenizer = load()
    for ask in (
        lambda: GRPO(use_vllm=True),
        lambda: BoostConfig(vllm=VLLM()),
        lambda: evaluate(model, tokenizer, ParityTask(), progress=False, decoder=VLLM()),
    ):
        with pytest.raises(BoostError, match=r"vllm is not installed.*pip install 'trl\[vllm\]'"):
            ask()
    GRPO(vllm=SERVER), VLLM()  # settings alone ask for nothing


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"server": "gpu2:8000"}, "gpu2:8000"), ({"server": ""}, "http://"), ({"memory": 0.0}, "memory=0.0"),
     ({"memory": 1.5}, "memory=1.5")],
)  # fmt: skip
def test_bad_settings_are_named(settings, named):
    with pytest.raises(BoostError, match=named):
        VLLM(**settings)


def test_an_engine_that_does_not_start_says_what_to_do(load, fake, monkeypatch):
    model, tokenizer = load()
    fake.served, folder = "", fake.served
    with pytest.raises(BoostError, match=f"can't be reached at http://localhost:8000.*vllm-serve --model {folder}"):
        train(model, tokenizer, None, SERVER)

    def full(*_, **__):
        raise ValueError("Free memory on device is less than desired")

    monkeypatch.setattr("trl.generation.vllm_generation.LLM", full)
    for fake.on_cpu, remedy in ((False, "lower memory.*GPU"), (True, "share of the machine's.*VLLM_CPU_KVCACHE_SPACE")):
        with pytest.raises(BoostError, match=f"VLLM.*memory=0.3.*less than desired.*{remedy}"):
            evaluate(model, tokenizer, ParityTask(), progress=False, decoder=VLLM())
    assert model.name_or_path == folder and not any(name in os.environ for name in ("RANK", "LOCAL_RANK"))


def test_a_server_that_answers_something_else_is_one_clear_error(load, fake, monkeypatch):
    model, tokenizer = load()
    fake.answer = 500
    with pytest.raises(BoostError, match="server.*Request failed: 500, no room.*without vllm"):
        evaluate(model, tokenizer, ParityTask(), progress=False, decoder=SERVER)

    def refuses(*_, **__):
        raise Exception("Request failed: 404")  # as TRL's client says it

    monkeypatch.setattr("trl.generation.vllm_generation.VLLMClient", refuses)
    monkeypatch.setattr("boostlib.evaluation.vllm._ENGINES", {})
    with pytest.raises(BoostError, match="Request failed: 404.*vllm-serve --model .* --dtype float32"):
        evaluate(model, tokenizer, ParityTask(), progress=False, decoder=SERVER)


def test_weights_that_an_engine_has_no_place_for_are_one_clear_error(load, fake):
    model, tokenizer = load()
    evaluate(model, tokenizer, ParityTask(), "test", progress=False, decoder=VLLM())
    (made,) = sys.modules["boostlib.evaluation.vllm"]._ENGINES.values()
    made.llm.inner.packed = True  # as on a CPU, but taken for a GPU
    with pytest.raises(BoostError, match="did not take the weights.*AttributeError.*weight_loader"):
        evaluate(model, tokenizer, ParityTask(), "test", progress=False, decoder=VLLM())


def test_a_model_without_a_name_a_classifier_and_drafts_are_refused(
    fake, tiny_llama, tiny_tokenizer, tiny_classifier, tiny_protein_tokenizer
):
    with pytest.raises(ModelError, match="by its name.*load_model"):
        evaluate(tiny_llama(), tiny_tokenizer, ParityTask(), progress=False, decoder=VLLM())
    with pytest.raises(ModelError, match="classifier"):
        evaluate(tiny_classifier(), tiny_protein_tokenizer, CoinTask(), progress=False, decoder=VLLM())
    with pytest.raises(BoostError, match="drafts"):
        BoostConfig(vllm=VLLM(), drafts=True)


def test_a_server_evaluates_for_one_process(load, fake, monkeypatch):
    monkeypatch.setattr("boostlib.common.world.size", lambda: 2)
    with pytest.raises(BoostError, match="localhost:8000.*there are 2"):
        evaluate(*load(), ParityTask(), progress=False, decoder=SERVER)


@pytest.mark.parametrize(
    ("given", "server"), [(["--vllm"], None), (["--vllm", "http://gpu2:8000"], "http://gpu2:8000")]
)
def test_the_command_line_samples_and_evaluates_with_it(fake, monkeypatch, given, server):
    asked = []

    def run(chosen, *_, **__):
        asked.append(chosen)
        raise BoostError("enough")

    monkeypatch.setattr("boostlib.experiments.methods.run_method", run)
    assert main(["boost", "--preset", "smoke", *given]) == 1
    assert asked[0].trainer.use_vllm and asked[0].trainer.vllm == asked[0].boost.vllm == VLLM(server=server)


def test_the_command_line_says_what_is_missing_and_what_has_no_texts(capsys):
    assert main(["boost", "--preset", "smoke", "--vllm"]) == 1 and INSTALL in capsys.readouterr().err
    assert main(["boost", "--section", "protein", "--vllm"]) == 1 and "math or code" in capsys.readouterr().err
