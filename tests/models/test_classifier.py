"""Classifiers of chains: tokens, pooling, the probe, cached features, ESM2's real class, and the loop on top."""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CoinTask, FakeTrainer, config
from transformers import EsmConfig, EsmModel, EsmTokenizer

from boostlib import (
    AdapterConfig,
    BoostConfig,
    Ledger,
    boost,
    evaluate,
    load_classifier,
    load_model,
    load_task,
    replay,
    target_modules,
    train_head,
)
from boostlib.common.errors import DataError, ModelError, RunError
from boostlib.experiments.methods import run_method, with_method, with_size
from boostlib.experiments.presets import PROTEIN
from boostlib.models.classifier import HEAD_FILE, SequenceClassifier, features, logits, run_batches
from boostlib.models.embedded import installed_weights
from boostlib.models.sequences import by_length, encode_chains, encode_examples, to_tensors
from boostlib.models.subject import Subject
from boostlib.training.cross_entropy import CrossEntropy
from boostlib.training.probe import labels_of

FOLDER = os.environ.get("BOOSTLIB_DATA")
# ESM2's published vocabulary, in order
ESM_TOKENS = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPQKNFYMHWCXBUZO", ".", "-", "<null_1>", "<mask>"]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    if "real" not in os.environ.get("PYTEST_CURRENT_TEST", ""):
        monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path / "cache"))


