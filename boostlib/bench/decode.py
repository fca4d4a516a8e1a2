"""Sampling from a model while its adapter trains: folded weights, against the plain model and PEFT's TinyLoRA.

Two subjects, and both are honest. `rollout`: every side through our generation code, which reads the prompts' shared
beginning and every prompt once; what differs is the adapter alone. `decode`: PEFT as its user runs it, left-padded
prompts through `model.generate(num_return_sequences=...)`, and the plain model both ways. Ours counts the folding, once
a rollout, as training does; merging counts for PEFT's merged adapter too. All sides make the same number of tokens:
no completion ends early. `decode` is measured at the length of the task's answers, which is a rollout of the demo, and
at `new_tokens`: the longer the completion, the less there is to share.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from boostlib.adapter import TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.bench.measure import Measurement, clock, interleaved
from boostlib.bench.setup import Setup, peft_tiny_lora
from boostlib.evaluation.generate import encode, generate
from boostlib.update import Weights

FOLDED, LIVE, MERGED = "folded, folding counted", "PEFT TinyLoRA, live", "PEFT TinyLoRA, merged"


def bench_rollout(setup: Setup) -> list[Measurement]:
    """Tokens a second, all through our generation code."""
    sides = _Sides(setup)
    runs = interleaved(
        {
            "plain model": sides.timed(lambda: sides.ours(sides.plain)),
            FOLDED: sides.timed(sides.folded),
            LIVE: sides.timed(lambda: sides.ours(sides.peer)),
            MERGED: sides.timed(lambda: sides.merged(sides.ours)),
        },
        setup.repeats,
    )
    pairs = [(FOLDED, "plain model"), (FOLDED, LIVE), (FOLDED, MERGED)]
    return [Measurement("rollout, our generation code", runs, pairs, work=sides.work(runs), amount=sides.tokens)]


def bench_decode(setup: Setup) -> list[Measurement]:
    """Tokens a second, PEFT's adapter through `model.generate` as a user calls it, for short and longer completions."""
    return [_decode(replace(setup, new_tokens=length)) for length in (setup.task.max_new_tokens, setup.new_tokens)]


def _decode(setup: Setup) -> Measurement:
    sides = _Sides(setup)
    runs = interleaved(
        {
            "plain model": sides.timed(lambda: sides.ours(sides.plain)),
            "plain model, model.generate": sides.timed(lambda: sides.as_users(sides.plain)),
            FOLDED: sides.timed(sides.folded),
            f"{LIVE}, model.generate": sides.timed(lambda: sides.as_users(sides.peer)),
            f"{MERGED}, model.generate": sides.timed(lambda: sides.merged(sides.as_users)),
        },
        setup.repeats,
    )
    peers = ["plain model", "plain model, model.generate", f"{LIVE}, model.generate", f"{MERGED}, model.generate"]
    pairs = [(FOLDED, peer) for peer in peers]
    what = f"{setup.prompts} x {setup.samples} completions of {setup.new_tokens} tokens, the peer as it is used"
    return Measurement(what, runs, pairs, work=sides.work(runs), amount=sides.tokens)


class _Sides:
    """Three models with equal weights, one plain, one with our adapter and one with PEFT's, and their prompts."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self.plain, self.tokenizer = setup.load()
        self.model = setup.load()[0]
        self.ids = encode(self.tokenizer, [example.prompt for example in setup.task.split("train")[: setup.prompts]])
        self.tokens = len(self.ids) * setup.samples * setup.new_tokens
        basis = SVDBasis.from_model(self.model, setup.adapter.rank)
        self.adapter = TinyLoRA(basis, setup.adapter).attach(self.model, Weights(self.model, list(basis)))
        self.adapter.v.data.normal_(std=0.03)
        self.peer = peft_tiny_lora(setup.load()[0], setup.adapter, moved=True)

    def timed(self, sample: Callable[[], int]) -> Callable[[], float]:
        """The seconds of `sample`, which returns how many tokens it made."""

        def run() -> float:
            torch.manual_seed(0)
            with clock() as taken, torch.no_grad():
                made = sample()
            assert made == self.tokens, f"{made} tokens instead of {self.tokens}"
            return taken.seconds

        return run

    def ours(self, model: nn.Module) -> int:
        """Through our generation code."""
        setup = self.setup
        found = generate(
            model, self.tokenizer, self.ids, setup.new_tokens, temperature=1.0, samples=setup.samples, stop_at_end=False
        )
        return sum(map(len, found))

    def folded(self) -> int:
        """Through our generation code, folding included."""
        with self.adapter.folded():
            return self.ours(self.model)

    def as_users(self, model: nn.Module) -> int:
        """Through `model.generate` on left-padded prompts."""
        ids, mask = left_padded(self.ids, self.tokenizer.pad_token_id, self.plain.device)
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            num_return_sequences=self.setup.samples,
            max_new_tokens=self.setup.new_tokens,
            min_new_tokens=self.setup.new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return out[:, ids.shape[1] :].numel()

    def merged(self, sample: Callable[[nn.Module], int]) -> int:
        """With PEFT's adapter merged before and unmerged after."""
        self.peer.merge_adapter()
        try:
            return sample(self.peer)
        finally:
            self.peer.unmerge_adapter()

    def work(self, runs: dict) -> dict[str, dict[str, int]]:
        """Tokens of one run: `timed` has counted them for every side."""
        return {name: {"tokens": self.tokens} for name in runs}


def left_padded(ids: list[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask), (B, L) each, padded on the left to the longest."""
    width = max(map(len, ids))
    rows = [[pad] * (width - len(row)) + row for row in ids]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)
