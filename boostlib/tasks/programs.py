r"""What the tasks whose answers are programs share: finding the code, a sandbox, and a score made of its verdicts.

    "Here is a function:\n```python\ndef is_even(n):\n    return n % 2 == 0\n```\nIt returns ..."
    ->  "def is_even(n):\n    return n % 2 == 0"

Rule, for reward and evaluation alike. The code is the first fenced block that defines or returns something, or else the
first one, without prompt signs (">>> ") and without the indentation, list or quotation mark of the block; what follows
the language on the fence's own line belongs to it where it is code. A fence within the code, such as in a docstring,
does not end it: the block ends where the code compiles. Without a fence, the code is the text from the first line that
begins as code does and compiles up to the first definition. So it is where a bare fence ends such text, where it
defines something and the block does not, or where the fence stands in a string of it. Code that no fence closes loses
its last lines until it compiles: it was cut off by the limit of tokens, or prose follows. Correct: the program passes
all tests. Strict: it also stood in a closed block. Generation ends with the first block: what follows is neither
generated nor trained on.

Every problem's reference is run against its own tests, once, before its first candidate is. Equal programs of one
problem run once. With `partial=True` the reward is the share of the tests that pass (a program that does not run has
none); failures and accuracy stay all or nothing.
"""

import ast
import atexit
import os
import re
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import ClassVar

from boostlib.common import world
from boostlib.common.settings import Count, Flag
from boostlib.sandbox import CodeResult, CodeSandbox, CodeTask, Status, TaskError
from boostlib.tasks.base import Example, Score, TextTask

_MARGIN = r"[ \t]*(?:(?:[-*+]|\d+[.)])[ \t]+|>[ \t]*)*"
_TICKS = r"`{3,}(?=[^\n`]*\n)|~{3,}"
_QUOTES = r"\"{3}|'{3}"
_STRING = r"\"{3}(?:\\.|(?!\"{3})[^\\])*\"{3}|'{3}(?:\\.|(?!'{3})[^\\])*'{3}"
_LINES = rf"(?>(?:(?!{_MARGIN}(?:{_TICKS}))(?:{_STRING}|(?!{_QUOTES})[^\n])*\n)*)"
# up to the end of the first block: a fence within the code stands in a string, or is indented further than its own
BLOCK_END = (
    rf"(?ms)\A{_LINES}(?=([ \t]*)){_MARGIN}({_TICKS})[^\n]*\n"
    rf"(?:{_STRING}|(?!{_QUOTES}).)*?^(?:\1)?[> ]{{0,3}}\2"
)
# (what stands before the fence, the fence, what follows on its line)
_FENCE = re.compile(rf"(?m)^({_MARGIN})(`{{3,}}|~{{3,}})([^\n]*)(?:\n|\Z)")
# after the last line of the code or of the prose before, on that line
_GLUED_FENCE = re.compile(
    r"(?m)^((?:(?!```)[^\n])*(?:[^\s`](?=```[ \t]*$)|[a-zA-Z:][ \t]*(?=```(?:python|py)[\d.]*[ \t]*$)))```"
)
_LANGUAGE = re.compile(r"(?i)^[ \t]*\{?\.?(?:python|py)[\d.]*\}?(?![\w.])[ \t]*")
_CODE_LINE = re.compile(
    r"(?m)^(?:(?:async )?def |class |import |from \w|@\w|(?:if|for|while|with|try)\b.*:"
    r"|\w+(?:, *\w+)*(?:: *[^=\n]+)? = )"
)
_DEFINITION = re.compile(r"(?m)^(?:(?:async )?def |class |@\w)|^\w+ = lambda\b")
_RETURN = re.compile(r"(?m)^\s*return\b")
_INDENTED = re.compile(r"(?m)^([ \t]+)(?:def |class |import |from \w)")
_PROMPT_SIGN = re.compile(r"(?m)^(?:>>> |\.\.\. |>>>$|\.\.\.$)")
MAX_TRIES = 20  # of places where code may begin or end


@dataclass(frozen=True, kw_only=True)
class Problem(Example):
    """An example whose answer is a program. `answer` is the source of the tests, `before` is put before the code."""

    reference: str
    check: CodeTask = field(compare=False, repr=False)
    before: str = ""


