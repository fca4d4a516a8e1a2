"""The command line, tables of runs and the choice of methods, on small runs made with fakes."""

import json

import pytest
from helpers import FakeTrainer, ParityTask

from boostlib import AdapterConfig, BoostConfig, Ledger, boost
from boostlib.__main__ import _parser, main
from boostlib.analysis.recorded import METHODS, recorded_runs
from boostlib.analysis.tables import gains_table, rounds_table
from boostlib.common.errors import BoostError
from boostlib.experiments.methods import with_method
from boostlib.experiments.presets import MATH
from boostlib.experiments.reproduce import select, summary


@pytest.fixture
def run(tiny_llama, tiny_tokenizer, tmp_path):
    config = BoostConfig(rounds=2, adapter=AdapterConfig(n_tie=7))
    return boost(tiny_llama(), tiny_tokenizer, ParityTask(), FakeTrainer(), config, tmp_path / "run", progress=False)


def test_report_prints_every_round_and_an_interval(run, capsys):
    assert main(["report", str(run.dir)]) == 0
    printed = capsys.readouterr().out
    table = rounds_table(run.ledger)
    assert list(table.index) == ["base", 0, 1]
    assert table["test"].tolist() == [run.base.metrics["test"].accuracy] + [
        row.metrics["test"].accuracy for row in run.rounds
    ]
    assert "high" in printed and str(run.dir) in printed


def test_gain_is_the_difference_of_the_recorded_accuracies(run):
    row = gains_table({"x": [run.ledger]}).loc["x"]
    assert row["boosted"] == pytest.approx(run.rounds[-1].metrics["test"].accuracy)
    assert row["gain"] == pytest.approx(row["boosted"] - row["base"])
    assert row["low"] <= row["gain"] <= row["high"]
    assert row["fixed"] == sum(len(r.fixed) for r in run.rounds)


def test_verify_accepts_a_whole_ledger_and_names_the_edited_line(run, capsys):
    assert main(["verify", str(run.dir)]) == 0
    lines = run.ledger.path.read_text().splitlines(keepends=True)
    row = json.loads(lines[1])
    row["train_accuracy"] = 1.0
    run.ledger.path.write_text(lines[0] + json.dumps(row) + "\n" + lines[2])
    assert main(["verify", str(run.dir)]) == 1
    assert "line 2" in capsys.readouterr().err
    assert main(["verify", str(run.dir), "--repair"]) == 0
    assert Ledger(run.dir).rounds == []


def test_errors_are_one_line_without_a_traceback(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "run.json" in error and "Traceback" not in error
    assert main(["boost", "--task", "nonsense", "--run-dir", str(tmp_path / "x")]) == 1
    assert "nonsense" in capsys.readouterr().err


def test_every_method_of_a_preset_takes_the_same_number_of_steps():
    chosen = MATH["demo"]
    for method in METHODS:
        assert _parser().parse_args(["boost", "--method", method]).method == method
        made = with_method(chosen, method)
        steps = made.boost.rounds * made.trainer.num_steps(256)
        assert steps == chosen.boost.rounds * chosen.trainer.num_steps(256)
    assert with_method(chosen, "tinylora").boost.train_on == "all"
    with pytest.raises(BoostError, match="nonsense"):
        with_method(chosen, "nonsense")


def test_partial_credit_is_a_setting_of_the_task_and_another_run(monkeypatch):
    given = []

    def stop(*args):
        given.append(args)
        raise BoostError("far enough")

    monkeypatch.setattr("boostlib.experiments.methods.run_method", stop)
    command = ["boost", "--section", "code", "--task", "python_more", "--temperature", "0.5", "--micro-batch", "16"]
    assert main(command) == main([*command, "--partial"]) == 1
    assert [args[0].task_options for args in given] == [{}, {"partial": True}]
    assert all((args[0].trainer.temperature, args[0].trainer.micro_batch) == (0.5, 16) for args in given)
    assert [args[1] for args in given] == [f"runs/python_more-demo{part}-rotate-seed0" for part in ("", "partial")]


def test_only_what_is_sampled_has_a_temperature(capsys):
    assert main(["boost", "--section", "protein", "--temperature", "0.5"]) == 1
    assert "--section protein samples none" in capsys.readouterr().err


def test_recorded_runs_are_found_by_section_preset_and_method(run, tmp_path):
    run.dir.rename(tmp_path / "math-demo-top-seed3")
    assert list(recorded_runs(tmp_path, "math", "demo")) == ["rounds in the top block"]
    assert recorded_runs(tmp_path, "math", "paper") == {}


def test_a_run_named_after_no_method_is_an_error(tmp_path):
    (tmp_path / "math-demo-mytry-seed0").mkdir()
    with pytest.raises(BoostError, match="mytry.*rename it; the methods are rotate"):
        recorded_runs(tmp_path, "math", "demo")


def test_reproduce_selects_by_number_and_refuses_unknown_ones():
    assert [path.stem for path in select(["01"])] == ["01_math"]
    with pytest.raises(BoostError, match="--only 99"):
        select(["99"])
    assert summary([]) == ""


def test_reproduce_runs_a_notebook_and_says_what_it_showed(tmp_path):
    import nbformat

    from boostlib.experiments.reproduce import _execute

    cells = [nbformat.v4.new_code_cell("preset = 'none'"), nbformat.v4.new_code_cell("print('preset', preset)")]
    cells[0].metadata["tags"], cells[1].metadata["tags"] = ["parameters"], ["shows"]
    source, out = tmp_path / "00_x.ipynb", tmp_path / "out"
    out.mkdir()
    kernel = {"name": "python3", "display_name": "Python 3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    nbformat.write(notebook, source)
    outcome = _execute(source, out, "smoke")
    assert (outcome.shows, outcome.error) == ("preset smoke", "")
    notebook.cells[1].source = "1 / 0"
    nbformat.write(notebook, source)
    assert "ZeroDivisionError" in _execute(source, out, "smoke").error


@pytest.mark.parametrize("method", ["lora", "full", "top", "lorarounds"])
def test_boost_trains_what_the_method_says_at_the_given_learning_rate(monkeypatch, capsys, method):
    given = []

    def stop(*args):
        given.append(args)
        raise BoostError("far enough")

    monkeypatch.setattr("boostlib.experiments.methods.run_method", stop)
    command = ["boost", "--method", method, "--learning-rate", "0.125", "--seed", "3", "--w0-device", "cpu"]
    assert main(command) == 1
    chosen = given[0][0]
    assert chosen.boost.w0_device == "cpu"
    assert chosen.trainer.learning_rate == 0.125
    assert chosen.method == method
    assert "far enough" in capsys.readouterr().err


def test_boost_can_be_told_whom_to_train_on_and_what_to_score(monkeypatch):
    given = []
    monkeypatch.setattr("boostlib.experiments.methods.run_method", lambda *args: given.append(args) or 1 / 0)
    for method in ("rotate", "lorarounds", "tinylora", "lora"):
        with pytest.raises(ZeroDivisionError):
            main(["boost", "--method", method, "--train-on", "all", "--held-out", "dev,test", "--epochs", "50"])
        chosen, run_dir, _ = given[-1]
        assert chosen.boost.train_on == "all" and chosen.boost.held_out == ("dev", "test")
        assert run_dir == f"runs/arithmetic-demoall-{method}-seed0"
        assert chosen.trainer.epochs == (50.0 if method in ("rotate", "lorarounds") else 1000.0)
