r"""A user's own log of failures: cases that a model got wrong, what they cost, and cases that must not break.

    {"id": "t-17", "prompt": "17 - 4 =", "expected": "13", "score": "number", "class": "differences", "cost": 3}
    {"id": "g-2", "messages": [{"role": "user", "content": "Is 7 even?"}], "expected": "no", "score": "label",
     "kind": "guard"}
    {"id": "c-5", "prompt": "Write ...", "tests": ["assert f(2) == 4"], "reference": "def f(n): return n * n"}

One case a line; `log_rows.py` says which fields there are. Logs of other tools and tables are read too (`logs/`): what
failed there is to be repaired, what passed a guard. Splits: `train`, the failures to repair; `guard`, the cases
of that kind; `test`, the cases that name it as their `split`. `kind` of an example is the case's class.

Rule: a case is scored as its `score` says, by the functions at the end of this file, each with a lenient reading,
`correct`, and one in the format asked for, `strict`:

    "The answer is 13." for 13 as number: correct (its last number), not strict (not alone).  "13": strict.

A case with `tests` is scored in the sandbox (`programs.py`). The tests may take from a program the names that its
reference defines; without a reference, every name that they use and that is neither their own nor built in. The
reference's imports are done for them, as in MBPP. The labels to choose from are those that the log's label cases
expect. A completion ends after the first match of the setting `stop`: "\n" where a prompt is raw text to be continued,
so that what a model adds is not read.

Departures: none from a paper; the task is the project's own. Regular expressions run without a time limit: they are the
user's own.
"""

import builtins
import logging
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar

from pydantic import Field

from boostlib.common.errors import BoostError, DataError
from boostlib.common.settings import AnyPath, Count, Name, Positive
from boostlib.common.stable import fingerprint_json
from boostlib.sandbox import AssertsNothing, CodeTask, TaskError
from boostlib.tasks.answers import as_number, same_answer
from boostlib.tasks.base import Example, Score
from boostlib.tasks.gsm8k import extract
from boostlib.tasks.log_rows import SPLITS, check_rows, complain, expected_text, listed, scoring
from boostlib.tasks.logs.reading import read_cases
from boostlib.tasks.programs import ProgramTask, defined_names, imported_names, imports_of, used_names
from boostlib.tasks.rows import Row

log = logging.getLogger(__name__)

Costs = Annotated[
    Mapping[Name, Positive], Field(description='a mapping such as {"sums": 5}; a cost is a positive number')
]
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)  # Thai, Lao, Burmese, Khmer, Chinese, Japanese
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")


@dataclass(frozen=True, kw_only=True)
class Case(Example):
    """An example with its cost and its way of scoring. `answer` is what is expected, or the source of the tests."""

    scoring: str
    split: str
    cost: float = 1.0
    reference: str = ""
    check: CodeTask | None = field(default=None, compare=False, repr=False)
    before: str = ""


@dataclass(frozen=True, kw_only=True)
class ErrorLog(ProgramTask):
    """`path`: a log of any form that `logs/reading.py` knows, or a folder of them. `costs`: class -> cost of its cases
    that give none of their own. `stop`: regular expression after whose first match a completion ends.

    Raises DataError where the file is missing or rows are malformed, all of them listed, references that fail their
    own tests among them; BoostError for a class in `costs` that no case has, or a setting out of range.
    """

    name: ClassVar[str] = "error_log"
    path: AnyPath | None = field(default=None, compare=False)
    stop: str | None = None  # type: ignore[misc]  # a setting here, fixed in the classes above
    max_new_tokens: Count = 64
    costs: Costs = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            re.compile(self.stop or "")
        except re.error as error:
            raise BoostError(f"error_log: stop={self.stop!r} is no regular expression: {error}") from error
        known = sorted({case.kind for case in self.cases if case.kind})
        unknown = [name for name in self.costs if name not in known]
        if unknown:
            raise BoostError(
                f"error_log: costs names {', '.join(map(repr, unknown))}, and no case of {self.path} is of that class; "
                f"its classes: {', '.join(map(repr, known)) or 'none'}"
            )

    @cached_property
    def cases(self) -> list[Case]:
        """Every case of the log, in order."""
        if self.path is None:
            raise DataError('error_log needs the log: load_task("error_log", path="cases.jsonl")')
        try:
            reading = read_cases(self.path)
        except DataError as error:
            raise DataError(f"the error log {error}; give `path` of a log") from error
        if reading.left_out:
            log.warning("%s: %d left out:\n%s", self.path, len(reading.left_out), "\n".join(listed(reading.left_out)))
        rows, problems = reading.rows, [*reading.problems, *check_rows(reading.rows)]
        bad, cases = {where for where, _ in problems}, {}
        for where, row in rows:
            if where not in bad:
                try:
                    cases[where] = to_case(row, self.costs)
                except TaskError as error:
                    problems.append((where, str(error)))
        complain([*problems, *self._failed_references(cases)], self.path)
        if not any(case.split == "train" for case in cases.values()):
            raise DataError(f"the error log {self.path} holds no failures to repair: all its cases are guards or tests")
        return list(cases.values())

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if any(case.split == split for case in self.cases))

    @cached_property
    def labels(self) -> list[str]:
        """What a label case may be answered with."""
        return sorted({case.answer for case in self.cases if case.scoring == "label"})

    def load_split(self, name: str) -> list[Example]:
        return [case for case in self.cases if case.split == name]

    def settings(self) -> dict[str, Any]:
        """The settings, and a hash of what a run's hash of prompts and answers leaves out: scoring, class, cost."""
        rest = [[case.id, case.split, case.scoring, case.kind, case.cost, case.reference] for case in self.cases]
        return super().settings() | {"cases": fingerprint_json(rest)}

    def score_many(self, completions: Sequence[str], examples: Sequence[Case]) -> list[Score]:
        texts = [self._ended(text) for text in completions]
        programs = [i for i, case in enumerate(examples) if case.scoring == "code"]
        code: list[Any] = [examples[i] for i in programs]
        verdicts = iter(super().score_many([texts[i] for i in programs], code))
        scored = zip(texts, examples, strict=True)
        return [
            next(verdicts) if case.scoring == "code" else score_text(text, case, self.labels) for text, case in scored
        ]

    def require_sound(self, examples: Sequence[Case]) -> None:
        """Raises TaskError, naming the case, for tests that assert nothing. References were run when the log was
        loaded; a case may have none, so that a program which does nothing stands in for it. Asked once per case."""
        new = {c.id: c.check for c in examples if c.check and not c.reference and c.id not in self._sound}
        for id, check in new.items():
            idle = "".join(f"def {name}(*args, **kwargs): pass\n" for name in check.exports)
            try:
                self._box().run(idle, check)
            except AssertsNothing as error:
                raise TaskError(f"error_log, case '{id}': {error}. Correct its tests or leave it out") from error
            except TaskError:
                pass  # what a program that does nothing may well bring about
        self._sound.update(new)

    def _ended(self, text: str) -> str:
        found = re.search(self.stop, text) if self.stop else None
        return text[: found.end()] if found else text

    def _failed_references(self, cases: Mapping[str, Case]) -> list[tuple[str, str]]:
        """Where a reference does not pass its own tests, and what happened."""
        programs: dict[str, Any] = {where: case for where, case in cases.items() if case.reference}
        results = self._run([(case.reference, case.check) for case in programs.values()]) if programs else []
        return [
            (where, f"the reference does not pass its own tests: {result.status}: {result.detail}")
            for where, result in zip(programs, results, strict=True)
            if not result.passed
        ]


