"""How rows of tokens are laid out for a model: what is read once, what may stand in one batch, and how long it may be.

    shares      prefix, read once | pads | the rest of each prompt       pads stand inside a row
    pads        pads | the whole prompt                                  transformers' own left padding
    otherwise   prompts of one length together, no pads at all

A shared prefix needs a model that attends by position alone. Where it counts places instead (a sliding window, local
or sparse attention, ALiBi, a recurrent state), pads inside a row push real tokens out of sight or away, and answers
would be wrong without a word. So two things are asked of every model, once:
- its cache and config: a window of thousands of tokens shows on no short text;
- itself: two short prompts are generated for in the layout, and every logit is compared with a plain pass over the
  whole row, without cache and padding. What a layout says is thereby true of kinds that nobody listed here.
A model for which not even the last layout agrees, and one that reads both ways, is refused.
"""

import contextlib
import copy
import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, PreTrainedConfig
from transformers.cache_utils import Cache

from boostlib.common.errors import DataError, ModelError

log = logging.getLogger(__name__)

PART, NEW = 12, 2  # tokens: the shared prefix and most of a prompt's rest, and the completion, of what is measured
WINDOW = re.compile(r"window|local_att|attention_chunk|sparse_block")  # settings that bound how far back is seen
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")  # settings that bound a text

FAILURES = (AttributeError, TypeError, ValueError, LookupError, AssertionError, RuntimeError)  # of a model's own code

_KNOWN: WeakKeyDictionary[nn.Module, "Layout"] = WeakKeyDictionary()


@dataclass(frozen=True)
class Layout:
    """What a model allows. Each implies what stands below it, except that `continues` may fail alone.

    shares: tokens that all prompts begin with are read once. pads: prompts of different lengths stand in one batch.
    continues: a cache is read on from, repeated for samples, and rows leave it. reason: why not all three.
    """

    shares: bool
    pads: bool
    continues: bool
    reason: str = ""


def layout(model: nn.Module) -> Layout:
    """The layout for `model`, measured at the first call. Raises ModelError where there is none."""
    if model not in _KNOWN:
        _KNOWN[model] = _measured(model)
    return _KNOWN[model]


def window(config: PreTrainedConfig) -> str:
    """What in a config says that places are counted, in words; "" for nothing. It needs no weights."""
    text = config.get_text_config(decoder=True)
    try:
        if reason := unlike_plain(DynamicCache(config=config)):
            return reason
    except Exception as error:  # kinds of layers that only the model's own file knows
        return f"its cache has layers of another kind ({error})"
    if getattr(text, "layer_types", None):  # then the cache has spoken for every layer
        return ""
    bounds = {
        name: value
        for name, value in text.to_dict().items()
        if WINDOW.search(name) and not name.endswith("layers") and type(value) is int and value > 0
    }
    return "; ".join(f"it has config.{name} = {value}" for name, value in bounds.items())


def unlike_plain(cache: Any) -> str:
    """Why a cache is none that grows by a key and a value a token in every layer; "" where it is one."""
    if not isinstance(cache, Cache):
        return f"its cache is a {type(cache).__name__}"
    kinds = {type(layer).__name__ for layer in cache.layers} - {"DynamicLayer", "DummyLayer"}
    return f"its cache has layers of {', '.join(sorted(kinds))}" if kinds else ""


def most_tokens(model: nn.Module) -> tuple[str, int] | None:
    """(what bounds it, tokens): the longest text that a model reads, or None where nothing does (ALiBi, Mamba).

    Where a table of positions has a row for padding (RoBERTa), counting starts after it. Rotary angles that depend on
    the length of the text (dynamic, longrope) change on the way at a bound of their own, for every token read before.
    """
    text = model.config.get_text_config(decoder=True)
    name = next((name for name in POSITIONS if type(getattr(text, name, None)) is int), None)
    if name is None or getattr(text, "alibi", False):
        return None
    most, bound = getattr(text, name), f"config.{name}"
    tables = (m for path, m in model.named_modules() if path.rsplit(".", 1)[-1] == "position_embeddings")
    most -= max((m.padding_idx + 1 for m in tables if getattr(m, "padding_idx", None) is not None), default=0)
    ropes = getattr(text, "rope_parameters", None) or {}
    for rope in (ropes, *(one for one in ropes.values() if isinstance(one, dict))):  # for all layers, or by their kind
        trained = rope.get("original_max_position_embeddings") or getattr(text, name)
        if rope.get("rope_type") in ("linear", "yarn") and rope.get("factor"):
            most = max(most, int(trained * rope["factor"]))
        elif rope.get("rope_type") in ("dynamic", "longrope") and trained < most:
            most, bound = trained, f"{rope['rope_type']} rotary angles change there"
    kept = getattr(text, "index_topk", None) or getattr(text, "index_topk_blocks", 0) * getattr(
        text, "index_block_size", 0
    )
    if kept and kept < most:
        most, bound = kept, "its sparse attention leaves tokens out beyond that"
    return bound, most


