"""Whatever a model attends to, batches say what a plain pass over each row says: no cache, no padding, no prefix."""

import pytest
import torch
from transformers import (
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    BertConfig,
    BertLMHeadModel,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    JambaConfig,
    JambaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from boostlib.common.errors import DataError, ModelError
from boostlib.evaluation.drafts import _standing
from boostlib.evaluation.generate import generate, prompts_of
from boostlib.evaluation.layout import Layout, layout, most_tokens, require_room, window
from boostlib.models.subject import Subject
from boostlib.tasks.base import Example

SIZES = dict(vocab_size=258, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0, eos_token_id=1)
LLAMA = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "bos_token_id": None}
BART = dict(
    vocab_size=258, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=64, encoder_layers=2,
    encoder_attention_heads=4, encoder_ffn_dim=64, pad_token_id=0, eos_token_id=1, forced_eos_token_id=None,
)  # fmt: skip

KINDS = {
    "llama": (lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)), Layout(True, True, True)),
    "learned positions": (
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=258, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
        Layout(True, True, True),
    ),
    "sliding window": (
        lambda: MistralForCausalLM(MistralConfig(**LLAMA, sliding_window=9)),
        Layout(False, True, True, "its cache has layers of DynamicSlidingWindowLayer"),
    ),
    "local attention": (
        lambda: GPTNeoForCausalLM(
            GPTNeoConfig(
                vocab_size=258, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
                window_size=9, max_position_embeddings=64,
            )
        ),
        Layout(False, True, True, "it has config.window_size = 9"),
    ),
    "ALiBi by slots": (
        lambda: MptForCausalLM(MptConfig(vocab_size=258, d_model=32, n_layers=2, n_heads=4, max_seq_len=64)),
        Layout(False, True, True, "padding inside a row changes what it attends to"),
    ),
    "positions by slots": (
        lambda: BartForCausalLM(BartConfig(**BART)),
        Layout(
            False, False, True,
            "padding inside a row changes what it attends to; left padding changes its answers too",
        ),
    ),
    "a state": (
        lambda: MambaForCausalLM(MambaConfig(**{**SIZES, "state_size": 8, "time_step_rank": 4})),
        Layout(False, True, False, "its cache has layers of LinearAttentionLayer"),
    ),
    "attention and states": (
        lambda: JambaForCausalLM(
            JambaConfig(
                **LLAMA, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=8, mamba_dt_rank=4, num_experts=2,
                num_experts_per_tok=1, use_mamba_kernels=False,
            )
        ),
        Layout(False, True, True, "its cache has layers of LinearAttentionLayer"),
    ),
    "a state that padding moves": (
        lambda: RecurrentGemmaForCausalLM(
            RecurrentGemmaConfig(
                **{**SIZES, "num_hidden_layers": 3}, intermediate_size=64, lru_width=32, attention_window_size=9
            )
        ),
        Layout(
            False, False, False,
            "its cache has layers of DynamicSlidingWindowLayer, LinearAttentionLayer; "
            "left padding changes its answers too",
        ),
    ),
}  # fmt: skip
PREFIX = [9, 44, 17, 80, 33, 7, 101, 55, 12, 13, 200, 91]
PROMPTS = {
    "shared": [PREFIX + rest for rest in ([7], [60, 3, 91, 12], [30, 55, 90, 120, 200, 31, 8, 77], [8, 8])],
    "apart": [[40, 9], [41, *PREFIX], [42, 7, 8, 11, 15], [43, 43]],
}
NEW = 8


