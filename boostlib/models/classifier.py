"""A yes-or-no classifier of protein chains: any `AutoModel` encoder, mean-pooled over residues, one linear head.

    logit = w . mean_i h_i + b        h_i (hidden,) the encoder's last state at residue i; positive: "binds"

The head is the paper's linear probe: hidden + 1 numbers, 1,281 on ESM2-650M. The mean runs over residues alone: special
tokens and padding never enter it, so a score does not depend on what shares its batch.

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
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from boostlib.common import world
from boostlib.common.durable import write_durably
from boostlib.common.errors import ModelError, RunError, explain_oom
from boostlib.common.settings import Flag, checks
from boostlib.common.stable import cache_dir, fingerprint_json, fingerprint_tensors
from boostlib.models.checkpoint import encoder_class, load_whole, require_fitting, require_none_missing, used_of
from boostlib.models.embedded import quiet_loading
from boostlib.models.language import chosen_device, chosen_dtype, judged_config, kind_source, loading, model_name
from boostlib.models.sequences import Encoded, by_length, encode_chains, residue_ids, separator, to_tensors
from boostlib.models.subject import Subject
from boostlib.tasks.chains import AMINO_ACIDS

log = logging.getLogger(__name__)

HEAD_FILE = "head.safetensors"
SAME = 1e-5  # states that are further apart, as a share of the largest, are not the same in fp32


class SequenceClassifier(nn.Module):
    """encoder: its `last_hidden_state` is pooled. The head starts at zero: `train_head` trains it."""

    def __init__(self, encoder: PreTrainedModel):
        super().__init__()
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = nn.Identity()  # some call it whatever it is
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, 1, dtype=torch.float32, device=encoder.device)
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
        """Logits, (B,) fp32."""
        return self.head(self.features(ids, mask, residues)).squeeze(-1)

    def require_trained_head(self) -> None:
        """Raises ModelError where the head is still zero: everything would be called a non-binder."""
        if not self.head.weight.any():
            raise ModelError("the head is untrained (all zero): call train_head(model, tokenizer, task) first")

    def save_head(self, folder: str | Path) -> None:
        """Write the head's hidden + 1 numbers to `folder`, whole or not at all."""
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.head.state_dict().items()}
        write_durably(Path(folder) / HEAD_FILE, save(state))

    def load_head(self, folder: str | Path) -> None:
        """Read what `save_head` wrote. Raises RunError where it is damaged or was made for another encoder."""
        self.set_head(read_head(folder), Path(folder) / HEAD_FILE)

    def set_head(self, state: Mapping[str, Tensor], where: str | Path) -> None:
        """Take the head's numbers from `state`, found in `where`. Raises RunError where they do not fit."""
        try:
            self.head.load_state_dict(state)
        except RuntimeError as error:
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
    """(SequenceClassifier, tokenizer) of encoder `name`: "antiberty", a local folder or a hub id. In eval mode.

    A folder that `save_pretrained` wrote brings its head; otherwise the head is zero until `train_head`.
    dtype, device, trust_remote_code: as for `load_model`. Raises ModelError where the model is no encoder of proteins.
    """
    name, place = model_name(name), chosen_device(device)
    precision = chosen_dtype(dtype, place)
    source = kind_source(name, generates=False)
    config = judged_config(name, source, generates=False, trust_remote_code=trust_remote_code)
    with loading(name, generates=False):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        _check_alphabet(tokenizer, name, config)
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
    """(n,) fp32 on the CPU: the head on `features`."""
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


def _check_alphabet(tokenizer, name: str, config) -> None:
    """A token for every amino acid, one between chains, one to pad with; one for the beginning, but for T5's kind."""
    lacking = (None, tokenizer.unk_token_id)
    missing = [letter for letter in AMINO_ACIDS if residue_ids(tokenizer, letter)[0] in lacking]
    with contextlib.suppress(AttributeError):
        begins = tokenizer.cls_token_id is not None or encoder_class(config) is not AutoModel
        if not missing and begins and separator(tokenizer) is not None:
            if tokenizer.pad_token_id is None:  # padding is masked: any token will do
                known = getattr(config, "pad_token_id", None)
                tokenizer.pad_token = tokenizer.convert_ids_to_tokens(separator(tokenizer) if known is None else known)
            return
    raise ModelError(
        f"{name!r} is no protein encoder: its tokenizer lacks "
        + (f"the amino acids {', '.join(missing)}" if missing else "a token for the beginning or the end of a sequence")
        + '; use one such as "antiberty" or "facebook/esm2_t6_8M_UR50D"'
    )


def _check_encoder(model: SequenceClassifier, tokenizer, name: str, missing: set[str]) -> None:
    """States must be made of weights that were loaded, and of the residues alone, the same each time.

    Raises ModelError where weights are missing that they are made of; where a residue's state changes from pass to
    pass, or with the padding behind it (a score would depend on what shares its batch); or depends on no other.
    """
    require_fitting(tokenizer, model.encoder, name)
    kind = f"{name!r} ({model.config.model_type})"
    one, other = (encode_chains(tokenizer, chain, 16).ids for chain in ("ACD", "ALD"))
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
    first = one.index(residue_ids(tokenizer, "A")[0])
    if _apart(changed[: first + 1], here[: first + 1]) < SAME / 10:
        raise ModelError(
            f"{kind} is no encoder: the state of the first residue does not depend on the second. It is causal, or a "
            "kernel that it needs is not installed; use another encoder"
        )


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
