"""Bundles: the run in one small file, which rebuilds it exactly or says why it does not."""

import hashlib
import json
import lzma
import shutil
from dataclasses import replace

import pytest
import torch
from helpers import CoinTask, FakeTrainer, ParityTask, config, prints
from recorded import recorded_run
from safetensors.torch import load, save

from boostlib import (
    AdapterConfig,
    BoostError,
    Bundle,
    Ledger,
    SVDBasis,
    TinyLoRA,
    boost,
    export_bundle,
    export_merged,
    export_peft,
    load_model,
    replay,
)
from boostlib.__main__ import main
from boostlib.common.errors import LedgerError, RunError
from boostlib.common.stable import philox
from boostlib.records.bundle import MAGIC
from boostlib.records.ledger import _chain
from boostlib.records.sketch import group_norms, sketch
from boostlib.release.export import verify_weights
from boostlib.update import Weights

CONFIG = AdapterConfig(n_tie=7, u=3)
# as many failures as the 256 problems of the arithmetic demo leave, named as they are there
IDS = [f"{a} {'+-*'[(a + b) % 3]} {b}" for a in range(2, 24) for b in range(2, 10)][:164]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def run(request, tiny_llama, tmp_path) -> Ledger:
    config = replace(CONFIG, strategy=getattr(request, "param", "rotate"), blocks=4)
    return recorded_run(tmp_path / "run", tiny_llama(), config, 4, skip=(1,), scale=3.0)


@pytest.fixture
def bundle(run, tiny_llama, tmp_path):
    return export_bundle(run.dir, tmp_path / "run.bundle", model=tiny_llama())


def packed(body: bytes) -> bytes:
    """A bundle around `body` whose checksum is right: what a careful forger would write."""
    body = lzma.compress(body)
    return MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def unpacked(file) -> tuple[dict, dict]:
    body = lzma.decompress(file.read_bytes().partition(b"\n")[2])
    length = int.from_bytes(body[:8], "little")
    return load(body), json.loads(json.loads(body[8 : 8 + length])["__metadata__"]["record"])


# --- what is in it


@pytest.mark.parametrize("run", ["rotate", "greedy"], indirect=True)
def test_rollback_from_a_bundle_is_bit_identical(run, bundle, tiny_llama):
    seen = set()
    for k in (3, 2, 1, 0, -1):
        rebuilt = replay(bundle, k, tiny_llama())
        assert prints(rebuilt) == prints(replay(run.dir, k, tiny_llama()))
        seen.add(prints(rebuilt))
    assert len(seen) == 4  # the skipped round contributed nothing
    assert prints(replay(bundle, -1, tiny_llama())) == prints(tiny_llama())


def test_a_bundle_has_the_ledgers_lines_and_numbers(run, bundle):
    read = Bundle(bundle)
    assert (read.header, read.base, read.rounds) == (run.header, run.base, run.verify())
    assert read.verify() == run.rounds and read.failures_after(4) == run.failures_after(4)
    assert all(torch.equal(read.load_v(k)[0], run.load_v(k)[0]) for k in range(4))


def test_a_bundle_up_to_a_round_ends_there(run, tiny_llama, tmp_path):
    file = export_bundle(run.dir, tmp_path / "early", round=2, model=tiny_llama())
    assert [row.index for row in Bundle(file).verify()] == [0, 1, 2]
    assert prints(replay(file, model=tiny_llama())) == prints(replay(run.dir, 2, tiny_llama()))
    with pytest.raises(RunError, match="rounds 0 to 2"):
        replay(file, 3, tiny_llama())


