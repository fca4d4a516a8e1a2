"""What `reproduce` says before a notebook runs, and as soon as it has ended."""

import nbformat
import pytest

from boostlib.experiments import reproduce as module
from boostlib.experiments.reproduce import Outcome, plan, reproduce


def write(path, **papermill):
    nbformat.write(nbformat.v4.new_notebook(metadata={"papermill": papermill}), path)


def test_each_notebook_is_announced_with_its_last_minutes_and_told_as_soon_as_it_ended(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    sources = [tmp_path / "notebooks" / name for name in ("00_a.ipynb", "01_b.ipynb")]
    for source in sources:
        write(source)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    printed = []

    def execute(source, folder, preset):
        printed.append(capsys.readouterr().out)
        write(folder / source.name, duration=90.0)
        return Outcome(source.stem, 90.0, "", f"found {preset}", folder / source.name)

    monkeypatch.setattr(module, "_execute", execute)
    reproduce("smoke")
    assert printed[0].count("not timed yet") == 2
    assert "00_a" in printed[1] and "found smoke" in printed[1]  # before the second one began
    capsys.readouterr()
    reproduce("smoke", ["00"])
    assert "1.5 min" in printed[2] and "01_b" not in printed[2]


def test_minutes_are_of_the_last_whole_run_of_the_same_preset(tmp_path):
    source, copy = tmp_path / "00_a.ipynb", tmp_path / "out" / "00_a.ipynb"
    copy.parent.mkdir()

    def said(preset="demo"):
        return plan([source], copy.parent, preset).splitlines()[1].split(maxsplit=1)[1]

    write(source, duration=120.0, parameters={"preset": "demo"})
    assert said() == "2.0 min" and said("smoke") == "not timed yet"  # of the committed notebook
    write(copy, duration=90.0, parameters={"preset": "demo"})
    assert said() == "1.5 min"
    for cut in ({"duration": None}, {"duration": 3.0, "exception": True}):
        write(copy, parameters={"preset": "demo"}, **cut)
        assert said() == "2.0 min"
    copy.write_text(copy.read_text()[:100])
    assert said() == "2.0 min"


@pytest.mark.parametrize(("minutes", "total"), [((), "0.0"), ((60.0, 120.0), "3.0")])
def test_the_sum_is_that_of_the_notebooks_that_were_timed(minutes, total, tmp_path):
    sources = [tmp_path / f"0{i}_x.ipynb" for i in range(3)]
    write(sources[2])
    for source, seconds in zip(sources, minutes, strict=False):
        write(source, duration=seconds)
    assert plan(sources, tmp_path / "none", "demo").endswith(f"{total} min")


def test_a_kernel_that_dies_is_a_notebook_that_failed(tmp_path, monkeypatch):
    def execute(*arguments, **settings):
        raise RuntimeError("Kernel died")

    monkeypatch.setattr(module.papermill, "execute_notebook", execute)
    write(tmp_path / "00_a.ipynb")
    assert "Kernel died" in module._execute(tmp_path / "00_a.ipynb", tmp_path / "out", "smoke").error