def require_room(model: nn.Module, lengths: Sequence[int], new: int = 0, names: Sequence[str] = ()) -> None:
    """Raises DataError where a prompt of so many tokens and `new` others are more than the model has positions for.

    Rotary positions go on past what a model was trained for without a word, learned ones end in an IndexError.
    """
    bound = most_tokens(model)
    if bound is None:
        return
    for i, length in enumerate(lengths):
        if length + new > bound[1]:
            which = f"the prompt of {names[i]!r}" if names else f"prompt {i + 1} of {len(lengths)}"
            raise DataError(
                f"{which} has {length} tokens, with max_new_tokens={new} {length + new} in all, and the model reads at "
                f"most {bound[1]} ({bound[0]}): leave it out or shorten it, lower max_new_tokens, or take a model of "
                "more positions"
            )


@contextlib.contextmanager
def only_end_tokens(model: nn.Module) -> Iterator[None]:
    """Inside, nothing of the model's own generation settings counts but its end tokens.

    transformers fills what a call leaves open from them: min_p, beams, n-gram bans, forced or suppressed tokens,
    `use_cache: false`. Greedy would then not be greedy, nor samples those of the softmax.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id)
    try:
        yield
    finally:
        model.generation_config = own


def read(model: nn.Module, ids: Tensor, mask: Tensor | None, cache: Any) -> Any:
    """Run `ids` (B, L) after `cache`; returns the grown cache."""
    position = None if mask is None else positions(mask, ids.shape[1])
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return out.past_key_values


def cache_for(cache: Any, rows: int) -> Any:
    """A copy of a shared prefix's cache for so many rows; None for None."""
    if cache is not None:
        cache = copy.deepcopy(cache)
        choose_rows(cache, torch.zeros(rows, dtype=torch.long))
    return cache


def choose_rows(cache: Any, rows: Tensor) -> None:
    """Make `cache` hold those of its rows, in this order: fewer, or some of them several times. In place.

    This is the one move that every kind of layer knows, recurrent states too; transformers' own for repeating and
    selecting leave these out.
    """
    cache.reorder_cache(rows)


def positions(mask: Tensor, length: int) -> Tensor:
    """Positions (B, length) of the last columns of a left-padded mask (B, L), the first real token at 0."""
    return (mask.cumsum(-1) - 1).clamp_min(0)[:, -length:]