def test_twenty_rounds_of_twelve_numbers_fit_in_64_kilobytes(tiny_llama, tmp_path):
    adapter = AdapterConfig(rank=1, n_tie=3)  # 20 directions are what the narrowest weight of 32 rows has
    ledger = recorded_run(tmp_path / "long", tiny_llama(layers=5), adapter, 20, failures=IDS)
    assert {row.num_parameters for row in ledger.rounds} == {12}
    file = export_bundle(ledger.dir, tmp_path / "long.bundle", model=tiny_llama(layers=5))
    plain = ledger.path.stat().st_size
    print(f"\nbundle {file.stat().st_size:,} bytes; the ledger alone, with {len(IDS)} ids a round, {plain:,}")
    assert file.stat().st_size < 64_000
    assert prints(replay(file, 19, tiny_llama(layers=5))) == prints(replay(ledger.dir, 19, tiny_llama(layers=5)))


def test_the_same_run_gives_the_same_bytes(run, bundle, tiny_llama, tmp_path):
    again = export_bundle(run.dir, tmp_path / "again", model=tiny_llama())
    copy = export_bundle(bundle, tmp_path / "copy", model=tiny_llama())  # a bundle of a bundle
    assert again.read_bytes() == bundle.read_bytes() == copy.read_bytes()


def test_a_lora_can_be_made_from_a_bundle(run, bundle, tiny_llama, tmp_path):
    one = export_peft(bundle, tmp_path / "one", model=tiny_llama())
    two = export_peft(run.dir, tmp_path / "two", model=tiny_llama())
    assert (one / "adapter_model.safetensors").read_bytes() == (two / "adapter_model.safetensors").read_bytes()


def test_a_classifiers_bundle_has_its_head(tiny_classifier, tiny_protein_tokenizer, tmp_path):
    arguments = CoinTask(), FakeTrainer(), config(2, n_tie=4)
    run = boost(tiny_classifier(), tiny_protein_tokenizer, *arguments, tmp_path / "run", progress=False)
    file = export_bundle(run.dir, tmp_path / "bundle", model=tiny_classifier())
    given = tiny_classifier()
    given.head.weight.data.zero_()  # as an encoder loaded by its name has it
    assert prints(replay(file, model=given)) == prints(run.model)


# --- refused


def test_another_base_is_refused_by_its_fingerprint(bundle, tiny_llama):
    other, before = tiny_llama(seed=1), prints(tiny_llama(seed=1))
    with pytest.raises(RunError, match="fingerprint is [0-9a-f]{12}, the run's [0-9a-f]{12}"):
        replay(bundle, model=other)
    assert prints(other) == before


def test_any_changed_byte_is_refused(bundle):
    data = bundle.read_bytes()
    places = {0, 17, 20, 81, 82, 83, len(data) - 1, *philox("places").integers(0, len(data), 60).tolist()}
    for place in places:
        bundle.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(RunError, match="no bundle|intact copy"):
            Bundle(bundle)
    for cut in (0, 10, 82, 83, len(data) - 1):
        bundle.write_bytes(data[:cut])
        with pytest.raises(RunError, match="no bundle|intact copy"):
            Bundle(bundle)


@pytest.mark.parametrize("what", ["v", "ledger", "sketch"])
def test_a_change_with_a_new_checksum_is_still_found(bundle, tiny_llama, what):
    tensors, record = unpacked(bundle)
    if what == "ledger":
        record["ledger"] = record["ledger"].replace('"train_accuracy":0.5', '"train_accuracy":0.9', 1)
    else:
        tensors[f"{what}.0002"][0, 0] += 0.01
    bundle.write_bytes(packed(save(tensors, {"record": json.dumps(record)})))
    expected, text = (RunError, "round 2 was rebuilt wrongly") if what == "sketch" else (LedgerError, "intact copy")
    with pytest.raises(expected, match=text):
        replay(bundle, model=tiny_llama())


def test_what_is_no_bundle_is_said_to_be_none(tmp_path):
    (tmp_path / "text").write_text("hello\nworld")
    (tmp_path / "strange").write_bytes(packed(b"not safetensors"))
    for name, text in (("text", "give a run or a bundle"), ("strange", "no bundle of this version")):
        with pytest.raises(RunError, match=text):
            replay(tmp_path / name)
    with pytest.raises(RunError, match=r"no run \(no run.json\)"):
        replay(tmp_path / "missing")


