"""A classifier of protein chains or of texts: any `AutoModel` encoder, mean-pooled over tokens, one linear head.

    logits = W mean_i h_i + b        h_i (hidden,) the encoder's last state at token i; W (k, hidden), b (k,)

Of two classes there is one logit, k = 1, and the second class is said where it is positive ("binds"); of more there is
one each, and the largest says which. The head is the paper's linear probe: on ESM2-650M hidden + 1 = 1,281 numbers. The
mean runs over residues, or the tokens of a text, alone: special tokens and padding never enter it, so a score does not
depend on what shares its batch.

Departures and choices that no source states: pooling and head compute in fp32 whatever the encoder's dtype; a pooling
layer of the encoder's own is dropped, since checkpoints often lack its weights and a random one would make every load
another model. Of an encoder-decoder model (T5, ProtT5) the encoder alone is loaded. Encoders whose states depend on
what fills the padding (FNet, ConvBERT, Nystromformer), or not on both neighbours, are refused when they are loaded.

Pooled features are kept on disk, so that the untrained encoder reads a data set once, not once an epoch or a seed:

    <cache>/features/<hash of the tokens>-<fingerprint of the encoder>.safetensors      features (n, hidden) fp32

The tokens stand for sequences, length limit and tokenizer; the fingerprint for every weight of the encoder. Labels
and the head are not part of the key: they do not enter the features.
"""

import contextlib
import copy
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel

from boostlib.common import world
from boostlib.common.durable import write_durably
from boostlib.common.errors import ModelError, RunError, explain_oom
from boostlib.common.settings import Flag, checks
from boostlib.common.stable import cache_dir, fingerprint_json, fingerprint_tensors
from boostlib.models.checkpoint import encoder_class, load_whole, require_fitting, require_none_missing, used_of
from boostlib.models.embedded import quiet_loading
from boostlib.models.language import chosen_device, chosen_dtype, judged_config, kind_source, loading, model_name
from boostlib.models.sequences import (
    SENTENCE,
    Encoded,
    by_length,
    encode_chains,
    encode_texts,
    no_chains,
    no_texts,
    separator,
    to_tensors,
)
from boostlib.models.subject import Subject
from boostlib.tasks.base import YES_OR_NO

log = logging.getLogger(__name__)

HEAD_FILE = "head.safetensors"
SAME = 1e-5  # states that are further apart, as a share of the largest, are not the same in fp32


