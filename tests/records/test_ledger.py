"""The record: what is written comes back, what was changed is named, and what fails leaves it as it was."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from helpers import disk_for
from safetensors.torch import save

from boostlib import Ledger, Round
from boostlib.common.errors import LedgerError, RunError
from boostlib.common.stable import philox
from boostlib.records.ledger import _chain
from boostlib.records.rows import Base, Scores, pack_bits

TEST = 256  # examples of each held-out split


def scores(seed: int) -> Scores:
    bits = philox("bits", seed).random(TEST) < 0.5
    return Scores(float(bits.mean()), float(bits.mean()) - 0.01171875, pack_bits(bits))


def base(ids=("a", "b", "c")) -> Base:
    return Base(list(ids), 0.41015625, 0.3984375, {"test": scores(0), "dev": scores(1)}, "f" * 64, 12.34)


def row(index: int, **values) -> Round:
    numbers = philox("row", index).random(30).tolist()
    common = dict(
        index=index, failures=["a", "b"], num_parameters=12, degrees_of_freedom=12, plan=[(index, 0)] * 12,
        adapter_norm=numbers[0], update_norm=numbers[1], fold_retention=numbers[2], train_accuracy=numbers[3],
        train_strict=numbers[4], metrics={"test": scores(10 * index), "dev": scores(10 * index + 1)}, fixed=["a"],
        broken=["c"], steps=8, seconds={"train": 61.23, "merge": 0.12, "evaluate": 12.34}, tokens=40960,
        rewards=[round(x, 4) for x in numbers[5:13]], signal=[round(x, 4) for x in numbers[13:21]],
        seed=1234567890 + index, v_sha256="0" * 64, weights_fingerprint="1" * 64, samples=8,
    )  # fmt: skip
    return Round(**{**common, **values})


def record(folder, rounds: int = 3) -> Ledger:
    """A ledger of so many rounds, with their files."""
    ledger = Ledger(folder)
    with ledger.locked():
        ledger.create({"identity": {"seed": 0}})
        ledger.append(base())
        for index in range(rounds):
            add(ledger, index)
    return ledger


def add(ledger: Ledger, index: int) -> None:
    ledger.save_numbers(index, {"v": torch.full((12, 1), float(index))}, {"steps": 8})
    ledger.append(row(index, v_sha256=ledger.v_sha256(index)))


def plain(rounds: list[Round]) -> list[Round]:
    """Rounds without the hash of their file, which differs between two ledgers."""
    return [replace(row, v_sha256="") for row in rounds]


def lines(ledger: Ledger) -> list[bytes]:
    return ledger.path.read_bytes().splitlines(keepends=True)


# --- what is written comes back


def test_round_trip(tmp_path):
    ledger = record(tmp_path / "run")
    again = Ledger(str(tmp_path / "run"))
    assert again.header == {"identity": {"seed": 0}}
    assert replace(again.base, run_json="") == base() and len(again.base.run_json) == 64
    assert again.rounds == [row(i, v_sha256=ledger.v_sha256(i)) for i in range(3)] == again.verify()
    v, notes = again.load_v(2)
    assert torch.equal(v, torch.full((12, 1), 2.0)) and notes == {"steps": 8}
    assert again.load_v(3) is None


def test_equal_numbers_have_an_equal_hash(tmp_path):
    """What training did holds times, and the order of a file's metadata is random: the hash is of v alone."""
    ledger, hashes = Ledger(tmp_path), set()
    (tmp_path / "rounds").mkdir()
    for i in range(8):
        ledger.save_numbers(0, {"v": torch.ones(12, 1)}, {"steps": 8, "seconds": 1.5 + i})
        hashes.add(ledger.v_sha256(0))
    assert len(hashes) == 1
    ledger.save_numbers(0, {"v": torch.zeros(12, 1)}, {"steps": 8})
    assert ledger.v_sha256(0) not in hashes


def test_an_empty_run_has_no_rounds(tmp_path):
    ledger = Ledger(tmp_path / "none")
    assert (ledger.base, ledger.rounds, ledger.verify()) == (None, [], [])
    with pytest.raises(RunError, match=r"none holds no run \(no run.json\)"):
        _ = ledger.header


def test_a_damaged_header_is_named(tmp_path):
    (tmp_path / "run.json").write_text('{"identity":')
    with pytest.raises(RunError, match="run.json is damaged"):
        _ = Ledger(tmp_path).header


@pytest.mark.parametrize("bits", [[], [False], [True], [False, False, True], [True] * 9, [False] * 300])
def test_pack_bits_round_trip(bits):
    packed = Scores(0.0, 0.0, pack_bits(bits))
    assert packed.bits() == bits and packed.n == len(bits)
    assert len(packed.correct) == len(bits) // 4 + 1


