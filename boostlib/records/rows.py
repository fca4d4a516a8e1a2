"""What training reports and a ledger holds: scores, the untrained model's line, and a round's line."""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from boostlib.common.errors import BoostError


@dataclass
class Training:
    """What one round of training did."""

    steps: int = 0
    tokens: int = 0  # generated tokens; cross-entropy: tokens trained on
    seconds: float = 0.0
    samples: int = 0  # completions per prompt that were used in the end
    rewards: list[float] = field(default_factory=list)  # mean reward of each step
    signal: list[float] = field(default_factory=list)  # share of groups with an advantage, each step
    skipped: str = ""  # why nothing was learned; empty where something was
    losses: list[float] = field(default_factory=list)  # cross-entropy: mean loss of each step
    validation: list[float] = field(default_factory=list)  # cross-entropy: loss at the start, then at each check
    choice: dict[str, Any] = field(default_factory=dict)  # how the adapter was found, where something was looked at

    @classmethod
    def restored(cls, notes: dict[str, Any]) -> "Training":
        """From what a round's file keeps; notes that this version does not know are left out."""
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in notes.items() if key in known})

    def record(self) -> dict[str, Any]:
        """The part that a round's line keeps under these names."""
        return {key: value for key, value in vars(self).items() if key not in ("seconds", "choice")}

    def times(self) -> dict[str, float]:
        """Seconds by phase."""
        return {**({"probe": self.choice["seconds"]} if self.choice else {}), "train": round(self.seconds, 2)}

    def entry(self) -> dict[str, Any]:
        """What a round's line says of the choice under `extra`, beside its plan and its time."""
        kept = {key: value for key, value in self.choice.items() if key not in ("plan", "seconds")}
        return {"greedy": kept} if kept else {}


@dataclass
class Scores:
    """One evaluation of one split: accuracies, and who was right as packed bits in hexadecimal."""

    accuracy: float
    strict: float
    correct: str
    logits: str = ""  # of a classifier of two classes: float16, four hexadecimal digits an example
    classes: str = ""  # of a classifier of more: ids of what was said, then of what was right where that was wrong

    @property
    def n(self) -> int:
        """Number of examples, of which `correct` holds one bit each after a sentinel bit."""
        return int(self.correct, 16).bit_length() - 1

    def bits(self) -> list[bool]:
        """(n,) who was right, in the order of the split."""
        return unpack_bits(self.correct)

    def scores(self) -> np.ndarray:
        """(n,) float16 logits of a classifier of two classes, in the order of the split; for ROC curves. Else empty."""
        return np.frombuffer(bytes.fromhex(self.logits), dtype="<f2")

    def said(self) -> np.ndarray:
        """(n,) what a classifier said: whether it was the second of two classes, bool; of more, the class's id, int."""
        return unpack_ids(self.classes)[: self.n] if self.classes else self.scores() > 0

    def labels(self) -> np.ndarray:
        """(n,) what a classifier should have said, as `said` gives it."""
        if not self.classes:
            return self.said() == np.array(self.bits())
        labels = self.said().copy()
        labels[~np.array(self.bits(), dtype=bool)] = unpack_ids(self.classes)[self.n :]
        return labels


def pack_bits(correct) -> str:
    """Booleans as hexadecimal digits behind a sentinel 1, so that leading zeros survive."""
    return f"{int('1' + ''.join('1' if c else '0' for c in correct), 2):x}"


def unpack_bits(packed: str) -> list[bool]:
    """What `pack_bits` packed."""
    return [c == "1" for c in f"{int(packed, 16):b}"[1:]]


def pack_ids(ids: np.ndarray) -> str:
    """Ids below 65,536 in hexadecimal, four digits each."""
    return np.asarray(ids).astype("<u2").tobytes().hex()


def unpack_ids(packed: str) -> np.ndarray:
    """What `pack_ids` packed, int."""
    return np.frombuffer(bytes.fromhex(packed), dtype="<u2").astype(int)


