"""Tables and figures of the pages, made of recorded runs: written anew or compared.

A page of Markdown holds its tables between `<!-- table: ...` and `<!-- end of table -->`. What the table is stands in
the opening comment, so that a page says itself which runs it shows:

    <!-- table: paper ablation -->      a table of the paper beside ours; after "|" some of its measures
    <!-- table: readme -->              the README's rows
    <!-- table: missing -->             runs that are not there, and their commands
    <!-- table: runs                    any other: a header, a row of fields, then "label: NAME" for each row, or a
    | method | test |                   whole row that begins with "|". Fields: analysis/cited.py; a difference of a
    | {label} | {* end:.3f} |           run to itself stays empty
    BoostLoRA (rotate): math-growth-rotate -->

Numbers in sentences are listed in `data/paper/claims.csv`: a page, and the words with fields where numbers stand.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from boostlib.common.durable import write_durably
from boostlib.common.errors import BoostError
from boostlib.experiments.paper import DATA, Paper, markdown

PAGES = ("README.md", "data/paper/TABLES.md", "data/runs/README.md")
TABLE = re.compile(r"<!-- table: (.*?)-->\n.*?<!-- end of table -->", re.DOTALL)


def check_pages(root: str | Path = DATA.parent, write: bool = False) -> list[str]:
    """What the pages under `root` say otherwise than the recorded runs: a line for each table or sentence.

    write: put the tables right; sentences are for a person to change.
    """
    root, found = Path(root), []
    paper = Paper(root / "data")
    for page in PAGES:
        text = (root / page).read_text()
        right = TABLE.sub(lambda match: _table(paper, match[1]), text)
        pairs = zip(TABLE.finditer(text), TABLE.finditer(right), strict=True)
        wrong = [
            f"{page}: the table {old[1].split()} is not that of the runs" for old, new in pairs if old[0] != new[0]
        ]
        if write and wrong:
            write_durably(root / page, right.encode())
        found += [] if write else wrong
    return found + [
        f"{page} does not say: {phrase}" for page, phrase in claims(paper) if phrase not in _words(root / page)
    ]


def claims(paper: Paper) -> list[tuple[str, str]]:
    """(page, phrase) of every sentence that cites runs, its fields filled."""
    rows = pd.read_csv(paper.data / "paper" / "claims.csv", dtype=str)
    return [(row.page, paper.cited.fill(row.phrase)) for row in rows.itertuples()]


def _words(path: Path) -> str:
    """A page's text, or that of a notebook's Markdown cells, with single blanks."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = " ".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return " ".join(text.split())


def _table(paper: Paper, what: str) -> str:
    kind, _, rest = what.strip().partition(" ") if "\n" not in what else what.partition("\n")
    if kind == "paper":
        name, _, measures = rest.partition("|")
        table = markdown(paper.table(name.strip(), [one.strip() for one in measures.split(",") if one.strip()]))
    elif kind == "runs":
        table = _runs(paper, rest.strip().splitlines())
    elif kind in ("readme", "missing"):
        table = markdown(paper.readme() if kind == "readme" else paper.missing())
    else:
        raise BoostError(f"a page asks for a table of the kind {kind!r}; there are paper, readme, missing and runs")
    return f"<!-- table: {what}-->\n\n{table}\n\n<!-- end of table -->"


def _runs(paper: Paper, lines: Sequence[str]) -> str:
    header, fields, *rows = lines
    filled = [header, "|---" * (header.count("|") - 1) + "|"]
    for row in rows:
        label, _, name = row.rpartition(": ")
        text = row if row.startswith("|") else fields.replace("{label}", label)
        own = f"{name} - {name} "
        cells = ["" if own in cell.replace("*", name) else paper.cited.fill(cell, name) for cell in text.split("|")]
        filled.append("|".join(cell or " " for cell in cells).strip())
    return "\n".join(filled)
