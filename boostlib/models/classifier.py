"""A yes-or-no classifier of protein chains: any `AutoModel` encoder, mean-pooled over residues, one linear head.

    logit = w . mean_i h_i + b        h_i (hidden,) the encoder's last state at residue i; positive: "binds"

The head is the paper's linear probe: hidden + 1 numbers, 1,281 on ESM2-650M. The mean runs over residues alone: special
tokens and padding never enter it, so a score does not depend on what shares its batch.

Departures and choices that no source states: pooling and head compute in fp32 whatever the encoder's dtype; a pooling
layer of the encoder's own is dropped, since checkpoints often lack its weights and a random one would make every load
another model.

Pooled features are kept on disk, so that the untrained encoder reads a data set once, not once an epoch or a seed:

    <cache>/features/<hash of the tokens>-<fingerprint of the encoder>.safetensors      features (n, hidden) fp32

The tokens stand for sequences, length limit and tokenizer; the fingerprint for every weight of the encoder. Labels
and the head are not part of the key: they do not enter the features.
"""

import contextlib
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
from boostlib.common.errors import BoostError, ModelError, RunError, explain_oom
from boostlib.common.stable import cache_dir, fingerprint_json, fingerprint_tensors
from boostlib.models.embedded import EMBEDDED, quiet_loading
from boostlib.models.language import chosen_device, chosen_dtype, load_error, model_name, weights_source
from boostlib.models.sequences import Encoded, by_length, separator, to_tensors
from boostlib.models.subject import Subject
from boostlib.tasks.chains import AMINO_ACIDS

log = logging.getLogger(__name__)

HEAD_FILE = "head.safetensors"


class SequenceClassifier(nn.Module):
    """encoder: its `last_hidden_state` is pooled. The head starts at zero: `train_head` trains it."""

    def __init__(self, encoder: PreTrainedModel):
        super().__init__()
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None
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

    def features(self, ids: Tensor, mask: Tensor, residues: Tensor) -> Tensor:
        """Mean state of the residues, (B, hidden) fp32. ids, mask (1: token, 0: padding), residues: (B, L)."""
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float()  # (B, L, hidden)
        weight = residues.float().unsqueeze(-1)  # (B, L, 1)
        return (states * weight).sum(dim=1) / weight.sum(dim=1)

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


def load_classifier(name: str, dtype: str | torch.dtype = "auto", device: str | torch.device = "auto"):
    """(SequenceClassifier, tokenizer) of encoder `name`: "antiberty", a local folder or a hub id. In eval mode.

    A folder that `save_pretrained` wrote brings its head; otherwise the head is zero until `train_head`.
    dtype, device: as for `load_model`. Raises ModelError where the model is no encoder of proteins.
    """
    name, place = model_name(name), chosen_device(device)
    precision = chosen_dtype(dtype, place)
    if name in EMBEDDED and EMBEDDED[name].generates:
        raise ModelError(f"{name!r} is a language model, not an encoder: use load_model({name!r}), or 'antiberty' here")
    source = weights_source(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        with quiet_loading(), explain_oom("the size of the model or its dtype", f"{name} in {precision}"):
            encoder = AutoModel.from_pretrained(source, dtype=precision).to(place)
    except BoostError:
        raise
    except Exception as error:  # as in `load_model`
        raise ModelError(load_error(name, error, generates=False)) from error
    encoder.config._name_or_path = encoder.name_or_path = name
    _check_alphabet(tokenizer, name)
    model = SequenceClassifier(encoder)
    if (Path(source) / HEAD_FILE).is_file():
        model.load_head(source)
    return model.eval(), tokenizer


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


def _check_alphabet(tokenizer, name: str) -> None:
    known = [tokenizer.convert_tokens_to_ids(letter) not in (None, tokenizer.unk_token_id) for letter in AMINO_ACIDS]
    with contextlib.suppress(AttributeError):
        if all(known) and tokenizer.cls_token_id is not None and separator(tokenizer) is not None:
            return
    missing = [letter for letter, is_known in zip(AMINO_ACIDS, known, strict=True) if not is_known]
    raise ModelError(
        f"{name!r} is no protein encoder: its tokenizer lacks "
        + (f"the amino acids {', '.join(missing)}" if missing else "a token for the beginning or the end of a sequence")
        + '; use one such as "antiberty" or "facebook/esm2_t6_8M_UR50D"'
    )