def esm_config(layers: int, hidden: int, heads: int) -> EsmConfig:
    """The shape of facebook/esm2_*: 8M is 6 layers of 320, 650M is 33 of 1,280."""
    return EsmConfig(
        vocab_size=33, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * hidden, max_position_embeddings=1026, pad_token_id=1, mask_token_id=32,
        position_embedding_type="rotary", token_dropout=True, emb_layer_norm_before=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def esm_folder(tmp_path_factory) -> str:
    """RANDOM weights in the shape of ESM2-8M, with ESM2's own classes and vocabulary."""
    folder = tmp_path_factory.mktemp("esm2-8m-random")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        EsmModel(esm_config(6, 320, 20)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(ESM_TOKENS))
    EsmTokenizer(str(folder / "vocab.txt"), model_max_length=1024).save_pretrained(folder)
    return str(folder)


# --- tokens


def test_chains_are_laid_out_with_the_models_own_tokens(tiny_protein_tokenizer, esm_folder):
    bert, esm = tiny_protein_tokenizer, load_classifier(esm_folder, device="cpu")[1]
    assert bert.convert_ids_to_tokens(encode_chains(bert, "AC,D|EF", 20).ids) == (
        ["[CLS]", "A", "C", "[SEP]", "D", "[SEP]", "E", "F", "[SEP]"]
    )
    assert esm.convert_ids_to_tokens(encode_chains(esm, "AC|DX", 20).ids) == (
        ["<cls>", "A", "C", "<eos>", "D", "X", "<eos>"]
    )
    assert encode_chains(bert, "AXB", 20).ids.count(bert.unk_token_id) == 2  # letters that it lacks


def test_cutting_keeps_the_limit_and_is_told(tiny_protein_tokenizer, tiny_classifier, caplog):
    one = encode_chains(tiny_protein_tokenizer, "A" * 50 + "," + "C" * 3 + "|" + "D" * 40, 40)
    assert len(one.ids) == 40 and one.cut and sum(one.residues) == 36
    kept = tiny_protein_tokenizer.convert_ids_to_tokens(one.ids)
    assert kept.count("C") == 3 and abs(kept.count("A") - kept.count("D")) <= 1
    assert not encode_chains(tiny_protein_tokenizer, "ACD", 5).cut
    with caplog.at_level(logging.WARNING):
        train_head(tiny_classifier(), tiny_protein_tokenizer, CoinTask(max_length=16), progress=False)
    assert "coins, split train:" in caplog.text and "are longer than 16 tokens and were cut evenly" in caplog.text


def test_batches_hold_like_lengths_and_everything_once(tiny_protein_tokenizer):
    encoded = [encode_chains(tiny_protein_tokenizer, "A" * n, 200) for n in (5, 90, 7, 60, 5, 61)]
    batches = list(by_length(encoded, size=3, tokens=130))
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert [len(batch) for batch in batches] == [1, 2, 3]


@pytest.mark.parametrize("which", ["bert", "esm"])
def test_masks_and_pads_never_change_a_score(which, tiny_classifier, tiny_protein_tokenizer, esm_folder):
    if which == "bert":
        model, tokenizer = tiny_classifier(), tiny_protein_tokenizer
    else:
        model, tokenizer = load_classifier(esm_folder, dtype="fp32", device="cpu")
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    task = CoinTask(test=16)
    subject = Subject(model, tokenizer, task)
    encoded = encode_examples(subject, task.split("test"))
    assert len({len(one.ids) for one in encoded}) > 8
    with torch.no_grad():
        together = model(*to_tensors(encoded, tokenizer.pad_token_id, model.device))
        alone = torch.cat([model(*to_tensors([one], tokenizer.pad_token_id, model.device)) for one in encoded])
    assert together.std() > 0.01
    assert (together - alone).abs().max() < 1e-5
    assert torch.allclose(run_batches(subject, encoded, model, batch_size=5), alone, atol=1e-5)


def test_pooling_is_the_mean_over_residues(tiny_classifier, tiny_protein_tokenizer):
    model = tiny_classifier()
    one = encode_chains(tiny_protein_tokenizer, "ACD,EF", 20)
    ids, mask, residues = to_tensors([one], 0, model.device)
    with torch.no_grad():
        states = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state[0]
        found = model.features(ids, mask, residues)[0]
    assert torch.allclose(found, states[[1, 2, 3, 5, 6]].mean(dim=0), atol=1e-6)


# --- loading


def test_a_saved_classifier_loads_with_its_head_and_the_encoder_alone_as_a_plain_model(esm_folder, tmp_path):
    model, tokenizer = load_classifier(esm_folder, dtype="fp32", device="cpu")
    assert not model.head.weight.any() and model.config.name_or_path == esm_folder
    torch.nn.init.normal_(model.head.weight)
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    again, _ = load_classifier(str(tmp_path / "saved"), dtype="fp32", device="cpu")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    assert type(EsmModel.from_pretrained(tmp_path / "saved")) is EsmModel
    (tmp_path / "saved" / HEAD_FILE).write_bytes(b"torn")
    with pytest.raises(RunError, match="is no head of this model"):
        load_classifier(str(tmp_path / "saved"), device="cpu")


def test_loading_twice_gives_the_same_model_although_the_checkpoint_has_no_pooler(esm_folder):
    one, two = (load_classifier(esm_folder, dtype="fp32", device="cpu")[0] for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    assert not any("pooler" in name for name, _ in one.named_parameters())


def test_models_of_the_other_kind_are_refused(tmp_path, tiny_llama, tiny_tokenizer, tiny_classifier, monkeypatch):
    with pytest.raises(ModelError, match=r"load_classifier\('antiberty'\)"):
        load_model("antiberty")
    with pytest.raises(ModelError, match=r"load_model\('smollm2'\)"):
        load_classifier("smollm2")
    with pytest.raises(ModelError, match=r"not embedded \(antiberty, minilm\)"):
        load_classifier("no-one/such-model")
    with pytest.raises(ModelError, match="'coins' asks for labels: load the model with load_classifier"):
        evaluate(tiny_llama(), tiny_tokenizer, CoinTask(), progress=False)
    with pytest.raises(ModelError, match="asks for texts: load the model with load_model"):
        evaluate(tiny_classifier(), tiny_tokenizer, load_task("arithmetic"), progress=False)


def test_an_untrained_head_is_an_error_not_a_result(esm_folder):
    model, tokenizer = load_classifier(esm_folder, dtype="fp32", device="cpu")
    with pytest.raises(ModelError, match="call train_head"):
        evaluate(model, tokenizer, CoinTask(), progress=False)


# --- the probe and its features


class Majority(CoinTask):
    """Labels that follow from composition: a probe must find them."""

    def load_split(self, name):
        shares = [np.mean([letter in "ACDEFGHIK" for letter in e.prompt]) for e in super().load_split(name)]
        return [
            replace(e, answer=str(int(s > np.median(shares))))
            for e, s in zip(super().load_split(name), shares, strict=True)
        ]


@pytest.fixture
def weak_probe(monkeypatch):
    """A head that is all but zero: with few examples a good one would leave no failures."""
    monkeypatch.setattr("boostlib.training.probe.PENALTIES", (1e-6,))


def test_the_probe_learns_and_repeats_itself_bit_for_bit(tiny_classifier, tiny_protein_tokenizer):
    task, models = Majority(train=400, validation=100, test=400), [tiny_classifier(), tiny_classifier()]
    probes = [train_head(model, tiny_protein_tokenizer, task, progress=False) for model in models]
    assert probes[0] == probes[1] and probes[0].num_parameters == 65
    assert torch.equal(models[0].head.weight, models[1].head.weight)
    assert (
        evaluate(models[0], tiny_protein_tokenizer, task, "test", progress=False).accuracy > 0.57
    )  # chance: 0.5 +- 0.025
    assert probes[0].validation_loss[probes[0].C] == min(probes[0].validation_loss.values())


def test_a_head_on_unstandardised_features_says_what_the_solver_said(tiny_classifier, tiny_protein_tokenizer):
    from sklearn.metrics import log_loss

    task, model = Majority(train=80, validation=40, test=40), tiny_classifier()
    probe = train_head(model, tiny_protein_tokenizer, task, progress=False)
    examples = task.split("validation")
    subject = Subject(model, tiny_protein_tokenizer, task)
    found = logits(subject, encode_examples(subject, examples))
    labels = labels_of(task, "validation")
    weights = np.where(labels == 1, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))
    assert log_loss(labels, found.double().sigmoid(), sample_weight=weights) == pytest.approx(
        probe.validation_loss[probe.C], rel=1e-4
    )


def test_one_class_alone_is_refused(tiny_classifier, tiny_protein_tokenizer):
    class Ones(CoinTask):
        def load_split(self, name):
            return [replace(e, answer="1") for e in super().load_split(name)]

    with pytest.raises(DataError, match="split 'train': all 12 examples have the label 1"):
        train_head(tiny_classifier(), tiny_protein_tokenizer, Ones(), progress=False)


def test_features_are_computed_once_for_an_encoder_and_its_data(tiny_classifier, tiny_protein_tokenizer, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "boostlib.models.classifier.run_batches", lambda *a, **k: calls.append(1) or run_batches(*a, **k)
    )
    model, task = tiny_classifier(), CoinTask()
    train_head(model, tiny_protein_tokenizer, task, progress=False)
    assert len(calls) == 3  # one a split
    again = evaluate(model, tiny_protein_tokenizer, task, "test", progress=False)
    train_head(tiny_classifier(), tiny_protein_tokenizer, task, progress=False)
    assert len(calls) == 3
    subject = Subject(model, tiny_protein_tokenizer, task)
    fresh = run_batches(subject, encode_examples(subject, task.split("test")), model).numpy()
    assert np.allclose(again.logits, fresh, atol=1e-6)
    evaluate(tiny_classifier(seed=1), tiny_protein_tokenizer, task, "test", progress=False)  # another encoder
    evaluate(model, tiny_protein_tokenizer, CoinTask(max_length=10), "test", progress=False)  # other tokens
    assert len(calls) == 5


def test_a_torn_or_unwritable_feature_cache_costs_time_alone(
    tiny_classifier, tiny_protein_tokenizer, monkeypatch, tmp_path
):
    subject = Subject(tiny_classifier(), tiny_protein_tokenizer, CoinTask())
    encoded = encode_examples(subject, subject.task.split("test"))
    first = features(subject, encoded, keep=True)
    (path,) = (tmp_path / "cache" / "features").iterdir()
    path.write_bytes(path.read_bytes()[:50])
    assert torch.equal(features(subject, encoded), first)
    (tmp_path / "file").touch()
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path / "file"))
    assert torch.equal(features(subject, encoded, keep=True), first)


