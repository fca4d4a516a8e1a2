"""The repo around the code: layers, declared dependencies, pins, and what must not be in committed files."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from boostlib.models.embedded import EMBEDDED, REQUIREMENTS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "boostlib"

# Each place imports only from itself and from places below it, the top one first: folders, and the files at the top of
# the package. Files of one folder may use each other as long as no two of them need one another.
LAYERS = """
    __main__
    __init__
    bench
    experiments
    release
    plots
    analysis
    boost
    run
    config
    training
    strategies
    evaluation
    models
    adapter
    tasks
    sandbox
    records
    rank
    update
    basis
    common
"""
ORDER = LAYERS.split()


def _place(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full, without dots"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _declared() -> dict[str, Requirement]:
    project = _project()
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def _pinned() -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return {canonicalize_name(name): pin for name, _, pin in (line.partition("==") for line in lines if line)}


# --- layers


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_only_downwards(path):
    here = _place(path)
    assert here in ORDER, f"{here} has no place in the order of layers yet: add it to LAYERS in {Path(__file__).name}"
    below = ORDER[ORDER.index(here) :]
    for name in _imports(path):
        if name.split(".")[0] == "boostlib":
            place = next((part for part in name.split(".")[1:2] if part in ORDER), "__init__")
            assert place in below, f"{path.name} imports {name}, and {place} is not below {here}"


def test_files_of_a_folder_do_not_need_one_another_in_a_circle():
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    needs = {
        name: {found for text in _imports(path) for found in (text, text.rpartition(".")[0]) if found in files} - {name}
        for name, path in files.items()
    }
    list(TopologicalSorter(needs).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize(
    "folder", [path.parent for path in sorted(PACKAGE.glob("*/__init__.py"))], ids=lambda f: f.name
)
def test_every_folder_says_what_it_is_for(folder):
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), f"{folder.name} has no docstring"


def test_the_top_of_the_package_shows_the_method_and_folders():
    entries = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 24, sorted(entries)


def test_a_wrong_import_would_be_found(tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text("def f():\n    from boostlib import plots\n    import boostlib.boost\n")
    assert list(_imports(file)) == ["boostlib.plots", "boostlib.boost"]


# --- dependencies


def test_every_import_is_declared():
    project, owners = _project(), packages_distributions()
    for path in PACKAGE.rglob("*.py"):
        lines = project["dependencies"] + (project["optional-dependencies"]["bench"] if "bench" in path.parts else [])
        runtime = {canonicalize_name(Requirement(line).name) for line in lines}
        for module in {name.split(".")[0] for name in _imports(path)} - set(sys.stdlib_module_names) - {"boostlib"}:
            found = {canonicalize_name(owner) for owner in owners.get(module, [])}
            assert found & runtime, f"{path.name} imports {module}, which no dependency in pyproject.toml provides"


def test_every_dependency_is_pinned_within_its_range():
    declared, pinned = _declared(), _pinned()
    assert set(declared) == set(pinned)
    outside = [name for name, pin in pinned.items() if Version(pin) not in declared[name].specifier]
    assert not outside


@pytest.mark.skipif(
    Path(sys.prefix) != ROOT / ".venv", reason="not the environment that make sets up: other versions may be intended"
)
def test_installed_versions_are_the_pinned_ones():
    def installed(name: str) -> str:
        try:
            return Version(version(name)).public  # without the +cpu of a torch build
        except PackageNotFoundError:
            return "not installed"

    pinned = _pinned()
    assert {name: installed(name) for name in pinned} == {name: Version(pin).public for name, pin in pinned.items()}


def test_conda_environment_lists_the_same_packages():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert {"-c requirements.txt", "-e ."} <= set(pip)
    assert {canonicalize_name(name) for name in pip if not name.startswith("-")} == set(_pinned())
    assert Version("3.11") in Requirement(f"python{_project()['requires-python']}").specifier
    assert "python=3.11" in environment["dependencies"]


def test_embedded_models_are_pinned_with_hashes_and_shipped():
    text = REQUIREMENTS.read_text()
    entries = re.findall(r"^([\w-]+)==\S+((?: \\\n +--hash=sha256:[0-9a-f]{64})+)$", text, flags=re.MULTILINE)
    assert len(entries) == text.count("==")
    assert {model.package for model in EMBEDDED.values()} <= {name for name, _ in entries}
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert REQUIREMENTS.name in package_data["boostlib.models"]


def test_software_version_is_the_same_everywhere():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == _project()["version"]


# --- what is committed


def test_no_path_of_a_machine_in_committed_texts():
    files = [path for kind in ("*.md", "notebooks/*.ipynb", "data/**/*.json*") for path in ROOT.glob(kind)]
    found = [path.name for path in files if re.search(r"(?<![\w~.])/(home|root|work|Users)/\w", path.read_text())]
    assert not found
