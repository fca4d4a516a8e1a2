"""Classifiers of texts with any number of classes: tokens, head, probe, loss, and a run from begin to release."""

import json
import logging
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import CoinTask, FakeTrainer, config, rows, saved
from safetensors.torch import load_file
from sklearn.metrics import precision_recall_fscore_support
from transformers import AutoModel, BertConfig, BertModel

from boostlib import (
    AdapterConfig,
    BoostConfig,
    CrossEntropy,
    Gate,
    Ledger,
    boost,
    class_report,
    evaluate,
    export_bundle,
    export_merged,
    label_report,
    load_classifier,
    load_task,
    pair_report,
    replay,
    train_head,
)
from boostlib.analysis.tables import classification_table, gains_table, rounds_table
from boostlib.common.errors import BoostError, DataError, ModelError, RunError
from boostlib.evaluation.evaluate import said
from boostlib.experiments.methods import run_method, with_method
from boostlib.experiments.presets import TEXT
from boostlib.models.classifier import HEAD_FILE, SequenceClassifier, logits, run_batches
from boostlib.models.embedded import installed_weights
from boostlib.models.sequences import encode_examples, encode_texts
from boostlib.models.subject import Subject
from boostlib.records.bundle import Bundle
from boostlib.records.rows import Base, Scores, pack_bits, pack_ids, unpack_ids
from boostlib.strategies.gate import _Seen
from boostlib.tasks.base import Example, TextLabelTask, class_ids
from boostlib.training.cross_entropy import _Set

DESKS = ("bills", "parcels", "sales", "other")
QUICK = CrossEntropy(learning_rate=0.3, batch=8, micro_batch=3, epochs=8.0, max_steps=6, validation=None, balance=False)


@dataclass(frozen=True, kw_only=True)
class Desks(TextLabelTask):
    """Texts of a few letters; which desk they go to says the first one, for the probe not always easy to see."""

    name = "desks"
    splits = ("train", "validation", "test", "guard")
    classes = DESKS
    sizes = (48, 20, 24, 8)
    seed: int = 0

    def load_split(self, name):
        random = np.random.default_rng([self.seed, self.splits.index(name)])
        words = ["".join(random.choice(list("abcd"), random.integers(3, 9))) for _ in range(60)]
        size = self.sizes[self.splits.index(name)]
        desks = [DESKS["abcd".index(word[0])] for word in words]
        return [Example(f"{name}-{i}", words[i], desks[i], kind=desks[i]) for i in range(size)]


class Two(Desks):
    """The same texts in two classes."""

    classes = ("bad", "good")

    def load_split(self, name):
        new = ["good" if e.answer in DESKS[:2] else "bad" for e in super().load_split(name)]
        return [replace(e, answer=a, kind=a) for e, a in zip(super().load_split(name), new, strict=True)]


class Long(Desks):
    """Longer texts."""

    def load_split(self, name):
        return [replace(e, prompt=e.prompt * 3) for e in super().load_split(name)]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def encoder():
    """A tiny random encoder of texts, a token a byte."""
    settings = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertModel(BertConfig(vocab_size=258, max_position_embeddings=64, initializer_range=0.2, **settings))


@pytest.fixture
def folder(encoder, tiny_tokenizer, tmp_path) -> str:
    return saved(tmp_path / "encoder", encoder, tiny_tokenizer)


@pytest.fixture
def fitted(folder):
    """fitted(): (model, tokenizer) with a head for the desks that gets some wrong."""

    def build():
        model, tokenizer = load_classifier(folder, dtype="fp32", device="cpu")
        train_head(model, tokenizer, Desks(), progress=False)
        with torch.no_grad():
            model.head.weight.mul_(0.2)
        return model, tokenizer

    return build


# --- tokens and head


def test_a_text_is_laid_out_by_its_tokenizer_pooled_without_special_tokens_and_cut_at_its_end(tiny_tokenizer):
    plain, long = encode_texts(tiny_tokenizer, ["ab", "abcdefgh"], 5)
    assert tiny_tokenizer.decode(plain.ids) == "ab" and plain.residues == [True, True] and not plain.cut
    assert tiny_tokenizer.decode(long.ids) == "abcde" and long.cut


