"""Fakes that the tests of the loop share: a task with a deterministic score, and a trainer that trains nothing.

Run as a script, `python helpers.py MODEL_DIR RUN_DIR ROUNDS [SLEEP]`, it does one run in a process of its own.
"""

import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
import torch

from boostlib import AdapterConfig, BoostConfig, Greedy, Ledger, boost
from boostlib.common.stable import fingerprint_tensors, philox
from boostlib.models.classifier import SequenceClassifier
from boostlib.records.rows import Training
from boostlib.tasks.base import Example, LabelTask, Score
from boostlib.tasks.chains import AMINO_ACIDS


def saved(folder: Path, *parts) -> str:
    """`folder`, with a model and its tokenizer in it, as any process loads them."""
    for part in parts:
        part.save_pretrained(folder)
    return str(folder)


@contextmanager
def disk_for(size: int) -> Iterator[None]:
    """Inside, no file grows beyond `size` bytes: writes fail half-way, as on a full disk."""
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, kept[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
        signal.signal(signal.SIGXFSZ, handler)


@dataclass
class ParityTask:
    """A completion is right where the sum of its bytes is odd or even, as its example asks."""

    train: int = 12
    test: int = 6
    max_new_tokens: int = 2
    name: str = "parity"
    odd: bool | None = None  # what every example asks for, where it is the same
    chat: bool = False
    extra: dict = field(default_factory=dict)
    stop: str | None = None

    def split(self, name: str) -> list[Example]:
        coins = philox("parity", name).random(getattr(self, name)) < 0.5
        return [
            Example(f"{name}-{i}", self._prompt(f"count {name[:2]} {chr(97 + i % 26)}{i}"), str(int(coin)))
            for i, coin in enumerate(coins)
        ]

    def _prompt(self, text: str):
        return [{"role": "user", "content": text}] if self.chat else text

    def score(self, completion: str, example: Example) -> Score:
        wanted = int(example.answer) if self.odd is None else int(self.odd)
        right = sum(completion.encode()) % 2 == wanted
        return Score(right, right and len(completion) > 1)

    def score_many(self, completions, examples) -> list[Score]:
        return [self.score(text, example) for text, example in zip(completions, examples, strict=True)]

    def settings(self) -> dict:
        return {"name": self.name, "max_new_tokens": self.max_new_tokens, **self.extra}


@dataclass(frozen=True, kw_only=True)
class CoinTask(LabelTask):
    """Random chains whose labels are drawn by lot; "validation" is there for trainers that look at it."""

    name = "coins"
    splits = ("train", "validation", "test")
    train: int = 12
    validation: int = 6
    test: int = 6

    def load_split(self, name: str) -> list[Example]:
        random = philox("coins", name)
        chains = ["".join(random.choice(list(AMINO_ACIDS), random.integers(5, 30))) for _ in range(getattr(self, name))]
        return [Example(f"{name}-{i}", f"{c},{c[:4]}|{c[::-1]}", str(int(random.random() < 0.5)))
                for i, c in enumerate(chains)]  # fmt: skip


@dataclass
class FakeTrainer:
    """Sets v from the seed and the failures; `skip` names rounds that learn nothing; `on_round` is told each round."""

    scale: float = 3.0
    skip: tuple[int, ...] = ()
    on_round: Callable[[int], None] = lambda index: None
    trained: list[int] = field(default_factory=list)
    sleep: float = 0.0
    given: list[list[str]] = field(default_factory=list)  # ids of each round's examples

    def settings(self) -> dict:
        return {"kind": "fake", "scale": self.scale}

    def train(self, subject, examples, adapter, seed=0) -> Training:
        assert all(p.requires_grad == (name == "boost_adapter.v") for name, p in subject.model.named_parameters())
        self.on_round(adapter.round)
        time.sleep(self.sleep)
        self.trained.append(adapter.round)
        self.given.append([e.id for e in examples])
        noise = philox("fake", seed, *[e.id for e in examples]).standard_normal(tuple(adapter.v.shape))
        adapter.v.data.copy_(torch.from_numpy(self.scale * noise))
        if adapter.round in self.skip:
            return Training(skipped="nothing to learn")
        if subject.on_step:
            subject.on_step({"step": 1, "of": 1, "reward": 0.5})
        return Training(steps=1, tokens=len(examples), samples=2, rewards=[0.5], signal=[1.0])

    def probe(self, subject, examples, batches, seed=0) -> Training:
        """A loss that depends on the seed and the failures."""
        model = subject.model
        draw = philox("fake probe", seed, *[e.id for e in examples])
        for _ in range(batches):
            ids = torch.from_numpy(draw.integers(5, 24, (2, 6)))
            texts = not isinstance(model, SequenceClassifier)
            out = model(input_ids=ids).logits if texts else model(ids, torch.ones_like(ids), torch.ones_like(ids))
            (out.float() * torch.from_numpy(draw.standard_normal(tuple(out.shape))).float()).mean().backward()
        return Training(steps=batches, tokens=12 * batches)


def config(rounds: int = 3, **settings) -> BoostConfig:
    """A run of so many rounds at 6 numbers a round (14 modules in groups of 7, u=3); greedy: few pairs to take."""
    settings = {"greedy": Greedy(candidates=4, probe_batches=1), **settings}
    adapter = {name: settings.pop(name) for name in list(settings) if name in AdapterConfig.__dataclass_fields__}
    return BoostConfig(rounds=rounds, adapter=AdapterConfig(**{"n_tie": 7, "u": 3, "blocks": 4, **adapter}), **settings)


def rows(ledger: Ledger) -> list[dict]:
    """Everything that a ledger says, times and costs of evaluation aside."""
    found = [asdict(row) for row in [ledger.base, *ledger.rounds] if row]
    for row in found:
        del row["seconds"]
        row.get("extra", {}).pop("drafts", None)  # what evaluation cost: more after a resume
        for name in ("v_sha256", "run_json"):  # of files that hold times
            row.pop(name, None)
    return found


def same_runs(one: Ledger, other: Ledger) -> bool:
    """Whether two runs agree in every row and in every number that was trained, times aside."""
    found = [[ledger.load_numbers(row.index)[0] for row in ledger.rounds] for ledger in (one, other)]
    return rows(one) == rows(other) and all(
        x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x) for x, y in zip(*found, strict=True)
    )


