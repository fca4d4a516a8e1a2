"""The decoding loop: transformers' own steps, three things otherwise.

- Rows are distinct texts, not completions: samples of one prompt stand at one row until they part, and what is done
  leaves. A step costs what is left to say, not what began.
- `pick` takes the tokens: the most likely one, or a sample from a stream of its own (sample.py).
- Keys and values grow in place: transformers' cache is copied at every step, which costs more than the step itself once
  a completion is long.

It runs inside `model.generate(custom_generate=...)`, so that each kind of model prepares its own inputs, masks and
cache.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from boostlib.evaluation.layout import choose_rows
from boostlib.evaluation.sample import Pick

EVERY = 4  # steps between two looks at what is done: a look waits for the device, and texts are decoded for it
LEAVERS = 8  # completions leave when one in so many is done: their leaving copies what the others keep
ROOM = 16  # tokens by which a cache grows


class Growing(DynamicLayer):
    """A layer of a cache that writes new keys and values behind the old ones, with room to spare."""

    def __init__(self, layer: DynamicLayer):
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.keys, self.values = layer.keys, layer.values  # (B, heads, L, size)
        self._room: tuple[Tensor, ...] = ()

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """As DynamicLayer's: all keys and values, (B, heads, L + new, size)."""
        old, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if not self._room or end > self._room[0].shape[2]:
            spare = end - old + ROOM
            self._room = tuple(
                torch.cat([part, part.new_empty(*part.shape[:2], spare, part.shape[3])], dim=2)
                for part in (self.keys, self.values)
            )
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, old:end] = new
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Hold these rows, in this order."""
        length = self.keys.shape[2]
        self._room = tuple(room.index_select(0, beam_idx) for room in self._room or (self.keys, self.values))
        self.keys, self.values = (room[:, :, :length] for room in self._room)


def grow_in_place(cache: Any) -> None:
    """Replace the plain layers of `cache` (those that only ever grow) by `Growing` ones; others are left alone."""
    if type(cache) is DynamicCache:
        cache.layers = [Growing(x) if type(x) is DynamicLayer and x.is_initialized else x for x in cache.layers]


def loop(
    model: nn.Module,
    input_ids: Tensor,
    generation_config: Any,
    samples: int,
    pick: Pick,
    finished: Callable[[Tensor, Tensor], Tensor],
    may_choose: bool,
    **state: Any,
) -> list[list[int]]:
    """The new token ids of `samples` completions of every row of input_ids (B, L): up to the end, or a few more.

    pick: takes the tokens. finished: new ids (S, n) of the completions left, their numbers (S,) -> (S,) bool.
    may_choose: whether the cache can give up rows and repeat them; without it, samples is 1. state: what transformers
    prepared.
    """
    left = torch.arange(len(input_ids) * samples, device=input_ids.device)  # (S,) numbers of the completions not done
    at = left // samples  # (S,) the row that each of them stands at
    new, most = input_ids.new_empty(len(left), 0), generation_config.max_new_tokens  # (S, n)
    found: dict[int, list[int]] = {}
    outputs = model._prefill(input_ids, generation_config, state)
    for position in range(most):
        if position:
            step = 1 if state["use_cache"] else None
            inputs = model.prepare_inputs_for_generation(input_ids, next_sequence_length=step, **state)
            outputs = model(**inputs, return_dict=True)
        state = model._update_model_kwargs_for_generation(outputs, state)
        if not position:
            grow_in_place(state.get("past_key_values"))
        logits = outputs.logits[:, -1]
        new = torch.cat([new, pick(logits, at, left, position)[:, None]], dim=1)
        if position + 1 == most:
            break
        if (position + 1) % EVERY == 0:
            done = finished(new, left)
            leaving = int(done.sum())
            if leaving == len(left):
                break
            if may_choose and leaving * LEAVERS >= len(left):
                found |= zip(left[done].tolist(), new[done].tolist(), strict=True)
                left, at, new = left[~done], at[~done], new[~done]
        rows, tokens, at = _rows(at, new[:, -1], logits.shape[1] if samples > 1 else None)
        if may_choose and (len(rows) != len(input_ids) or samples > 1 and (rows.diff() != 1).any()):
            input_ids, state = input_ids[rows], _of(state, rows)
        input_ids = torch.cat([input_ids, tokens[:, None]], dim=1)
    found |= zip(left.tolist(), new.tolist(), strict=True)
    return [found[number] for number in range(len(found))]


def _rows(at: Tensor, tokens: Tensor, vocabulary: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows the next step needs (R,), the token that each gets (R,), and the one of every completion (S,).

    vocabulary: tokens in all; None where no two completions are of one prompt, and there is nothing to unite. Once most
    completions say something of their own, each has its own row: choosing rows copies the whole cache.
    """
    if vocabulary:
        distinct, where = torch.unique(at * vocabulary + tokens, return_inverse=True)
        if len(distinct) <= len(at) // 2:
            return distinct // vocabulary, distinct % vocabulary, where
    return at, tokens, torch.arange(len(at), device=at.device)


def _of(state: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    """What transformers keeps between steps, for these rows (R,)."""
    if state.get("past_key_values") is not None:
        choose_rows(state["past_key_values"], rows)
    mine = {key: value[..., rows, :] for key, value in state.items() if isinstance(value, Tensor) and value.dim() > 1}
    return state | mine
