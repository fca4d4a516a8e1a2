"""Exports: other people's loaders get the model that the run made, and nothing half-written is ever left."""

import json
import os
import subprocess
import sys

import pytest
import torch
from helpers import CoinTask, FakeTrainer, ParityTask, config
from peft import PeftModel
from recorded import recorded_run
from safetensors.torch import load_file
from transformers import AutoModel

from boostlib import AdapterConfig, Ledger, boost, export_merged, export_peft, load_classifier, load_model, replay
from boostlib.common.durable import new_directory
from boostlib.common.errors import BoostError, RunError
from boostlib.common.stable import fingerprint_tensors, philox
from boostlib.release.export import VLLM_RANKS, serving_notes

GENERATE = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
model, tokenizer = AutoModelForCausalLM.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("count to ten", return_tensors="pt").input_ids
out = model.eval().generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None)
assert "boostlib" not in sys.modules and "peft" not in sys.modules
print(out[0].tolist())
"""


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def base(tiny_llama, tiny_tokenizer, tmp_path):
    """The folder of a plain base model, which runs record as its name."""
    for one in (tiny_llama(), tiny_tokenizer):
        one.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def run(base, tmp_path):
    """run(**adapter settings): a recorded run of 3 rounds on the base, the second one skipped unless told otherwise."""

    def make(name="run", rounds=3, skip=(1,), scale=3.0, **settings) -> Ledger:
        adapter = AdapterConfig(**{"n_tie": 7, "u": 3, "blocks": rounds, **settings})
        return recorded_run(tmp_path / name, load(base), adapter, rounds, skip, scale=scale)

    return make


def load(folder: str):
    return load_model(folder, dtype="fp32", device="cpu")[0]


def logits(model) -> torch.Tensor:
    ids = torch.from_numpy(philox("ids").integers(2, 250, (3, 20)))
    with torch.no_grad():
        return model(ids).logits


# --- PEFT


@pytest.mark.parametrize("n_tie", [1, 7])
@pytest.mark.parametrize("strategy", ["rotate", "top", "greedy"])
def test_peft_loads_the_lora_and_gives_the_merged_models_logits(run, base, tmp_path, strategy, n_tie):
    ledger = run(strategy=strategy, n_tie=n_tie)
    export_peft(ledger.dir, tmp_path / "lora")
    merged, plain = logits(replay(ledger.dir)), logits(load(base))
    lora = PeftModel.from_pretrained(load(base), tmp_path / "lora").eval()
    assert (logits(lora) - merged).abs().max() < 1e-4
    assert (plain - merged).abs().max() > 0.1  # else the LoRA could have been empty
    settings = lora.peft_config["default"]
    assert settings.r == settings.lora_alpha == 4  # r = 2, two of three rounds merged
    assert {a.shape[0] for name, a in lora.named_parameters() if "lora_A" in name} == {4}


def test_peft_finds_exactly_the_modules_of_the_run(run, base, tmp_path):
    ledger = run()
    export_peft(ledger.dir, tmp_path / "lora")
    lora = PeftModel.from_pretrained(load(base), tmp_path / "lora")
    found = {name.split(".lora_A")[0] for name in lora.state_dict() if "lora_A" in name}
    stored = {name.split(".lora_A")[0] for name in load_file(tmp_path / "lora/adapter_model.safetensors")}
    assert found == {name for name in stored if "lora_B" not in name} and len(found) == 14


def test_some_layers_only_are_named_in_full(base, tmp_path):
    model = load(base)
    tokenizer = load_model(base)[1]
    settings = config(2, targets=("model.layers.1.mlp.up_proj", "q_proj"), n_tie=3)
    run = boost(model, tokenizer, ParityTask(), FakeTrainer(), settings, tmp_path / "run", progress=False)
    export_peft(run.dir, tmp_path / "lora")
    names = json.loads((tmp_path / "lora/adapter_config.json").read_text())["target_modules"]
    assert sorted(names) == sorted(run.update)
    lora = PeftModel.from_pretrained(load(base), tmp_path / "lora").eval()
    assert sum("lora_A" in name for name in lora.state_dict()) == 3
    assert (logits(lora) - logits(run.model)).abs().max() < 1e-4
    assert "Not for vLLM" in (tmp_path / "lora/README.md").read_text()


def test_an_earlier_round_is_a_lora_of_lower_rank(run, base, tmp_path):
    ledger = run()
    export_peft(ledger.dir, tmp_path / "lora", round=0)
    lora = PeftModel.from_pretrained(load(base), tmp_path / "lora").eval()
    assert lora.peft_config["default"].r == 2
    assert (logits(lora) - logits(replay(ledger.dir, 0))).abs().max() < 1e-4


def test_nothing_merged_is_no_lora(run, tmp_path):
    ledger = run(skip=(0, 1, 2))
    with pytest.raises(RunError, match="no merged round"):
        export_peft(ledger.dir, tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    ledger = run()
    one, two = (export_peft(ledger.dir, tmp_path / name) for name in ("one", "two"))
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes(), path.name


# --- vLLM, by its rules


def test_vllm_would_load_the_export(run, tmp_path):
    """The rules of vLLM's PEFTHelper, MaxLoRARanks and parse_fine_tuned_lora_name, as far as files can tell."""
    export_peft(run().dir, tmp_path / "lora")
    settings = json.loads((tmp_path / "lora/adapter_config.json").read_text())
    assert serving_notes(settings) == ["vLLM: `--enable-lora --max-lora-rank 8`."]
    assert not any(settings.get(key) for key in ("modules_to_save", "use_dora", "rank_pattern", "alpha_pattern"))
    assert settings["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert (settings["peft_type"], settings["bias"], settings["use_rslora"]) == ("LORA", "none", False)
    for name in load_file(tmp_path / "lora/adapter_model.safetensors"):
        assert name.startswith("base_model.model.model.layers.")
        assert name.split(".")[-3] in settings["target_modules"]
        assert name.endswith((".lora_A.weight", ".lora_B.weight"))
    assert "--max-lora-rank 8" in (tmp_path / "lora/README.md").read_text()


@pytest.mark.parametrize(
    ("change", "named"), [({"r": 514}, "514"), ({"target_modules": ["layers.0.q_proj"]}, "q_proj")]
)
def test_what_vllm_refuses_is_named(change, named):
    good = {"r": 40, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    assert serving_notes(good) == ["vLLM: `--enable-lora --max-lora-rank 64`."]
    (problem,) = serving_notes({**good, **change})
    assert problem.startswith("Not for vLLM: ") and named in problem
    assert serving_notes({**good, **change, "task_type": "FEATURE_EXTRACTION"}) == []


def test_the_next_rank_that_vllm_allows():
    for rank, allowed in [(2, 8), (8, 8), (40, 64), (300, 320), (512, 512), *zip(VLLM_RANKS, VLLM_RANKS, strict=True)]:
        (note,) = serving_notes({"r": rank, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"})
        assert note.endswith(f"--max-lora-rank {allowed}`.")


# --- merged


def test_the_merged_model_generates_the_same_tokens_where_there_is_no_boostlib(run, base, tmp_path):
    ledger = run()
    export_merged(ledger.dir, tmp_path / "merged")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", GENERATE, str(tmp_path / "merged")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    ids = load_model(base)[1]("count to ten", return_tensors="pt").input_ids
    expected, plain = (
        one.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None)[0].tolist()
        for one in (replay(ledger.dir), load(base))
    )
    assert json.loads(done.stdout.strip().splitlines()[-1]) == expected != plain


@pytest.mark.parametrize("round", [-1, 0, None])
def test_merged_weights_are_the_rounds_bit_for_bit_and_nothing_else_is_there(run, base, tmp_path, round):
    ledger = run()
    export_merged(ledger.dir, tmp_path / "merged", round)
    loaded, expected = load(str(tmp_path / "merged")), replay(ledger.dir, round)
    assert fingerprint_tensors(loaded.state_dict()) == fingerprint_tensors(expected.state_dict())
    names = load_file(tmp_path / "merged/model.safetensors")
    assert set(names) == set(load_file(f"{base}/model.safetensors"))
    settings = (tmp_path / "merged/config.json").read_text()
    assert not any(word in settings for word in ("lora", "boost", "quantization_config"))


def test_a_quantized_origin_leaves_no_trace(run, tmp_path):
    ledger, model = run(), load(str(tmp_path / "base"))
    model.config.quantization_config = {"quant_method": "gguf"}
    export_merged(ledger.dir, tmp_path / "merged", model=model)
    assert "quantization_config" not in json.loads((tmp_path / "merged/config.json").read_text())
    assert logits(load(str(tmp_path / "merged"))).isfinite().all()


def test_bf16_stays_bf16(tiny_llama, tiny_tokenizer, tmp_path):
    model = tiny_llama(dtype=torch.bfloat16)
    ledger = recorded_run(tmp_path / "run", model, AdapterConfig(n_tie=7, u=3), scale=3.0)
    export_merged(ledger.dir, tmp_path / "merged", model=model, tokenizer=tiny_tokenizer)
    assert {t.dtype for t in load_file(tmp_path / "merged/model.safetensors").values()} == {torch.bfloat16}


# --- a classifier


@pytest.fixture
def classified(tiny_classifier, tiny_protein_tokenizer, tmp_path):
    """A run of a classifier, whose encoder is a folder."""
    model = tiny_classifier()
    for one in (model.encoder, tiny_protein_tokenizer):
        one.save_pretrained(tmp_path / "encoder")
    model.config._name_or_path = str(tmp_path / "encoder")
    arguments = CoinTask(), FakeTrainer(), config(2, n_tie=4)
    return boost(model, tiny_protein_tokenizer, *arguments, tmp_path / "run", progress=False)


def states(encoder) -> torch.Tensor:
    ids = torch.from_numpy(philox("residues").integers(5, 25, (2, 12)))
    with torch.no_grad():
        return encoder(ids, attention_mask=torch.ones_like(ids)).last_hidden_state


def test_a_merged_classifier_is_an_encoder_and_its_head(classified, tmp_path):
    export_merged(classified.dir, tmp_path / "merged")
    loaded, _ = load_classifier(str(tmp_path / "merged"), dtype="fp32", device="cpu")
    assert fingerprint_tensors(loaded.state_dict()) == fingerprint_tensors(classified.model.state_dict())


def test_a_classifiers_lora_fits_the_plain_encoder(classified, tmp_path):
    export_peft(classified.dir, tmp_path / "lora")
    base = AutoModel.from_pretrained(tmp_path / "encoder").eval()  # with a pooler, whose linear is a "dense" too
    lora = PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    assert (states(lora) - states(classified.model.encoder)).abs().max() < 1e-4
    assert (states(AutoModel.from_pretrained(tmp_path / "encoder").eval()) - states(lora)).abs().max() > 0.01
    assert not any("pooler" in name for name in lora.state_dict() if "lora" in name)
    assert torch.equal(load_file(tmp_path / "lora/head.safetensors")["weight"], classified.model.head.weight)


# --- the card


def test_the_card_says_what_the_ledger_says(run, base, tmp_path):
    ledger = run()
    export_merged(ledger.dir, tmp_path / "merged")
    card = (tmp_path / "merged/README.md").read_text()
    last, identity = ledger.rounds[-1], ledger.header["identity"]
    for text in (
        identity["model"]["fingerprint"],
        last.weights_fingerprint,
        "bit for bit those of the run",
        "3 failures to begin with",
        "round 1 (nothing learned)",
        f"{2 * last.num_parameters} trained numbers",
        "Broken: `<new 0>`, `<new 2>`" if "<new 0>" in ledger.failures_after(3) else "Broken: `<new 2>`",
        f"| test | 256 | {ledger.base.metrics['test'].accuracy:.3f} | {last.metrics['test'].accuracy:.3f} |",
        ledger.header["environment"]["device"],
        ledger.header["environment"]["torch"],
        "replay run --round 2",
        "licence of the base model",
    ):
        assert text in card, text


def test_classes_are_in_the_card_where_the_task_is_given(classified, tmp_path):
    export_merged(classified.dir, tmp_path / "merged", task=CoinTask())
    card = (tmp_path / "merged/README.md").read_text()
    assert "## Classes of errors" in card and "| train | (no class) | 12 |" in card


# --- whole or not at all


@pytest.mark.parametrize("export", [export_merged, export_peft])
def test_an_existing_target_is_refused_before_anything_is_loaded(run, tmp_path, export, monkeypatch):
    ledger = run()
    (tmp_path / "out").mkdir()
    monkeypatch.setattr("boostlib.run.load_model", lambda *args, **more: pytest.fail("loaded a model"))
    with pytest.raises(RunError, match="exists already.*another name"):
        export(ledger.dir, tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunError, match="exists already"):
        export(ledger.dir, tmp_path / "link")


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(28, "No space left on device"), MemoryError])
@pytest.mark.parametrize("point", ["boostlib.release.export.fingerprint_file", "boostlib.common.durable.reached"])
@pytest.mark.parametrize("export", [export_merged, export_peft])
def test_an_interrupted_export_leaves_nothing(run, tmp_path, export, point, fault, monkeypatch):
    ledger, before = run(), set(os.listdir(tmp_path)) | {"run"}

    def fail(*args):
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(point, fail)  # after the weights are written, or just before the rename
        with pytest.raises((KeyboardInterrupt, BoostError, MemoryError)) as caught:
            export(ledger.dir, tmp_path / "out")
    if isinstance(fault, OSError):
        assert "No space left" in str(caught.value)
    assert set(os.listdir(tmp_path)) == before
    export(ledger.dir, tmp_path / "out")  # and the same call then works
    assert (tmp_path / "out/README.md").is_file()


def test_a_killed_export_has_no_final_name(tmp_path):
    child = os.fork()
    if not child:
        with new_directory(tmp_path / "out") as folder:
            (folder / "half").write_text("x")
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (tmp_path / "out").exists()
    assert [path.name[:5] for path in tmp_path.iterdir()] == [".out-"]


def test_a_target_that_appears_meanwhile_is_kept(tmp_path):
    with pytest.raises(RunError, match="exists already"), new_directory(tmp_path / "out") as folder:
        (folder / "new").write_text("new")
        (tmp_path / "out").mkdir()
    assert list((tmp_path / "out").iterdir()) == []


def test_another_base_is_refused(run, tiny_llama, tmp_path):
    with pytest.raises(RunError, match="fingerprint"):
        export_peft(run().dir, tmp_path / "lora", model=tiny_llama(seed=1))
    assert not (tmp_path / "lora").exists()