def prints(model) -> str:
    """SHA-256 of everything that a model holds."""
    return fingerprint_tensors(model.state_dict())


class Killed(BaseException):
    """The process died here."""


def ends_as_undisturbed(call: Callable, whole, die_at: Callable, points: int) -> None:
    """Killed at each of so many points and called again, `call(name)` gives the run `whole`: rows and weights."""
    for n in range(points):
        die_at(n)
        with pytest.raises(Killed):
            call("cut")
        die_at(None)
        resumed = call("cut")
        assert same_runs(whole.ledger, resumed.ledger), n
        assert prints(whole.model) == prints(resumed.model), n
        assert len(resumed.ledger.verify()) == len(whole.rounds)
        shutil.rmtree(resumed.dir)


def main(model_dir: str, run_dir: str, rounds: str, sleep: str = "0") -> None:
    from boostlib import load_model

    torch.set_num_threads(1)
    model, tokenizer = load_model(model_dir, dtype="float32", device="cpu")
    print("started", flush=True)
    trainer = FakeTrainer(sleep=float(sleep))
    boost(model, tokenizer, ParityTask(), trainer, config(int(rounds)), Path(run_dir), progress=False)
    print("done", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(*sys.argv[1:])


def laid_out(prompts: list[list[int]], completions: list[list[int]]) -> dict[str, torch.Tensor]:
    """A batch as TRL lays it out: prompts padded on the left, completions on the right."""
    wide, long = max(map(len, prompts)), max(map(len, completions))
    return {
        "prompt_ids": torch.tensor([[0] * (wide - len(p)) + p for p in prompts]),
        "prompt_mask": torch.tensor([[0] * (wide - len(p)) + [1] * len(p) for p in prompts]),
        "completion_ids": torch.tensor([c + [0] * (long - len(c)) for c in completions]),
        "completion_mask": torch.tensor([[1] * len(c) + [0] * (long - len(c)) for c in completions]),
        "num_items_in_batch": torch.tensor(float(sum(map(len, completions)))),
    }