@pytest.mark.skipif(installed_weights("minilm") is None, reason="minilm is not installed: boostlib fetch")
def test_minilm_is_loaded_without_its_package_and_knows_what_is_alike(monkeypatch):
    monkeypatch.undo()  # of the cache
    model, tokenizer = load_classifier("minilm", dtype="fp32", device="cpu")
    one = encode_texts(tokenizer, ["Where is my parcel?", "\u200b"], 128)
    assert tokenizer.convert_ids_to_tokens(one[0].ids)[:2] == ["[CLS]", "where"]  # neither padded nor cut to 128
    assert one[0].residues == [False, *[True] * (len(one[0].ids) - 2), False]
    assert one[1].residues == [True, True]  # a text without tokens of its own: its special ones are pooled
    texts = ["My parcel has not come.", "The delivery never arrived.", "How do I change my password?"]
    found = run_batches(Subject(model, tokenizer, None), encode_texts(tokenizer, texts, 128), model.features)
    near, far = (torch.cosine_similarity(found[0], found[i], dim=0) for i in (1, 2))
    assert near > 0.5 > far


def test_masks_and_pads_never_change_a_score(fitted):
    model, tokenizer = fitted()
    subject = Subject(model, tokenizer, Desks())
    encoded = encode_examples(subject, Desks().split("test"))
    together = run_batches(subject, encoded, model, batch_size=24)
    alone = run_batches(subject, encoded, model, batch_size=1)
    assert together.shape == (24, 4) and together.std() > 0.01 and (together - alone).abs().max() < 1e-5


def test_each_kind_of_prompt_needs_a_tokenizer_that_reads_it(folder, tiny_classifier, tiny_protein_tokenizer):
    model, tokenizer = load_classifier(folder, dtype="fp32", device="cpu")
    model.head.weight.data.normal_()
    with pytest.raises(ModelError, match="asks about proteins, and its tokenizer lacks .*antiberty"):
        evaluate(model, tokenizer, CoinTask(), progress=False)
    protein = tiny_classifier()
    protein.new_head(DESKS)
    protein.head.weight.data.normal_()
    with pytest.raises(ModelError, match="asks about texts, and its tokenizer knows no part of an English.*minilm"):
        evaluate(protein, tiny_protein_tokenizer, Desks(), progress=False)


def test_a_head_for_other_classes_is_refused_and_replaced_by_training(folder):
    model, tokenizer = load_classifier(folder, dtype="fp32", device="cpu")
    with pytest.raises(
        ModelError, match=r"head is for the classes 2 \('0, 1'\), and task 'desks' has 4 \('bills.*train_head"
    ):
        evaluate(model, tokenizer, Desks(), progress=False)
    probe = train_head(model, tokenizer, Desks(), progress=False)
    assert model.classes == DESKS and probe.num_parameters == 4 * 33
    assert not any(p.requires_grad for p in model.head.parameters())

    class Renamed(Desks):
        classes = ("other", *DESKS[:3])

    with pytest.raises(ModelError, match="head is for the classes"):
        evaluate(model, tokenizer, Renamed(), progress=False)  # as many, but others


def test_two_classes_have_one_logit_with_the_second_name_where_it_is_positive(folder, tmp_path):
    model, tokenizer = load_classifier(folder, dtype="fp32", device="cpu")
    train_head(model, tokenizer, Two(), progress=False)
    found = evaluate(model, tokenizer, Two(), "train", progress=False)
    assert found.logits.shape == (48,) and model.head.out_features == 1 and found.accuracy > 0.8
    assert [Two.classes[i] for i in said(found.logits)][0] in Two.classes
    run = boost(model, tokenizer, Two(), FakeTrainer(), config(1), tmp_path / "run", progress=False)
    scores = run.rounds[0].metrics["test"]
    assert scores.logits and not scores.classes and not run.rounds[0].train_said
    assert scores.labels().tolist() == [e.answer == "good" for e in Two().split("test")]
    assert sorted(pair_report(run.ledger, Two()).index.tolist()) in (
        [("bad", "good")],
        [("bad", "good"), ("good", "bad")],
    )


def test_a_head_brings_its_classes_and_one_of_zero_and_one_is_written_as_ever(fitted, tiny_classifier, tmp_path):
    model, _ = fitted()
    model.save_head(tmp_path)
    again = SequenceClassifier(model.encoder)
    again.load_head(tmp_path)
    assert again.classes == DESKS and torch.equal(again.head.weight, model.head.weight)
    (tmp_path / "binary").mkdir()
    tiny_classifier().save_head(tmp_path / "binary")
    assert set(load_file(tmp_path / "binary" / HEAD_FILE)) == {"weight", "bias"}
    for broken in ({"classes": torch.tensor([1, 2], dtype=torch.uint8)}, {"classes": torch.tensor([0.5])}):
        with pytest.raises(RunError, match="is no head of this model"):
            again.set_head({**model.head_state(), **broken}, "x")


