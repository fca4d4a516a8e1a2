"""The same checks for every kind: each gives the size of the error that it found, or raises.

What is compared with is the plain model: one unpadded sequence, one pass, no cache. Errors are relative to the largest
of the numbers compared, where that is above 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from helpers import CoinTask, ParityTask
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from boostlib import (
    GRPO,
    AdapterConfig,
    BoostConfig,
    LowRankUpdate,
    TinyLoRA,
    boost,
    export_bundle,
    export_merged,
    export_peft,
    load_classifier,
    load_model,
    replay,
)  # fmt: skip
from boostlib.common.errors import BoostError
from boostlib.common.stable import philox
from boostlib.evaluation import sample
from boostlib.evaluation.drafts import Drafts
from boostlib.evaluation.generate import generate
from boostlib.evaluation.sample import choose
from boostlib.models.classifier import SequenceClassifier
from boostlib.models.sequences import encode_examples, to_tensors
from boostlib.models.subject import Subject
from boostlib.rank import EXACT, epsilon_rank
from boostlib.run import Run, open_run
from boostlib.tasks.base import Example, Score
from boostlib.training.cross_entropy import CrossEntropy
from boostlib.training.trl import FoldingTrainer
from zoo.kinds import Kind

RANK, ROUNDS, NEW = 2, 2, 6
ADAPTER = AdapterConfig(rank=RANK, u=2, n_tie=3)
PASS = GRPO(prompts=4, samples=2, max_steps=1, learning_rate=0.1)
# texts with one beginning, longer than every window, and texts with none; a token a letter
SHARED = "what is left of this"
TAILS = ("?", " after noon", " by", " at all")
PROMPTS = {"shared": [SHARED + tail for tail in TAILS], "apart": [3 * tail for tail in TAILS]}


@dataclass
class Words(ParityTask):
    """Prompts of the checks, with a reward that hardly two completions share."""

    prompts: Sequence[str] = ()
    max_new_tokens: int = NEW

    def split(self, name: str) -> list[Example]:
        return [Example(str(i), prompt, "") for i, prompt in enumerate(self.prompts)]

    def score(self, completion: str, example: Example) -> Score:
        return Score(False, False, sum(completion.encode()) % 11 / 10)


class Outcome(NamedTuple):
    """What a check came to: the size of its error, or what boostlib said when it refused."""

    error: float
    refusal: str | None = None


@dataclass
class Animal:
    """One kind being checked: its model as boostlib loads it, and a folder for what is written."""

    kind: Kind
    tokenizer: object
    folder: Path
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def run_dir(self) -> Path:
        """Where its run is recorded."""
        return self.folder / "run"

    def once(self, what: str, make: Callable[[], Any]) -> Any:
        """What `make` gives or raises, made at the first call."""
        if what not in self.made:
            try:
                self.made[what] = make()
            except Exception as error:
                self.made[what] = error
        found = self.made[what]
        if isinstance(found, Exception):
            raise found
        return found

    def outcome(self, check: str) -> Outcome:
        """What a check comes to. Raises what is neither a number nor a refusal."""

        def find() -> Outcome:
            try:
                return Outcome(CHECKS[check].find(self))
            except BoostError as refused:
                return Outcome(0.0, _same_anywhere(str(refused), self.folder))

        return self.once(check, find)

    def passes(self, check: str) -> bool:
        """Whether it came to no more than rounding in the dtype of the model."""
        dtype = self.once("dtype", lambda: self.kind.make().dtype)
        coarse = torch.finfo(dtype).eps / torch.finfo(torch.float32).eps
        return self.outcome(check).error <= CHECKS[check].bound * coarse

    @property
    def source(self) -> str:
        """The folder that the kind is loaded from, by name."""
        return self.once("source", self._saved)

    def _saved(self) -> str:
        folder = self.folder / "base"
        self.kind.make().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        if self.kind.before:
            self.kind.before(folder)
        return str(folder)

    def load(self):
        """A fresh model with its tokenizer, as a user gets them."""
        if not self.kind.named:
            return self.kind.make(), self.tokenizer
        if self.kind.encoder:
            model, tokenizer = load_classifier(self.source, dtype="fp32", device="cpu")
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model.head.weight.data.normal_()
            return model, tokenizer
        return load_model(self.source, dtype="fp32", device="cpu")

    @property
    def untrained(self):
        """A model that no check changes."""
        return self.once("untrained", lambda: self.load()[0])

    @property
    def begun(self) -> Run:
        """A run that has begun, and trained nothing yet."""
        return self.once("begun", self._begun)

    def _begun(self) -> Run:
        run = Run(*self.load(), *self._training())
        with open_run(run, self.folder / "begun", progress=False):
            return run

    @property
    def run(self) -> Run:
        """Two rounds of `boost`, really trained."""
        return self.once("run", lambda: boost(*self.load(), *self._training(), self.run_dir, progress=False))

    def _training(self) -> tuple:
        config = BoostConfig(rounds=ROUNDS, adapter=ADAPTER, targets=self.kind.targets)
        if self.kind.encoder:
            return CoinTask(), CrossEntropy(learning_rate=0.1, max_steps=2, validation=None), config
        return ParityTask(train=12, test=2), replace(PASS, samples=4, max_samples=16), config

    def rebuilt(self):
        """The run's model, from its ledger."""
        return replay(self.run.dir, model=None if self.kind.named else self.kind.make())


