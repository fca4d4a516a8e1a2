"""Drafted evaluation: what still stands is found in one pass, and everything comes out as plain decoding writes it."""

from dataclasses import replace

import pytest
import torch
from helpers import FakeTrainer, ParityTask, config, ends_as_undisturbed, rows, same_runs

import boostlib.evaluation.drafts
from boostlib import boost, evaluate
from boostlib.__main__ import main
from boostlib.config import run_identity
from boostlib.evaluation.drafts import Drafts
from boostlib.evaluation.generate import encode, generate
from boostlib.experiments.methods import with_method
from boostlib.experiments.presets import MATH
from boostlib.models.subject import Subject

NEW = 6  # tokens
SHARED = [f"a line that all begin with\n{tail}" for tail in ("", "b", "c d", "efg hij klm", "n", "op")]
APART = ["x", "a longer one", "of", "quite another beginning", "and one more", "z z"]


@pytest.fixture(params=[SHARED, APART], ids=["shared prefix", "no prefix"])
def prompts(request, tiny_tokenizer) -> list[list[int]]:
    return encode(tiny_tokenizer, request.param)


@pytest.fixture
def model(lively):
    return lively()


def again(drafts, model, tokenizer, prompts, on_batch=lambda count: None, stop=None):
    """Completions of NEW tokens with drafts."""
    return drafts.complete(Subject(model, tokenizer, ParityTask(max_new_tokens=NEW, stop=stop)), prompts, on_batch)


def moved(model, scale: float):
    """The model with one weight changed, so that some completions stand and others do not."""
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight *= scale
    return model


def test_with_no_draft_it_is_plain_decoding_and_remembers(model, tiny_tokenizer, prompts):
    drafts = Drafts()
    found = again(drafts, model, tiny_tokenizer, prompts)
    assert found == generate(model, tiny_tokenizer, prompts, NEW)
    assert drafts.known == {tuple(p): ids for p, ids in zip(prompts, found, strict=True)}
    assert drafts.entry()["drafts"] == {"checked": 0, "kept": 0, "tokens": NEW * len(prompts)}
    assert drafts.entry()["drafts"] == {"checked": 0, "kept": 0, "tokens": 0}


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_an_unchanged_model_decodes_nothing(model, tiny_tokenizer, prompts, batch_size, monkeypatch):
    drafts, told = Drafts(batch_size), []
    first = again(drafts, model, tiny_tokenizer, prompts)
    drafts.entry()
    monkeypatch.setattr(boostlib.evaluation.drafts, "POSITIONS", 2 * NEW)
    assert again(drafts, model, tiny_tokenizer, prompts, told.append) == first
    assert drafts.entry()["drafts"] == {"checked": len(prompts), "kept": len(prompts), "tokens": 0}
    assert sum(told) == len(prompts)


def test_a_changed_model_decodes_what_no_longer_stands(model, tiny_tokenizer, prompts):
    drafts, told = Drafts(), []
    before = again(drafts, model, tiny_tokenizer, prompts)
    drafts.entry()
    wanted = generate(moved(model, 1.1), tiny_tokenizer, prompts, NEW)
    stood = [[a == b for a, b in zip(*pair, strict=True)] for pair in zip(before, wanted, strict=True)]
    changed = [row.index(False) for row in stood if not all(row)]  # the first token of each that is another
    assert 0 < len(changed) < len(prompts), "this model shows nothing: choose another scale"
    assert again(drafts, model, tiny_tokenizer, prompts, told.append) == wanted
    assert drafts.entry()["drafts"] == {
        "checked": len(prompts),
        "kept": len(prompts) - len(changed),
        "tokens": sum(NEW - 1 - place for place in changed),  # the pass said that one too
    }
    assert sum(told) == len(prompts)
    assert again(drafts, model, tiny_tokenizer, prompts) == wanted
    assert drafts.tokens == 0, "the new completions are the next drafts"


@pytest.mark.parametrize("place", range(NEW))
def test_one_wrong_token_anywhere_is_seen(model, tiny_tokenizer, prompts, place):
    wanted, drafts = generate(model, tiny_tokenizer, prompts, NEW), Drafts()
    for prompt, ids in zip(prompts, wanted, strict=True):
        drafts.known[tuple(prompt)] = [*ids[:place], (ids[place] + 1) % 258, *ids[place + 1 :]]
    assert again(drafts, model, tiny_tokenizer, prompts) == wanted
    assert drafts.kept == 0