def to_case(row: Row, costs: Mapping[str, float]) -> Case:
    """A checked row as a case. Raises TaskError for tests or a reference that do not compile."""
    how, kind = scoring(row), row.get("class") or ""
    common = {
        "id": str(row["id"]),
        "prompt": row["prompt"] if "prompt" in row else row["messages"],
        "kind": kind,
        "scoring": how,
        "split": "guard" if row.get("kind") == "guard" else row.get("split") or "train",
        "cost": float(row.get("cost", costs.get(kind, 1.0))),
    }
    if how != "code":
        return Case(answer=expected_text(row), **common)
    tests = row["tests"] if isinstance(row["tests"], str) else "\n".join(row["tests"])
    reference = row.get("reference") or ""
    return Case(answer=tests, reference=reference, check=to_check(tests, reference), **common)


def to_check(tests: str, reference: str = "") -> CodeTask:
    """The sandbox's task: tests may take the names that they use and do not bind; with a reference, those it defines.

    Raises TaskError for source that does not compile, or tests that assert nothing.
    """
    CodeTask(tests, exports=())
    try:
        own = defined_names(tests) | imported_names(tests) | set(dir(builtins))
        taken = (used_names(tests) - own) if not reference else (used_names(tests) & defined_names(reference))
        return CodeTask(tests, exports=tuple(sorted(taken)), setup=imports_of(reference))
    except SyntaxError as error:
        raise TaskError(f"the reference does not compile: {error}") from error


def score_text(text: str, case: Case, labels: Sequence[str]) -> Score:
    """The score of a case that is no program; labels: what a label case may be answered with."""
    if case.scoring == "label":
        return score_label(text, case.answer, labels)
    return SCORERS[case.scoring](text, case.answer)


def score_exact(text: str, expected: str) -> Score:
    """Correct: the same but for spaces and line ends. Strict: the same, apart from both ends. A letter and its accent
    may be written as one character or as two."""
    text, expected = composed(text), composed(expected)
    return Score(text.split() == expected.split(), text == expected)


def score_number(text: str, expected: str) -> Score:
    """Correct: the answer is the number or formula `expected`, compared exactly or by math-verify (`answers.py`); the
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
    at the same place, the longer). Strict: the text is that label alone, spelled the same. A letter and its accent may
    be written as one character or as two."""
    text, expected = composed(text), composed(expected)
    found = [(start, -len(label), label) for label in map(composed, labels) for start in _named(label, text)]
    correct = bool(found) and min(found)[2].casefold() == expected.casefold()
    return Score(correct, correct and text == expected)


def composed(text: str) -> str:
    """`text` without blanks at its ends, each letter and its accents as one character where there is one (NFC)."""
    return unicodedata.normalize("NFC", text).strip()


def _named(label: str, text: str) -> Iterator[int]:
    """Where `label` stands as a word of its own, or between underscores that stress it: _spam_, but not is_spam."""
    for match in re.finditer(rf"(?P<mark>_{{0,2}})(?P<label>{re.escape(label)})(?P=mark)", text, flags=re.IGNORECASE):
        before, after = text[: match.start()][-1:], text[match.end() :][:1]
        if not _joins(before, label[0]) and not _joins(after, label[-1]):
            yield match.start("label")


def _joins(neighbour: str, letter: str) -> bool:
    """Whether a neighbouring character makes one word with a letter of a label: not those of scripts that put no blanks
    between words, nor Korean ones beside another script, since endings are written to foreign words."""
    if not neighbour:
        return False
    if _UNSPACED.match(neighbour) or (_HANGUL.match(neighbour) and not _HANGUL.match(letter)):
        return False
    return neighbour == "_" or unicodedata.category(neighbour)[0] in "LMN"


SCORERS = {"exact": score_exact, "number": score_number, "regex": score_regex}
