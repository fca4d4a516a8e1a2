"""Shared prefixes, batches and repeated samples save work and change no token."""

import copy
import functools

import pytest
import torch
from helpers import ParityTask
from transformers import GenerationConfig

from boostlib import GRPO, AdapterConfig, SVDBasis, TinyLoRA, evaluate
from boostlib.common.errors import BoostError, DataError
from boostlib.evaluation import loop
from boostlib.evaluation.generate import cut_at, encode, end_tokens, flat_linears, generate, shared_prefix
from boostlib.evaluation.sample import Draws
from boostlib.models.subject import Subject
from boostlib.tasks.gsm8k import GSM8K

PREFIX = [5, 9, 44, 17, 80, 33]
RAGGED = [[7], [60, 3, 91, 12], [8, 8], [7, 30, 55, 90, 120, 200, 31], [99, 4, 4]]
PROMPTS = {
    "shared": [PREFIX + rest for rest in RAGGED],
    "unshared": [[40 + i, *rest] for i, rest in enumerate(RAGGED)],
    "equal": [PREFIX] * 3,
    "one": [PREFIX],
    "one token": [[7], [9]],
    "a prefix of the others": [PREFIX, [*PREFIX, 7, 8], [*PREFIX, 9]],
}


def plainly(model, tokenizer, prompt: list[int], count: int) -> list[int]:
    """transformers' own greedy decoding of one prompt by itself."""
    config = GenerationConfig(
        max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=tokenizer.eos_token_id
    )
    ids = torch.tensor([prompt])
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS.keys())
@pytest.mark.parametrize("batch_size", [2, 64])
@pytest.mark.parametrize("samples", [1, 3])
def test_greedy_is_what_transformers_gives_row_by_row(lively, tiny_tokenizer, prompts, batch_size, samples):
    model = lively()
    ours = generate(model, tiny_tokenizer, prompts, 6, batch_size=batch_size, samples=samples)
    expected = [plainly(model, tiny_tokenizer, prompt, 6) for prompt in prompts]
    assert ours == [ids for ids in expected for _ in range(samples)]


def test_the_model_used_here_says_different_things(lively, tiny_tokenizer):
    """Otherwise agreement above would mean little."""
    ours = generate(lively(), tiny_tokenizer, PROMPTS["shared"], 6)
    assert len({tuple(ids) for ids in ours}) == 5 and len({token for ids in ours for token in ids}) > 8


def test_completions_end_with_the_first_end_token(lively, tiny_tokenizer, monkeypatch):
    model, prompts = lively(), PROMPTS["shared"]
    free = generate(model, tiny_tokenizer, prompts, 6)
    model.generation_config.eos_token_id = [free[0][2], 1]  # as a model with several end tokens has it
    cut = generate(model, tiny_tokenizer, prompts, 6)
    ends = {free[0][2], 1}
    for whole, short in zip(free, cut, strict=True):
        stop = next((i for i, token in enumerate(whole) if token in ends), None)
        assert short == (whole if stop is None else whole[: stop + 1])
    assert len(cut[0]) <= 3
    assert [len(ids) for ids in generate(model, tiny_tokenizer, prompts, 6, stop_at_end=False)] == [6] * 5


def test_sampling_is_seeded_and_follows_the_softmax(tiny_llama, tiny_tokenizer):
    model, prompt = tiny_llama(), PREFIX
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
        p = (model(input_ids=torch.tensor([prompt])).logits[0, -1] / 2).softmax(-1)

    def draw(seed):
        draws = Draws(("test", seed))
        return generate(model, tiny_tokenizer, [prompt, [9, 9]], 1, temperature=2.0, samples=3000, draws=draws)

    first, other = draw(0), draw(1)
    assert first == draw(0) != other
    counts = torch.bincount(torch.tensor([ids[0] for ids in first[:3000]]), minlength=len(p))
    assert (counts / 3000 - p).abs().max() < 5 * float((p.max() * (1 - p.max()) / 3000).sqrt()) + 1e-3
    assert len(counts.nonzero()) > 100  # no top-k, no top-p


