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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from boostlib.common import world
from boostlib.evaluation.decode import Decode
from boostlib.evaluation.generate import pad_token, reading
from boostlib.evaluation.layout import cache_for, layout, positions, require_room
from boostlib.models.subject import Subject

POSITIONS = 2048  # of logits in one pass: 400 MB with SmolLM2's vocabulary, 1.2 GB with Qwen2.5's


@dataclass
class Drafts(Decode):
    """The last greedy completion of every prompt, by its token ids, and what decoding with them has cost so far.

    One object serves one task: its drafts were made with that task's max_new_tokens and stop.
    """

    known: dict[tuple[int, ...], list[int]] = field(default_factory=dict)
    checked: int = 0  # completions that were checked
    kept: int = 0  # of these, how many stand
    tokens: int = 0  # tokens decoded for the others and for prompts not known yet

    def complete(self, subject: Subject, prompt_ids: Sequence[list[int]], on_batch) -> list[list[int]]:
        """What `Decode.complete` gives, prompt by prompt; the drafts save work and are brought up to date."""
        require_room(subject.model, [*map(len, prompt_ids)], subject.task.max_new_tokens)
        found = [self.known.get(tuple(prompt)) for prompt in prompt_ids]
        known = [i for i, draft in enumerate(found) if draft]
        stands = _standing(subject, [prompt_ids[i] for i in known], [found[i] for i in known], self.batch_size)
        kept = {i for i, fine in zip(known, stands, strict=True) if fine}
        on_batch(len(kept))
        rest = [i for i in range(len(prompt_ids)) if i not in kept]
        again = super().complete(subject, [prompt_ids[i] for i in rest], on_batch)
        completions = [draft or [] for draft in found]
        for i, ids in zip(rest, again, strict=True):
            completions[i] = ids
            self.known[tuple(prompt_ids[i])] = ids
        self.checked, self.kept = self.checked + len(known), self.kept + len(kept)
        self.tokens += sum(map(len, again))
        return completions

    def entry(self) -> dict[str, dict[str, int]]:
        """{"drafts": {"checked", "kept", "tokens"}} since the last call, of all processes together."""
        counts = {name: world.total(getattr(self, name)) for name in ("checked", "kept", "tokens")}
        self.checked = self.kept = self.tokens = 0
        return {"drafts": counts}


@torch.no_grad()
def _standing(subject: Subject, prompts: list[list[int]], drafts: list[list[int]], batch_size: int) -> list[bool]:
    """(n,) whether greedy decoding would write each draft again."""
    model, pad, found = subject.model, pad_token(subject.tokenizer), [False] * len(prompts)
    with reading(model, prompts, "batch_size (prompts checked together)", batch_size) as (prefix, cache):
        shares = not prompts or layout(model).shares
        places = [
            len(draft) + 1 if shares else len(prompt) + len(draft)
            for prompt, draft in zip(prompts, drafts, strict=True)
        ]
        for rows in _batches(prompts, places, batch_size):
            mine = [prompts[i][len(prefix) :] for i in rows], [drafts[i] for i in rows]
            if shares:
                stands = _check(model, *_padded(*mine, len(prefix), pad, model.device), cache).tolist()
            else:
                stands = _check_whole(model, *mine, pad)
            for i, stand in zip(rows, stands, strict=True):
                found[i] = stand
    return found


def _batches(prompts: list[list[int]], places: list[int], batch_size: int) -> Iterator[list[int]]:
    """Rows of like length, few enough for their logits, at so many places each, to fit."""
    order = sorted(range(len(prompts)), key=lambda i: (-places[i], -len(prompts[i])))
    while order:
        rows = order[: max(1, min(batch_size, POSITIONS // places[order[0]]))]
        order = order[len(rows) :]
        yield rows


def _check_whole(model: nn.Module, prompts: list[list[int]], drafts: list[list[int]], pad: int) -> list[bool]:
    """As `_check`, for models that read every row whole: all padding is on the right, where nothing sees it."""
    rows = [prompt + draft for prompt, draft in zip(prompts, drafts, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=model.device)  # (B, L)
    choice = model(input_ids=ids, use_cache=False).logits.argmax(dim=-1).tolist()
    return [said[len(p) - 1 : len(p) - 1 + len(d)] == d for said, p, d in zip(choice, prompts, drafts, strict=True)]


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