def test_odd_ids_come_back(tmp_path):
    odd = ["a\nb", "ü\u2028", '"', "\\", "", "\x85"]
    ledger = Ledger(tmp_path)
    ledger.append(base(odd))
    ledger.append(row(0, fixed=odd, broken=[]))
    assert ledger.base.failures == odd == ledger.rounds[0].fixed


def test_failures_follow_from_fixed_and_broken(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append(base(["a", "b"]))
    ledger.append(row(0, failures=["a", "b"], fixed=["a"], broken=["c", "d"]))
    ledger.append(row(1, failures=["b", "c", "d"], fixed=["d"], broken=["a"]))
    assert [set(ledger.failures_after(k)) for k in range(3)] == [{"a", "b"}, {"b", "c", "d"}, {"a", "b", "c"}]


def test_twenty_rounds_of_twelve_parameters_take_under_100_kb(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append(base([]))
    for index in range(20):
        ledger.append(row(index, failures=[], fixed=[], broken=[]))
    assert ledger.path.stat().st_size < 100_000


# --- what was changed is found and named


def test_an_edited_value_is_named(tmp_path):
    ledger = record(tmp_path)
    text = lines(ledger)
    text[2] = text[2].replace(b'"tokens":40960', b'"tokens":40961')
    ledger.path.write_bytes(b"".join(text))
    for read in (ledger.verify, lambda: ledger.rounds):
        with pytest.raises(LedgerError, match=r"ledger.jsonl, line 3: .*edited.*last good round: 0\b.*--repair"):
            read()


def test_an_edited_checksum_does_not_hide_an_edit_from_the_next_line(tmp_path):
    ledger = record(tmp_path)
    text = [json.loads(line) for line in lines(ledger)]
    chain = text[1]["chain"]
    text[2]["tokens"] += 1
    del text[2]["chain"]
    text[2]["chain"] = _chain(chain, {k: v for k, v in text[2].items()})
    ledger.path.write_text("".join(json.dumps(row) + "\n" for row in text))
    with pytest.raises(LedgerError, match=r"line 4: .*last good round: 1\b"):
        ledger.verify()


@pytest.mark.parametrize(("line", "good"), [(0, "no good round"), (1, "no good round"), (2, "last good round: 0")])
def test_a_deleted_line_is_named(tmp_path, line, good):
    ledger = record(tmp_path)
    text = lines(ledger)
    del text[line]
    ledger.path.write_bytes(b"".join(text))
    with pytest.raises(LedgerError, match=rf"line {line + 1}: .*removed.*{good}"):
        ledger.verify()


def test_swapped_lines_are_named(tmp_path):
    ledger = record(tmp_path)
    text = lines(ledger)
    text[2], text[3] = text[3], text[2]
    ledger.path.write_bytes(b"".join(text))
    with pytest.raises(LedgerError, match="line 3"):
        ledger.verify()


@pytest.mark.parametrize("garbage", [b"garbage\n", b"\xff\xfe\n", b"[]\n", b"3\n", b"{}\n", b"\n", b"null\n"])
def test_a_garbage_line_is_named(tmp_path, garbage):
    ledger = record(tmp_path)
    text = lines(ledger)
    ledger.path.write_bytes(b"".join([*text[:3], garbage, *text[3:]]))
    with pytest.raises(LedgerError, match=r"line 4: it is not a whole JSON line.*last good round: 1\b"):
        ledger.verify()


@pytest.mark.parametrize("short", [True, False])
def test_a_torn_last_line_is_dropped_and_overwritten(tmp_path, short):
    undisturbed = record(tmp_path / "a", 3)
    ledger = record(tmp_path / "b", 2)
    whole = lines(ledger)
    add(ledger, 2)
    torn = lines(ledger)[-1][:-40]
    ledger.path.write_bytes(b"".join(whole) + (torn if short else 3 * torn))
    assert len(ledger.verify()) == 2
    add(ledger, 2)
    assert plain(ledger.verify()) == plain(undisturbed.rounds)
    assert ledger.path.read_bytes().endswith(b"}\n")


def test_cut_off_last_lines_are_noticed(tmp_path):
    ledger = record(tmp_path)
    ledger.path.write_bytes(b"".join(lines(ledger)[:-2]))
    with pytest.raises(LedgerError, match=r"line 3: .*cut off.*last good round: 0\b"):
        ledger.verify()


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_changed_round_file_is_named(tmp_path, damage):
    ledger = record(tmp_path)
    path = ledger.v_path(1)
    if damage == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    with pytest.raises(
        LedgerError, match=r"line 3: .*0001.safetensors is missing or was changed.*last good round: 0\b"
    ):
        ledger.verify()


def test_a_round_file_cut_short_counts_as_none(tmp_path):
    ledger = record(tmp_path)
    for size in (0, 4, 40, 200):
        ledger.v_path(2).write_bytes(ledger.v_path(2).read_bytes()[:size])
        assert ledger.load_v(2) is None


# --- repair


@pytest.mark.parametrize(
    ("damage", "left"), [("edit", 1), ("delete", 0), ("garbage", 2), ("cut", 1), ("file", 1), ("base", 0), ("torn", 3)]
)
def test_repair_cuts_back_to_the_last_good_round(tmp_path, damage, left):
    ledger, undisturbed = record(tmp_path / "b"), record(tmp_path / "a")
    text = lines(ledger)
    broken = {
        "edit": [*text[:2], text[2].replace(b"40960", b"40961"), text[3]],
        "delete": [text[0], text[2], text[3]],
        "garbage": [*text[:3], b"garbage\n", text[3]],
        "cut": text[:2],
        "file": text,
        "base": [text[0].replace(b"12.34", b"12.35"), *text[1:]],
        "torn": [*text, b'{"index": 3'],
    }[damage]
    ledger.path.write_bytes(b"".join(broken))
    if damage == "file":
        ledger.v_path(1).unlink()
    files = {path.name: path.read_bytes() for path in (ledger.dir / "rounds").iterdir()}
    kept, folder = ledger.repair()
    assert kept == left
    assert plain(ledger.verify()) == plain(ledger.rounds) == plain(undisturbed.rounds[:left])
    assert (folder / "ledger.jsonl").read_bytes() == b"".join(broken)
    there = [*(ledger.dir / "rounds").iterdir(), *folder.glob("*.safetensors")]
    assert {path.name: path.read_bytes() for path in there} == files
    assert len(list((ledger.dir / "rounds").iterdir())) == {"torn": 3, "cut": 2}.get(damage, left)
    assert ledger.repair() == (left, None), "a second call finds nothing to cut"
    if ledger.base is None:
        ledger.append(base())
    for index in range(left, 3):
        add(ledger, index)
    assert plain(ledger.verify()) == plain(undisturbed.rounds)
    assert ledger.base == undisturbed.base


def test_a_repair_that_is_interrupted_loses_nothing(tmp_path, monkeypatch):
    ledger = record(tmp_path)
    text = lines(ledger)
    original = b"".join([*text[:2], text[2].replace(b"40960", b"40961"), text[3]])
    ledger.path.write_bytes(original)

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("boostlib.records.ledger.write_durably", crash)
    with pytest.raises(KeyboardInterrupt):
        ledger.repair()
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert original in kept


def test_a_second_repair_keeps_what_the_first_kept(tmp_path):
    ledger = record(tmp_path, 4)
    contents = []
    for line in (4, 2):
        text = lines(ledger)
        text[line] = text[line].replace(b"40960", b"40961")
        ledger.path.write_bytes(b"".join(text))
        contents.append(ledger.path.read_bytes())
        ledger.repair()
    assert [(tmp_path / f"cut-{k}" / "ledger.jsonl").read_bytes() for k in (1, 2)] == contents
    assert len(ledger.verify()) == 1 and len(list(tmp_path.glob("cut-*/*.safetensors"))) == 3


def test_a_round_that_was_trained_but_not_recorded_survives_a_repair(tmp_path):
    ledger = record(tmp_path)
    ledger.save_numbers(3, {"v": torch.ones(12, 1)}, {"steps": 8})
    assert ledger.repair() == (3, None) and torch.equal(ledger.load_v(3)[0], torch.ones(12, 1))


# --- run.json


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"3", b'{"identity": []}', b"\xff\xfe", b'{"identity":', b"[" * 100_000]
)
def test_a_run_json_that_is_none_is_named(tmp_path, content):
    ledger = record(tmp_path)
    (tmp_path / "run.json").write_bytes(content)
    for ask in (ledger.verify, ledger.repair, lambda: ledger.header):
        with pytest.raises(RunError, match="run.json is damaged"):
            ask()
    assert not list(tmp_path.glob("cut-*"))