def test_a_bundle_is_never_written_to(bundle):
    read = Bundle(bundle)
    for change in (lambda: read.append(read.rounds[0]), lambda: read.create({}), lambda: read.repair()):
        with pytest.raises(RunError, match="never changes"):
            change()


def test_an_existing_file_is_refused_and_an_interruption_leaves_none(run, bundle, tiny_llama, tmp_path, monkeypatch):
    data = bundle.read_bytes()
    with pytest.raises(RunError, match="exists already"):
        export_bundle(run.dir, bundle, model=tiny_llama())
    assert bundle.read_bytes() == data

    def interrupted(point):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("boostlib.common.durable.reached", interrupted)
        export_bundle(run.dir, tmp_path / "new", model=tiny_llama())
    assert not (tmp_path / "new").exists()
    assert export_bundle(run.dir, tmp_path / "new", model=tiny_llama()).read_bytes() == data


# --- sketches: the right numbers on the wrong footing


def test_a_sketch_entry_is_the_probes_value(run, tiny_llama):
    adapter = TinyLoRA(SVDBasis.from_model(tiny_llama(), rank=8), CONFIG, 2)
    adapter.v.data.copy_(run.load_v(2)[0])
    update, groups = adapter.update(), adapter.groups()
    found = sketch(update, groups)  # (2 groups, 4 probes)
    name, (b, a) = list(update.items())[-1]
    noise = torch.from_numpy(philox("sketch", name).standard_normal((4, a.shape[1] + b.shape[0])))
    x, y = noise[:, : a.shape[1]], noise[:, a.shape[1] :]
    last = torch.stack([y[j] @ (b.double() @ a.double()) @ x[j] for j in range(4)])
    without = sketch(update, [*groups[:-1], 2])  # the last module in a group of its own
    assert torch.allclose(without[2].double(), last, rtol=1e-5)
    assert torch.allclose(found[1], without[1] + without[2], rtol=1e-4, atol=1e-4)
    assert float(group_norms(update, groups).square().sum()) ** 0.5 == pytest.approx(update.norm())


@pytest.mark.parametrize("wrong", ["sign", "noise", "module"])
def test_a_wrong_rebuild_is_caught(bundle, tiny_llama, wrong, monkeypatch):
    whole = SVDBasis.from_model

    def changed(*args, **more) -> SVDBasis:
        triplets = dict(whole(*args, **more))
        names = list(triplets)
        u, s, vh = triplets[names[3]]
        if wrong == "sign":  # one direction of one of 14 modules: arbitrary to an SVD, not to R
            flip = torch.ones_like(s)
            flip[4] = -1
            triplets[names[3]] = (u * flip, s, vh)
        else:  # two modules of one shape, swapped
            triplets[names[4]], triplets[names[5]] = triplets[names[5]], triplets[names[4]]
        return SVDBasis(triplets)

    if wrong == "noise":
        monkeypatch.setattr("boostlib.adapter.philox", lambda *parts: philox("other", *parts))
    else:
        monkeypatch.setattr(SVDBasis, "from_model", changed)
    model = tiny_llama()
    with pytest.raises(RunError, match="rebuilt wrongly"):
        replay(bundle, model=model)
    assert prints(model) == prints(tiny_llama())


def test_a_basis_within_its_tolerance_passes(bundle, tiny_llama, monkeypatch):
    whole = SVDBasis.from_model

    def nearly(*args, **more) -> SVDBasis:
        return SVDBasis({name: (u * (1 + 5e-6), s, vh) for name, (u, s, vh) in whole(*args, **more).items()})

    monkeypatch.setattr(SVDBasis, "from_model", nearly)
    replay(bundle, model=tiny_llama())


# --- the model in memory, and the command line


