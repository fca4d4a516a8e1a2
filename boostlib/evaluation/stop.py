"""Ending completions where nothing after counts, such as at the end of the first code block.

A task names the end as a regular expression, `stop`. Rows that have matched stop being decoded, and every completion is
cut to the shortest run of tokens whose text matches: what the scorer would not read is neither paid for nor trained on.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import StoppingCriteria

EVERY = 4  # steps between two looks at the texts: decoding them at each would cost more than it saves


class StopAt(StoppingCriteria):
    """Marks the rows of a batch whose new text, from token `start` on, matches `pattern`."""

    def __init__(self, tokenizer, pattern: str, start: int):
        self.tokenizer, self.pattern, self.start = tokenizer, re.compile(pattern), start
        self.done: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor, **_) -> Tensor:
        """input_ids: (B, L) -> (B,) bool, True for rows that are done."""
        new = input_ids[:, self.start :]
        if self.done is None:
            self.done = torch.zeros(len(new), dtype=torch.bool, device=new.device)
        if new.shape[1] % EVERY == 0:
            alive = (~self.done).nonzero().flatten()
            texts = self.tokenizer.batch_decode(new[alive], skip_special_tokens=True)
            self.done[alive] = torch.tensor([bool(self.pattern.search(t)) for t in texts], device=new.device)
        return self.done


def cut_at(ids: Sequence[int], tokenizer, pattern: str) -> list[int]:
    """The fewest first tokens of `ids` whose text matches `pattern`; all of them where it does not match."""
    found = re.compile(pattern)

    def matches(n: int) -> bool:
        return bool(found.search(tokenizer.decode(ids[:n], skip_special_tokens=True)))

    if not matches(len(ids)):
        return list(ids)
    return list(ids[: bisect_left(range(len(ids)), True, key=matches)])