def enliven(model):
    """Larger weights, so that what is attended to decides what is said."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "A_log" not in name:
                size = 0.5 if "embed" in name or "wte" in name else 1.5 / parameter.shape[-1] ** 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    model.generation_config.eos_token_id = None
    return model.eval()


@pytest.fixture(params=KINDS, scope="module")
def kind(request):
    """(the model, the layout that it allows)"""
    build, expected = KINDS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return enliven(build()), expected


@torch.no_grad()
def plainly(model, prompt: list[int]) -> list[int]:
    """Token by token, the whole row anew each time."""
    ids = list(prompt)
    for _ in range(NEW):
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] == 1:
            break
    return ids[len(prompt) :]


def test_the_layout_is_measured_and_leaves_nothing_behind(kind):
    model, expected = kind
    model.train()
    state = torch.random.get_rng_state()
    own = model.generation_config
    assert layout(model) == expected
    assert model.training and torch.equal(torch.random.get_rng_state(), state) and model.generation_config is own
    assert bool(window(model.config)) == (not expected.shares and "padding inside" not in expected.reason)
    model.eval()


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS.keys())
def test_every_completion_is_that_of_a_plain_loop(kind, prompts, tiny_tokenizer):
    model, _ = kind
    wanted = [plainly(model, prompt) for prompt in prompts]
    for batch_size, samples in [(64, 1), (3, 1), (64, 2)]:
        found = generate(model, tiny_tokenizer, prompts, NEW, batch_size=batch_size, samples=samples)
        assert found == [ids for ids in wanted for _ in range(samples)]
    model.generation_config.eos_token_id = end = wanted[0][len(wanted[0]) // 2]  # now rows leave at different times
    try:
        ended = [ids[: ids.index(end) + 1] if end in ids else ids for ids in wanted]
        assert generate(model, tiny_tokenizer, prompts, NEW) == ended
    finally:
        model.generation_config.eos_token_id = None


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS.keys())
def test_drafts_stand_where_a_plain_loop_writes_them_again(kind, prompts, tiny_tokenizer):
    model, _ = kind
    wanted = [plainly(model, prompt) for prompt in prompts]
    places = [max(0, len(ids) - 2) for ids in wanted]
    others = [[*ids[:k], (ids[k] + 1) % 258, *ids[k + 1 :]] for ids, k in zip(wanted, places, strict=True)]
    drafts = [ids if i % 2 else other for i, (ids, other) in enumerate(zip(wanted, others, strict=True))]
    for batch_size in (2, 64):
        stands = _standing(Subject(model, tiny_tokenizer, None), prompts, drafts, batch_size)
        assert stands == [ids if i % 2 else ids[: places[i] + 1] for i, ids in enumerate(wanted)]


# --- refused


class Cachebreaker(LlamaForCausalLM):
    """Its cached steps say something else than its plain pass."""

    def forward(self, *args, past_key_values=None, **kwargs):
        out = super().forward(*args, past_key_values=past_key_values, **kwargs)
        if kwargs.get("use_cache") is not False:
            out.logits = out.logits.flip(-1)
        return out


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: BertLMHeadModel(BertConfig(**SIZES, intermediate_size=64)), "reads both ways.*left to right"),
        (lambda: BertModel(BertConfig(**SIZES, intermediate_size=64)), "BertModel cannot generate: load a language"),
        (lambda: BartForConditionalGeneration(BartConfig(**BART)), "decoder-only model is needed"),
        (lambda: Cachebreaker(LlamaConfig(**LLAMA)), "otherwise than its own plain pass says"),
    ],
    ids=["both ways", "no head", "encoder and decoder", "cache"],
)  # fmt: skip
def test_what_writes_no_text_from_left_to_right_is_refused(build, reason, tiny_tokenizer):
    model = build()
    model = enliven(model) if model.can_generate() else model.eval()
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(ModelError, match=reason):
            generate(model.to(dtype), tiny_tokenizer, [PREFIX], 2)


def test_a_decoder_of_the_same_kind_is_right():
    model = enliven(BertLMHeadModel(BertConfig(**SIZES, intermediate_size=64, is_decoder=True)))
    assert layout(model).pads


# --- how long a text may be


def llama(**settings):
    return LlamaForCausalLM(LlamaConfig(**{**LLAMA, "max_position_embeddings": 32, **settings}))


def rope(kind: str, **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


@pytest.mark.parametrize(
    ("model", "most"),
    [
        (llama, 32),
        (lambda: llama(**rope("yarn", factor=4.0, original_max_position_embeddings=32)), 128),
        (lambda: llama(**rope("linear", factor=2.0)), 64),
        (lambda: llama(**rope("dynamic", factor=2.0)), 32),
        (lambda: llama(max_position_embeddings=64, **rope("longrope", factor=2.0, short_factor=[1.0] * 4,
                       long_factor=[2.0] * 4, original_max_position_embeddings=24)), 24),
        (KINDS["learned positions"][0], 64), (KINDS["ALiBi by slots"][0], 64), (KINDS["a state"][0], None),
    ],
    ids=["rope", "yarn", "linear", "dynamic", "longrope", "learned", "MPT", "mamba"],
)  # fmt: skip
def test_the_longest_text_of_a_model(model, most):
    assert (most_tokens(model()) or (None, None))[1] == most


@pytest.mark.parametrize("build", [llama, KINDS["learned positions"][0]], ids=["rope", "learned"])
def test_a_prompt_without_room_is_named_before_anything_runs(build, tiny_tokenizer, monkeypatch):
    model = build()
    most = most_tokens(model)[1]
    fits, long = [5] * (most - 4), [5] * (most - 3)
    assert len(generate(model, tiny_tokenizer, [fits], 4, stop_at_end=False)[0]) == 4
    monkeypatch.setattr(model, "forward", lambda **_: 1 / 0)
    with pytest.raises(
        DataError, match=f"prompt 2 of 2 has {most - 3} tokens.*{most + 1} in all.*{most} .*lower max_n"
    ):
        generate(model, tiny_tokenizer, [fits, long], 4)
    task = type("Task", (), {"max_new_tokens": 4})
    examples = [Example("fine", "x" * (most - 4), ""), Example("too-long", "x" * (most - 3), "")]
    with pytest.raises(DataError, match="prompt of 'too-long'"):
        prompts_of(Subject(model, tiny_tokenizer, task), examples)


def test_a_model_without_positions_has_room_for_all():
    require_room(KINDS["a state"][0](), [10**6], 100)