def _same_anywhere(message: str, folder: Path) -> str:
    """A message without what differs from one process to the next: paths, measured sizes, the order of sets."""
    message = re.sub(r"\d\.\d+e[-+]\d+", "...", message.replace(str(folder), "FOLDER"))
    return re.sub(r"\{[^{}]*\}", lambda found: "{" + ", ".join(sorted(found[0][1:-1].split(", "))) + "}", message)


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest number where that is above 1; infinite for NaN."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    assert expected.isfinite().all(), "the plain model's own numbers are not finite"
    gap = (found - expected).abs().max() / expected.abs().max().clamp_min(1.0)
    return float(gap) if gap.isfinite() else float("inf")


@torch.no_grad()
def plain(model, ids: list[int]) -> Tensor:
    """Logits (L, V) of one text, read in one pass by itself."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


@torch.no_grad()
def outputs(animal: Animal, model) -> Tensor:
    """What the model says about the texts of the checks, side by side."""
    if animal.kind.encoder:
        return torch.cat([model(*one).flatten() for one in singles(animal, model)])
    texts = (SHARED[:9] + TAILS[1], TAILS[3])  # shorter than every table of positions
    return torch.cat([plain(model, animal.tokenizer(text).input_ids) for text in texts])


def encoded(tokenizer) -> list[list[list[int]]]:
    """The two sets of prompts as tokens."""
    return [[tokenizer(prompt).input_ids for prompt in prompts] for prompts in PROMPTS.values()]


def singles(animal: Animal, model, count: int = 6):
    """Each example of the classifier's task as a batch of one."""
    task = CoinTask()
    encoded = encode_examples(Subject(model, animal.tokenizer, task), task.split("train")[:count])
    return [to_tensors([one], animal.tokenizer.pad_token_id, torch.device("cpu")) for one in encoded]


def loaded(animal: Animal) -> float:
    """What boostlib loads says what was saved says."""
    found, expected = animal.untrained, animal.kind.make()
    if animal.kind.encoder:
        expected = SequenceClassifier(expected.get_encoder() if expected.config.is_encoder_decoder else expected).eval()
        expected.head.load_state_dict(found.head.state_dict())
    return error(outputs(animal, found), outputs(animal, expected))


def folded(animal: Animal) -> float:
    """Live, folded and merged agree, at random numbers that change what the model says."""
    run = animal.begun
    before = outputs(animal, run.model)
    with attached(run) as adapter:
        live = outputs(animal, run.model)
        with adapter.folded():
            inside = outputs(animal, run.model)
        update = adapter.update()
    run.weights.set(update)
    merged = outputs(animal, run.model)
    run.weights.set(LowRankUpdate())
    assert error(live, before) > 1e-3, "the adapter changes nothing: the check would say nothing"
    return max(error(live, merged), error(inside, merged))


