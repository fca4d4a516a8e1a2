"""Completions for many prompts, with the shared part of the prompts read once.

Decoding is transformers' own `generate`. What is ours is the work around it, as far as the model allows (layout.py):
- tokens that all prompts begin with (few-shot examples, a system message) are run once and their cache is shared;
- samples of a prompt are decoded once as long as they are the same;
- batches hold prompts of similar length, so little is spent on padding, or of one length where there may be none;
- what is done leaves its batch, and keys and values grow in place (loop.py);
- frozen bf16 linears on a CPU get 2-D input, which avoids a weight copy per call (2-7x, measured on torch 2.13).

A task may name the end of a completion as a regular expression, `stop`, such as the end of the first code block. Rows
that have matched stop being decoded, and every completion is cut to the shortest run of tokens whose text matches: what
the scorer would not read is neither paid for nor trained on.
"""

import contextlib
import itertools
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig

from boostlib.common.errors import DataError, explain_oom
from boostlib.common.settings import AtLeastZero, Count, checks
from boostlib.evaluation.layout import (
    Layout,
    cache_for,
    layout,
    only_end_tokens,
    read,
    require_generates,
    require_room,
)
from boostlib.evaluation.loop import loop
from boostlib.evaluation.sample import Draws, Pick, most_likely
from boostlib.models.subject import Subject
from boostlib.tasks.base import Example

SHARED = 4  # a shared prefix shorter than this is not worth a separate pass


def encode(tokenizer, prompts: Sequence[str | list[dict]], options: Mapping[str, Any] | None = None) -> list[list[int]]:
    """Token ids per prompt: raw text as it stands, chat messages through the tokenizer's template.

    options: variables for that template, such as {"enable_thinking": False}. Raises DataError where there is no
    template, or it does not know one of them.
    """
    chat, options = [isinstance(prompt, list) for prompt in prompts], dict(options or {})
    if any(chat) and not getattr(tokenizer, "chat_template", None):
        raise DataError("the task has chat prompts, but this tokenizer has no chat template: use an instruct model")
    if options and not all(chat):
        raise DataError(f"prompt_options={options}: the task has prompts of raw text, which no chat template shapes")
    for name in options:
        if not re.search(rf"\b{re.escape(name)}\b", str(tokenizer.chat_template)):
            raise DataError(f"prompt_options={options}: this tokenizer's chat template knows no {name!r}")
    return [
        tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=True, **options)["input_ids"]
        if is_chat
        else tokenizer(p)["input_ids"]
        for p, is_chat in zip(prompts, chat, strict=True)
    ]


def prompts_of(subject: Subject, examples: Sequence[Example]) -> list[list[int]]:
    """Token ids of the prompt of each example, as the task asks for it.

    Raises DataError, naming the example, where the model has no room for a prompt and a completion.
    """
    task = subject.task
    found = encode(subject.tokenizer, [example.prompt for example in examples], getattr(task, "prompt_options", None))
    require_room(subject.model, [*map(len, found)], task.max_new_tokens, [example.id for example in examples])
    return found


