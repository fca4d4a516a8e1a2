"""The launchers that people use, as they use them, around one run on two processes."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import rows, saved
from ranks import free_port

from boostlib import Ledger
from boostlib.__main__ import main

HERE = str(Path(__file__).parents[1])
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port"]  # fmt: skip
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port"]
COMMAND = ["boost", "--section", "protein", "--preset", "smoke", "--dtype", "fp32"]
SCRIPT = f"""
import sys

sys.path.insert(0, {HERE!r})
from helpers import FakeTrainer, ParityTask, config

from boostlib import boost, load_model


def run(model_dir, run_dir, rounds, trainer=None):
    model, tokenizer = load_model(model_dir, dtype="float32", device="cpu")
    boost(model, tokenizer, ParityTask(), trainer or FakeTrainer(), config(rounds), run_dir)
"""
NOTEBOOK = f"""{SCRIPT}
if __name__ == "__main__":
    from accelerate import debug_launcher, notebook_launcher

    model_dir, run_dir, port = sys.argv[1:]
    debug_launcher(run, (model_dir, run_dir, 1), num_processes=2)
    notebook_launcher(run, (model_dir, run_dir, 2), num_processes=2, use_port=port)
"""
MORTAL = f"""{SCRIPT}
if __name__ == "__main__":
    import os, signal
    from pathlib import Path

    def die(index):
        if index == 1 and os.environ["RANK"] == "1" and not Path(run_dir, "died").exists():
            Path(run_dir, "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    model_dir, run_dir = sys.argv[1:]
    run(model_dir, run_dir, 2, FakeTrainer(on_round=die))
"""


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def texts(tmp_path, tiny_llama, tiny_tokenizer) -> str:
    return saved(tmp_path / "texts", tiny_llama(), tiny_tokenizer)


@pytest.fixture
def labels(tmp_path, tiny_classifier, tiny_protein_tokenizer) -> str:
    return saved(tmp_path / "labels", tiny_classifier().encoder, tiny_protein_tokenizer)


def called(*command: str, status: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)
    assert (done.returncode == 0) == (status == 0), done.stderr[-3000:]
    return done


def script(tmp_path: Path, text: str) -> str:
    (tmp_path / "script.py").write_text(text)
    return str(tmp_path / "script.py")


def test_accelerate_launch_does_one_run_and_one_process_speaks(labels, tmp_path, monkeypatch, capsys):
    arguments = [*COMMAND, "--model", labels, "--run-dir"]
    done = called(*ACCELERATE, str(free_port()), "-m", "boostlib", *arguments, str(tmp_path / "two"))
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path / "another"))
    assert main([*arguments, str(tmp_path / "one")]) == 0
    lines, expected = (text.splitlines() for text in (done.stdout, capsys.readouterr().out))
    assert len(lines) == len(expected) and [line[:40] for line in lines] == [line[:40] for line in expected]  # once
    found, whole = (Ledger(tmp_path / name) for name in ("two", "one"))
    assert len(found.verify()) == 2 and found.header["environment"]["processes"] == "2"
    assert [row["failures"] for row in rows(found)] == [row["failures"] for row in rows(whole)]
    assert [row.steps for row in found.rounds] == [row.steps for row in whole.rounds]


def test_launchers_of_notebooks_do_one_run(texts, tmp_path):
    done = called(script(tmp_path, NOTEBOOK), texts, str(tmp_path / "run"), str(free_port()))
    assert "Launching training on 2" in done.stdout
    ledger = Ledger(tmp_path / "run")
    assert len(ledger.verify()) == 2 and ledger.header["environment"]["processes"] == "2"


@pytest.mark.slow
def test_torchrun_ends_all_where_one_is_killed_and_the_same_command_continues(texts, tmp_path):
    command = [*TORCHRUN, str(free_port()), script(tmp_path, MORTAL), texts, str(tmp_path / "run")]
    done = called(*command, status=1)
    assert "SIGKILL" in done.stderr and len(Ledger(tmp_path / "run").verify()) == 1
    called(*command)
    assert len(Ledger(tmp_path / "run").verify()) == 2