@contextmanager
def attached(run: Run) -> Iterator[TinyLoRA]:
    """Inside, an adapter with random numbers is on the run's model."""
    adapter = TinyLoRA(run.basis, ADAPTER).attach(run.model, run.weights)
    adapter.v.data.copy_(0.3 * torch.from_numpy(philox("zoo", "v").standard_normal(tuple(adapter.v.shape))))
    try:
        yield adapter
    finally:
        adapter.detach()


def greedy(animal: Animal) -> float:
    """Every token is the plain model's first choice: how far the worst one is below the best of its place."""
    model, worst = animal.untrained, 0.0
    for prompts, completions in written(animal):
        for prompt, ids in zip(prompts, completions, strict=True):
            logits = plain(model, prompt + ids)[len(prompt) - 1 : -1]  # (K, V)
            lost = logits.max(dim=1).values - logits.gather(1, torch.tensor(ids)[:, None])[:, 0]
            worst = max(worst, float(lost.max() / logits.abs().max().clamp_min(1.0)))
            assert len(ids) == NEW or ids[-1] == 1, f"stopped early: {ids}"
    return worst


def written(animal: Animal) -> list[tuple[list[list[int]], list[list[int]]]]:
    """(prompts, completions), decoded greedily: prompts of one beginning and others, in batches of 3, and one alone."""

    def decode():
        together, apart = encoded(animal.tokenizer)
        return [
            (prompts, generate(animal.untrained, animal.tokenizer, prompts, NEW, batch_size=3))
            for prompts in (together, apart, together[:1])
        ]

    return animal.once("written", decode)