def test_the_model_that_boost_gave_back_rolls_back_in_place(tiny_llama, tiny_tokenizer, tmp_path):
    from helpers import ParityTask

    arguments = tiny_tokenizer, ParityTask(), FakeTrainer(), config(3)
    run = boost(tiny_llama(), *arguments, tmp_path / "run", progress=False)
    last = prints(run.model)
    for k in (0, 2, -1, 1):
        assert replay(run.dir, k, run.model) is run.model
        assert prints(run.model) == prints(replay(run.dir, k, tiny_llama()))
    assert run.update.norm() == pytest.approx(run.rounds[1].update_norm)
    with pytest.raises(RunError, match="fingerprint"):
        replay(recorded_run(tmp_path / "other", tiny_llama(seed=1), CONFIG).dir, model=run.model)
    assert prints(run.model) == prints(replay(run.dir, 1, tiny_llama())) != last  # left where it was


def test_verify_rebuilds_every_round(run, bundle, tiny_llama, monkeypatch):
    for record in (run, Bundle(bundle)):
        table = verify_weights(record, tiny_llama())
        assert list(table.index) == ["base", 0, 1, 2, 3] and set(table["weights"]) == {"bit for bit"}
    monkeypatch.setattr("boostlib.adapter.philox", lambda *parts: philox("other", *parts))
    with pytest.raises(RunError, match="round 0 was rebuilt wrongly .its norm is.*Was run.json edited"):
        verify_weights(run, tiny_llama())


def test_the_command_line_exports_verifies_and_replays(tiny_llama, tiny_tokenizer, tmp_path, capsys):
    for one in (tiny_llama(), tiny_tokenizer):
        one.save_pretrained(tmp_path / "base")
    model = load_model(str(tmp_path / "base"), dtype="fp32", device="cpu")[0]
    run = recorded_run(tmp_path / "run", model, CONFIG, scale=3.0)
    names = [str(tmp_path / name) for name in ("merged", "lora", "bundle")]
    assert main(["export", str(run.dir), "--merged", names[0], "--peft", names[1], "--bundle", names[2]]) == 0
    assert main(["verify", names[2], "--weights"]) == 0
    printed = capsys.readouterr().out
    assert "bytes" in printed and printed.count("bit for bit") == 4
    assert main(["replay", names[2], "--round", "0", "--save", str(tmp_path / "back")]) == 0
    saved = load_model(str(tmp_path / "back"), dtype="fp32", device="cpu")[0]
    assert prints(saved) == prints(replay(run.dir, 0, tiny_llama()))
    assert main(["export", str(run.dir), "--merged", names[0]]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["export", str(run.dir)]) == 1 and "--merged" in capsys.readouterr().err
    assert main(["verify", names[2], "--repair"]) == 1 and "never changes" in capsys.readouterr().err
    with pytest.raises(BoostError):
        Bundle(tmp_path / "base/config.json")


# --- what a run says against what it is


@pytest.fixture
def trained(tiny_llama, tiny_tokenizer, tmp_path):
    """A run of two rounds as `boost` records it, with sketches."""
    return boost(tiny_llama(), tiny_tokenizer, ParityTask(), FakeTrainer(), config(2), tmp_path / "trained", False)


def without_vouching(ledger) -> None:
    """The ledger as runs were recorded before: no word of run.json, no sketches, no circumstances."""
    rows, chain = [json.loads(line) for line in ledger.path.read_bytes().splitlines()], ""
    for one in rows:
        for name in ("chain", "run_json", "sketch", "circumstances"):
            one.pop(name, None)
        chain = one["chain"] = _chain(chain, dict(one))
    ledger.path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_run_json(ledger, change) -> None:
    header = ledger.header
    change(header)
    (ledger.dir / "run.json").write_text(json.dumps(header))


def other_seed(header):
    header["identity"]["adapter"]["seed"] = 9


def other_ties(header):
    header["identity"]["adapter"] |= {"n_tie": 8}


def other_scaling(header):
    header["identity"]["adapter"]["scaling"] = "normalized"


