"""Every notebook runs headless in the smoke preset, shows something, draws its figures and has the agreed form."""

import nbformat
import papermill
import pytest

from boostlib.experiments.reproduce import ROOT, _shows, select
from boostlib.models.embedded import installed_weights

NOTEBOOKS = select([])
needs_model = pytest.mark.skipif(installed_weights("smollm2") is None, reason="the embedded model is not installed")


@pytest.mark.parametrize(
    "notebook", [pytest.param(p, id=p.stem, marks=[needs_model] if p.name > "01" else []) for p in NOTEBOOKS]
)
def test_runs_in_the_smoke_preset(notebook, tmp_path):
    wanted = {"preset": "smoke", "figures_dir": str(tmp_path / "figures"), "runs_dir": str(tmp_path / "runs")}
    known = papermill.inspect_notebook(str(notebook))
    done = tmp_path / notebook.name
    parameters = {name: value for name, value in wanted.items() if name in known}
    papermill.execute_notebook(str(notebook), str(done), parameters, kernel_name="python3", cwd=str(tmp_path))
    assert _shows(done)
    drawn = {path.suffix for path in (tmp_path / "figures").iterdir()}
    assert drawn == {".png", ".svg"}


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda p: p.stem)
def test_has_the_agreed_form(source):
    cells = nbformat.read(source, as_version=4).cells
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1 and cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert code[0] is tagged[0] and all(cell.source.count("\n") < 40 for cell in code)
    assert any("assert " in cell.source for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs, "committed notebooks hold the outputs of a full run"
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert source.stat().st_size < 1_500_000
    assert str(ROOT) not in source.read_text()
    assert "Try this" in cells[-1].source or "Try this" in cells[-2].source