@dataclass(frozen=True, kw_only=True)
class ProgramTask(TextTask):
    """`partial`: reward the share of passed tests. `workers`: checks at once, the usable cores if None (where several
    processes share a run, each one's part of them). `unsafe`: run candidates without containment where the machine has
    none (see sandbox), with resource limits alone.
    """

    stop: ClassVar[str | None] = BLOCK_END
    partial: Flag = False
    workers: Count | None = field(default=None, compare=False)
    unsafe: Flag = field(default=False, compare=False)
    _sound: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def score(self, completion: str, example: Problem) -> Score:
        return self.score_many([completion], [example])[0]

    def score_many(self, completions: Sequence[str], examples: Sequence[Problem]) -> list[Score]:
        found = [find_code(text) for text in completions]
        passed = [result.passed for result in self.run_many(completions, examples)]
        strict = [right and closed for right, (_, closed) in zip(passed, found, strict=True)]
        shares = self._shares(completions, examples, passed) if self.partial else [None] * len(passed)
        return [Score(*score) for score in zip(passed, strict, shares, strict=True)]

    def run_many(self, completions: Sequence[str], examples: Sequence[Problem]) -> list[CodeResult]:
        """The sandbox's result for each completion, in order: `.status` and `.detail` say why one failed.

        Raises TaskError where a problem's reference fails its own tests, SandboxError where the sandbox does not work.
        """
        self.require_sound(examples)
        programs = [(self.program(text, e), e.check) for text, e in zip(completions, examples, strict=True)]
        return self._run(programs)

    def program(self, completion: str, example: Problem) -> str:
        """What is run for `completion`."""
        return joined(example.before, find_code(completion)[0])

    def require_sound(self, examples: Sequence[Problem]) -> None:
        """Raises TaskError, naming the problem, unless every reference passes its own tests, and they assert something.

        Asked once per problem.
        """
        new = {e.id: e for e in examples if e.id not in self._sound}
        results = self._run([(e.reference, e.check) for e in new.values()])
        for id, result in zip(new, results, strict=True):
            if not result.passed:
                raise TaskError(
                    f"{self.name}, problem '{id}': its reference does not pass its own tests: {result.status}: "
                    f"{result.detail}. Correct the problem or leave it out"
                )
        self._sound.update(new)

    def _run(self, checks: Sequence[tuple[str, CodeTask]]) -> list[CodeResult]:
        """Each check once. A task that passed with its reference and fails by itself now was made to by a candidate."""
        unique = list(dict.fromkeys(checks))
        try:
            results = self._box().run_many(unique)
        except TaskError:
            results = [self._run_alone(check) for check in unique]
        found = dict(zip(unique, results, strict=True))
        return [found[check] for check in checks]

    def _run_alone(self, check: tuple[str, CodeTask]) -> CodeResult:
        try:
            return self._box().run(*check)
        except TaskError as error:
            return CodeResult(Status.FAILED, str(error), "", None, 0.0, 0.0, 0, self._box().isolation)

    def _shares(self, completions, examples, passed: Sequence[bool]) -> list[float]:
        """1.0 for what passes all; for the rest, one check per assert."""
        parts = {i: [replace(examples[i].check, tests=t) for t in split_tests(examples[i].answer)]
                 for i, right in enumerate(passed) if not right}  # fmt: skip
        checks = [(self.program(completions[i], examples[i]), part) for i, tests in parts.items() for part in tests]
        results = iter(self._run(checks))
        shares = [1.0] * len(passed)
        for i, tests in parts.items():
            shares[i] = sum(next(results).passed for _ in tests) / len(tests)
        return shares

    def _box(self) -> CodeSandbox:
        workers = self.workers or max(1, len(os.sched_getaffinity(0)) // world.local_size())
        return _sandbox(os.getpid(), workers, self.unsafe)


@cache
def _sandbox(_process: int, workers: int, unsafe: bool) -> CodeSandbox:
    """One open sandbox per process and settings: starting takes half a second."""
    box = CodeSandbox(workers=workers, unsafe=unsafe)
    box.__enter__()
    atexit.register(box.close)
    return box


def find_code(completion: str) -> tuple[str, bool]:
    """(the code of a completion, whether it stood in a closed block); ("", False) where there is none."""
    text = _GLUED_FENCE.sub(r"\1\n```", completion.removeprefix("\ufeff"))
    fence = _FENCE.search(text)
    if not fence:
        return _loose(text), False
    before = text[: fence.start()]
    if re.search(_QUOTES, before):
        whole = _loose(text)
        if text.find(whole) < fence.start() < text.find(whole) + len(whole):
            return whole, False  # the fence stands in a string of it
    loose = _loose(before)
    if not fence[3].strip() and _DEFINITION.search(loose) and before.rstrip().endswith(loose.rstrip()):
        return loose, False  # the fence is the end of a block that the prompt began
    code, closed = _first_block(text, fence)
    if _DEFINITION.search(loose) and not _DEFINITION.search(code):
        return loose, False
    return code, closed


def _first_block(text: str, fence: re.Match[str]) -> tuple[str, bool]:
    """The first block, from `fence` on, that defines or returns something; else the one that `fence` opens."""
    first = None
    for _ in range(MAX_TRIES):
        code, end = _block(text, fence)
        found = code, end is not None
        first = first or found
        if _DEFINITION.search(code) or _RETURN.search(code):
            return found
        following = end and _FENCE.search(text, end)
        if not following:
            break
        fence = following
    return first or ("", False)


def _block(text: str, fence: re.Match[str]) -> tuple[str, int | None]:
    """The code that `fence` opens, and where the fence that closes it ends: None where none does."""
    head, tick, rest = _LANGUAGE.sub("", fence[3]), fence[2], text[fence.end() :]
    if tick in head:  # all on one line
        return head[: head.index(tick)].strip() + "\n", fence.end()
    margin = re.sub(r"[^ \t>]", " ", fence[1])
    head = f"{margin}{head}\n" if _CODE_LINE.match(head) else ""
    ends = [end for end in _FENCE.finditer(rest) if end[2].startswith(tick)][:MAX_TRIES]
    bodies = [_plain(head + rest[: end.start()], quoted=">" in margin) for end in ends]
    if bodies:
        best = next((i for i, body in enumerate(bodies) if compiles(body)), 0)
        return bodies[best], fence.end() + ends[best].end()
    return compilable(_plain(head + rest, quoted=">" in margin)), None


def _plain(body: str, quoted: bool) -> str:
    """A block's lines without what its place in the text puts before them."""
    if quoted:
        body = re.sub(r"(?m)^[ \t]*(?:> ?)+", "", body)
    return _PROMPT_SIGN.sub("", textwrap.dedent(body))


def _loose(text: str) -> str:
    """The code of text without fences: from the first line like code that leads up to the first definition, all of it
    indented or not, to the first words that only happen to compile."""
    text = _PROMPT_SIGN.sub("", text)
    if not _DEFINITION.search(text) and (indented := _INDENTED.search(text)):
        text = re.sub(rf"(?m)^{indented[1]}", "", text)
    definition = _DEFINITION.search(text)
    starts = [line.start() for line in _CODE_LINE.finditer(text)]
    found = ""
    for start in starts[:MAX_TRIES]:
        code = compilable(text[start:])
        if definition is None or start + len(code) > definition.end():
            return _without_words(code)
        found = found or code
    return found


def _without_words(code: str) -> str:
    """`code` up to a line after a definition that is but words: "Done", or "Note: doubles"."""
    defined = False
    for node in parsed(code).body:
        words = isinstance(node, ast.AnnAssign) and node.value is None
        words |= isinstance(node, ast.Expr) and isinstance(node.value, (ast.Name, ast.Tuple))
        if words and defined:
            return "".join(code.splitlines(keepends=True)[: node.lineno - 1])
        defined |= isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    return code


def compilable(code: str) -> str:
    """`code` without the last lines that keep it from compiling; "" where no beginning of it compiles."""
    lines = code.splitlines(keepends=True)
    for _ in range(100):  # every try but the first costs a line or more: enough for what a model writes
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compile("".join(lines), "candidate", "exec", dont_inherit=True)
            return "".join(lines)
        except SyntaxError as error:
            del lines[max(0, min(len(lines), error.lineno or 1) - 1) :]
        except (ValueError, RecursionError, MemoryError, OverflowError):
            break
    return ""


def compiles(code: str) -> bool:
    """Whether there is code and all of it compiles."""
    return bool(code.strip()) and compilable(code) == code


def joined(before: str, code: str) -> str:
    """`code` after `before`, its imports from `__future__` first of all, where alone they may stand."""
    try:
        nodes = [n for n in parsed(code).body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        nodes = []
    lines = code.splitlines(keepends=True)
    for node in nodes:
        end = node.end_lineno or node.lineno
        lines[node.lineno - 1 : end] = ["\n"] * (end - node.lineno + 1)
    return "".join(f"{ast.unparse(node)}\n" for node in nodes) + before + "".join(lines)


def parsed(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # published programs hold escapes such as "\\d"
        return ast.parse(source)


def defined_names(source: str) -> set[str]:
    """Names that a module binds at its top level: functions, classes and variables, imports left out."""
    names: set[str] = set()
    for node in parsed(source).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        else:
            stored = (n for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
            names.update(n.id for n in stored)
    return names


def used_names(source: str) -> set[str]:
    """Names that `source` reads."""
    return {n.id for n in ast.walk(parsed(source)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def imports_of(source: str) -> str:
    """The import lines at the top level of `source`."""
    imports = [node for node in parsed(source).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    return "\n".join(map(ast.unparse, imports))


def imported_names(source: str) -> set[str]:
    """Names that imports bind anywhere in `source`."""
    imports = (n for n in ast.walk(parsed(source)) if isinstance(n, (ast.Import, ast.ImportFrom)))
    return {(name.asname or name.name).split(".")[0] for node in imports for name in node.names}


def split_tests(tests: str) -> list[str]:
    """`tests` once per assert, without the others: those at the top level, or those of `check` where it is defined.

    An assert of a constant, such as HumanEval's `assert True`, is no test.
    """
    tree = parsed(tests)
    check = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "check"), None)
    body = check.body if check else tree.body
    asserts = [node for node in body if isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant)]
    whole, parts = list(body), []
    for one in asserts:
        body[:] = [node for node in whole if node is one or not isinstance(node, ast.Assert)]
        parts.append(ast.unparse(tree))
    return parts or [tests]