@pytest.mark.parametrize("prompts", ["shared", "apart"])
def test_samples_do_not_depend_on_the_batch(tiny_llama, tiny_tokenizer, monkeypatch, prompts):
    """Batches of 1, 7 and 64, another order, a part of them, rows leaving or not: the same tokens in fp64."""
    model = tiny_llama().double()
    for parameter in model.parameters():
        parameter.data.mul_(3)
    ids = [[*(PREFIX if prompts == "shared" else [k]), *range(9, 9 + 1 + k % 5)] for k in range(20)]
    ends = [one[0] for one in generate(model, tiny_tokenizer, ids, 1, temperature=1.0)][:2]
    model.generation_config.eos_token_id = [*ends, 1]

    def draw(some=ids, first=0, size=64, samples=3):
        draws = Draws(("test",), first)
        return generate(model, tiny_tokenizer, some, 24, 1.0, samples, size, stop=r"a.*e", draws=draws)

    whole = draw()
    assert len({len(one) for one in whole}) > 3  # they end at different places
    assert draw(size=1) == draw(size=7) == whole
    assert draw(ids[12:], first=12 * 3) == whole[12 * 3 :]
    assert draw([one for one in ids for _ in range(3)], samples=1) == whole
    monkeypatch.setattr(loop, "LEAVERS", 0)  # none leaves
    assert draw() == whole
    monkeypatch.setattr(loop, "LEAVERS", 10**6)  # every one leaves at the next look
    assert draw() == whole


def test_samples_of_a_prompt_stand_together(lively, tiny_tokenizer):
    torch.manual_seed(0)
    out = generate(lively(), tiny_tokenizer, PROMPTS["shared"], 4, temperature=1e-4, samples=2, batch_size=2)
    assert out[0::2] == out[1::2] == generate(lively(), tiny_tokenizer, PROMPTS["shared"], 4)


def test_progress_counts_prompts_and_the_mode_is_put_back(lively, tiny_tokenizer):
    model, seen = lively().train(), []
    generate(model, tiny_tokenizer, PROMPTS["shared"], 1, batch_size=2, samples=2, on_batch=seen.append)
    assert seen == [2, 2, 1] and model.training
    assert generate(model, tiny_tokenizer, [], 1) == []


def test_a_failure_leaves_the_model_as_it_was(lively, tiny_tokenizer, monkeypatch):
    model = lively(torch.bfloat16).train()
    monkeypatch.setattr(type(model), "generate", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate(model, tiny_tokenizer, PROMPTS["one"], 1)
    assert model.training and not any("forward" in vars(m) for m in model.modules())


# --- the fast path of frozen bf16 linears


def test_flat_linears_give_the_same_numbers_and_restore(lively):
    model, ids = lively(torch.bfloat16).requires_grad_(False), torch.tensor([PREFIX, PREFIX[::-1]])
    before = model(input_ids=ids).logits
    names = [name for name, _ in model.named_parameters()]
    with flat_linears(model):
        patched = [name for name, module in model.named_modules() if "forward" in vars(module)]
        assert len(patched) == 7 * 2 + 1
        assert [name for name, _ in model.named_parameters()] == names
        inside = model(input_ids=ids).logits
        with flat_linears(model):  # an inner one leaves the outer one's work alone
            pass
        assert len([m for m in model.modules() if "forward" in vars(m)]) == len(patched)
    assert not any("forward" in vars(module) for module in model.modules())
    torch.testing.assert_close(inside, before, rtol=0.02, atol=0.02 * float(before.abs().max()))


def test_flat_linears_leave_fp32_and_biases_alone(lively):
    model = lively()
    with flat_linears(model):
        assert not any("forward" in vars(module) for module in model.modules())
    model = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=True), torch.nn.Linear(4, 4, bias=False)).bfloat16()
    with flat_linears(model):
        assert ["forward" in vars(module) for module in model] == [False, True]
        for shape in [(3, 4), (2, 3, 4), (2, 2, 3, 4)]:
            assert model(torch.zeros(shape, dtype=torch.bfloat16)).shape == shape


def test_flat_linears_still_call_hooks(lively):
    model, calls = lively(torch.bfloat16), []
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: calls.append(1))
    with flat_linears(model):
        model(input_ids=torch.tensor([PREFIX]))
    assert calls == [1]


# --- tokens


def test_encode_keeps_raw_text_and_applies_the_template_to_chat(tiny_tokenizer):
    chat = [{"role": "user", "content": "hi"}]
    raw, templated = encode(tiny_tokenizer, ["hi", chat])
    assert tiny_tokenizer.decode(raw) == "hi"
    assert tiny_tokenizer.decode(templated) == "user: hi<eos>\nassistant: "
    assert encode(tiny_tokenizer, []) == []


