"""One forward and backward pass with an adapter on, against the frozen model alone and against PEFT's TinyLoRA.

The frozen model has one number to train, a factor of the embeddings, so that its backward pass runs through every
layer, as an adapter's does. The loss is the cross-entropy of as many last tokens as a completion has: the head runs
over those alone, as in GRPO.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boostlib.adapter import TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.bench.measure import Measurement, clock, interleaved
from boostlib.bench.setup import Setup, peft_tiny_lora
from boostlib.evaluation.generate import encode, flat_linears

PLAIN, OURS, PEER = "frozen model, no adapter", "adapter attached", "PEFT TinyLoRA"


def bench_step(setup: Setup) -> list[Measurement]:
    """Seconds of a pass over `setup.rows` prompts cut to one length."""
    model, tokenizer = setup.load()
    model.requires_grad_(False)
    ids = batch(tokenizer, setup, model.device)
    adapter = TinyLoRA(SVDBasis.from_model(model, setup.adapter.rank), setup.adapter)
    adapter.v.data.normal_(std=0.03)
    wrapped = peft_tiny_lora(setup.load()[0], setup.adapter, moved=True)
    factor = torch.ones((), device=model.device, requires_grad=True)

    def ours() -> float:
        adapter.attach(model)
        try:
            with flat_linears(model):
                return passed(model, ids, setup.task.max_new_tokens)
        finally:
            adapter.detach()

    def plain() -> float:
        with flat_linears(model):
            return passed(model, ids, setup.task.max_new_tokens, factor)

    runs = interleaved(
        {PLAIN: plain, OURS: ours, PEER: lambda: passed(wrapped, ids, setup.task.max_new_tokens)}, setup.repeats
    )
    numbers = {PLAIN: 1, OURS: adapter.num_parameters, PEER: sum(p.numel() for p in trained(wrapped))}
    work = {name: {"tokens": ids.numel(), "numbers": numbers[name]} for name in runs}
    return [Measurement("forward and backward pass", runs, [(OURS, PEER), (OURS, PLAIN)], work=work)]


def batch(tokenizer, setup: Setup, device: torch.device) -> Tensor:
    """(rows, L) ids of the first training prompts, all cut from the left to the shortest one's length."""
    prompts = encode(tokenizer, [example.prompt for example in setup.task.split("train")[: setup.rows]])
    length = min(map(len, prompts))
    return torch.tensor([prompt[-length:] for prompt in prompts], device=device)


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def passed(model: nn.Module, ids: Tensor, keep: int, factor: Tensor | None = None) -> float:
    """Seconds of one forward and backward pass. factor: multiplied to the embeddings, to have something to train."""
    for parameter in trained(model):
        parameter.grad = None
    with clock() as taken:
        embeds = model.get_input_embeddings()(ids)
        logits = model(
            inputs_embeds=embeds if factor is None else embeds * factor, use_cache=False, logits_to_keep=keep + 1
        ).logits[:, :-1]
        F.cross_entropy(logits.flatten(0, 1).float(), ids[:, -keep:].flatten()).backward()
    return taken.seconds