@checks
@torch.no_grad()
def generate(
    model: nn.Module,
    tokenizer,
    prompt_ids: Sequence[list[int]],
    max_new_tokens: Count,
    temperature: AtLeastZero = 0.0,
    samples: Count = 1,
    batch_size: Count = 64,
    on_batch: Callable[[int], None] | None = None,
    stop_at_end: bool = True,
    stop: str | None = None,
    draws: Draws | None = None,
    begun: Sequence[list[int]] | None = None,
    oom_setting: str = "batch_size (prompts decoded together)",
) -> list[list[int]]:
    """`samples` completions per prompt, prompt by prompt, as token ids up to and with the end token.

    temperature 0 decodes greedily; otherwise samples from the untruncated softmax with the numbers of `draws` (None:
    always the same), whose completions are numbered as they are returned: so whatever the batch size (sample.py).
    batch_size counts prompts. on_batch is told how many prompts have just been finished. stop_at_end=False goes on to
    max_new_tokens whatever is produced (for timing). stop: a regular expression; a completion ends where it
    first matches.

    begun: what stands of each prompt's greedy completion already, and is gone on from.

    Raises ModelError for a model that writes no text from left to right, DataError for a prompt that leaves no room.
    """
    require_generates(model)
    require_room(model, [len(ids) for ids in prompt_ids], max_new_tokens)
    config = GenerationConfig(
        do_sample=False,  # the loop takes the token
        pad_token_id=pad_token(tokenizer),
        eos_token_id=(end_tokens(model, tokenizer) if stop_at_end else []) or [-1],
        return_dict_in_generate=True,
    )
    begun = begun or [[]] * len(prompt_ids)
    texts = [[*prompt, *start] for prompt, start in zip(prompt_ids, begun, strict=True)]
    completions: list[list[list[int]]] = [[] for _ in prompt_ids]
    with only_end_tokens(model), reading(model, texts, oom_setting, batch_size) as (prefix, cache):
        allowed = layout(model)
        for rows in batches(texts, batch_size, allowed.pads):
            batch = _Batch([texts[i] for i in rows], prefix, cache, samples, allowed)
            starts = [begun[i] for i in rows for _ in range(samples)]
            ending = _Ending(tokenizer, config.eos_token_id, stop, max_new_tokens, starts)
            pick: Pick = most_likely
            if temperature > 0:
                numbers = [i * samples + k for i in rows for k in range(samples)]
                pick = (draws or Draws()).of(numbers, max_new_tokens, temperature)
            for i, ids in zip(rows, _decode(model, batch, config, pick, ending), strict=True):
                completions[i] = ids
            if on_batch:
                on_batch(len(rows))
    return [ids for group in completions for ids in group]


@contextlib.contextmanager
def reading(
    model: nn.Module, prompt_ids: Sequence[list[int]], oom_setting: str, batch_size: int
) -> Iterator[tuple[list[int], Any]]:
    """The model in eval mode inside, with its linears on the fast path; yields the tokens that all prompts begin with
    and the cache of those, [] and None where there are too few or the model must read prompts whole. Lack of memory is
    explained by `oom_setting`."""
    was_training = model.training
    model.eval()
    try:
        with flat_linears(model), explain_oom(oom_setting, batch_size):
            prefix = shared_prefix(prompt_ids)
            if prefix and not layout(model).shares:
                prefix = []
            yield prefix, read(model, torch.tensor([prefix], device=model.device), None, None) if prefix else None
    finally:
        model.train(was_training)


def batches(prompt_ids: Sequence[list[int]], batch_size: int, pads: bool) -> Iterator[list[int]]:
    """Indices of prompts of like length, the longest first; pads: whether a batch may hold several lengths."""
    order = sorted(range(len(prompt_ids)), key=lambda i: -len(prompt_ids[i]))
    groups = itertools.groupby(order, key=lambda i: 0 if pads else len(prompt_ids[i]))
    for rows in (list(group) for _, group in groups):
        yield from (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))


def shared_prefix(sequences: Sequence[list[int]]) -> list[int]:
    """The tokens that all sequences begin with, at least one token short of the shortest; [] where too few."""
    if not sequences:
        return []
    first, last = min(sequences), max(sequences)  # the two that differ earliest
    limit = min(len(s) for s in sequences) - 1
    common = os.path.commonprefix([list(first), list(last)])[: max(limit, 0)]
    return list(common) if len(common) >= SHARED else []


@contextlib.contextmanager
def flat_linears(model: nn.Module) -> Iterator[None]:
    """Frozen bias-free bf16 linears on a CPU see 2-D input inside this block; parameters and results are the same."""
    slow = [m for m in model.modules() if isinstance(m, nn.Linear) and _is_slow(m) and "forward" not in vars(m)]
    for module in slow:
        module.forward = _flat_forward(module)
    try:
        yield
    finally:
        for module in slow:
            del module.forward


def _is_slow(module: nn.Linear) -> bool:
    weight = module.weight
    return weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and module.bias is None


def _flat_forward(module: nn.Linear):
    return lambda x: F.linear(x.flatten(0, -2), module.weight).unflatten(0, x.shape[:-1])