def test_chat_without_a_template_is_an_error(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(tiny_tokenizer, "chat_template", None)
    with pytest.raises(DataError, match="no chat template: use an instruct model"):
        encode(tiny_tokenizer, [[{"role": "user", "content": "hi"}]])
    assert len(encode(tiny_tokenizer, ["hi"])) == 1


@pytest.mark.parametrize(
    ("sequences", "shared"),
    [
        ([], 0),
        ([[]], 0),
        ([[], PREFIX], 0),
        ([PREFIX], 5),  # at least one token is left to read
        ([PREFIX, PREFIX], 5),
        ([[*PREFIX, 1], [*PREFIX, 2]], 6),
        ([PREFIX, [*PREFIX, 1, 2]], 5),
        ([PREFIX[:4], PREFIX], 0),  # three tokens are not worth a pass of their own
        ([PREFIX[:5], PREFIX], 4),
        ([PREFIX, [6, *PREFIX[1:]]], 0),
        ([[*PREFIX, 9], [*PREFIX, 1, 5], [*PREFIX[:4], 0, 0, 0]], 4),
    ],
)
def test_shared_prefix(sequences, shared):
    assert shared_prefix(sequences) == PREFIX[:shared]


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS.keys())
@pytest.mark.parametrize("stop", [None, "[a-e]"])
def test_rows_that_are_done_leave_the_batch_and_the_others_go_on(lively, tiny_tokenizer, prompts, stop, monkeypatch):
    model, sizes = lively(), []
    free = [plainly(model, tiny_tokenizer, prompt, 15) for prompt in prompts]
    model.generation_config.eos_token_id = ends = [free[0][2], 1]
    expected = [ids[: next((i + 1 for i, token in enumerate(ids) if token in ends), 15)] for ids in free]
    expected = [cut_at(ids, tiny_tokenizer, stop) if stop else ids for ids in expected]
    forward = model.forward

    @functools.wraps(forward)  # generate reads the signature
    def counted(*args, input_ids, **kwargs):
        sizes.append(len(input_ids))
        return forward(*args, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(model, "forward", counted)
    assert generate(model, tiny_tokenizer, prompts, 15, stop=stop) == expected
    if len({len(ids) > 4 for ids in expected}) == 2:
        assert len(set(sizes[1:])) > 1, "nobody left"


# --- the model's own generation settings

LEAKS = {
    "min_p": {"min_p": 0.5}, "typical_p": {"typical_p": 0.2}, "epsilon_cutoff": {"epsilon_cutoff": 0.2},
    "eta_cutoff": {"eta_cutoff": 0.2}, "top_h": {"top_h": 0.3}, "n-grams": {"no_repeat_ngram_size": 1},
    "suppressed": {"suppress_tokens": list(range(2, 130))}, "begin suppressed": {"begin_suppress_tokens": [5, 9, 88]},
    "bias": {"sequence_bias": {(40,): 50.0}}, "bad words": {"bad_words_ids": [[k] for k in range(2, 130)]},
    "forced end": {"forced_eos_token_id": 60}, "forced begin": {"forced_bos_token_id": 61}, "beams": {"num_beams": 3},
    "no cache": {"use_cache": False}, "penalty": {"encoder_repetition_penalty": 3.0},
    "min length": {"min_new_tokens": 9},
    "sequences": {"num_return_sequences": 2}, "sampling": {"do_sample": True, "temperature": 0.1, "top_k": 1},
    "length penalty": {"exponential_decay_length_penalty": (1, 5.0)},
    "static cache": {"cache_implementation": "static"}, "quantized cache": {"cache_implementation": "quantized"},
    "cut-offs": {"temperature": 0.01, "top_k": 1, "top_p": 0.1, "renormalize_logits": True},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4}, "layers": {"dola_layers": "low"},
    "lookup": {"prompt_lookup_num_tokens": 3}, "guidance": {"guidance_scale": 3.0}, "length": {"max_length": 3},
    "texts": {"stop_strings": ["a"]}, "time": {"max_time": 0.0}, "diverse": {"num_beams": 4, "num_beam_groups": 2},
    "watermark": {"watermarking_config": {"bias": 9.0, "greenlist_ratio": 0.25}}, "healing": {"token_healing": True},
    "repetition": {"repetition_penalty": 5.0}, "no n-grams of the prompt": {"encoder_no_repeat_ngram_size": 1},
    "shortest": {"min_length": 40}, "pieces": {"prefill_chunk_size": 2}, "scores": {"output_scores": True},
    "constraints": {"force_words_ids": [[40]]}, "start": {"decoder_start_token_id": 44, "bos_token_id": 45},
}  # fmt: skip


