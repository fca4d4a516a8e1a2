"""The page for managers: it says what the ledger says, holds everything it needs, and runs nothing."""

import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest
from helpers import CoinTask, FakeTrainer, ParityTask, config

from boostlib import BoostError, Ledger, boost, write_html
from boostlib.__main__ import main
from boostlib.analysis.tables import gains_table
from boostlib.release.html import summary

HOSTILE = '<script>alert("x")</script>'
VOID = {"meta", "link", "br", "use", "path", "rect"}


@dataclass
class Hostile(ParityTask):
    """Classes whose names would be code where they are not escaped."""

    name: str = f"parity {HOSTILE}"

    def split(self, name):
        return [replace(e, kind=HOSTILE if i % 2 else "a & b") for i, e in enumerate(super().split(name))]


@pytest.fixture(scope="module")
def run(tiny_llama, tiny_tokenizer, tmp_path_factory):
    folder, arguments = tmp_path_factory.mktemp("html"), (Hostile(), FakeTrainer(skip=(1,)), config(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOOSTLIB_CACHE", str(folder / "cache"))
        return boost(tiny_llama(), tiny_tokenizer, *arguments, folder / "run & <b>", progress=False)


@pytest.fixture(scope="module")
def page(run):
    return write_html(run.ledger, Hostile(), run.dir.parent / "page.html").read_text()


class Reader(HTMLParser):
    """Every tag and attribute, the text, and whether tags close in the order in which they opened."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.open, self.words = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_nothing_is_fetched_and_nothing_runs(page):
    read = Reader(page)
    assert read.open == [] and "script" not in read.tags and "iframe" not in read.tags
    for tag, name, value in read.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "action", "data"):
            assert value.startswith(("#", "data:")), (tag, name, value)
    assert not re.search(r"url\((?!#)", page) and "@import" not in page
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\"'\s<]+", page)) <= namespaces  # names, which no browser loads
    assert "default-src 'none'" in page


def test_hostile_names_stay_text(page, run):
    assert HOSTILE not in page and "&lt;script&gt;" in page
    read = Reader(page)
    assert HOSTILE in read.words and "a & b" in read.words
    assert any(run.dir.name in text for text in read.words)


def test_tables_scroll_in_their_own_box_and_pictures_scale(page):
    read = Reader(page)
    assert read.tags.count("table") == 3 == page.count('<div class="box" tabindex="0"><table ')
    assert read.tags.count("svg") == 3 and page.count('role="img" aria-label=') == 3
    assert "width=device-width" in page and ".box { overflow-x: auto;" in page


def test_the_page_says_what_the_ledger_says(page, run):
    words = " ".join(Reader(page).words)
    gain = gains_table({"run": [run.ledger]}).loc["run"]
    left, before = set(run.ledger.failures_after(3)), set(run.base.failures)
    assert f"got {len(before)} of its training cases wrong, now {len(left)}" in words
    assert f"{len(before - left)} were fixed, {len(left - before)} that used to work are broken" in words
    assert f"3 rounds, of which 2 were kept; they change the model by {2 * 6} trained numbers" in words
    assert f"{gain['base']:.1%} were right before and {gain['boosted']:.1%} are now" in words
    for text in (
        run.rounds[-1].weights_fingerprint,
        run.ledger.header["identity"]["model"]["fingerprint"],
        "(skipped)",
    ):
        assert text in words


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.01, 0.2, "improvement beyond"), (-0.2, -0.01, "loss"), (-0.1, 0.1, "may be chance")]
)
def test_the_verdict_follows_the_interval(run, monkeypatch, low, high, said):
    monkeypatch.setattr(
        "boostlib.analysis.tables.paired_bootstrap", lambda *args, **more: ((low + high) / 2, low, high)
    )
    (line,) = [line for line in summary(run.ledger) if "not trained on" in line]
    assert said in line


def test_without_a_task_there_are_no_classes(run, tmp_path):
    text = write_html(run.ledger, None, tmp_path / "page.html").read_text()
    assert "not split by class" in text and Reader(text).tags.count("table") == 2


def test_the_page_of_a_classifier(tiny_classifier, tiny_protein_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("BOOSTLIB_CACHE", str(tmp_path / "cache"))
    arguments = CoinTask(), FakeTrainer(), config(2, n_tie=4)
    run = boost(tiny_classifier(), tiny_protein_tokenizer, *arguments, tmp_path / "run", progress=False)
    text = write_html(run.ledger, CoinTask(), tmp_path / "page.html").read_text()
    assert Reader(text).open == [] and "(no class)" in text


def test_the_same_run_gives_the_same_page_and_no_figure_stays_open(page, run, tmp_path):
    again = write_html(run.ledger, Hostile(), tmp_path / "again.html").read_text()
    assert again == page and plt.get_fignums() == []


def test_what_cannot_be_written_is_said(run, tmp_path):
    with pytest.raises(BoostError, match="no folder"):
        write_html(run.ledger, None, tmp_path / "missing" / "page.html")
    with pytest.raises(BoostError, match="no finished round"):
        write_html(Ledger(tmp_path / "nothing"), None, tmp_path / "page.html")


def test_the_command_line_writes_the_page(run, tmp_path, capsys):
    assert main(["report", str(run.dir), "--html", str(tmp_path / "page.html")]) == 0
    assert "not split by class" in (tmp_path / "page.html").read_text()  # no task of that name to load
    assert main(["report", str(run.dir), str(run.dir), "--html", str(tmp_path / "two.html")]) == 1
    assert "one run" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium here: apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_an_error(page, tmp_path, width):
    """The page opens with an empty console, and is as wide as the window: only its boxes scroll."""
    (tmp_path / "page.html").write_text(page)
    frame = tmp_path / "frame.html"
    measure = (
        f'<iframe src="page.html" width="{width}" height="5000" style="border:0"></iframe><script>'
        "onload=()=>{let d=document.querySelector('iframe').contentDocument.documentElement;"
        "document.body.textContent='WIDTH '+d.scrollWidth+' '+d.clientWidth}</script>"
    )
    frame.write_text(f"<!DOCTYPE html><body style='margin:0'>{measure}</body>")
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    flags += " --disable-component-update --allow-file-access-from-files --enable-logging=stderr"
    flags += " --hide-scrollbars --dump-dom"
    command = ["chromium", *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert f"WIDTH {width} {width}" in done.stdout, done.stdout[-500:]
    assert "CONSOLE" not in done.stderr
