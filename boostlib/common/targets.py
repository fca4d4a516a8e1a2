"""Which weights of a model are adapted, and whether each is the plain matrix that an adapter takes it for.

Adapted is every linear layer of the language blocks. Blocks are what a model repeats: the entries of an
`nn.ModuleList`, and modules of one class beside each other in an `nn.Sequential` or `nn.ModuleDict`. Heads and
embeddings lie outside of them. Left out, too:
- towers for images, sound and the like, unless `targets=` names them: texts never pass through them;
- what routes tokens to experts: a step there changes who answers, not what is answered;
- experts that are one parameter of three dimensions, as transformers has them: no module is called with one of these
  matrices, so there is nothing to hang an adapter on. `coverage` says what share of the blocks remains.

GPT-2's `Conv1D` is a linear layer whose weight is kept transposed. `matrix` knows, and nothing else has to.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from boostlib.common.errors import ModelError
from boostlib.common.settings import Names, checks, valid

LINEAR = (nn.Linear, Conv1D)
CODES = (torch.int8, torch.uint8, torch.int32)  # what quantized layers pack their weights into
WRAPPERS = {  # where the class of a wrapper comes from: what to give in its place
    "peft": "an adapter of PEFT is in it. Merge that first, with PeftModel.from_pretrained(base, adapter)"
    ".merge_and_unload(), or load the base model alone",
    "torch._dynamo": "it was compiled. Give the model itself, which is the compiled one's ._orig_mod",
    "torch.nn.parallel": "it is wrapped for several devices. Give the model itself, which is .module of this one",
    "deepspeed": "it is wrapped for several devices. Give the model itself, which is .module of this one",
    "torch.distributed": "it is spread over several processes. Give the whole model to each of them",
}


@checks
def target_modules(model: nn.Module, only: Names | None = None) -> list[str]:
    """Names of every linear layer of the language blocks in model order; see above.

    `only` keeps the names that contain one of its entries as whole parts: "q_proj", "layers.1", "vision_tower". An
    entry that no language block has is looked for in the other towers. Raises ModelError where nothing is left, and
    for a model that is wrapped (PEFT, torch.compile, DataParallel).
    """
    valid("target_modules(model=", model, nn.Module)
    require_bare(model)
    if only is not None and not only:
        raise ModelError("target_modules(only=()): nothing is left; None keeps every linear layer of the blocks")
    everywhere = _linears(model)
    found = list(filter(_is_language(model, everywhere), everywhere))
    if not found:
        stacks = tuple(_stacks(model))
        held = {type(m).__name__ for n, m in model.named_modules() if n.startswith(stacks) and not any(m.children())}
        raise ModelError(
            f"{type(model).__name__} has no linear layers inside blocks (in an nn.ModuleList, or repeated in an "
            f"nn.Sequential or nn.ModuleDict), but {', '.join(sorted(held)[:9]) or 'nothing'}: nothing to adapt. Load "
            "a quantized model unquantised"
        )
    if only is None:
        return found
    chosen: set[str] = set()
    for entry in only:
        matching = [name for name in found if _matches(name, entry)] or [n for n in everywhere if _matches(n, entry)]
        if not matching:
            kinds = sorted({name.rsplit(".", 1)[-1] for name in found})
            raise ModelError(f"no target module {entry!r} in {type(model).__name__}; it has {', '.join(kinds)}")
        chosen.update(matching)
    return [name for name in everywhere if name in chosen]


def matrix(module: nn.Module) -> Tensor:
    """The module's weight as it multiplies: a view (out, in) of it, whatever way round the module keeps it."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def hold(module: nn.Module, values: Tensor) -> None:
    """Let the module's weight be `values` (out, in), the tensor itself where the module keeps it that way round."""
    module.weight.data = values.T.contiguous() if isinstance(module, Conv1D) else values


class Coverage(NamedTuple):
    """How much of a model's blocks is adapted. left_out: kind of weight -> numbers, the largest first."""

    adapted: int
    blocks: int
    left_out: dict[str, int]

    @property
    def share(self) -> float:
        """Of the numbers in the matrices of the blocks, those that are adapted: 0 to 1."""
        return self.adapted / self.blocks

    def __str__(self) -> str:
        left = ", ".join(f"{kind} ({count / self.blocks:.1%})" for kind, count in list(self.left_out.items())[:3])
        return f"{self.share:.1%} of the numbers in the matrices of the blocks are adapted" + (
            f"; left out: {left}" + ("" if len(self.left_out) < 4 else " and others") if left else ""
        )