# --- ESM2


def test_parameter_counts_on_the_shape_of_esm2_650m():
    with torch.device("meta"):
        model = SequenceClassifier(EsmModel(esm_config(33, 1280, 20)))
    names = target_modules(model)
    assert len(names) == 198 and not any("head" in name for name in names)
    assert sum(p.numel() for p in model.head.parameters()) == 1281
    assert AdapterConfig(rank=2, u=1, n_tie=17).num_parameters(198) == 12
    assert AdapterConfig(rank=2, u=224, n_tie=11).num_parameters(198) == 4032
    assert PROTEIN["paper"].boost.adapter.num_parameters(198) == 12


def test_target_modules_of_bert_leave_the_head_out(tiny_classifier):
    names = target_modules(tiny_classifier())
    assert len(names) == 12 and all(name.startswith("encoder.encoder.layer.") for name in names)


@pytest.mark.data
@pytest.mark.skipif(
    not FOLDER or not (Path(FOLDER) / "ppb_affinity/filtered.csv").is_file(),
    reason="BOOSTLIB_DATA names no folder with ppb_affinity/filtered.csv",
)
def test_a_full_round_of_esm2s_random_weights_on_the_real_rows(esm_folder, weak_probe, tmp_path):
    small = replace(
        PROTEIN["paper"],
        model=esm_folder,
        dtype="fp32",
        task_options={"limits": {"train": 24, "validation": 8, "test": 8}},
        trainer=CrossEntropy(batch=4, micro_batch=2, max_steps=2, validation=None),
        boost=replace(PROTEIN["paper"].boost, rounds=1, batch_size=4),
    )
    ledger = run_method(with_method(small, "rotate"), tmp_path / "run", FOLDER)
    (row,) = ledger.verify()
    assert row.steps >= 1 and row.merged and row.num_parameters == 3  # 36 modules in groups of 17
    rebuilt = replay(tmp_path / "run")
    found = evaluate(
        rebuilt, load_classifier(esm_folder)[1], load_task("binding", FOLDER, **small.task_options), "test"
    )
    assert found.correct.tolist() == row.metrics["test"].bits()


