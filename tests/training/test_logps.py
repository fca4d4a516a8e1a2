"""Log-probabilities and gradients of any model are those of a plain pass over each row, whatever TRL would do."""

import pytest
import torch
from datasets import Dataset
from evaluation.test_layout import KINDS, LLAMA, PREFIX, enliven
from helpers import ParityTask, laid_out
from transformers import MixtralConfig, MixtralForCausalLM
from trl import GRPOConfig

from boostlib import GRPO, AdapterConfig, SVDBasis, TinyLoRA
from boostlib.common.errors import DataError, ModelError
from boostlib.models.subject import Subject
from boostlib.training.logps import Trusted, completion_logps, trusted
from boostlib.training.trl import FoldingTrainer

TEMPERATURE = 0.7
ROWS = {
    "shared": (
        [PREFIX + [7], PREFIX + [60, 3, 91, 12, 8, 9], PREFIX + [7]],
        [[3, 4, 1], [20, 21, 22, 23, 9], [3, 4, 1]],
    ),
    "apart": ([[40, 9], [41, *PREFIX], [42, 7, 8]], [[8], [3, 1], [4, 5, 6]]),
}
OWN_HEAD = ["a state that padding moves"]  # its soft cap has a name that TRL does not know
OWN_ROWS = ["learned positions", "local attention", "positions by slots"]  # TRL would count the padding in


def mixtral():
    """Its config asks for the routers' logits, of which TRL makes a loss."""
    settings = {"num_local_experts": 3, "num_experts_per_tok": 2, "output_router_logits": True, "sliding_window": None}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return enliven(MixtralForCausalLM(MixtralConfig(**LLAMA, **settings)))


def build(name: str):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return mixtral() if name == "router loss" else enliven(KINDS[name][0]())


def trainer(model, tokenizer, folder, **settings):
    config = GRPOConfig(
        str(folder), per_device_train_batch_size=4, num_generations=4, report_to="none", bf16=False, use_cpu=True,
        max_completion_length=4, temperature=TEMPERATURE, loss_type="dapo", beta=0.0, disable_tqdm=True,
        **{"gradient_checkpointing": False, **settings},
    )  # fmt: skip
    made = FoldingTrainer(
        model, lambda completions, **_: [0.0] * len(completions), config, Dataset.from_list([{"prompt": "a"}] * 3),
        processing_class=tokenizer,
    )  # fmt: skip
    made.current_gradient_accumulation_steps = 1
    return made


def plainly(model, prompt: list[int], completion: list[int]) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0, :-1].float() / TEMPERATURE
    return logits.log_softmax(-1).gather(1, torch.tensor(prompt + completion)[1:, None])[len(prompt) - 1 :, 0]


@pytest.mark.parametrize("name", [*KINDS, "router loss"])
def test_log_probabilities_and_the_loss_are_those_of_a_plain_pass(name, tiny_tokenizer, tmp_path):
    model = build(name)
    weight = next(p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n and "wte" not in n)
    plain = {key: [plainly(model, *pair) for pair in zip(*rows, strict=True)] for key, rows in ROWS.items()}
    made = trainer(model, tiny_tokenizer, tmp_path)
    model.train()
    trust = trusted(model, TEMPERATURE)
    assert trust == Trusted(name not in OWN_HEAD, name not in [*OWN_HEAD, *OWN_ROWS])
    for key, rows in ROWS.items():
        batch, advantages = laid_out(*rows), torch.tensor([1.0, -0.5, 2.0])
        ids, mask = (torch.cat([batch[f"prompt_{x}"], batch[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
        keep = batch["completion_ids"].shape[1]
        for size in (None, 2):  # TRL asks for pieces where it needs the values alone
            found, _, aux = made._get_per_token_logps_and_entropies(model, ids, mask, keep, batch_size=size)
            assert aux is None
            for row, wanted in zip(found, plain[key], strict=True):
                torch.testing.assert_close(row[: len(wanted)], wanted, rtol=1e-4, atol=3e-5)
        loss = made._compute_loss(model, {**batch, "advantages": advantages})
        wanted = -sum(a * p.sum() for a, p in zip(advantages, plain[key], strict=True)) / batch["num_items_in_batch"]
        (gradient,) = torch.autograd.grad(loss, weight)
        (expected,) = torch.autograd.grad(wanted, weight, retain_graph=True)
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert model.training
    if name == "router loss":
        assert model.config.output_router_logits


@pytest.mark.parametrize("name", ["learned positions", "router loss"])
def test_checkpointing_gives_the_same(name, tiny_tokenizer, tmp_path):
    model = build(name)
    if name == "learned positions":
        model.config.attn_pdrop = model.config.embd_pdrop = model.config.resid_pdrop = 0.0
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    wanted = [plainly(model, *pair).detach() for pair in zip(*ROWS["apart"], strict=True)]
    made = trainer(model, tiny_tokenizer, tmp_path, gradient_checkpointing=True)
    batch = laid_out(*ROWS["apart"])
    ids, mask = (torch.cat([batch[f"prompt_{x}"], batch[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
    model.train()
    found, _, _ = made._get_per_token_logps_and_entropies(model, ids, mask, batch["completion_ids"].shape[1])
    for row, one in zip(found, wanted, strict=True):
        torch.testing.assert_close(row[: len(one)], one, rtol=1e-4, atol=3e-5)


def test_rows_longer_than_the_model_reads_are_refused(tiny_tokenizer, tmp_path):
    model = build("learned positions")
    trainer(model, tiny_tokenizer, tmp_path)
    ids = torch.full((1, 65), 5)
    with pytest.raises(DataError, match="65 in all.*at most 64 .config.max_position_embeddings"):
        completion_logps(model, ids, torch.ones_like(ids), 4)


def test_training_names_the_failure_that_has_no_room(tiny_llama, tiny_tokenizer, tmp_path):
    model = tiny_llama()
    model.config.max_position_embeddings = 8
    adapter = TinyLoRA(SVDBasis.from_model(model, 2, cache_dir=tmp_path), AdapterConfig(n_tie=7)).attach(model)
    with pytest.raises(DataError, match="the prompt of 'train-0' has .*lower max_new_tokens"):
        GRPO(prompts=3, samples=4).train(
            Subject(model, tiny_tokenizer, ParityTask()), ParityTask().split("train"), adapter
        )


def test_training_asks_for_a_padding_token_where_there_is_none(tiny_llama, tiny_tokenizer, tmp_path, monkeypatch):
    model = tiny_llama()
    adapter = TinyLoRA(SVDBasis.from_model(model, 2, cache_dir=tmp_path), AdapterConfig(n_tie=7)).attach(model)
    for name in ("pad_token", "eos_token"):
        monkeypatch.setitem(tiny_tokenizer._special_tokens_map, name, None)
    with pytest.raises(ModelError, match="neither an end token nor a padding token.*set tokenizer.pad_token"):
        GRPO(prompts=3, samples=4).train(
            Subject(model, tiny_tokenizer, ParityTask()), ParityTask().split("train"), adapter
        )