def sampled(animal: Animal) -> float:
    """Every token of a sampled completion was drawn from the plain model's softmax at that place."""
    model, tokenizer, worst = animal.untrained, animal.tokenizer, 0.0
    for prompts in encoded(tokenizer):
        drawn: list[Tensor] = []

        def noted(logits, at, u, drawn=drawn):
            drawn.append(logits.detach().float().softmax(-1))
            return choose(logits, at, u)

        with mock.patch.object(sample, "choose", noted):
            found = generate(model, tokenizer, prompts, NEW, temperature=1.0, samples=2)
        used = torch.cat(drawn).log()  # (N, V), of all rows and places
        for number, ids in enumerate(found):
            prompt = prompts[number // 2]
            wanted = plain(model, prompt + ids)[len(prompt) - 1 : -1].log_softmax(-1)  # (K, V)
            nearest = torch.cdist(wanted, used, p=float("inf")).min(dim=1).values  # whoever drew it must have had it
            worst = max(worst, float(nearest.max() / wanted.abs().max().clamp_min(1.0)))
    return worst


def drafts(animal: Animal) -> float:
    """A draft that greedy decoding writes is kept, one with another token in it is decoded anew.

    That what it writes is right says `greedy`.
    """
    subject = Subject(animal.untrained, animal.tokenizer, ParityTask(max_new_tokens=NEW))
    for prompts, right in written(animal):
        wrong = [[6 if ids[0] == 5 else 5, *ids[1:]] for ids in right]
        for given, kept in ((right, len(prompts)), (wrong, 0)):
            decoder = Drafts(batch_size=3, known={tuple(p): ids for p, ids in zip(prompts, given, strict=True)})
            assert decoder.complete(subject, prompts, lambda n: None) == right
            assert decoder.kept == kept, f"{decoder.kept} of {len(prompts)} drafts stand, where {kept} should"
    return 0.0


def trained(animal: Animal) -> float:
    """What training computes, and the gradient of its loss, are what plain passes over single texts give."""
    with attached(animal.begun) as adapter:
        return trained_labels(animal, adapter) if animal.kind.encoder else trained_texts(animal, adapter)


def trained_texts(animal: Animal, adapter: TinyLoRA) -> float:
    """Log-probabilities of the completions that GRPO samples, and the gradient of a step."""
    model, tokenizer = animal.begun.model, animal.tokenizer
    worst = 0.0
    for prompts in PROMPTS.values():
        inputs, rows, gradients = _watched(adapter, Subject(model, tokenizer, Words(prompts=prompts)))
        loss = 0.0
        for text, advantage in zip(_texts(inputs), inputs["advantages"].tolist(), strict=True):
            if advantage:
                logps = plain_logps(model, *text)
                worst = max(worst, error(rows[text], logps.detach()))
                loss = loss - advantage * logps.sum() / inputs["num_items_in_batch"]
        assert rows, "no completion had an advantage: the check would say nothing"
        expected = torch.autograd.grad(loss, adapter.v)[0]
        wrong = float((sum(gradients) - expected).abs().max() / expected.abs().max())
        assert wrong < 1e-4, f"the gradient is off by {wrong:.1e}, log-probabilities by {worst:.1e}"
    return worst


def _watched(adapter: TinyLoRA, subject: Subject) -> tuple[dict, dict, list[Tensor]]:
    """(inputs, rows, gradients) of one training step: what the loss was given, the log-probabilities of every text that
    was run, and what arrived at v."""
    inputs, rows, gradients = {}, {}, []
    loss, logps = FoldingTrainer._compute_loss, FoldingTrainer._get_per_token_logps_and_entropies

    def noted_loss(trainer, model, given):
        inputs.update(given)
        return loss(trainer, model, given)

    def noted_logps(trainer, model, ids, mask, keep, *args, **kwargs):
        out = logps(trainer, model, ids, mask, keep, *args, **kwargs)
        for row, found in enumerate(out[0].detach()):
            text = _text(ids[row], mask[row], keep)
            rows[text] = found[: len(text[1])]
        return out

    heard = adapter.v.register_hook(lambda gradient: gradients.append(gradient.clone()))
    with (
        torch.random.fork_rng(),
        mock.patch.object(FoldingTrainer, "_compute_loss", noted_loss),
        mock.patch.object(FoldingTrainer, "_get_per_token_logps_and_entropies", noted_logps),
    ):
        PASS.probe(subject, subject.task.split(""), 1)
    heard.remove()
    return inputs, rows, gradients


def _texts(inputs: dict[str, Tensor]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(prompt, completion) of every row of a batch."""
    ids, mask = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
    return [_text(*row, inputs["completion_ids"].shape[1]) for row in zip(ids, mask, strict=True)]


def _text(ids: Tensor, mask: Tensor, keep: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(ids[:-keep][mask[:-keep] == 1].tolist()), tuple(ids[-keep:][mask[-keep:] == 1].tolist())


def plain_logps(model, prompt: tuple[int, ...], completion: tuple[int, ...]) -> Tensor:
    """Log-probabilities of a completion's tokens, from one pass over the text by itself; differentiable."""
    logits = model(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0].float()
    return logits[len(prompt) - 1 : -1].log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


def trained_labels(animal: Animal, adapter: TinyLoRA) -> float:
    """Logits of examples read together, padded, and the gradient of their sum."""
    model, tokenizer, task = animal.begun.model, animal.tokenizer, CoinTask()
    encoded = encode_examples(Subject(model, tokenizer, task), task.split("train")[:6])
    together = model(*to_tensors(encoded, tokenizer.pad_token_id, torch.device("cpu")))
    gradient = torch.autograd.grad(together.sum(), adapter.v)[0]
    alone = torch.cat([model(*one) for one in singles(animal, model)])
    expected = torch.autograd.grad(alone.sum(), adapter.v)[0]
    wrong = float((gradient - expected).abs().max() / expected.abs().max())
    assert wrong < 1e-4, f"the gradient is off by {wrong:.1e}"
    return error(together.detach(), alone.detach())


def rounds(animal: Animal) -> float:
    """Two rounds are merged, and rebuilt from the ledger bit for bit; every target gained rank r in each."""
    run = animal.run
    assert len(run.rounds) == ROUNDS and all(row.merged for row in run.rounds), [row.skipped for row in run.rounds]
    assert run.fingerprint() == run.rounds[-1].weights_fingerprint
    ranks = {name: epsilon_rank(b, a, EXACT) for name, (b, a) in run.update.items()}
    assert set(ranks.values()) == {RANK * ROUNDS} and list(ranks) == list(run.basis), ranks
    again, fresh = animal.rebuilt(), animal.untrained
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), run.model.parameters(), strict=True))
    assert error(outputs(animal, again), outputs(animal, fresh)) > 1e-3, "two rounds change nothing"
    return error(outputs(animal, again), outputs(animal, run.model))