class _Batch(NamedTuple):
    """Prompts decoded together: the tokens that they all begin with, and the cache of those where there are any."""

    prompts: list[list[int]]
    prefix: list[int]
    cache: Any
    samples: int
    allowed: Layout


def _decode(model, batch: _Batch, config, pick: Pick, ending: "_Ending") -> list[list[list[int]]]:
    """Completions of one batch: per prompt, `samples` lists of ids."""
    prompts, prefix, cache, samples, allowed = batch
    rest = [prompt[len(prefix) :] for prompt in prompts]
    width = max(map(len, rest))
    pad, device = config.pad_token_id, model.device
    ids = torch.tensor([prefix + [pad] * (width - len(r)) + r for r in rest], device=device)  # (B, P + L)
    mask = torch.tensor([[1] * len(prefix) + [0] * (width - len(r)) + [1] * len(r) for r in rest], device=device)
    repeated = 1 if allowed.continues else samples
    if repeated > 1:
        ids, mask = ids.repeat_interleave(repeated, dim=0), mask.repeat_interleave(repeated, dim=0)
    config.max_new_tokens = ending.most_left()
    decode = partial(
        loop, samples=samples // repeated, pick=pick, finished=ending.finished, may_choose=allowed.continues
    )
    new = model.generate(
        input_ids=ids,
        attention_mask=mask,
        past_key_values=cache_for(cache, len(ids)),
        generation_config=config,
        custom_generate=decode,
    )
    done = [ending.cut(row, ids) for row, ids in enumerate(new)]
    return [done[i * samples : (i + 1) * samples] for i in range(len(prompts))]


class _Ending(NamedTuple):
    """Where the completions of a batch end. begun: the first tokens of each of its rows."""

    tokenizer: Any
    ends: list[int]
    stop: str | None
    most: int
    begun: list[list[int]]

    def most_left(self) -> int:
        """Tokens that the row with the shortest beginning may still get."""
        return self.most - min(map(len, self.begun))

    def finished(self, new: Tensor, rows: Tensor) -> Tensor:
        """(R,) bool, for the new ids (R, n) of the rows left, (R,)."""
        begun = [self.begun[row] for row in rows.tolist()]
        full = torch.tensor([len(one) + new.shape[1] >= self.most for one in begun], device=new.device)
        done = full | torch.isin(new, torch.tensor(self.ends, device=new.device)).any(dim=1)
        if self.stop:
            left = (~done).nonzero().flatten().tolist()
            texts = self.tokenizer.batch_decode([begun[i] + new[i].tolist() for i in left], skip_special_tokens=True)
            done[left] = torch.tensor([bool(re.search(self.stop, text)) for text in texts], device=new.device)
        return done

    def cut(self, row: int, new: list[int]) -> list[int]:
        """The whole completion of a row: up to and with its first end token, or where `stop` first matches."""
        ids = (self.begun[row] + new)[: self.most]
        ids = ids[: next((i + 1 for i, token in enumerate(ids) if token in self.ends), len(ids))]
        return cut_at(ids, self.tokenizer, self.stop) if self.stop else ids


def end_tokens(model: nn.Module, tokenizer) -> list[int]:
    """Ids of all tokens that end a completion, the model's and the tokenizer's; [] where there are none."""
    ends = model.generation_config.eos_token_id
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    return sorted({*ends, tokenizer.eos_token_id} - {None})


def pad_token(tokenizer) -> int:
    """What stands where nothing is read: any token will do, since it is masked."""
    return next((one for one in (tokenizer.pad_token_id, tokenizer.eos_token_id) if one is not None), 0)


def cut_at(ids: Sequence[int], tokenizer, pattern: str) -> list[int]:
    """The fewest first tokens of `ids` whose text matches `pattern`; all of them where it does not match."""
    found = re.compile(pattern)

    def matches(n: int) -> bool:
        return bool(found.search(tokenizer.decode(ids[:n], skip_special_tokens=True)))

    if not matches(len(ids)):
        return list(ids)
    return list(ids[: bisect_left(range(len(ids)), True, key=matches)])
