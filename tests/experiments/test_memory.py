"""Estimates of memory against what really is held: saved tensors of one layer, and the peaks of a small round."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, BertConfig, EsmConfig, LlamaConfig, Qwen2Config

from boostlib import AdapterConfig, SVDBasis, TinyLoRA, target_modules
from boostlib.common.errors import ModelError
from boostlib.experiments.memory import (
    GB,
    KNOWN,
    PROMPTS,
    built,
    config_by_name,
    estimate,
    lengths_of,
    remedy,
    shapes_by_name,
    shapes_of,
)
from boostlib.experiments.presets import MATH, PROTEIN, SECTIONS
from boostlib.models.classifier import SequenceClassifier
from boostlib.models.embedded import EMBEDDED, convert, embedded_models

ROWS, LENGTH, LAYERS = 4, 64, 4
GPU, CPU = torch.device("cuda"), torch.device("cpu")
SIZES = {"hidden_size": 128, "intermediate_size": 320, "num_attention_heads": 4, "num_hidden_layers": LAYERS}
FAMILIES = {
    "llama": LlamaConfig(vocab_size=50, num_key_value_heads=2, **SIZES),
    "qwen2": Qwen2Config(vocab_size=50, num_key_value_heads=2, **SIZES),
    "bert": BertConfig(vocab_size=50, **SIZES),
    "esm": EsmConfig(vocab_size=33, position_embedding_type="rotary", pad_token_id=1, mask_token_id=32, **SIZES),
}


@pytest.fixture
def on_gpu(monkeypatch):
    """Presets with dtype="auto" load in bf16, as on a GPU."""
    monkeypatch.setattr("boostlib.models.language.default_dtype", lambda device: torch.bfloat16)


def saved_bytes(model) -> int:
    """Bytes that one forward pass keeps for the backward one, weights and factors left out."""
    names = target_modules(model)
    sides = {name: model.get_submodule(name).weight.shape for name in names}
    basis = SVDBasis(
        {n: (torch.randn(out, 2), torch.ones(2), torch.randn(2, into)) for n, (out, into) in sides.items()}
    )
    adapter = TinyLoRA(basis, AdapterConfig(n_tie=1)).attach(model)
    factors = [t for parts in adapter._on_device.values() for t in parts]
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *factors)}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids, mask = torch.randint(5, 20, (ROWS, LENGTH)), torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask[0, -5:] = 0
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if isinstance(model, SequenceClassifier):
            out = model(ids, mask, mask)
        else:
            out = model.base_model(input_ids=ids, attention_mask=mask.flip(1), use_cache=False).last_hidden_state
    del out
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_formula_is_what_the_backward_pass_keeps(family, dtype):
    config = FAMILIES[family]
    if family in ("bert", "esm"):
        model = SequenceClassifier(AutoModel.from_config(config, dtype=dtype)).eval()
    else:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    formula = shapes_of(model).saved(dtype.itemsize, LENGTH, 2) * LAYERS * ROWS * LENGTH
    assert 0.9 < formula / saved_bytes(model) < 1.1


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc/self/clear_refs")
def test_a_small_round_peaks_where_the_estimate_says(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save_pretrained(tmp_path)
    script = Path(__file__).with_name("peak_memory.py")
    own = {"BOOSTLIB_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(script.parents[1])}  # where helpers.py is
    environment = {**os.environ, **own}
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    ratios = {phase: found["estimate"][phase] / real for phase, real in found["real"].items()}
    assert all(0.6 < ratio < 1.7 for ratio in ratios.values()), (ratios, found)


# --- shapes


def test_shapes_of_the_papers_models():
    qwen, esm = shapes_by_name("Qwen/Qwen2.5-3B-Instruct"), shapes_by_name("facebook/esm2_t33_650M_UR50D", True)
    assert (len(qwen.targets), len(esm.targets)) == (252, 198)
    assert qwen.parameters == pytest.approx(3.09e9, rel=0.01)
    assert esm.parameters == pytest.approx(0.65e9, rel=0.01)


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_table_agrees_with_the_embedded_models(name):
    if embedded_models()[name] != "converted":
        pytest.skip("not converted here")
    config, classifier = AutoConfig.from_pretrained(convert(name)), not EMBEDDED[name].generates
    assert shapes_of(built(config, classifier)) == shapes_by_name(name, classifier)


def test_every_preset_has_known_shapes_and_lengths():
    for presets in SECTIONS.values():
        for preset in presets.values():
            assert preset.model in KNOWN
            assert {preset.task, *preset.also} <= set(PROMPTS)


def test_a_local_folder_gives_its_shapes_and_an_unknown_name_an_error(tiny_llama, tmp_path):
    tiny_llama().save_pretrained(tmp_path)
    assert shapes_of(built(config_by_name(str(tmp_path)))) == shapes_of(tiny_llama())
    with pytest.raises(ModelError, match="nobody/nothing"):
        shapes_by_name("nobody/nothing")


def test_prompts_of_the_synthetic_tasks_are_no_longer_than_the_table_says():
    from boostlib import encode, load_task
    from boostlib.models.language import load_tokenizer

    if embedded_models()["smollm2"] != "converted":
        pytest.skip("not converted here")
    tokenizer = load_tokenizer("smollm2")
    programs = ("train", "test", "neighbour")
    for name, splits in (("arithmetic", ("train", "test")), ("python_basics", programs), ("python_more", programs)):
        longest = max(len(ids) for split in splits
                      for ids in encode(tokenizer, [e.prompt for e in load_task(name).split(split)]))  # fmt: skip
        assert longest == PROMPTS[name][1]


# --- what settings do


def test_w0_on_the_cpu_moves_it_off_the_device(on_gpu):
    preset = MATH["paper"]
    moved = replace(preset, boost=replace(preset.boost, w0_device="cpu"))
    w0 = shapes_by_name(preset.model).target_numbers * 2
    there, here = estimate(preset, GPU), estimate(moved, GPU)
    assert {phase: there[phase] - here[phase] for phase in here} == pytest.approx(dict.fromkeys(here, w0))
    assert estimate(preset, CPU) == estimate(moved, CPU)


def test_checkpointing_and_smaller_batches_lower_the_phase_they_are_for(on_gpu):
    preset, base = MATH["paper"], estimate(MATH["paper"], GPU)

    def with_trainer(**settings):
        return estimate(replace(preset, trainer=replace(preset.trainer, **settings)), GPU)

    assert with_trainer(gradient_checkpointing=False)["train"] > 2 * base["train"]
    assert with_trainer(micro_batch=8)["train"] < base["train"]
    assert with_trainer(rollout_batch=64)["rollout"] < base["rollout"]
    assert estimate(replace(preset, boost=replace(preset.boost, batch_size=32)), GPU)["evaluate"] < base["evaluate"]
    assert estimate(preset, GPU, retried=True)["rollout"] > base["rollout"]


def test_classifiers_chains_are_cut_to_the_tasks_length():
    assert lengths_of(SECTIONS["binding"]["demo"]).prompt == 256
    assert lengths_of(PROTEIN["paper"]).prompt == 1024


# --- remedies


def test_a_remedy_fits_and_names_only_what_it_changed(on_gpu):
    preset = MATH["paper"]
    need = max(estimate(preset, GPU).values())
    assert remedy(preset, need, GPU) == ""
    assert remedy(preset, need - 1, GPU).startswith("w0_device='cpu': ")
    said = remedy(preset, 16 * GB, GPU)
    settings, _, size = said.rpartition(": ")
    assert float(size.removesuffix(" GB")) <= 16 and "rollout_batch" in settings
    assert remedy(preset, 5 * GB, GPU).startswith("no setting is enough")
