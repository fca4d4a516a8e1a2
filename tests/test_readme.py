"""The pages that a reader meets first: their links, commands and Python hold, and the README stays short."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

import boostlib
from boostlib.__main__ import _parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    path
    for kind in ("*.md", "data/*/README.md", "notebooks/README.md", "boostlib/**/*.md")
    for path in sorted(ROOT.glob(kind))
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:^|[\s;(&])(?:python -m )?boostlib ((?:-h|[a-z])[^\n;&|)`']*)")
WORDS = {"boost", "report", "replay", "verify", "export", "bench", "fetch", "doctor", "reproduce", "repair"}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def _blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in FENCE.findall(page.read_text()) if name == language]


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def _commands(page: Path) -> list[list[str]]:
    """The words of every `boostlib ...` of a page, in blocks and in the text, up to a comment."""
    text = page.read_text().replace("\\\n", " ")
    inline = re.findall(r"`((?:python -m )?boostlib [^`\n]+)`", FENCE.sub("", text))
    lines = [line for block in FENCE.findall(text) if block[0] in ("bash", "") for line in block[1].splitlines()]
    found = [match for line in (*lines, *inline) for match in COMMAND.findall(line.partition("#")[0])]
    return [shlex.split(re.sub(r"\$\w+", "0", command)) for command in found]  # $seed stands for a number


def test_the_readme_is_read_in_a_minute():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    order = ["badge", "figures/hero.png", "- **", "| | paper", "make reproduce", "import boostlib", "00_start_here"]
    order += ["| | run | tested | not run |", "boostlib/README.md", "@article", "@software"]
    places = [next(i for i, line in enumerate(lines) if mark in line) for mark in order]
    assert places == sorted(places)


@pages
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in _anchors(target), f"{page.name} links to {link}, and there is no such heading"


@pages
def test_printed_commands_parse(page):
    for words in _commands(page):
        if words[0] in WORDS:
            assert _parser().parse_args(words), words


def test_commands_are_found_and_a_wrong_one_would_be_seen(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(
        "`boostlib doctor` and\n```bash\nfor i in 1; do\n  python -m boostlib boost --sed 1 & # x\ndone\n```\n"
    )
    assert _commands(page) == [["boost", "--sed", "1"], ["doctor"]]
    with pytest.raises(SystemExit):
        _parser().parse_args(["boost", "--sed", "1"])
    capsys.readouterr()
    assert all(_commands(ROOT / name) for name in ("notebooks/README.md", "data/runs/README.md"))


@pages
def test_python_compiles_and_names_what_is_exported(page):
    for block in _blocks(page, "python"):
        names = {
            node.attr
            for node in ast.walk(ast.parse(block))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "bl"
        }
        assert names <= set(boostlib.__all__), names - set(boostlib.__all__)


def test_the_readmes_python_is_short_and_there():
    (block,) = _blocks(ROOT / "README.md", "python")
    assert len(block.splitlines()) == 8 and "bl.boost(" in block


def test_modules_named_in_the_changelog_are_there():
    rows = re.findall(r"^\| `.*\| (`.*) \|$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert len(rows) > 15
    for name in {name for row in rows for name in re.findall(r"`([^`]+)`", row)}:
        path = ROOT / "boostlib" / name
        assert path.exists() or path.with_suffix(".py").exists(), name


def test_the_address_to_clone_from_stands_in_one_place():
    texts = [path.read_text() for path in (*PAGES, *ROOT.glob("notebooks/*.ipynb"), ROOT / "environment.yml")]
    assert sum(text.count("<this repository>") for text in texts) == 1


def test_on_windows_the_import_says_what_to_do():
    code = "import sys; sys.platform = 'win32'; import boostlib"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 1 and "fcntl" not in done.stderr
    assert "ImportError: boostlib does not run on Windows" in done.stderr and "WSL" in done.stderr
