"""Chains and texts as tokens: their layout, their longest length, and batches of like length.

    CLS chain SEP chain SEP        one token a residue, the model's own special tokens (ESM2 calls its separator EOS)
    CLS text SEP                   a text as the model's tokenizer lays it out

T5's kind has no CLS and is given none; ProtT5 writes a residue as "\u2581A", with the mark of a word's beginning.
What is pooled are residues, and of a text all but the special tokens.

Choices that no source states: ligand and receptor go into one sequence, the ligand's chains first; what is too long
loses the ends of its longest chains, evenly, and a warning says how many examples did. A text loses its end. Of a text
without any token of its own (a zero-width blank) the special ones are pooled.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import AutoModel

from boostlib.common.errors import DataError, ModelError
from boostlib.models.checkpoint import encoder_class
from boostlib.models.subject import Subject
from boostlib.tasks.base import Example, LabelTask, TextLabelTask
from boostlib.tasks.chains import AMINO_ACIDS, cut_evenly, split_prompt

log = logging.getLogger(__name__)

LONGEST = 1024  # tokens, unless the model's own limit is lower
SENTENCE = "where is my parcel now"
WORD = "\u2581"  # SentencePiece's mark of a word's beginning
BATCH_TOKENS = 16_384  # padded tokens in one forward pass: bounds its memory whatever the lengths


class Encoded(NamedTuple):
    """One example as tokens."""

    ids: list[int]
    residues: list[bool]  # which of the tokens are pooled
    cut: bool  # whether any were left out


def longest(model, tokenizer, task: LabelTask) -> int:
    """Tokens that an example may have: the task's `max_length`, else 1,024; never more than the model takes."""
    return min(model.positions or LONGEST, tokenizer.model_max_length, task.max_length or LONGEST)


def encode_chains(tokenizer, prompt: str, most: int) -> Encoded:
    """CLS chain SEP chain SEP, at most `most` tokens: see `cut_evenly`. Letters the model lacks become its unknown."""
    chains = split_prompt(prompt)
    first = [] if tokenizer.cls_token_id is None else [tokenizer.cls_token_id]
    kept = cut_evenly(chains, most - len(first) - len(chains))
    ids, residues = first, [False] * len(first)
    for chain in kept:
        ids += [*residue_ids(tokenizer, chain), separator(tokenizer)]
        residues += [True] * len(chain) + [False]
    return Encoded(ids, residues, sum(map(len, kept)) < sum(map(len, chains)))


def encode_examples(subject: Subject, examples: Sequence[Example]) -> list[Encoded]:
    """All examples as tokens, at the length that model and task allow. Raises ModelError where the tokenizer is for
    prompts of another kind."""
    if not hasattr(subject.task, "max_length"):
        raise DataError(f"task {subject.task.name!r} asks for texts, not labels: load the model with load_model(name)")
    tokenizer, texts = subject.tokenizer, isinstance(subject.task, TextLabelTask)
    lacking = no_texts(tokenizer) if texts else no_chains(tokenizer, subject.model.config)
    if lacking:
        what, such = ("texts", "minilm") if texts else ("proteins", "antiberty")
        raise ModelError(f"task {subject.task.name!r} asks about {what}, and {lacking}: use one such as {such!r}")
    most = longest(subject.model, tokenizer, subject.task)
    if texts:
        return encode_texts(tokenizer, [str(example.prompt) for example in examples], most)
    return [encode_chains(tokenizer, str(example.prompt), most) for example in examples]


def encode_texts(tokenizer, texts: Sequence[str], most: int) -> list[Encoded]:
    """Each text as the tokenizer lays it out, at most `most` tokens."""
    plain = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    found = tokenizer(list(texts), truncation=True, max_length=most, return_special_tokens_mask=True, **plain)
    full = [i for i, ids in enumerate(found.input_ids) if len(ids) >= most]
    whole = tokenizer([texts[i] for i in full], **plain).input_ids if full else []
    cut = {i for i, ids in zip(full, whole, strict=True) if len(ids) > most}
    rows = zip(found.input_ids, found.special_tokens_mask, strict=True)
    return [Encoded(ids, [not s or all(special) for s in special], i in cut) for i, (ids, special) in enumerate(rows)]


def say_what_was_cut(task: LabelTask, split: str, encoded: Sequence[Encoded]) -> int:
    """How many examples lost tokens; a warning tells it where there are any."""
    count = sum(one.cut for one in encoded)
    if count:
        most = max(len(one.ids) for one in encoded)
        log.warning(
            "%s, split %s: %d of %d are longer than %d tokens and %s (max_length; the model's limit)",
            task.name, split, count, len(encoded), most,
            "lost their ends" if isinstance(task, TextLabelTask) else "were cut evenly",
        )  # fmt: skip
    return count


def to_tensors(encoded: Sequence[Encoded], pad: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, mask, residues), (B, L) each, padded on the right."""
    width = max(len(one.ids) for one in encoded)
    rows = [
        (one.ids + [pad] * gap, [1] * len(one.ids) + [0] * gap, one.residues + [False] * gap)
        for one in encoded
        for gap in [width - len(one.ids)]
    ]
    return tuple(torch.tensor(part, device=device) for part in zip(*rows, strict=True))


def by_length(encoded: Sequence[Encoded], size: int, tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Indices in batches of like length, longest first: at most `size` examples and `tokens` padded tokens a batch."""
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i].ids))
    while order:
        most = max(1, min(size, tokens // len(encoded[order[0]].ids)))
        yield order[:most]
        order = order[most:]


def residue_ids(tokenizer, chain: str) -> list[int]:
    """One token a residue; the unknown token for letters that the tokenizer lacks."""
    found = tokenizer.convert_tokens_to_ids(list(chain))
    if tokenizer.unk_token_id in found or None in found:
        marked = tokenizer.convert_tokens_to_ids([WORD + letter for letter in chain])
        lacking = (None, tokenizer.unk_token_id)
        found = [other if one in lacking else one for one, other in zip(found, marked, strict=True)]
    return found


def separator(tokenizer) -> int | None:
    """The id of the token between chains."""
    found = getattr(tokenizer, "sep_token_id", None)
    return getattr(tokenizer, "eos_token_id", None) if found is None else found


def no_chains(tokenizer, config) -> str:
    """What a tokenizer lacks to read chains: amino acids, a token between chains, or one for the beginning, which
    T5's kind does without; "" where it reads them."""
    lacking = (None, tokenizer.unk_token_id)
    missing = [letter for letter in AMINO_ACIDS if residue_ids(tokenizer, letter)[0] in lacking]
    if missing:
        return f"its tokenizer lacks the amino acids {', '.join(missing)}"
    begins = getattr(tokenizer, "cls_token_id", None) is not None or encoder_class(config) is not AutoModel
    ends = separator(tokenizer) is not None
    return "" if begins and ends else "its tokenizer lacks a token for the beginning or the end of a sequence"


def no_texts(tokenizer) -> str:
    """Why a tokenizer does not read texts: it has no token for any part of an English sentence; "" where it does."""
    ids = tokenizer(SENTENCE, add_special_tokens=False).input_ids
    return "" if set(ids) - {tokenizer.unk_token_id} else "its tokenizer knows no part of an English sentence"