# --- probe and loss


def test_the_probe_is_the_multinomial_regression_with_equal_classes(folder):
    model, tokenizer = load_classifier(folder, dtype="fp32", device="cpu")
    task = Desks()
    probe = train_head(model, tokenizer, task, progress=False)
    subject = Subject(model, tokenizer, task)
    found = logits(subject, encode_examples(subject, task.split("validation")))
    right = torch.from_numpy(class_ids(task, task.split("validation")))
    each = F.cross_entropy(found, right, reduction="none")
    by_class = [each[right == i].mean() for i in right.unique()]
    assert float(sum(by_class) / len(by_class)) == pytest.approx(probe.validation_loss[probe.C], rel=1e-4)
    assert evaluate(model, tokenizer, task, "train", progress=False).accuracy > 0.7


def test_a_feature_that_hardly_varies_gets_no_weight(folder):
    model, tokenizer = load_classifier(folder, dtype="fp32", device="cpu")
    with torch.no_grad():
        model.encoder.encoder.layer[-1].output.LayerNorm.weight[3] = 1e-30
    train_head(model, tokenizer, Desks(), progress=False)
    assert not model.head.weight[:, 3].any() and 1e-3 < model.head.weight.abs().max() < 1e3


def test_a_class_without_a_training_example_is_named(folder):
    class Lacking(Desks):
        classes = (*DESKS, "returns")

    model, tokenizer = load_classifier(folder, dtype="fp32", device="cpu")
    with pytest.raises(DataError, match=r"no training example of 'returns' \(1 of 5 classes\)"):
        train_head(model, tokenizer, Lacking(), progress=False)


@pytest.mark.parametrize("balance", [True, False])
def test_the_loss_is_the_mean_over_examples_or_over_classes(fitted, balance):
    model, tokenizer = fitted()
    examples = Desks().split("train")[:11]
    data = _Set(Subject(model, tokenizer, Desks()), examples, balance)
    right = torch.from_numpy(class_ids(Desks(), examples))
    each = F.cross_entropy(run_batches(data.subject, data.encoded, model), right, reduction="none")
    by_class = torch.stack([each[right == i].mean() for i in right.unique()])
    assert data.loss(None) == pytest.approx(float((by_class if balance else each).mean()), rel=1e-4)
    for p in model.parameters():
        p.requires_grad_(True)
    gradients = []
    for size in (2, 11):
        model.zero_grad()
        assert data.backward(list(range(11)), size) == pytest.approx(data.loss(None), rel=1e-4)
        gradients.append(model.head.weight.grad.clone())
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-6) and gradients[0].abs().max() > 1e-4


# --- a run


@pytest.fixture
def run(fitted, tmp_path):
    """Three rounds, really trained."""
    return start(*fitted(), tmp_path / "run")


def start(model, tokenizer, run_dir, rounds=3, task=None, trainer=QUICK, gate=None, **settings):
    learner = AdapterConfig(n_tie=2, u=4, blocks=4, **settings)
    held_out = ("validation", "test")
    boosted = BoostConfig(rounds=rounds, adapter=learner, held_out=held_out)
    return boost(model, tokenizer, task or Desks(), trainer, boosted, run_dir, progress=False, gate=gate)


def test_rounds_learn_and_the_ledger_alone_says_who_took_what_for_what(run, fitted):
    before, after = fitted()[0], run.model
    tokenizer, task = fitted()[1], Desks()
    assert run.rounds[-1].train_accuracy > run.base.train_accuracy and any(row.merged for row in run.rounds)
    for row, model in ((run.base, before), (run.rounds[-1], after)):
        found = evaluate(model, tokenizer, task, "test", progress=False)
        scores = Ledger(run.dir).base.metrics["test"] if row is run.base else Ledger(run.dir).rounds[-1].metrics["test"]
        assert scores.said().tolist() == said(found.logits).tolist() and not scores.logits
        assert scores.labels().tolist() == class_ids(task, task.split("test")).tolist()
        found = evaluate(model, tokenizer, task, "train", progress=False)
        assert unpack_ids(row.train_said).tolist() == said(found.logits).tolist()
    table = label_report(run.ledger, task)
    scores = run.rounds[-1].metrics["test"]
    expected = precision_recall_fscore_support(scores.labels(), scores.said(), labels=range(4), zero_division=0)
    for name, values in zip(("precision", "recall", "F1"), expected[:3], strict=True):
        assert table.loc[list(DESKS), f"{name} after"].tolist() == pytest.approx(values.tolist())
    pairs = pair_report(run.ledger, task)
    assert pairs["before"].sum() == sum(not bit for bit in run.base.metrics["test"].bits())
    assert pairs["after"].sum() == sum(not bit for bit in scores.bits()) and all(a != b for a, b in pairs.index)
    assert "test mean F1" in rounds_table(run.ledger) and len(gains_table({"x": [run.ledger]})) == 1
    with pytest.raises(BoostError, match="for two classes"):
        classification_table({"x": [run.ledger]})