@pytest.mark.parametrize("change", [other_seed, other_ties, other_scaling])
@pytest.mark.parametrize("recorded", ["now", "before"])
def test_an_edited_identity_releases_no_other_model(trained, tiny_llama, change, recorded, tmp_path):
    if recorded == "before":
        without_vouching(trained.ledger)
        assert prints(replay(trained.dir, model=tiny_llama())) == prints(trained.model)
    edit_run_json(trained.ledger, change)
    said = "run.json was edited" if recorded == "now" else "was rebuilt wrongly"
    for call in (
        lambda: replay(trained.dir, model=tiny_llama()),
        lambda: export_merged(trained.dir, tmp_path / "out", model=tiny_llama(), tokenizer=object()),
        lambda: export_bundle(trained.dir, tmp_path / "bundle", model=tiny_llama()),
    ):
        with pytest.raises(RunError, match=said):
            call()
    assert not (tmp_path / "out").exists() and not (tmp_path / "bundle").exists()


def test_other_last_bits_without_an_explanation_are_an_error(trained, tiny_llama, monkeypatch, caplog):
    plain = Weights.value

    def rounded(self, name, update, out=None):
        found = plain(self, name, update, out)
        return found if name not in update else found.mul_(1 + 1e-6)

    monkeypatch.setattr(Weights, "value", rounded)
    with pytest.raises(RunError, match="round 1 was rebuilt, but its weights are not those that were recorded"):
        replay(trained.dir, model=tiny_llama())
    monkeypatch.setattr("boostlib.config.torch.get_num_threads", lambda: 7)  # on another machine they are explained
    replay(trained.dir, model=tiny_llama())
    assert "round 1 rebuilt, but not bit for bit" in caplog.text


def test_a_resealed_bundle_with_a_wrong_record_is_none(trained, tiny_llama, tmp_path):
    """Who can rewrite the file can rewrite its checksum: what it says must still hang together."""
    file = export_bundle(trained.dir, tmp_path / "bundle", model=tiny_llama())
    body = lzma.decompress(file.read_bytes().partition(b"\n")[2])
    tensors = load(body)
    length = int.from_bytes(body[:8], "little")
    record = json.loads(json.loads(body[8 : 8 + length])["__metadata__"]["record"])
    header, ledger = record["run"], record["ledger"]
    other = json.loads(json.dumps(header))
    other_seed(other)
    wrong = [
        {"run": other, "ledger": ledger}, {"run": {}, "ledger": ledger}, {"run": [], "ledger": ledger},
        {"run": header, "ledger": ""}, {"run": header, "ledger": 3}, {"run": header}, [], None,
        {"run": header, "ledger": ledger.splitlines(keepends=True)[0] * 2},
    ]  # fmt: skip
    for k, record in enumerate(wrong):
        sealed = lzma.compress(save(tensors, {"record": json.dumps(record)}))
        path = tmp_path / f"wrong-{k}"
        path.write_bytes(MAGIC + hashlib.sha256(sealed).hexdigest().encode() + b"\n" + sealed)
        with pytest.raises(RunError):
            Bundle(path).verify()
    bare = {name: tensor for name, tensor in tensors.items() if not name.startswith("sketch.0001")}
    sealed = lzma.compress(save(bare, {"record": json.dumps({"run": header, "ledger": ledger})}))
    file.write_bytes(MAGIC + hashlib.sha256(sealed).hexdigest().encode() + b"\n" + sealed)
    with pytest.raises(RunError, match="no sketch of round 1"):
        Bundle(file).verify()


@pytest.mark.parametrize("options", [[], ["--weights"], ["--repair"]])
@pytest.mark.parametrize("kind", ["missing", "empty", "no run.json", "empty run.json", "{} in run.json"])
def test_verify_of_what_is_no_run_says_so_and_makes_nothing(trained, tmp_path, capsys, kind, options):
    folder = tmp_path / "other"
    if kind == "empty":
        folder.mkdir()
    elif kind != "missing":
        shutil.copytree(trained.dir, folder)
        (folder / "run.json").unlink()
    if "in run.json" in kind or kind == "empty run.json":
        (folder / "run.json").write_text("{}" if "{}" in kind else "")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    assert main(["verify", str(folder), *options]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and "Traceback" not in said.err and "as written" not in said.out
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before