class SequenceClassifier(nn.Module):
    """encoder: its `last_hidden_state` is pooled. The head, for `classes`, starts at zero: `train_head` trains it."""

    def __init__(self, encoder: PreTrainedModel, classes: Sequence[str] = YES_OR_NO):
        super().__init__()
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = nn.Identity()  # some call it whatever it is
        self.encoder = encoder
        self.new_head(classes)

    def new_head(self, classes: Sequence[str]) -> None:
        """A head of zeros for `classes`: one logit for two of them, else one each."""
        self.classes, logits = tuple(classes), 1 if len(classes) == 2 else len(classes)
        self.head = nn.Linear(self.config.hidden_size, logits, dtype=torch.float32, device=self.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def config(self):
        """The encoder's."""
        return self.encoder.config

    @property
    def device(self) -> torch.device:
        """The encoder's."""
        return self.encoder.device

    @property
    def dtype(self) -> torch.dtype:
        """The encoder's; the head is fp32."""
        return self.encoder.dtype

    @property
    def positions(self) -> int | None:
        """Tokens that the encoder has positions for; None where it counts distances alone.

        Where the table of positions has a row for padding (RoBERTa, ESM-1b, MPNet), counting starts after that row.
        """
        most = getattr(self.config, "max_position_embeddings", None)
        tables = (m for name, m in self.encoder.named_modules() if name.rsplit(".", 1)[-1] == "position_embeddings")
        skipped = [m.padding_idx + 1 for m in tables if getattr(m, "padding_idx", None) is not None]
        return most - max(skipped, default=0) if most and most > 0 else None

    def features(self, ids: Tensor, mask: Tensor, residues: Tensor) -> Tensor:
        """Mean state of the residues, (B, hidden) fp32. ids, mask (1: token, 0: padding), residues: (B, L)."""
        states = self.states(ids, mask).float()  # (B, L, hidden)
        weight = residues.float().unsqueeze(-1)  # (B, L, 1)
        return (states * weight).sum(dim=1) / weight.sum(dim=1)

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The encoder's last states, (B, L, hidden) in its dtype."""
        found = self.encoder(input_ids=ids, attention_mask=mask)
        return found[0] if isinstance(found, tuple) else found.last_hidden_state

    def forward(self, ids: Tensor, mask: Tensor, residues: Tensor) -> Tensor:
        """Logits, fp32: (B,) for two classes, else (B, k)."""
        return self.head(self.features(ids, mask, residues)).squeeze(-1)

    def require_trained_head(self) -> None:
        """Raises ModelError where the head is still zero: everything would be called the first class."""
        if not self.head.weight.any():
            raise ModelError("the head is untrained (all zero): call train_head(model, tokenizer, task) first")

    def head_state(self) -> dict[str, Tensor]:
        """The head's numbers, on the CPU, and `classes`, the names as the bytes of a JSON list, where they are not 0
        and 1."""
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.head.state_dict().items()}
        if self.classes != YES_OR_NO:
            state["classes"] = torch.tensor(list(json.dumps(self.classes).encode()), dtype=torch.uint8)
        return state

    def save_head(self, folder: str | Path) -> None:
        """Write the head to `folder`, whole or not at all."""
        write_durably(Path(folder) / HEAD_FILE, save(self.head_state()))

    def load_head(self, folder: str | Path) -> None:
        """Read what `save_head` wrote. Raises RunError where it is damaged or was made for another encoder."""
        self.set_head(read_head(folder), Path(folder) / HEAD_FILE)

    def set_head(self, state: Mapping[str, Tensor], where: str | Path) -> None:
        """Take what `head_state` gave from `state`, found in `where`. Raises RunError where it does not fit."""
        numbers = dict(state)
        names = numbers.pop("classes", None)
        try:
            classes = YES_OR_NO if names is None else tuple(json.loads(bytes(names.tolist())))
            if classes != self.classes:
                self.new_head(classes)
            self.head.load_state_dict(numbers)
        except (RuntimeError, ValueError, TypeError) as error:
            raise RunError(f"{where} is no head of this model ({str(error).splitlines()[0]}): restore it") from error

    def save_pretrained(self, folder: str | Path) -> None:
        """The encoder as a plain transformers model, and the head beside it: `load_classifier(folder)` reads both."""
        self.encoder.save_pretrained(folder)
        self.save_head(folder)


def read_head(folder: str | Path) -> dict[str, Tensor]:
    """The numbers that `save_head` wrote to `folder`. Raises RunError where the file is missing or damaged."""
    path = Path(folder) / HEAD_FILE
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is no head of this model ({str(error).splitlines()[0]}): restore it") from error


@checks
def load_classifier(
    name: str,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    trust_remote_code: Flag = False,
):
    """(SequenceClassifier, tokenizer) of encoder `name`: "minilm", "antiberty", a folder or a hub id. In eval mode.

    A folder that `save_pretrained` wrote brings its head; otherwise the head is zero until `train_head`.
    dtype, device, trust_remote_code: as for `load_model`. Raises ModelError where the model is no encoder of protein
    chains or of texts; which of them it can read its tokenizer decides.
    """
    name, place = model_name(name), chosen_device(device)
    precision = chosen_dtype(dtype, place)
    source = kind_source(name, generates=False)
    config = judged_config(name, source, generates=False, trust_remote_code=trust_remote_code)
    with loading(name, generates=False):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        _make_ready(tokenizer, name, config)
        with quiet_loading(), explain_oom("the size of the model or its dtype", f"{name} in {precision}"):
            settings = {"dtype": precision, "trust_remote_code": trust_remote_code}
            encoder, missing = load_whole(encoder_class(config), source, **settings)
            encoder = encoder.to(place)
        model = SequenceClassifier(encoder).eval()
    _check_encoder(model, tokenizer, name, missing)
    encoder.config._name_or_path = encoder.name_or_path = name
    if (Path(source) / HEAD_FILE).is_file():
        model.load_head(source)
    return model, tokenizer


