"""Greedy completions that are checked instead of decoded again. Off by default; ours, not the paper's.

    y stands  <=>  argmax_w logits(w | x, y_1..k-1) = y_k, k = 1..n        then greedy decoding would write y again

One forward pass over a prompt x and its last completion y says all n conditions at once, where decoding takes n passes.
A tiny adapter changes few answers a round, so most completions stand. Of the others the first k - 1 tokens do, and the
pass has said the k-th too: decoding goes on from there. This is speculative decoding (Leviathan et al. 2023, arXiv
2211.17192) with the last round's completion as the draft: nothing is sampled or estimated, every example is decided in
every round.

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
from boostlib.evaluation.generate import end_tokens, generate, pad_token, reading
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
    tokens: int = 0  # tokens decoded for the rest of the others, and for prompts not known yet

    def complete(self, subject: Subject, prompt_ids: Sequence[list[int]], on_batch) -> list[list[int]]:
        """What `Decode.complete` gives, prompt by prompt; the drafts save work and are brought up to date."""
        require_room(subject.model, [*map(len, prompt_ids)], subject.task.max_new_tokens)
        task, found = subject.task, [self.known.get(tuple(prompt), []) for prompt in prompt_ids]
        known = [i for i, draft in enumerate(found) if draft]
        kept = _standing(subject, [prompt_ids[i] for i in known], [found[i] for i in known], self.batch_size)
        ends, begun = end_tokens(subject.model, subject.tokenizer), dict(zip(known, kept, strict=True))
        full = task.max_new_tokens
        over = {i for i in known if begun[i] == found[i] or len(begun[i]) == full or begun[i][-1] in ends}
        on_batch(len(over))
        rest = [i for i in range(len(prompt_ids)) if i not in over]
        again = generate(
            subject.model, subject.tokenizer, [prompt_ids[i] for i in rest], full,
            batch_size=self.batch_size, on_batch=on_batch, stop=task.stop, begun=[begun.get(i, []) for i in rest],
        )  # fmt: skip
        completions = [begun.get(i, []) for i in range(len(prompt_ids))]
        for i, ids in zip(rest, again, strict=True):
            completions[i] = ids
        for i, ids in enumerate(completions):
            self.known[tuple(prompt_ids[i])] = ids
        self.checked += len(known)
        self.kept += sum(completions[i] == found[i] for i in known)
        self.tokens += sum(len(ids) - len(begun.get(i, [])) for i, ids in zip(rest, again, strict=True))
        return completions

    def entry(self) -> dict[str, dict[str, int]]:
        """{"drafts": {"checked", "kept", "tokens"}} since the last call, of all processes together."""
        counts = {name: world.total(getattr(self, name)) for name in ("checked", "kept", "tokens")}
        self.checked = self.kept = self.tokens = 0
        return {"drafts": counts}


@torch.no_grad()
def _standing(subject: Subject, prompts: list[list[int]], drafts: list[list[int]], batch_size: int) -> list[list[int]]:
    """What greedy decoding would write again of each draft, and the token that it would write next instead."""
    model, pad = subject.model, pad_token(subject.tokenizer)
    found: list[list[int]] = [[] for _ in prompts]
    with reading(model, prompts, "batch_size (prompts checked together)", batch_size) as (prefix, cache):
        shares = not prompts or layout(model).shares
        places = [
            len(draft) + 1 if shares else len(prompt) + len(draft)
            for prompt, draft in zip(prompts, drafts, strict=True)
        ]
        for rows in _batches(prompts, places, batch_size):
            mine = [prompts[i][len(prefix) :] for i in rows], [drafts[i] for i in rows]
            if shares:
                said = _said(model, *_padded(*mine, len(prefix), pad, model.device), cache)
            else:
                said = _said_whole(model, *mine, pad)
            for i, choice in zip(rows, said, strict=True):
                wrong = next((k for k, token in enumerate(drafts[i]) if choice[k] != token), len(drafts[i]))
                found[i] = [*drafts[i][:wrong], *choice[wrong : wrong + 1]] if wrong < len(drafts[i]) else drafts[i]
    return found


def _batches(prompts: list[list[int]], places: list[int], batch_size: int) -> Iterator[list[int]]:
    """Rows of like length, few enough for their logits, at so many places each, to fit."""
    order = sorted(range(len(prompts)), key=lambda i: (-places[i], -len(prompts[i])))
    while order:
        rows = order[: max(1, min(batch_size, POSITIONS // places[order[0]]))]
        order = order[len(rows) :]
        yield rows


def _said_whole(model: nn.Module, prompts: list[list[int]], drafts: list[list[int]], pad: int) -> list[list[int]]:
    """As `_said`, for models that read every row whole: all padding is on the right, where nothing sees it."""
    rows = [prompt + draft for prompt, draft in zip(prompts, drafts, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=model.device)  # (B, L)
    choice = model(input_ids=ids, use_cache=False).logits.argmax(dim=-1).tolist()
    return [said[len(prompt) - 1 :] for said, prompt in zip(choice, prompts, strict=True)]


def _padded(rest, drafts, shared: int, pad: int, device) -> tuple[Tensor, Tensor, int]:
    """(ids (B, L), mask (B, shared + L), K): prompts end, and drafts of at most K tokens begin, in one column."""
    width, keep = max(map(len, rest)), max(map(len, drafts))
    ids = [[pad] * (width - len(r)) + r + d + [pad] * (keep - len(d)) for r, d in zip(rest, drafts, strict=True)]
    mask = [
        [0] * (width - len(r)) + [1] * len(r + d) + [0] * (keep - len(d)) for r, d in zip(rest, drafts, strict=True)
    ]
    mask = torch.tensor(mask, device=device)
    return torch.tensor(ids, device=device), torch.cat([mask.new_ones(len(ids), shared), mask], 1), keep


def _said(model: nn.Module, ids: Tensor, mask: Tensor, keep: int, cache: Any) -> list[list[int]]:
    """The model's first choice at each of the drafts' places, `keep` a row: what follows the place before."""
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions(mask, ids.shape[1]),
        past_key_values=cache_for(cache, len(ids)),
        logits_to_keep=keep + 1,
    )
    return out.logits[:, :-1].argmax(dim=-1).tolist()