@pytest.mark.parametrize("strategy", ["rotate", "greedy"])
def test_a_run_is_continued_and_replayed_bit_for_bit(fitted, folder, tmp_path, strategy):
    whole = start(*fitted(), tmp_path / "whole", 2, strategy=strategy)
    start(*fitted(), tmp_path / "cut", 1, strategy=strategy)
    again = start(*fitted(), tmp_path / "cut", 2, strategy=strategy)
    assert rows(again.ledger) == rows(whole.ledger)
    rebuilt = replay(tmp_path / "cut")
    assert rebuilt.classes == DESKS
    assert all(torch.equal(p, q) for p, q in zip(rebuilt.parameters(), whole.model.parameters(), strict=True))


def test_an_export_loads_with_its_classes_and_its_encoder_in_plain_transformers(run, tmp_path):
    export_merged(run.dir, tmp_path / "merged", task=Desks())
    model, tokenizer = load_classifier(str(tmp_path / "merged"), dtype="fp32", device="cpu")
    scores = evaluate(model, tokenizer, Desks(), "test", progress=False)
    assert scores.correct.tolist() == run.rounds[-1].metrics["test"].bits()
    plain, head = AutoModel.from_pretrained(tmp_path / "merged").eval(), load_file(tmp_path / "merged" / HEAD_FILE)
    names = json.loads(bytes(head["classes"].tolist()))
    example = Desks().split("test")[0]
    states = plain(**tokenizer([example.prompt], return_tensors="pt")).last_hidden_state[0].mean(dim=0)
    assert names[int((head["weight"] @ states + head["bias"]).argmax())] == DESKS[said(scores.logits)[0]]
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "## Mistakes by pair, test" in card and "| parcels |" in card
    bundle = export_bundle(run.dir, tmp_path / "run.boost")
    assert replay(bundle).classes == DESKS and bytes(Bundle(bundle).head()["classes"].tolist()) == b'["bills", ' \
        b'"parcels", "sales", "other"]'  # fmt: skip


def test_baselines_and_the_preset_of_the_section_run_on_tickets(folder, tmp_path):
    small = {"train": 64, "validation": 24, "test": 24}
    chosen = replace(TEXT["smoke"], model=folder, dtype="fp32", task_options=small)
    adapter = replace(chosen.boost.adapter, n_tie=2)
    chosen = replace(chosen, boost=replace(chosen.boost, adapter=adapter, rounds=1))
    for method in ("rotate", "full"):
        ledger = run_method(with_method(chosen, method), tmp_path / method)
        assert len(ledger.verify()) == 1 and ledger.base.metrics["test"].classes
    report = class_report(ledger, load_task("tickets", **small))
    assert report.loc[("test", "security"), "n"] == 3


# --- costs by pair


def test_what_a_mistake_costs_is_what_its_pair_does(run):
    plain = class_report(run.ledger, Desks())
    costs = {"bills": {"parcels": 7, "sales": 2}, "sales": {"other": 5}}
    task = Desks(pair_costs=costs)
    table = class_report(run.ledger, task)
    assert table["gain"].to_dict() == plain["gain"].to_dict()

    def cost(right, ids) -> float:
        pairs = [(DESKS[a], DESKS[b]) for a, b in zip(right, ids, strict=True)]
        return sum(costs.get(a, {}).get(b, 1) for a, b in pairs if a != b)

    for when, row in (("before", run.base), ("after", run.rounds[-1])):
        scores = row.metrics["test"]
        assert table.loc[("test", "(all)"), f"cost {when}"] == cost(scores.labels(), scores.said())
        assert pair_report(run.ledger, task)[f"cost {when}"].sum() == cost(scores.labels(), scores.said())
        right = class_ids(task, task.split("train"))
        assert table.loc[("train", "(all)"), f"cost {when}"] == cost(right, unpack_ids(row.train_said))


