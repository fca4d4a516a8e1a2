"""Greedy completions that are checked instead of decoded again. Off by default; ours, not the paper's.

    y stands  <=>  argmax_w logits(w | x, y_1..k-1) = y_k, k = 1..n        then greedy decoding would write y again

One forward pass over a prompt x and its last completion y says all n conditions at once, where decoding takes n passes.
A tiny adapter changes few answers a round, so most completions stand; those that do not are decoded from the start.
This is speculative decoding (Leviathan et al. 2023, arXiv 2211.17192) with the last round's completion as the draft,
taken whole or not at all: nothing is sampled or estimated, every example is decided in every round.

What this does not cover: a pass over many tokens rounds otherwise than a pass over one, so where two tokens' logits
agree to the last bits the answer may be the other one, as it may with another batch size; in bf16 such ties are more
frequent. Drafts live in memory: the first evaluation after a resume decodes everything.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from boostlib import world
from boostlib.generate import cache_for, generate, positions, reading

POSITIONS = 2048  # of logits in one pass: 400 MB with SmolLM2's vocabulary, 1.2 GB with Qwen2.5's


@dataclass
class Drafts:
    """The last greedy completion of every prompt, by its token ids, and what evaluating with them has cost so far."""

    known: dict[tuple[int, ...], list[int]] = field(default_factory=dict)
    checked: int = 0  # completions that were checked
    kept: int = 0  # of these, how many stand
    tokens: int = 0  # tokens decoded for the others and for prompts not known yet

    def record(self) -> dict[str, int]:
        """{"checked", "kept", "tokens"} since the last call, of all processes together."""
        counts = {name: world.total(getattr(self, name)) for name in ("checked", "kept", "tokens")}
        self.checked = self.kept = self.tokens = 0
        return counts


def generate_again(
    model: nn.Module,
    tokenizer,
    prompt_ids: Sequence[list[int]],
    max_new_tokens: int,
    drafts: Drafts,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
    stop: str | None = None,
) -> list[list[int]]:
    """What `generate` gives at temperature 0, prompt by prompt; `drafts` saves the work and is brought up to date.

    max_new_tokens and stop have to be those that the drafts were made with. batch_size counts prompts.
    """
    found = [drafts.known.get(tuple(prompt)) for prompt in prompt_ids]
    known = [i for i, draft in enumerate(found) if draft]
    stands = _standing(model, tokenizer, [prompt_ids[i] for i in known], [found[i] for i in known], batch_size)
    kept = {i for i, fine in zip(known, stands, strict=True) if fine}
    if on_batch:
        on_batch(len(kept))
    rest = [i for i in range(len(prompt_ids)) if i not in kept]
    again = generate(
        model, tokenizer, [prompt_ids[i] for i in rest], max_new_tokens, batch_size=batch_size, on_batch=on_batch,
        stop=stop,
    )  # fmt: skip
    completions = list(found)
    for i, ids in zip(rest, again, strict=True):
        completions[i] = ids
        drafts.known[tuple(prompt_ids[i])] = ids
    drafts.checked, drafts.kept = drafts.checked + len(known), drafts.kept + len(kept)
    drafts.tokens += sum(map(len, again))
    return completions


@torch.no_grad()
def _standing(model, tokenizer, prompts: list[list[int]], drafts: list[list[int]], batch_size: int) -> list[bool]:
    """(n,) whether greedy decoding would write each draft again."""
    found = [False] * len(prompts)
    with reading(model, prompts, "batch_size (prompts checked together)", batch_size) as (prefix, cache):
        for rows in _batches(prompts, drafts, batch_size):
            rest = [prompts[i][len(prefix) :] for i in rows]
            batch = _padded(rest, [drafts[i] for i in rows], len(prefix), tokenizer.pad_token_id, model.device)
            for i, stands in zip(rows, _check(model, *batch, cache).tolist(), strict=True):
                found[i] = stands
    return found


def _batches(prompts: list[list[int]], drafts: list[list[int]], batch_size: int) -> Iterator[list[int]]:
    """Rows of like length, few enough for their logits to fit."""
    order = sorted(range(len(prompts)), key=lambda i: (-len(drafts[i]), -len(prompts[i])))
    while order:
        rows = order[: max(1, min(batch_size, POSITIONS // (len(drafts[order[0]]) + 1)))]
        order = order[len(rows) :]
        yield rows


def _padded(rest, drafts, shared: int, pad: int, device) -> tuple[Tensor, Tensor, Tensor]:
    """(ids (B, L), mask (B, shared + L), real (B, K)): prompts end, and drafts of at most K tokens begin, in one
    column."""
    width, keep = max(map(len, rest)), max(map(len, drafts))
    ids = [[pad] * (width - len(r)) + r + d + [pad] * (keep - len(d)) for r, d in zip(rest, drafts, strict=True)]
    mask = [
        [0] * (width - len(r)) + [1] * len(r + d) + [0] * (keep - len(d)) for r, d in zip(rest, drafts, strict=True)
    ]
    mask = torch.tensor(mask, device=device)
    return torch.tensor(ids, device=device), torch.cat([mask.new_ones(len(ids), shared), mask], 1), mask[:, -keep:]


def _check(model: nn.Module, ids: Tensor, mask: Tensor, real: Tensor, cache: Any) -> Tensor:
    """(B,) bool: the model's first choice is the draft's token at every one of its places."""
    keep = real.shape[1]
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions(mask, ids.shape[1]),
        past_key_values=cache_for(cache, len(ids)),
        logits_to_keep=keep + 1,
    )
    choice = out.logits[:, :-1].argmax(dim=-1)  # (B, K): what follows each place before the last
    return ((choice == ids[:, -keep:]) | (real == 0)).all(dim=1)
