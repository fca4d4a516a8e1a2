"""An export counts as written once other people's loaders were given it and gave back the run's model.

    lora     PEFT loads it into a twin of the base, which shares the base's memory: every target holds exactly the run's
             factors, nothing else holds any, and the outputs are those of the merged model
    merged   transformers loads it beside the model, on the CPU: every weight is the same bit for bit, outputs agree

Why this is needed: PEFT takes an adapter's names for those of another version of transformers and renames them, in
mixtures of experts with dense or shared MLPs (DeepSeek, GLM4, Ernie 4.5) to parameters that are not there. It warns,
and what loads is another model. transformers renames weights while it saves and loads, too.

    |loaded - expected| <= tolerance |expected|      norms over all outputs of a few random tokens
    tolerance = 1e-4 in fp32, 0.125 in bf16, where a LoRA is added to outputs and a merged update to weights

Loading a merged model back takes as much memory as its weights: where less is free the check is left out, and log and
card say so.
"""

import copy
import logging
import warnings
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from boostlib.common.errors import RunError
from boostlib.common.stable import philox
from boostlib.models.agreement import plain_tokens
from boostlib.models.checkpoint import load_whole
from boostlib.models.classifier import SequenceClassifier
from boostlib.run import Run
from boostlib.update import LowRankUpdate

log = logging.getLogger(__name__)

ROOM = 1.2  # free memory that loading back takes, in sizes of the weights


def plain_model(model: nn.Module) -> nn.Module:
    """What transformers knows: of a classifier, its encoder."""
    return model.encoder if isinstance(model, SequenceClassifier) else model


def in_base(name: str, model: nn.Module) -> str:
    """The module's name in `plain_model(model)`."""
    return name.removeprefix("encoder.") if isinstance(model, SequenceClassifier) else name


def misread_lora(run: Run, folder: Path) -> tuple[set[str], str]:
    """(names of the run's targets that PEFT gives other factors, why the LoRA in `folder` is not the run's; "": it is).

    The run's model is at W0 for a moment, and then where it was.
    """
    model, update = plain_model(run.model), run.update
    wanted = {in_base(name, run.model): factors for name, factors in update.items()}
    expected = outputs(model)
    run.weights.set(LowRankUpdate())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of keys that are missing or left over: found below
            loaded = PeftModel.from_pretrained(_twin(model), str(folder)).eval()
        layers = {n: m for n, m in loaded.base_model.model.named_modules() if isinstance(m, LoraLayer)}
        wrong = {name for name, factors in wanted.items() if not _holds(layers.get(name), factors)}
        found = outputs(loaded)
    except Exception as error:  # PEFT's own, of many types
        return set(update), f"PEFT does not load it ({type(error).__name__}: {str(error).splitlines()[0]})"
    finally:
        run.weights.set(update)
    if wrong:
        return {name for name in update if in_base(name, run.model) in wrong}, (
            f"PEFT gives {len(wrong)} of {len(wanted)} modules other numbers, among them {min(wrong)}"
        )
    if set(layers) != set(wanted):
        return set(), f"PEFT adapts other modules too, among them {min(set(layers) - set(wanted))}"
    return set(), _difference(found, expected, model.dtype)


def require_same_model(model: nn.Module, folder: Path) -> str:
    """Load the model in `folder` and compare it with `model`. Returns what to tell a reader of the card: "" or a note.

    Raises RunError where another model loads, or none.
    """
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    free = psutil.virtual_memory().available
    if size * ROOM > free:
        needed = f"that takes {size * ROOM / 1e9:.1f} GB of memory, and {free / 1e9:.1f} are free"
        note = f"Not loaded back for a check: {needed}."
        log.warning("%s: %s", folder.name, note)
        return note
    try:
        loaded, missing = load_whole(type(model), str(folder), dtype=model.dtype)
        here, there = (one.state_dict() for one in (model, loaded))  # there may be a pooler, which is not used
        wrong = sorted(name for name in here if name in missing or not _same(here[name], there.get(name)))
        why = f"{wrong[0]} is another" if wrong else _difference(outputs(loaded.eval()), outputs(model), model.dtype)
    except Exception as error:  # transformers' own, of many types
        why = f"transformers does not load it ({type(error).__name__}: {str(error).splitlines()[0]})"
    if why:
        raise RunError(
            f"{folder.name}: loaded back as {type(model).__name__}, what was written is not the run's model: {why}. "
            "Nothing is kept; export_peft or export_bundle may do"
        )
    return ""


@torch.no_grad()
def outputs(model: nn.Module) -> Tensor:
    """Logits of a language model, last states of an encoder, for a few random tokens; fp32 on the CPU. (2, 8, n)"""
    ids = torch.from_numpy(philox("load back").choice(plain_tokens(model.config), (2, 8)))
    found = model(input_ids=ids.to(model.device), attention_mask=torch.ones_like(ids).to(model.device))
    return (found["logits"] if "logits" in found else found["last_hidden_state"]).float().cpu()


def _twin(model: nn.Module) -> nn.Module:
    """A copy of the modules over the same memory: what a loader does to them, it does not do to `model`."""
    shared: dict[int, Any] = {id(p): nn.Parameter(p.data, requires_grad=False) for p in model.parameters()}
    shared.update({id(buffer): buffer for buffer in model.buffers()})
    return copy.deepcopy(model, shared)


def _holds(layer: LoraLayer | None, factors: tuple[Tensor, Tensor]) -> bool:
    """Whether PEFT's layer adds exactly B @ A."""
    if layer is None or layer.scaling["default"] != 1:
        return False
    b, a = factors
    return _same(layer.lora_B["default"].weight, b) and _same(layer.lora_A["default"].weight, a)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one.detach().cpu(), other.detach().cpu())


def _difference(found: Tensor, expected: Tensor, dtype: torch.dtype) -> str:
    """What to say where outputs differ by more than `dtype` explains; else ""."""
    part = float((found - expected).norm() / expected.norm())
    tolerance = max(1e-4, 16 * torch.finfo(dtype).eps)
    return "" if part <= tolerance else f"outputs differ by {part:.1%}, where {tolerance:.2%} is rounding"
