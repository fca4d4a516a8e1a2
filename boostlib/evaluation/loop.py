"""The decoding loop: transformers' own steps, three things otherwise.

- `pick` takes the token: the most likely one, or a sample from a stream of its own (sample.py);
- rows that are done leave: each step then costs what is left, not what began;
- keys and values grow in place: transformers' cache is copied at every step, which costs more than the step itself once
  a completion is long.

It runs inside `model.generate(custom_generate=...)`, so that each kind of model prepares its own inputs,
masks and cache.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from boostlib.evaluation.layout import choose_rows
from boostlib.evaluation.sample import Pick

EVERY = 4  # steps between two looks at what is done: a look waits for the device
LEAVERS = 8  # rows leave when one in so many is done: their leaving copies what the others keep
ROOM = 32  # tokens by which a cache grows


class Growing(DynamicLayer):
    """A layer of a cache that writes new keys and values behind the old ones, with room to spare."""

    def __init__(self, layer: DynamicLayer):
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.keys, self.values = layer.keys, layer.values  # (B, heads, L, size)
        self._room: tuple[Tensor, ...] = ()
        self._last: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """As DynamicLayer's: all keys and values, (B, heads, L + new, size)."""
        old, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if self._last is not self.keys or end > self._room[0].shape[2]:  # full, or rows were chosen or repeated since
            self._room = tuple(
                torch.cat([part, part.new_empty(*part.shape[:2], end - old + ROOM, part.shape[3])], dim=2)
                for part in (self.keys, self.values)
            )
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, old:end] = new
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        self._last = self.keys
        return self.keys, self.values


def grown_in_place(cache: Any) -> Any:
    """`cache`, its plain layers (those that only ever grow) replaced by `Growing` ones; others are left alone."""
    if type(cache) is DynamicCache:
        cache.layers = [Growing(x) if type(x) is DynamicLayer and x.is_initialized else x for x in cache.layers]
    return cache


def loop(
    model: nn.Module,
    input_ids: Tensor,
    generation_config: Any,
    pick: Pick,
    finished: Callable[[Tensor, Tensor], Tensor],
    may_leave: bool,
    **state: Any,
) -> list[list[int]]:
    """The new token ids of every row of input_ids (B, L): up to its end, or a few tokens more.

    pick: takes the tokens of the rows left. finished: their new ids (R, n), their numbers (R,) -> (R,) bool.
    may_leave: whether the cache can do without some of its rows. state: what transformers prepared.
    """
    most, start, found = generation_config.max_new_tokens, input_ids.shape[1], {}
    rows = torch.arange(len(input_ids), device=input_ids.device)
    outputs = model._prefill(input_ids, generation_config, state)
    for position in range(most):
        if position:
            step = 1 if state["use_cache"] else None
            inputs = model.prepare_inputs_for_generation(input_ids, next_sequence_length=step, **state)
            outputs = model(**inputs, return_dict=True)
        state = model._update_model_kwargs_for_generation(outputs, state)
        if not position:
            grown_in_place(state.get("past_key_values"))
        tokens = pick(outputs.logits[:, -1], rows, position)
        input_ids = torch.cat([input_ids, tokens[:, None]], dim=1)
        if (position + 1) % EVERY or position + 1 == most:
            continue
        done = finished(input_ids[:, start:], rows)
        leaving = int(done.sum())
        if leaving == len(rows):
            break
        if may_leave and leaving * LEAVERS >= len(rows):
            found |= zip(rows[done].tolist(), input_ids[done, start:].tolist(), strict=True)
            rows, input_ids, state = rows[~done], input_ids[~done], _only(state, ~done)
    found |= zip(rows.tolist(), input_ids[:, start:].tolist(), strict=True)
    return [found[row] for row in range(len(found))]


def _only(state: dict[str, Any], stay: Tensor) -> dict[str, Any]:
    """What transformers keeps between steps, for the rows that stay, (B,) bool."""
    if state.get("past_key_values") is not None:
        choose_rows(state["past_key_values"], stay.nonzero().flatten())
    mine = {key: value[..., stay, :] for key, value in state.items() if isinstance(value, Tensor) and value.dim() > 1}
    return state | mine
