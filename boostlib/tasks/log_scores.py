r"""Scores of an error log's cases: exactly, numerically, by regular expression, by label.

    "The answer is 13." for 13 as number: correct (its last number), not strict (not alone).  "13": strict.

Each rule has a lenient reading, `correct`, and one in the format asked for, `strict`; they are stated at each function.
Code is scored in the sandbox (`programs.py`).
"""

import re
from collections.abc import Sequence

from boostlib.tasks.answers import as_number
from boostlib.tasks.base import Score
from boostlib.tasks.gsm8k import extract
from boostlib.tasks.latex import same_answer


def score_exact(text: str, expected: str) -> Score:
    """Correct: the same but for spaces and line ends. Strict: the same, apart from both ends."""
    return Score(text.split() == expected.split(), text.strip() == expected.strip())


def score_number(text: str, expected: str) -> Score:
    """Correct: the answer is the number or formula `expected`, compared exactly or by math-verify (`latex.py`); the
    answer is the whole text, else what is marked by #### or \\boxed, else the last number. Strict: it is all there is,
    or was marked."""
    whole = text.strip()
    if same_answer(whole, expected):
        return Score(True, as_number(whole) is not None or whole == expected.strip())
    answer, marked = extract(text)
    correct = same_answer(answer, expected)
    return Score(correct, correct and marked)


def score_regex(text: str, expected: str) -> Score:
    """Correct: the pattern is found somewhere. Strict: it matches the whole text, apart from both ends."""
    return Score(re.search(expected, text) is not None, re.fullmatch(expected, text.strip()) is not None)


def score_label(text: str, expected: str, labels: Sequence[str]) -> Score:
    """Correct: of the labels named in the text, as whole words in any case, the first is `expected` (of two that begin
    at the same place, the longer). Strict: the text is that label alone, spelled the same."""
    found = [(match.start(), -len(label), label) for label in labels for match in _named(label, text)]
    correct = bool(found) and min(found)[2].casefold() == expected.casefold()
    return Score(correct, correct and text.strip() == expected.strip())


def _named(label: str, text: str):
    return re.finditer(rf"(?<!\w){re.escape(label)}(?!\w)", text, flags=re.IGNORECASE)
