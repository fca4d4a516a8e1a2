"""The benchmark runs, compares the same work, and its ratios are those of the medians that it writes."""

import json
import statistics

import pytest
import torch
from helpers import ParityTask

from boostlib import GRPO, AdapterConfig, BoostError
from boostlib.__main__ import main
from boostlib.bench import SUBJECTS, bench
from boostlib.bench.decoding import FOLDED, LIMIT, USERS
from boostlib.bench.measure import Measurement, phased, print_tables
from boostlib.bench.setup import Setup, peft_tiny_lora

FAST = [name for name in SUBJECTS if name != "sandbox"]  # its peer is not a dependency


@pytest.fixture
def setup(lively, tiny_tokenizer) -> Setup:
    """A random model, and everything as small as it goes."""
    return Setup(
        load=lambda: (lively(), tiny_tokenizer),
        task=ParityTask(train=8, test=6, max_new_tokens=2),
        code=ParityTask(train=4, test=4, max_new_tokens=3, stop="[a-e]"),
        worked_out=ParityTask(train=4, test=4, max_new_tokens=6),
        trainer=GRPO(learning_rate=0.01, prompts=4, samples=2, max_samples=2, max_steps=1, micro_batch=8),
        adapter=AdapterConfig(n_tie=7, blocks=4),
        rounds=2,
        repeats=2,
        new_tokens=3,
        checks=2,
    )


@pytest.mark.parametrize("subject", FAST)
def test_every_subject_measures_and_writes_what_it_found(subject, setup, tmp_path, capsys):
    records = bench(subject, str(tmp_path), setup)[subject]
    (path,) = tmp_path.iterdir()
    assert path.name == f"{subject}-cpu-1.json" and json.loads(path.read_text()) == records
    for record in records:
        assert record["what"] and record["environment"]["device"].startswith("cpu") and record["compare"]
        assert record["medians"] == {name: statistics.median(runs) for name, runs in record["runs"].items()}
        assert all(value >= 0 for runs in record["runs"].values() for value in runs)
        for pair in record["compare"]:
            expected = record["medians"][pair["peer"]] / record["medians"][pair["ours"]]
            assert pair["ratio"] == pytest.approx(expected)
    printed, progress = capsys.readouterr()
    assert printed.startswith(f"{subject}: about ") and printed.strip().endswith("GPU: not run")
    assert subject == "merge" or " 0/" in progress  # from the first run on
    assert all(pair["peer"] in printed for record in records for pair in record["compare"])


@pytest.mark.parametrize(
    ("subject", "count"),
    [("decode", "tokens"), ("round", "steps"), ("round", "completions")],
)
def test_both_sides_do_the_same_work(subject, count, setup):
    for one in SUBJECTS[subject][0](setup):
        done = {work[count] for work in one.work.values()}
        assert len(done) == 1 and done.pop() > 0


def test_every_way_to_decode_has_its_share_of_the_products_in_the_same_run(setup, capsys):
    records = bench("decode", setup=setup)["decode"]
    assert [set(one["share"]) for one in records] == [set(records[0]["runs"])] * 2 + [{FOLDED, USERS, LIMIT}]
    linears = [m for m in setup.load()[0].modules() if isinstance(m, torch.nn.Linear)]
    weights = sum(layer.weight.numel() for layer in linears)  # the tied head once
    for one in records:
        assert one["notes"]["parameters in linear layers"] == weights and one["share"][LIMIT] == 1
        gflops = 2 * weights * one["rates"][LIMIT] / 1e9
        assert one["notes"]["GFLOPS of the matrix products"] == pytest.approx(gflops)
        assert one["share"][FOLDED] == pytest.approx(one["rates"][FOLDED] / one["rates"][LIMIT])
    assert "100% of the limit" in capsys.readouterr().out


def test_plain_loops_write_the_same_completions(setup):
    for one in SUBJECTS["evaluate"][0](setup):
        same, _, n = one.notes["equal completions"].partition(" of ")
        assert same == n


def test_the_phases_add_up_to_the_whole():
    one = phased("a round", {"ours": ({"a": 1.0, "b": 2.0}, {}), "peer": ({"a": 4.0, "b": 5.0}, {})})
    assert one.medians["ours: whole"] == 3.0 and one.ratios[-1] == ("ours: whole", "peer: whole", 3.0)


def test_the_peer_trains_as_many_numbers(setup):
    wrapped = peft_tiny_lora(setup.load()[0], setup.adapter)
    assert sum(p.numel() for p in wrapped.parameters() if p.requires_grad) == setup.adapter.num_parameters(14)


def test_no_measurement_is_overwritten(setup, tmp_path):
    for _ in range(2):
        bench("fold", str(tmp_path), setup)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fold-cpu-1.json", "fold-cpu-2.json"]


def test_a_subject_that_is_not_there_is_named(capsys):
    with pytest.raises(BoostError, match="no subject 'speed'"):
        bench("speed")
    assert main(["bench", "speed"]) == 1 and "basis" in capsys.readouterr().err


def test_every_comparison_is_printed_with_its_ratio(capsys):
    one = Measurement("x", {"a": [1.0, 3.0], "b": [4.0], "c": [1.0]}, [("a", "b"), ("a", "c")])
    print_tables("x", [one.record({"device": "cpu", "threads": 1, "date": ""})])
    lines = [line for line in capsys.readouterr().out.splitlines() if "times as good as" in line]
    assert [(line.split()[1], line.split()[-1]) for line in lines] == [("2.00", "b"), ("0.50", "c")]