@pytest.mark.parametrize("settings", LEAKS.values(), ids=LEAKS.keys())
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_of_the_models_settings_counts_but_its_end_tokens(lively, tiny_tokenizer, settings, temperature):
    prompts, found = encode(tiny_tokenizer, ["a b", "what is this", "x"]), []
    for extra in ({}, settings):
        model = lively()
        for name, value in {**extra, "eos_token_id": [1, 70]}.items():
            setattr(model.generation_config, name, value)
        own = model.generation_config
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found.append(generate(model, tiny_tokenizer, prompts, 8, temperature=temperature, samples=2))
        assert model.generation_config is own
    assert found[0] == found[1] and all(len(row) == 8 or row[-1] in (1, 70) for row in found[0])


# --- end tokens, padding, templates


def without(tokenizer, *names):
    """A tokenizer that lacks these special tokens."""
    other = copy.deepcopy(tokenizer)
    for name in names:
        setattr(other, name, None)
    return other


def test_a_tokenizer_without_an_end_token_writes_to_the_end_or_to_the_models_own(lively, tiny_tokenizer):
    model, bare = lively(), without(tiny_tokenizer, "eos_token", "pad_token")
    assert bare.eos_token_id is None and bare.pad_token_id is None
    model.generation_config.eos_token_id = None
    free = generate(model, bare, PROMPTS["shared"], 6)
    assert free == generate(model, tiny_tokenizer, PROMPTS["shared"], 6, stop_at_end=False)
    assert [len(ids) for ids in free] == [6] * 5 and end_tokens(model, bare) == []
    model.generation_config.eos_token_id = end = free[0][2]
    assert generate(model, bare, PROMPTS["shared"], 6)[0] == free[0][: free[0].index(end) + 1]


def test_a_tokenizer_without_a_padding_token_decodes_the_same(lively, tiny_tokenizer):
    model = lively()
    found = generate(model, without(tiny_tokenizer, "pad_token"), PROMPTS["unshared"], 6)
    assert found == generate(model, tiny_tokenizer, PROMPTS["unshared"], 6)


THINKING = (
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think></think>' }}{% endif %}"
)
CHAT = [{"role": "user", "content": "hi"}]


def test_options_reach_the_chat_template_and_what_it_does_not_know_is_named(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(tiny_tokenizer, "chat_template", THINKING)

    def text(options=None):
        return tiny_tokenizer.decode(encode(tiny_tokenizer, [CHAT], options)[0])

    assert text() == text({}) == text({"enable_thinking": True}) == "hi"
    assert text({"enable_thinking": False}) == "hi<think></think>"
    with pytest.raises(DataError, match="prompt_options=.*'thinking': True.*knows no 'thinking'"):
        text({"thinking": True})
    with pytest.raises(DataError, match="prompts of raw text, which no chat template shapes"):
        encode(tiny_tokenizer, ["raw"], {"enable_thinking": False})


def test_options_are_part_of_a_tasks_identity_where_there_are_any():
    plain, thoughtless = GSM8K(), GSM8K(prompt_options={"enable_thinking": False})
    assert "prompt_options" not in plain.settings() and plain.settings() == GSM8K(prompt_options={}).settings()
    assert thoughtless.settings() == {**plain.settings(), "prompt_options": {"enable_thinking": False}}
    with pytest.raises(BoostError, match="prompt_options must be a mapping of variables of the chat template"):
        GSM8K(prompt_options=["enable_thinking"])


def test_evaluation_and_rollouts_ask_with_the_options(lively, tiny_tokenizer, monkeypatch, tmp_path):
    monkeypatch.setattr(tiny_tokenizer, "chat_template", THINKING)

    class Task(ParityTask):
        prompt_options = {"enable_thinking": False}

    model, task, seen = lively(), Task(chat=True), []
    examples = task.split("train")[:3]
    wanted = {text + "<think></think>" for text in (example.prompt[0]["content"] for example in examples)}

    def watched(*args, **kwargs):
        seen.extend(tiny_tokenizer.batch_decode(args[2]))
        return generate(*args, **kwargs)

    monkeypatch.setattr("boostlib.evaluation.decode.generate", watched)
    monkeypatch.setattr("boostlib.training.trl.generate", watched)
    evaluate(model, tiny_tokenizer, task, examples=examples, progress=False)
    assert set(seen) == wanted
    seen.clear()
    adapter = TinyLoRA(SVDBasis.from_model(model, 2, cache_dir=tmp_path), AdapterConfig(n_tie=7)).attach(model)
    GRPO(prompts=3, samples=4, max_samples=4, max_steps=1).train(
        Subject(model, tiny_tokenizer, task), examples, adapter
    )
    assert set(seen) == wanted