@torch.no_grad()
def run_batches(
    subject: Subject,
    encoded: Sequence[Encoded],
    what: Callable[..., Tensor],
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """`what` (model.features, or model itself for logits) of every example, in order, on the CPU; in eval mode."""
    model, pad = subject.model, subject.tokenizer.pad_token_id
    was_training, found = model.training, [None] * len(encoded)
    model.eval()
    try:
        with explain_oom("batch_size", batch_size):
            for rows in by_length(encoded, batch_size):
                batch = to_tensors([encoded[i] for i in rows], pad, model.device)
                for i, value in zip(rows, what(*batch).cpu(), strict=True):
                    found[i] = value
                if on_batch:
                    on_batch(len(rows))
    finally:
        model.train(was_training)
    return torch.stack(found)


def features(
    subject: Subject,
    encoded: Sequence[Encoded],
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
    keep: bool = False,
) -> Tensor:
    """(n, hidden) fp32 on the CPU, from the cache where the same encoder has read the same tokens before.

    keep: write what was computed to the cache. A cache that cannot be written costs time, not the run.
    """
    folder = cache_dir() / "features"
    parts = [world.size()] if world.size() > 1 else []
    shapes = [[one.ids for one in encoded], batch_size, *parts]  # a batch's shape moves the last bits
    tokens = fingerprint_json(shapes)[:24]
    known = keep or any(folder.glob(f"{tokens}-*"))
    path = folder / f"{tokens}-{encoder_fingerprint(subject.model)[:24]}.safetensors" if known else None
    found = _read(path, len(encoded)) if path else None
    if world.total(found is None) == 0:  # known to every process
        if on_batch:
            on_batch(len(world.share(encoded)))
        return found

    def read(part: Sequence[Encoded]) -> list[Tensor]:
        rows = run_batches(subject, part, subject.model.features, batch_size, on_batch)
        return [row.clone() for row in rows]  # a view would be sent with all that it is a view of

    found = torch.stack(world.spread(encoded, read))
    if keep and path and world.is_main():
        _write(path, found)
    return found


@torch.no_grad()
def logits(
    subject: Subject,
    encoded: Sequence[Encoded],
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """(n,) or (n, k) fp32 on the CPU: the head on `features`."""
    model, pooled = subject.model, features(subject, encoded, batch_size, on_batch)
    return model.head(pooled.to(model.device)).squeeze(-1).cpu()


def encoder_fingerprint(model: SequenceClassifier) -> str:
    """SHA-256 over the encoder's weights."""
    return fingerprint_tensors(model.encoder.named_parameters())


def _read(path: Path, count: int) -> Tensor | None:
    with contextlib.suppress(OSError, SafetensorError, KeyError):  # not there, or cut short: computed anew
        found = load_file(path)["features"]
        return found if len(found) == count else None
    return None


def _write(path: Path, found: Tensor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, save({"features": found.contiguous()}))
    except (OSError, RunError) as error:
        log.warning("features not cached under %s: %s", path, error)
        with contextlib.suppress(OSError):
            os.unlink(path.with_name(f".{path.name}.tmp"))


def _make_ready(tokenizer, name: str, config) -> None:
    """With a token to pad with. Raises ModelError where a tokenizer reads neither chains nor texts."""
    lacking = no_chains(tokenizer, config)
    if lacking and no_texts(tokenizer):
        raise ModelError(
            f"{name!r} is no protein encoder, as {lacking}, and no encoder of texts, as {no_texts(tokenizer)}; use one "
            'such as "antiberty" and "facebook/esm2_t6_8M_UR50D", or "minilm" and "answerdotai/ModernBERT-base"'
        )
    if tokenizer.pad_token_id is None:  # padding is masked: any token will do
        known = getattr(config, "pad_token_id", None)
        known = separator(tokenizer) if known is None else known
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0 if known is None else known)


def _check_encoder(model: SequenceClassifier, tokenizer, name: str, missing: set[str]) -> None:
    """States must be made of weights that were loaded, and of the residues alone, the same each time.

    Raises ModelError where weights are missing that they are made of; where a residue's state changes from pass to
    pass, or with the padding behind it (a score would depend on what shares its batch); or depends on no other.
    """
    require_fitting(tokenizer, model.encoder, name)
    kind = f"{name!r} ({model.config.model_type})"
    one, other, first = _alike(model, tokenizer)
    pads, end = [tokenizer.pad_token_id] * 2, len(one)
    rows = [one + pads, one + one[:2], other + pads]
    try:
        missing = set(used_of(missing, model.encoder, lambda: _states(model, [one], end)))
        with torch.no_grad():
            (here, filled, changed), again = _states(model, rows, end), _states(model, rows[:1], end)[0]
            # MobileBERT reads one token too far, where padding is zero; what bf16 would hide, fp32 shows
            leak = 0.0 if torch.equal(here, filled) else _leak(copy.deepcopy(model).float(), one, pads)
    except Exception as error:  # code of any model there is
        raise ModelError(
            f"{kind} gives no states of residues in {model.dtype} ({type(error).__name__}: {error}): try "
            'dtype="fp32", or use another encoder'
        ) from error
    require_none_missing(missing, name)
    if _apart(again, here) > max(SAME, 2 * torch.finfo(model.dtype).eps):
        raise ModelError(f"{kind} gives other states each time, as it draws something at random: use another encoder")
    if leak > SAME:
        raise ModelError(
            f"{kind} reads its padding: states of residues change with what is masked out, so that a score would "
            "depend on what shares its batch. Use an encoder that masks padding"
        )
    if _apart(changed[: first + 1], here[: first + 1]) < SAME / 10:
        raise ModelError(
            f"{kind} is no encoder: the state of the first residue does not depend on the second. It is causal, or a "
            "kernel that it needs is not installed; use another encoder"
        )


def _alike(model: SequenceClassifier, tokenizer) -> tuple[list[int], list[int], int]:
    """Two prompts as tokens that differ in the second one that is pooled, and the place of the first."""
    if not no_chains(tokenizer, model.config):
        one, other = (encode_chains(tokenizer, chain, 16) for chain in ("ACD", "ALD"))
        return one.ids, other.ids, one.residues.index(True)
    (one,) = encode_texts(tokenizer, [SENTENCE], 16)
    first, last = one.residues.index(True), one.ids[-1 - one.residues[::-1].index(True)]
    return one.ids, [*one.ids[: first + 1], last, *one.ids[first + 2 :]], first


def _states(model: SequenceClassifier, rows: list[list[int]], end: int) -> Tensor:
    """States of the first `end` tokens of each row, with what follows masked out. (rows, end, hidden) fp32"""
    ids = torch.tensor(rows, device=model.device)
    mask = (torch.arange(ids.shape[1], device=model.device) < end).long().expand_as(ids)
    return model.states(ids, mask)[:, :end].float()


def _leak(model: SequenceClassifier, ids: list[int], pads: list[int]) -> float:
    """By how much padding changes states, as a share of the largest."""
    return _apart(_states(model, [ids + pads], len(ids)), _states(model, [ids], len(ids)))


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())