def pack_logits(logits: np.ndarray) -> str:
    """Logits as float16 in hexadecimal; one too small for float16 keeps its sign."""
    halves = np.clip(logits, -60000, 60000).astype("<f2")
    halves[(halves == 0) & (logits > 0)] = np.finfo(np.float16).smallest_subnormal
    return halves.tobytes().hex()


@dataclass
class Base:
    """Line 1 of a ledger: the untrained model."""

    failures: list[str]
    train_accuracy: float
    train_strict: float
    metrics: dict[str, Scores]
    weights_fingerprint: str
    seconds: float
    run_json: str = ""  # SHA-256 of run.json's content; empty in runs that were recorded without it
    train_said: str = ""  # of a classifier of more than two classes: ids of what it said of the training split


@dataclass
class Round:
    """One round. Accuracies and metrics are those after merging; `failures` are the ids it was trained on."""

    index: int
    failures: list[str]
    num_parameters: int
    degrees_of_freedom: int
    plan: list[tuple[int, int]]
    adapter_norm: float  # |dW| of this round, Frobenius over all weights
    update_norm: float  # |sum of dW| so far
    fold_retention: float
    train_accuracy: float
    train_strict: float
    metrics: dict[str, Scores]
    fixed: list[str]
    broken: list[str]
    steps: int
    seconds: dict[str, float]  # train, merge, evaluate; greedy: probe
    tokens: int
    rewards: list[float]
    signal: list[float]
    seed: int
    v_sha256: str  # of the round's file
    weights_fingerprint: str
    skipped: str = ""  # why nothing was merged
    samples: int = 0
    losses: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    train_said: str = ""  # as in Base, after merging
    sketch: str = ""  # of dW, see sketch.py; empty where nothing was merged, and in runs recorded without it
    circumstances: str = ""  # hash of what the last bits depend on: basis, device, threads, versions

    @property
    def merged(self) -> bool:
        """Whether this round changed the weights."""
        return not self.skipped and self.decision in ("", "promote")

    @property
    def cost(self) -> dict[str, float]:
        """What the round took, probing counted: batches run backward, tokens, seconds of probing and training."""
        probed = self.extra.get("greedy", {})
        return {
            "batches": self.steps + probed.get("batches", 0),
            "tokens": self.tokens + probed.get("tokens", 0),
            "seconds": self.seconds.get("probe", 0.0) + self.seconds["train"],
        }

    @property
    def whole(self) -> bool:
        """Whether the state of every training example is known after it. False in recorded runs of an option that is
        gone, incremental evaluation: their accuracies on the training split are estimates."""
        return self.extra.get("incremental", {}).get("full", True)

    @property
    def decision(self) -> str:
        """What a gate decided: promote, reject or stop; empty in a run without a gate."""
        return self.extra.get("gate", {}).get("decision", "")

    @property
    def rejected(self) -> str:
        """Why a gate did not merge a round that had learned something; empty otherwise."""
        return "" if self.merged or self.skipped else self.extra["gate"]["reason"]


def held_out(row: Base | Round, split: str) -> Scores:
    """A row's scores on a held-out split. Raises BoostError for a split that the run was not scored on."""
    if split not in row.metrics:
        raise BoostError(f"this run was not scored on the held-out split {split!r}; it has {', '.join(row.metrics)}")
    return row.metrics[split]


def restore(kind: type, row: dict[str, Any]):
    """A Base or Round from its JSON form; keys that this version does not know are left out."""
    known = {f.name for f in fields(kind)}
    row = {key: value for key, value in row.items() if key in known}
    row["metrics"] = {name: Scores(**scores) for name, scores in row["metrics"].items()}
    if not isinstance(row.get("extra", {}), dict):
        raise TypeError("extra is no mapping")
    if "plan" in row:
        row["plan"] = [tuple(pair) for pair in row["plan"]]
    return kind(**row)