# --- the loop


def test_a_ledger_holds_the_logits_and_the_labels(tiny_classifier, tiny_protein_tokenizer, tmp_path):
    model, task = tiny_classifier(), CoinTask()
    run = boost(model, tiny_protein_tokenizer, task, FakeTrainer(), config(2), tmp_path / "run", progress=False)
    found = evaluate(run.model, tiny_protein_tokenizer, task, "test", progress=False)
    scores = Ledger(tmp_path / "run").rounds[-1].metrics["test"]
    assert np.allclose(scores.scores(), found.logits, rtol=1e-3)
    assert scores.labels().tolist() == [example.answer == "1" for example in task.split("test")]


def test_replay_brings_the_runs_own_head(esm_folder, tmp_path):
    model, tokenizer = load_classifier(esm_folder, dtype="fp32", device="cpu")
    task = CoinTask(train=24, validation=12, test=6)
    train_head(model, tokenizer, task, progress=False)
    run = boost(model, tokenizer, task, FakeTrainer(), BoostConfig(rounds=1), tmp_path / "run", progress=False)
    for given in (None, load_classifier(esm_folder, dtype="fp32", device="cpu")[0]):
        rebuilt = replay(tmp_path / "run", model=given)
        assert all(torch.equal(p, q) for p, q in zip(rebuilt.parameters(), run.model.parameters(), strict=True))


def test_a_continued_run_takes_the_head_it_began_with(esm_folder, weak_probe, tmp_path, monkeypatch):
    chosen = replace(
        PROTEIN["smoke"],
        model=esm_folder,
        dtype="fp32",
        task_options={"train": 24, "validation": 8, "test": 8},
        boost=replace(PROTEIN["smoke"].boost, rounds=1),
    )
    first = run_method(chosen, tmp_path / "run").dir
    monkeypatch.setattr("boostlib.experiments.methods.train_head", None)  # must not be called again
    more = replace(chosen, boost=replace(chosen.boost, rounds=2))
    assert len(run_method(more, first).rounds) == 2


def test_sizes_are_those_that_were_tuned():
    demo = replace(PROTEIN["demo"], sizes={4032: (1, 84, 0.003)})
    sized = with_size(demo, 4032)
    assert sized.boost.adapter.num_parameters(48) == 4032 and sized.trainer.learning_rate == 0.003
    with pytest.raises(Exception, match="has no size 5; it has 4032"):
        with_size(demo, 5)


# --- the embedded encoder


@pytest.mark.skipif(installed_weights("antiberty") is None, reason="antiberty is not installed: boostlib fetch")
def test_real_antiberty_loads_without_its_package_and_tells_an_antibody_from_a_shuffled_one():
    model, tokenizer = load_classifier("antiberty", dtype="fp32", device="cpu")
    assert len(target_modules(model)) == 48 and PROTEIN["demo"].boost.adapter.num_parameters(48) == 12
    assert sum(p.numel() for p in model.head.parameters()) == 513
    assert "UNEXPECTED" not in str(model) and model.config.max_position_embeddings == 512
    chain = load_task("synthetic_binding").split("test")[0].prompt
    shuffled = "".join(sorted(chain))
    encoded = [encode_chains(tokenizer, text, 512) for text in (chain, chain[:60] + "A" + chain[61:], shuffled)]
    one, mutated, other = run_batches(Subject(model, tokenizer, None), encoded, model.features)
    assert torch.cosine_similarity(one, mutated, dim=0) > 0.97 > torch.cosine_similarity(one, other, dim=0)


PEAK = """
import resource
from boostlib import load_classifier, load_task, train_head
from boostlib.models.classifier import run_batches
from boostlib.models.sequences import encode_chains
from boostlib.models.subject import Subject
model, tokenizer = load_classifier("antiberty", dtype="fp32", device="cpu")
train_head(model, tokenizer, load_task("synthetic_binding", train=3600, validation=200, test=200), progress=False)
long = [encode_chains(tokenizer, "EVQLVESGGG" * 60, 512)] * 64  # as long as it takes
assert run_batches(Subject(model, tokenizer, None), long, model.features).shape == (64, 512)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(installed_weights("antiberty") is None, reason="antiberty is not installed: boostlib fetch")
def test_head_training_on_4000_sequences_stays_under_4_gib():
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert 2**28 < int(done.stdout.split()[-1]) < 4 * 2**30
