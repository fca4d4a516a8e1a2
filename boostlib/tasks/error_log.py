r"""A user's own log of failures: cases that a model got wrong, what they cost, and cases that must not break.

    {"id": "t-17", "prompt": "17 - 4 =", "expected": "13", "score": "number", "class": "differences", "cost": 3}
    {"id": "g-2", "messages": [{"role": "user", "content": "Is 7 even?"}], "expected": "no", "score": "label",
     "kind": "guard"}
    {"id": "c-5", "prompt": "Write ...", "tests": ["assert f(2) == 4"], "reference": "def f(n): return n * n"}

One case a line; `log_rows.py` says which fields there are. Splits: `train`, the failures to repair; `guard`, the cases
of that kind; `test`, the cases that name it as their `split`. `kind` of an example is the case's class.

Rule: a case is scored as its `score` says, by `log_scores.py` or, with `tests`, in the sandbox (`programs.py`). The
labels to choose from are those that the log's label cases expect. A completion ends after the first match of the
setting `stop`: "\n" where a prompt is raw text to be continued, so that what a model adds is not read.

Departures: none from a paper; the task is the project's own. Regular expressions run without a time limit: they are the
user's own.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from boostlib.common.errors import BoostError, DataError
from boostlib.common.stable import fingerprint_json
from boostlib.sandbox import TaskError
from boostlib.tasks.base import Example, Score
from boostlib.tasks.log_cases import Case, to_case
from boostlib.tasks.log_rows import SPLITS, check_rows, complain, is_cost, read_log
from boostlib.tasks.log_scores import score_exact, score_label, score_number, score_regex
from boostlib.tasks.programs import ProgramTask

SCORERS = {"exact": score_exact, "number": score_number, "regex": score_regex}


@dataclass(frozen=True, kw_only=True)
class ErrorLog(ProgramTask):
    """`path`: a jsonl file, or a folder whose jsonl files make up the log. `costs`: class -> cost of its cases that
    give none of their own. `stop`: regular expression after whose first match a completion ends.

    Raises DataError where the file is missing or rows are malformed, all of them listed, references that fail their
    own tests among them; BoostError for a class in `costs` that no case has, or a setting out of range.
    """

    name: ClassVar[str] = "error_log"
    path: str | os.PathLike | None = field(default=None, compare=False)
    stop: str | None = None
    max_new_tokens: int = 64
    costs: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            re.compile(self.stop or "")
        except re.error as error:
            raise BoostError(f"error_log: stop={self.stop!r} is no regular expression: {error}") from error
        bad = {name: cost for name, cost in self.costs.items() if not is_cost(cost)}
        known = sorted({case.kind for case in self.cases if case.kind})
        unknown = [name for name in self.costs if name not in known]
        if bad:
            raise BoostError(f"error_log: costs={bad}: a cost is a positive number")
        if unknown:
            raise BoostError(
                f"error_log: costs names {', '.join(map(repr, unknown))}, and no case of {self.path} is of that class; "
                f"its classes: {', '.join(map(repr, known)) or 'none'}"
            )
        super().__post_init__()

    @cached_property
    def cases(self) -> list[Case]:
        """Every case of the log, in order."""
        if self.path is None:
            raise DataError('error_log needs the log: load_task("error_log", path="cases.jsonl")')
        rows, problems = read_log(Path(self.path))
        problems += check_rows(rows)
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
        verdicts = iter(super().score_many([texts[i] for i in programs], [examples[i] for i in programs]))
        scored = zip(texts, examples, strict=True)
        return [next(verdicts) if case.scoring == "code" else self._score_text(text, case) for text, case in scored]

    def require_sound(self, examples: Sequence[Case]) -> None:
        """References were run when the log was loaded, and a case may have none."""

    def _score_text(self, text: str, case: Case) -> Score:
        if case.scoring == "label":
            return score_label(text, case.answer, self.labels)
        return SCORERS[case.scoring](text, case.answer)

    def _ended(self, text: str) -> str:
        found = re.search(self.stop, text) if self.stop else None
        return text[: found.end()] if found else text

    def _failed_references(self, cases: Mapping[str, Case]) -> list[tuple[str, str]]:
        """Where a reference does not pass its own tests, and what happened."""
        programs = {where: case for where, case in cases.items() if case.reference}
        results = self._run([(case.reference, case.check) for case in programs.values()]) if programs else []
        return [
            (where, f"the reference does not pass its own tests: {result.status}: {result.detail}")
            for where, result in zip(programs, results, strict=True)
            if not result.passed
        ]
