"""The shapes of Qwen2.5-3B with random weights: 252 modules, for subjects that ask for numbers and not for answers."""

from dataclasses import replace

import torch
from torch import nn

from boostlib.bench.setup import Setup
from boostlib.experiments.presets import MATH
from boostlib.experiments.shapes import config_by_name, on_meta
from boostlib.models.language import default_device

STD = 0.02  # of the weights, as such models are initialised


def large_setup(setup: Setup) -> Setup:
    """`setup` on random weights in bf16. One round and one add: a full SVD of 252 such weights takes minutes."""
    preset = MATH["paper"]
    return replace(
        setup, load=lambda: (random_model(preset.model), None), adapter=preset.boost.adapter, rounds=1, checked=7
    )


@torch.no_grad()
def random_model(name: str, device: torch.device | None = None) -> nn.Module:
    """A model with the shapes of `name` on `device` (default: the GPU), bf16, its weights drawn from N(0, STD^2)."""
    model = on_meta(config_by_name(name)).to(torch.bfloat16).to_empty(device=device or default_device())
    model.tie_weights()  # moving from the meta device unties the head
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_(std=STD)
    return model.eval()