def test_the_gates_verdict_is_in_costs_by_pair(fitted, tmp_path):
    costs = {desk: {other: 1 + 3 * i for i, other in enumerate(DESKS) if other != desk} for desk in DESKS}
    task = Desks(pair_costs=costs)
    gate = Gate(guard=None, value_on=("train", "test"), adjacent=("validation",), alpha=0.99, harm=1e-6, patience=None)
    run = start(*fitted(), tmp_path / "run", 1, task, gate=gate)
    before, tokenizer = fitted()
    changes = []
    for split in ("train", "test"):
        right = class_ids(task, task.split(split))
        ends = [said(evaluate(m, tokenizer, task, split, progress=False).logits) for m in (before, run.model)]
        for truth, *answers in zip(right, *ends, strict=True):
            paid = [costs[DESKS[truth]].get(DESKS[answer], 0) for answer in answers]
            changes.append(paid[0] - paid[1])
    assert run.rounds[0].merged and any(abs(change) > 1 for change in changes)
    verdict = run.rounds[0].extra["gate"]
    assert verdict["gained"] == sum(c for c in changes if c > 0) and verdict["lost"] == -sum(
        c for c in changes if c < 0
    )


def test_a_case_that_is_wrong_before_and_after_gains_the_difference_of_its_pairs():
    task, guards = Desks(pair_costs={"bills": {"sales": 5, "other": 2}}), Desks().split("guard")
    right = class_ids(task, guards)
    place = list(right).index(DESKS.index("bills"))

    def scores(answer: str) -> dict:
        ids = right.copy()
        ids[place] = DESKS.index(answer)
        packed = Scores(0.9, 0.9, pack_bits(ids == right), classes=pack_ids([*ids, *right[ids != right]]))
        return {
            "metrics": {"guard": packed},
            "failures": [],
            "train_said": pack_ids(class_ids(task, task.split("train"))),
        }

    def gain(before: str, after: str) -> float:
        row = {**scores(before), "train_accuracy": 1.0, "train_strict": 1.0, "weights_fingerprint": "", "seconds": 0.0}
        run = SimpleNamespace(task=task, rounds=[], base=Base(**row))
        return _Seen(Gate(guard=None, value_on=("train", "guard")), run, [], scores(after)).gains().sum()

    assert gain("sales", "other") == 3 and gain("other", "sales") == -3 and gain("sales", "sales") == 0
    assert gain("sales", "bills") == 5 and gain("bills", "parcels") == -1


def test_of_two_classes_pairs_cost_too(folder, tmp_path):
    model, tokenizer = load_classifier(folder, dtype="fp32", device="cpu")
    task = Two(pair_costs={"bad": {"good": 10}})
    train_head(model, tokenizer, task, progress=False)
    with torch.no_grad():
        model.head.bias.add_(model.head.weight.norm())  # most are called good
    run = start(model, tokenizer, tmp_path / "run", 1, task, FakeTrainer(scale=0.01), Gate(guard=None))
    wrong = [e.answer for e in task.split("train") if e.id in run.base.failures]
    table = class_report(run.ledger, task)
    assert table.loc[("train", "(all)"), "cost before"] == 10 * wrong.count("bad") + wrong.count("good") > len(wrong)


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        ({"bill": {"sales": 2}}, "'bill' is no class; the classes: 'bills'"),
        ({"bills": {"sale": 2}}, "'sale' is no class"),
        ({"bills": {"bills": 2}}, "to say 'bills' of 'bills' is no mistake"),
        ({"bills": {"sales": 0}}, "a cost is a positive number"),
        ({"bills": 3}, "a cost is a positive number"),
    ],
)
def test_costs_that_cannot_be_are_named(costs, message):
    with pytest.raises(BoostError, match=message):
        Desks(pair_costs=costs).check_costs()


def test_ids_come_back_from_a_ledger():
    ids = np.array([0, 76, 65_535, 1])
    assert unpack_ids(pack_ids(ids)).tolist() == ids.tolist() and len(pack_ids(ids)) == 16


def test_cut_texts_are_told(fitted, caplog):
    model, tokenizer = fitted()
    with caplog.at_level(logging.WARNING):
        train_head(model, tokenizer, Long(max_length=8), progress=False)
    assert "are longer than 8 tokens and lost their ends" in caplog.text
