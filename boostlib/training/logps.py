"""Log-probabilities of completions: of any model, for the least work that leaves them what a plain pass says.

    log pi(y_k | x, y_1..k-1), k = 1..n        of every row that TRL lays out:  pads | x | y | pads

TRL computes them from the last hidden states with a head of its own, in pieces, so that no (rows, tokens, vocabulary)
logits are held. It knows some of the things that a model may do to its logits (a scale, Gemma's soft cap), not all: so
the fused head is compared with the model's own logits once, and where it says otherwise these are used.
TRL also leaves the positions of padded rows to the model. One with learned positions counts the padding in: rows
without padding on their left are right for every model that reads from left to right.
"""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from boostlib.evaluation.generate import shared_prefix
from boostlib.evaluation.layout import FAILURES, layout, left_padded, require_room, sample_prompts

_KNOWN: WeakKeyDictionary[nn.Module, "Trusted"] = WeakKeyDictionary()


class Trusted(NamedTuple):
    """What of TRL's own computation says what the model says."""

    head: bool  # its fused head
    rows: bool  # its rows, padded on the left, their positions left to the model


def completion_logps(
    model: nn.Module, ids: Tensor, mask: Tensor, keep: int, temperature: float | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of the last `keep` tokens of every row, (B, keep) each, differentiable.

    ids, mask: (B, L), prompts padded on the left, completions on the right, as TRL lays them out. `model` carries TRL's
    fused head; temperature: use the model's own logits instead, divided by it. Equal rows are run once; tokens that all
    rows begin with are run once for the whole batch where the model's layout shares them.
    """
    plain = plain_model(model)
    require_room(plain, mask.sum(dim=1).tolist())
    both, inverse = torch.unique(torch.cat([ids, mask], dim=1), dim=0, return_inverse=True)
    ids, mask = both.chunk(2, dim=1)
    if temperature is None and not model.training and layout(plain).shares:
        logps, entropies = _after_prefix(model, ids, mask, keep)
    else:
        logps, entropies = _whole(model, ids, mask, keep, temperature)
    return logps[inverse], entropies[inverse]


def plain_model(model: nn.Module) -> nn.Module:
    """The model itself, where several processes wrapped it."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def _after_prefix(model: nn.Module, ids: Tensor, mask: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    start = mask.argmax(dim=1)  # (U,) first real token
    prompts = [row[m.bool()].tolist() for row, m in zip(ids[:, :-keep], mask[:, :-keep], strict=True)]
    length = len(shared_prefix(prompts))
    column = torch.arange(ids.shape[1] - length, device=ids.device)
    keep_column = column + length * (column >= start[:, None])  # (U, L - P): left padding stays, the prefix goes
    rest, rest_mask = ids.gather(1, keep_column), mask.gather(1, keep_column)
    cache = None
    if length:
        prefix = ids[0, start[0] : start[0] + length][None]  # (1, P)
        cache = model(input_ids=prefix, use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(len(ids))
    labels = rest.masked_fill(rest_mask == 0, -100)
    labels[:, :-keep] = -100
    out = model(
        input_ids=rest,
        attention_mask=torch.cat([rest_mask.new_ones(len(ids), length), rest_mask], dim=1),
        position_ids=length + (rest_mask.cumsum(-1) - 1).clamp_min(0),
        past_key_values=cache,
        labels=labels,
        fused_lm_head=True,
    )
    return out.log_probs[:, -keep:], out.entropy[:, -keep:]


def _whole(model: nn.Module, ids: Tensor, mask: Tensor, keep: int, temperature: float | None) -> tuple[Tensor, Tensor]:
    """Rows from their first token on: what is padding stands on the right, where no real token sees it."""
    length = ids.shape[1]
    start = mask.argmax(dim=1)[:, None]  # (U, 1)
    column = (torch.arange(length, device=ids.device) + start) % length
    rows, labels = ids.gather(1, column), ids.masked_fill(mask == 0, -100)
    labels[:, :-keep] = -100
    labels = labels.gather(1, column)
    place = torch.arange(length - keep, length, device=ids.device) - start - 1  # (U, keep): what says each token
    if temperature is None:
        out = model(input_ids=rows, labels=labels, fused_lm_head=True)
        return out.log_probs.gather(1, place), out.entropy.gather(1, place)
    logits = model(input_ids=rows, use_cache=False).logits  # (U, L, vocabulary)
    every = logits.gather(1, place[..., None].expand(-1, -1, logits.shape[-1])).float().div(temperature).log_softmax(-1)
    logps = every.gather(2, ids[:, -keep:, None]).squeeze(2)
    return logps, -(every.exp() * every).sum(dim=-1)


# --- what TRL computes by itself


@torch.no_grad()
def trusted(model: nn.Module, temperature: float) -> Trusted:
    """Measured once a model, which carries TRL's fused head of this temperature, on two short rows."""
    if model not in _KNOWN:
        training = model.training
        model.eval()
        try:
            _KNOWN[model] = _measured(model, temperature)
        finally:
            model.train(training)
    return _KNOWN[model]


def _measured(model: nn.Module, temperature: float) -> Trusted:
    tiny = torch.finfo(model.dtype).eps ** 0.5
    short, long = sample_prompts(model)
    ids, mask = left_padded([short, long], 0, model.device)
    logits = [
        model(input_ids=ids[i : i + 1, -len(row) :], use_cache=False).logits for i, row in enumerate((short, long))
    ]
    spread = logits[1].float().std() / temperature
    own = [_said(one, row, temperature) for one, row in zip(logits, (short, long), strict=True)]

    def off(found: Tensor, wanted: Tensor) -> float:
        return float((found.float() - wanted.to(found.device)).square().mean().sqrt() / spread)

    try:
        fused = model(input_ids=ids[1:], labels=ids[1:], fused_lm_head=True).log_probs[0]
        hidden = model.base_model(input_ids=ids[1:], use_cache=False).last_hidden_state
        bare = off(_said(model.get_output_embeddings()(hidden), long, temperature), own[1])
        far = off(fused, own[1])
        head = far <= tiny and (bare <= 1e-4 or far <= bare / 10)  # nothing is done to the logits, or TRL does it too
        if not head:
            return Trusted(False, False)
        labels = ids.masked_fill(mask == 0, -100)
        padded = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True).log_probs[0]
        return Trusted(True, off(padded[1 - len(short) :], own[0]) <= tiny)
    except torch.OutOfMemoryError:
        raise
    except FAILURES:
        return Trusted(False, False)


def _said(logits: Tensor, row: list[int], temperature: float) -> Tensor:
    """(L - 1,) log-probability of each token of a row but the first; logits (1, L, vocabulary)."""
    every = logits[0, :-1].float().div(temperature).log_softmax(-1)
    return every.gather(1, torch.tensor(row[1:], device=every.device)[:, None]).squeeze(1)