def merged_export(animal: Animal) -> float:
    """`export_merged` gives a folder that transformers loads by itself as the run's model."""
    folder, given = animal.folder / "merged", {} if animal.kind.named else {"model": animal.kind.make()}
    export_merged(animal.run.dir, folder, tokenizer=animal.tokenizer, **given)
    if animal.kind.encoder:
        encoder = animal.run.model.encoder
        return error(states(type(encoder).from_pretrained(folder).eval()), states(encoder))
    loaded = type(animal.run.model).from_pretrained(folder, dtype=torch.float32).eval()
    return error(outputs(animal, loaded), outputs(animal, animal.run.model))


def peft_export(animal: Animal) -> float:
    """`export_peft` gives a LoRA that PEFT puts on the plain model, which then is the run's."""
    folder, given = animal.folder / "lora", {} if animal.kind.named else {"model": animal.kind.make()}
    export_peft(animal.run.dir, folder, **given)
    if animal.kind.encoder:
        encoder = animal.run.model.encoder
        base = type(encoder).from_pretrained(animal.source).eval()
        return error(states(PeftModel.from_pretrained(base, folder).eval()), states(encoder))
    base = (
        AutoModelForCausalLM.from_pretrained(animal.source, dtype=torch.float32)
        if animal.kind.named
        else animal.kind.make()
    )
    return error(outputs(animal, PeftModel.from_pretrained(base, folder).eval()), outputs(animal, animal.run.model))


def bundle_export(animal: Animal) -> float:
    """`export_bundle` gives a file that replays to the run's model."""
    file, given = animal.folder / "run.bundle", {} if animal.kind.named else {"model": animal.kind.make()}
    export_bundle(animal.run.dir, file, **given)
    again = replay(file, model=None if animal.kind.named else animal.kind.make())
    return error(outputs(animal, again), outputs(animal, animal.run.model))


@torch.no_grad()
def states(encoder) -> Tensor:
    ids = torch.from_numpy(philox("zoo", "residues").integers(5, 25, (2, 30)))
    return encoder(ids, attention_mask=torch.ones_like(ids)).last_hidden_state


class Check(NamedTuple):
    """A check, and the largest error that is none, in fp32."""

    find: Callable[[Animal], float]
    bound: float
    texts: bool = False  # for models that write, not for encoders


CHECKS = {
    "loading": Check(loaded, 1e-6),
    "folding": Check(folded, 3e-6),
    "greedy": Check(greedy, 2e-6, texts=True),
    "sampling": Check(sampled, 2e-6, texts=True),
    "drafts": Check(drafts, 0.0, texts=True),
    "training": Check(trained, 2e-6),
    "rounds": Check(rounds, 0.0),
    "export": Check(merged_export, 1e-4),
    "PEFT": Check(peft_export, 1e-4),
    "bundle": Check(bundle_export, 1e-4),
}


def checks_of(kind: Kind) -> list[str]:
    """Names of the checks that there are for a kind."""
    given = [] if kind.named else ["loading"]
    return [name for name, check in CHECKS.items() if not (kind.encoder and check.texts) and name not in given]