def test_completions_that_end_early_are_checked_up_to_their_end(model, tiny_tokenizer, prompts):
    long = generate(model, tiny_tokenizer, prompts, NEW)
    model.generation_config.eos_token_id = long[0][2]  # so that one at least ends early
    drafts = Drafts()
    first = again(drafts, model, tiny_tokenizer, prompts)
    assert len({len(ids) for ids in first}) > 1
    drafts.entry()
    assert again(drafts, model, tiny_tokenizer, prompts) == first
    assert drafts.kept == len(prompts)


def test_a_completion_cut_to_nothing_is_decoded_anew(model, tiny_tokenizer, prompts):
    drafts = Drafts(known={tuple(prompt): [] for prompt in prompts})
    found = again(drafts, model, tiny_tokenizer, prompts, stop="^")
    assert found == [[]] * len(prompts) and drafts.checked == 0


def test_it_leaves_the_model_in_its_mode(model, tiny_tokenizer, prompts):
    model.train()
    drafts = Drafts()
    for _ in range(2):
        again(drafts, model, tiny_tokenizer, prompts)
    assert model.training


def test_evaluation_with_drafts_gives_the_same_result(model, tiny_tokenizer):
    task, drafts = ParityTask(train=20, max_new_tokens=4), Drafts()
    for scale in (1.0, 1.5, 0.5):
        plain = evaluate(moved(model, scale), tiny_tokenizer, task, progress=False)
        found = evaluate(model, tiny_tokenizer, task, progress=False, decoder=drafts)
        assert found.completions == plain.completions and (found.correct == plain.correct).all()
    assert 0 < drafts.kept < drafts.checked == 40


# --- a whole run


def test_a_run_with_drafts_is_the_run_without(lively, tiny_tokenizer, tmp_path):
    ledgers = {}
    for drafts in (False, True):
        settings = config(rounds=3, drafts=drafts)
        run = boost(lively(), tiny_tokenizer, ParityTask(train=24), FakeTrainer(scale=0.3), settings,
                    tmp_path / str(drafts), progress=False)  # fmt: skip
        ledgers[drafts] = run.ledger
    assert same_runs(ledgers[False], ledgers[True])
    counts = [row.extra["drafts"] for row in ledgers[True].rounds]
    kept, checked = (sum(one[name] for one in counts) for name in ("kept", "checked"))
    assert 0 < kept < checked
    assert 0 < sum(one["tokens"] for one in counts) <= 2 * (24 + 6) * len(counts)  # two tokens a completion, at most
    assert "drafts" not in ledgers[False].rounds[0].extra


def test_a_run_with_drafts_that_dies_anywhere_goes_on(lively, tiny_tokenizer, tmp_path, die_at):
    def call(name: str):
        return boost(lively(), tiny_tokenizer, ParityTask(), FakeTrainer(scale=0.3), config(2, drafts=True),
                     tmp_path / name, progress=False)  # fmt: skip

    reached = die_at(None)
    whole = call("whole")
    ends_as_undisturbed(call, whole, die_at, len(reached))
    assert rows(whole.ledger)


def test_drafts_belong_to_the_identity_of_a_run_that_uses_them(model):
    plain, drafted = (
        run_identity(model, ParityTask(), FakeTrainer(), config(drafts=drafts)) for drafts in (False, True)
    )
    assert "drafts" not in plain and drafted == {**plain, "drafts": True}


def test_no_preset_and_no_method_of_one_round_uses_them():
    assert not MATH["demo"].boost.drafts
    preset = MATH["demo"]
    drafted = replace(preset, boost=replace(preset.boost, drafts=True))
    assert with_method(drafted, "rotate").boost.drafts and not with_method(drafted, "tinylora").boost.drafts


@pytest.mark.parametrize("options", [["--method", "full"], ["--section", "protein"]])
def test_the_command_line_refuses_them_where_nothing_is_decoded_twice(options, capsys):
    assert main(["boost", "--preset", "smoke", "--drafts", *options]) == 1
    assert "--drafts" in capsys.readouterr().err