def coverage(model: nn.Module, targets: Names | None = None) -> Coverage:
    """What `target_modules(model, targets)` adapts of the language blocks. Needs shapes only: on any device, meta too.

    Counted are all parameters of two dimensions and more that lie in those blocks, each once, and the packed codes of
    quantized layers, which are buffers.
    """
    names = target_modules(model, targets)
    adapted = {id(model.get_submodule(name).weight): model.get_submodule(name).weight.numel() for name in names}
    stacks, is_language = tuple(_stacks(model)), _is_language(model, _linears(model))
    left: Counter[str] = Counter()
    codes = ((name, b) for name, b in model.named_buffers() if b.dim() == 2 and b.dtype in CODES)
    for name, tensor in (*model.named_parameters(), *codes):
        if tensor.dim() > 1 and id(tensor) not in adapted and name.startswith(stacks) and is_language(name):
            left[kind(name.removesuffix(".weight"))] += tensor.numel()
    total = sum(adapted.values())
    return Coverage(total, total + left.total(), dict(left.most_common()))


def kind(name: str) -> str:
    """What modules of different blocks have in common: their name without its numbers."""
    return re.sub(r"\b\d+\b", "*", name)


def require_bare(model: nn.Module) -> None:
    """Raises ModelError for a model inside a wrapper, or with one inside: names and calls would not be the model's."""
    for name, module in model.named_modules():
        where = type(module).__module__
        reason = next((text for prefix, text in WRAPPERS.items() if f"{where}.".startswith(f"{prefix}.")), None)
        if reason is None and getattr(module, "_compiled_call_impl", None) is not None:
            reason = "it was compiled in place, and compiled code may pass by what is attached. Load it again"
        if reason:
            raise ModelError(f"{type(module).__name__} ({name or 'the model'}) is not the plain model: {reason}")


def require_plain(model: nn.Module, names: list[str]) -> None:
    """Raises ModelError for a weight whose numbers are not those of the matrix that the layer multiplies by, or that
    another module holds too: decomposing codes, or changing two layers at once, would go wrong without a word."""
    owners = _owners(model)
    for name in names:
        weight = model.get_submodule(name).weight
        what, dtype = type(weight.data).__name__, str(weight.dtype).removeprefix("torch.")
        plain = type(weight) is nn.Parameter and type(weight.data) is Tensor
        if not plain or not weight.is_floating_point() or weight.element_size() < 2 or weight.dim() != 2:
            raise ModelError(
                f"{name} holds no plain matrix ({what}, {dtype}, {tuple(weight.shape)}): its singular directions would "
                "be those of a code. Load the model unquantised, in bf16 or fp32, or call model.dequantize() first; of "
                "a layer with a weight norm, torch.nn.utils.parametrize.remove_parametrizations"
            )
        if weight.is_meta:
            raise ModelError(
                f"{name} is not in memory (device meta): it was offloaded, or never loaded. Load the whole model on "
                "one device, without device_map or offloading"
            )
        if weight.is_inference():
            raise ModelError(
                f"{name} was made under torch.inference_mode(), which forbids to train with it: load the model outside"
            )
    shared = {name: owner for name in names if (owner := _other_owner(name, model.get_submodule(name).weight, owners))}
    if shared:
        name, owner = next(iter(shared.items()))
        raise ModelError(
            f"{name} and {owner} share one weight: an update of one would change the other. Load the model with "
            f"separate weights, or leave what is shared out{without(names, list(shared))}"
        )


def without(names: Iterable[str], wrong: Sequence[str]) -> str:
    """What a message ends with to leave out `wrong` of `names`: ": targets=(...)" of the others, where they differ."""
    wanted: set[str] = set()
    for name in set(names).difference(wrong):
        fitting = (ending for ending in _endings(name) if not any(_matches(other, ending) for other in wrong))
        wanted.update(itertools.islice(fitting, 1))
    return f": targets={tuple(sorted(wanted))}" if wanted else ""