def test_the_first_line_vouches_for_run_json(tmp_path):
    ledger = record(tmp_path)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(LedgerError, match="run.json was edited after the run began"):
        ledger.verify()
    path.write_text(json.dumps({"identity": {"seed": 0}}))  # in another form the same content
    assert len(ledger.verify()) == 3


def test_a_ledger_recorded_without_that_stays_valid(tmp_path):
    ledger = Ledger(tmp_path)
    (tmp_path / "rounds").mkdir()
    ledger.append(base())
    ledger.create({"identity": {"seed": 0}})
    add(ledger, 0)
    assert ledger.base.run_json == "" and len(ledger.verify()) == 1


@pytest.mark.parametrize("beside", ["notes.txt", "0001 copy.safetensors", "9.safetensors", "x.safetensors", "0001.bak"])
def test_a_stray_file_among_the_rounds_changes_nothing(tmp_path, beside):
    ledger = record(tmp_path)
    (tmp_path / "rounds" / beside).write_text("hello")
    assert len(ledger.verify()) == 3 and ledger.repair() == (3, None)
    assert (tmp_path / "rounds" / beside).exists()


def test_a_round_file_without_notes_is_named(tmp_path):
    ledger = record(tmp_path)
    ledger.v_path(1).write_bytes(save({"v": torch.ones(12, 1)}))
    assert ledger.load_v(1) is None
    with pytest.raises(LedgerError, match="0001.safetensors is missing or was changed"):
        ledger.verify()