def left_padded(prompts: Sequence[list[int]], pad: int, device: Any) -> tuple[Tensor, Tensor]:
    """(ids, mask), (B, L) each."""
    width = max(map(len, prompts))
    ids = [[pad] * (width - len(one)) + one for one in prompts]
    mask = [[0] * (width - len(one)) + [1] * len(one) for one in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


# --- the measurement


@torch.no_grad()
def _measured(model: nn.Module) -> Layout:
    require_generates(model)
    training = model.training
    model.eval()
    try:
        with only_end_tokens(model):
            model.generation_config.eos_token_id = None
            return _first_that_agrees(model)
    except torch.OutOfMemoryError:
        raise
    except FAILURES as error:
        raise ModelError(f"{type(model).__name__} generates no text: {type(error).__name__}: {error}") from error
    finally:
        model.train(training)


def require_generates(model: nn.Module) -> None:
    """Raises ModelError for what writes no text of its own: an encoder, or an encoder with a decoder."""
    kind, config = type(model).__name__, getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{kind} reads with an encoder and writes with a decoder: a decoder-only model is needed")
    if not getattr(model, "can_generate", lambda: False)():
        raise ModelError(f"{kind} cannot generate: load a language model with load_model(name)")


def _first_that_agrees(model: nn.Module) -> Layout:
    tiny = torch.finfo(model.dtype).eps ** 0.5
    first, second = sample_prompts(model)
    _require_left_to_right(model, first, second, tiny)
    counts = window(model.config)
    if not counts and _off(model, _shared, first, second) <= tiny:
        return Layout(True, True, True)
    alone = _difference(model, _padded, second, second)
    if alone > 2 * tiny:
        raise ModelError(
            f"{type(model).__name__} generates otherwise than its own plain pass says, without any padding: the logits "
            f"differ by {alone:.1e} of their spread. Its cache fails, and no remedy is known here"
        )
    same = max(tiny, 4 * alone)  # in bf16, a deep model's rounding
    if not counts and _off(model, _shared, first, second) <= same:
        return Layout(True, True, True)
    counts = counts or "padding inside a row changes what it attends to"
    pads = _off(model, _padded, first, second) <= same
    continues = _off(model, _continued, first if pads else second, second) <= same
    return Layout(False, pads, continues, counts if pads else f"{counts}; left padding changes its answers too")


def _require_left_to_right(model: nn.Module, first: list[int], second: list[int], tiny: float) -> None:
    """Raises ModelError where what follows changes what stands before."""
    part = len(first) - 1
    rows = torch.tensor([second, 2 * second[:part]], device=model.device)  # of one beginning
    one, other = model(input_ids=rows, use_cache=False).logits[:, :part].float()
    if (one - other).square().mean().sqrt() > tiny * one.std():
        raise ModelError(
            f"{type(model).__name__} reads both ways, as an encoder does, and so writes no text: a model that reads "
            "from left to right is needed (config.is_decoder = True for some)"
        )


def sample_prompts(model: nn.Module) -> tuple[list[int], list[int]]:
    """Two prompts of one beginning and most different lengths, of ordinary tokens; nothing random."""
    settings = model.config.get_text_config(decoder=True).to_dict() | model.config.to_dict()
    special = {i for name, value in settings.items() if "token" in name for i in _whole(value)}
    ordinary = [i for i in range(model.get_input_embeddings().weight.shape[0]) if i not in special]
    bound = most_tokens(model)
    part = max(1, min(PART, (bound[1] - NEW - 1) // 2)) if bound else PART
    ids = [ordinary[(k + 1) * 7919 % len(ordinary)] for k in range(2 * part + 1)]
    return ids[: part + 1], ids[:part] + ids[part + 1 :]


def _whole(value: Any) -> list[int]:
    return [i for i in (value if isinstance(value, list) else [value]) if type(i) is int]


def _off(model: nn.Module, way, first: list[int], second: list[int]) -> float:
    """`_difference`, infinite where the model's own code fails: this layout is not for it."""
    try:
        return _difference(model, way, first, second)
    except torch.OutOfMemoryError:
        raise
    except FAILURES as error:
        log.debug("%s of %s: %s", way.__name__, type(model).__name__, error)
        return math.inf


def _difference(model: nn.Module, way, first: list[int], second: list[int]) -> float:
    """How far the logits of generating for two prompts in one batch are from those of a plain pass over each row.

    Root mean square of the difference, as a share of the logits' spread.
    """
    before = torch.tensor([first[:2]] * 3, device=model.device)
    _generated(model, before, torch.ones_like(before), None)  # some models keep a state from the batch before
    out = way(model, first, second)
    found = torch.stack(out.logits, dim=1).float()  # (2, NEW, vocabulary)
    rows = [prompt + ids[-NEW:].tolist() for prompt, ids in zip((first, second), out.sequences, strict=True)]
    plain = [model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits for row in rows]
    wanted = torch.stack([one[0, -NEW - 1 : -1].float() for one in plain]).to(found.device)
    return float((found - wanted).square().mean().sqrt() / wanted.std().clamp_min(1e-12))


def _shared(model: nn.Module, first: list[int], second: list[int]) -> Any:
    prefix = torch.tensor([first[:-1]], device=model.device)
    cache = read(model, prefix, None, None)
    if reason := unlike_plain(cache):
        raise TypeError(reason)
    ids, mask = left_padded([one[len(prefix[0]) :] for one in (first, second)], 0, model.device)
    prefix = prefix.repeat(2, 1)
    both = torch.cat([prefix, ids], 1), torch.cat([torch.ones_like(prefix), mask], 1)
    return _generated(model, *both, cache_for(cache, 2))


def _padded(model: nn.Module, first: list[int], second: list[int]) -> Any:
    return _generated(model, *left_padded([first, second], 0, model.device), None)


def _continued(model: nn.Module, first: list[int], second: list[int]) -> Any:
    """Read all but the last tokens of three rows, then go on with two of them in another order."""
    ids, mask = left_padded([second, first, second], 0, model.device)
    cache, rows = read(model, ids[:, :-1], mask[:, :-1], None), torch.tensor([1, 0], device=ids.device)
    if cache is None:
        raise TypeError("it gives no cache back")
    choose_rows(cache, rows)
    return _generated(model, ids[rows], mask[rows], cache)


def _generated(model: nn.Module, ids: Tensor, mask: Tensor, cache: Any) -> Any:
    config = GenerationConfig(
        max_new_tokens=NEW, do_sample=False, pad_token_id=0, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    return model.generate(input_ids=ids, attention_mask=mask, past_key_values=cache, generation_config=config)