def _endings(name: str) -> Iterator[str]:
    """What a name ends in, the shortest first, as far as all blocks share it."""
    parts = name.split(".")
    for start in reversed(range(len(parts))):
        if not parts[start].isdigit():
            yield ".".join(parts[start:])
        elif start < len(parts) - 1:
            return


def _other_owner(name: str, weight: Tensor, owners: Mapping[tuple, list[tuple[str, Tensor]]]) -> str | None:
    return next((other for other, part in owners[_storage(weight)] if other != name and _overlap(weight, part)), None)


def _storage(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()


def _owners(model: nn.Module) -> dict[tuple[torch.device, int], list[tuple[str, Tensor]]]:
    """Storage -> (module, tensor) of every parameter and buffer in it. A module that has two names is one owner."""
    found: dict[tuple[torch.device, int], list[tuple[str, Tensor]]] = {}
    for name, module in model.named_modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if not tensor.is_meta and type(tensor.data) is Tensor:
                found.setdefault(_storage(tensor), []).append((name, tensor))
    return found


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one storage share memory, from the first to the last number of each."""
    (a, b), (c, d) = ((t.data_ptr(), t.data_ptr() + _span(t)) for t in (one, other))
    return a < d and c < b


def _span(tensor: Tensor) -> int:
    reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (reach + 1) * tensor.element_size() if tensor.numel() else 0


def _matches(name: str, entry: str) -> bool:
    return f".{entry}." in f".{name}."


def _linears(model: nn.Module) -> list[str]:
    """Every linear layer inside blocks, of all towers; without what routes."""
    stacks, routers = tuple(_stacks(model)), tuple(_routers(model))
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, LINEAR) and name.startswith(stacks) and not f"{name}.".startswith(routers)
    ]


def _stacks(model: nn.Module) -> Iterator[str]:
    """The beginnings of the names of all that lies inside blocks."""
    for name, module in model.named_modules():
        repeats = isinstance(module, nn.Sequential | nn.ModuleDict) and _repeats(module)
        if isinstance(module, nn.ModuleList) or repeats:
            yield _within(name)


def _repeats(module: nn.Module) -> bool:
    """Whether two of its children are of one class that has linear layers inside."""
    blocks = [
        type(child)
        for child in module.children()
        if not isinstance(child, LINEAR) and any(isinstance(part, LINEAR) for part in child.modules())
    ]
    return len(blocks) > len(set(blocks))


def _routers(model: nn.Module) -> Iterator[str]:
    """The beginnings of the names of what chooses or weighs experts: a gate or router that stands beside them."""
    for name, module in model.named_modules():
        children = dict(module.named_children())
        experts = any("expert" in child for child in children) or any(map(_is_bank, children.values()))
        for child in children:
            if experts and re.fullmatch(r"(.*_)?(gate|router)", child):
                yield f"{_within(name)}{child}."


def _is_bank(module: nn.Module) -> bool:
    """Whether it holds matrices side by side, one an expert."""
    return not isinstance(module, _ConvNd) and any(p.dim() == 3 for p in module.parameters(recurse=False))


def _is_language(model: nn.Module, linears: list[str]) -> Callable[[str], bool]:
    """Whether a name lies in the language part of a model of several towers; of another, any name does.

    transformers tells by the configuration: the whole model's holds one for texts, and `get_decoder()` is what reads
    them; or it is itself the one for texts, and parts with another one that it holds are towers.
    """
    inner = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    if inner is None:
        return lambda name: True
    own = inner.config
    try:
        text = own.get_text_config()
    except ValueError:  # an encoder and a decoder of texts
        text = own
    part = inner.get_decoder() if text is not own else inner
    others = {type(value) for value in vars(own).values() if isinstance(value, PreTrainedConfig)} - {type(text)}
    named = list(model.named_modules())
    inside = next((_within(name) for name, module in named if module is part), "")
    towers = tuple(_within(n) for n, m in named if part is inner and type(getattr(m, "config", None)) in others)

    def decides(name: str) -> bool:
        return name.startswith(inside) and not name.startswith(towers)

    return decides if any(map(decides, linears)) else lambda name: True


def _within(name: str) -> str:
    """How the names of all that lies in a module of that name begin."""
    return f"{name}." if name else ""