@pytest.mark.parametrize("lost", ["metrics", "failures", "index", "seconds", "v_sha256"])
def test_a_whole_line_that_lacks_a_field_is_named(tmp_path, lost):
    ledger = record(tmp_path)
    rows = [json.loads(line) for line in lines(ledger)]
    chain = rows[1]["chain"]
    for one in rows[2:]:
        del one["chain"]
        one.pop(lost) if one["index"] == 1 else None
        chain = one["chain"] = _chain(chain, dict(one))
    ledger.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(LedgerError, match=r"line 3: a field is missing or of a wrong type.*last good round: 0\b"):
        ledger.verify()
    assert ledger.repair()[0] == 1 and len(ledger.verify()) == 1


def test_a_ledger_that_is_a_folder_is_named(tmp_path):
    ledger = record(tmp_path)
    ledger.path.unlink()
    ledger.path.mkdir()
    with pytest.raises(RunError, match="ledger.jsonl cannot be read"):
        ledger.verify()


# --- what fails leaves it as it was


def test_a_second_process_is_locked_out(tmp_path):
    code = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'w')\n"
        "try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: print('locked')\n"
        "else: print('free')\n"
    )

    def other_process() -> str:
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / ".lock")], capture_output=True, text=True)
        return done.stdout.strip()

    with Ledger(tmp_path).locked():
        assert other_process() == "locked"
        with pytest.raises(RunError, match="in use by another process"), Ledger(tmp_path).locked():
            pass
    assert other_process() == "free"


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot write .*file/run"), Ledger(tmp_path / "file" / "run").locked():
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only directories")
def test_a_read_only_directory_is_named(tmp_path):
    ledger = record(tmp_path / "run")
    before = ledger.path.read_bytes()
    for path in (ledger.dir / "rounds", ledger.dir):
        path.chmod(0o500)
    try:
        (ledger.dir / ".lock").unlink(missing_ok=True)
        with pytest.raises(RunError, match="cannot write"):
            add(ledger, 3)
    finally:
        for path in (ledger.dir, ledger.dir / "rounds"):
            path.chmod(0o700)
    assert ledger.path.read_bytes() == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["line", "file", "header", "rename"])
def test_a_disk_that_refuses_leaves_the_ledger_as_it_was(tmp_path, monkeypatch, code, call):
    ledger = record(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace" if call == "rename" else "fsync", refuse)
        with pytest.raises(RunError, match=rf"cannot write .*{os.strerror(code)}.*[Nn]othing is lost"):
            if call == "line":
                ledger.append(row(3))
            elif call == "header":
                ledger.create({"identity": {}})
            else:
                ledger.save_numbers(3, {"v": torch.ones(1)}, {})
    assert {path: path.read_bytes() for path in before} == before
    assert len(ledger.verify()) == 3
    add(ledger, 3)  # and once there is room again, it goes on
    assert len(ledger.verify()) == 4


def test_a_line_that_fits_only_in_part_is_as_if_never_written(tmp_path):
    ledger = record(tmp_path)
    before = ledger.path.read_bytes()
    with disk_for(len(before) + 100), pytest.raises(RunError, match="cannot write"):
        ledger.append(row(3))
    assert ledger._good_bytes() == before
    assert len(ledger.verify()) == 3
    add(ledger, 3)
    assert len(ledger.verify()) == 4


def test_a_round_file_that_does_not_fit_is_an_error_and_no_file(tmp_path):
    ledger = record(tmp_path)
    with disk_for(50), pytest.raises(RunError, match="cannot write"):
        ledger.save_numbers(3, {"v": torch.ones(12, 1)}, {"steps": 8})
    assert ledger.load_v(3) is None and len(ledger.verify()) == 3
