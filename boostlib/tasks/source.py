r"""Reading programs: the code in a completion, and what a source defines, reads and imports.

    "Here is a function:\n```python\ndef is_even(n):\n    return n % 2 == 0\n```\nIt returns ..."
    ->  "def is_even(n):\n    return n % 2 == 0"

Rule: the code is the first fenced block, without prompt signs (">>> "); without a fence, the text from the first line
that begins with def, class, import, from or @. Code whose fence is not closed, or that has none, loses its last lines
until it compiles: it was cut off by the limit of tokens, or prose follows.
"""

import ast
import re
import warnings

BLOCK_END = r"(?ms)^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```"
_BLOCK = re.compile(r"(?ms)^[ \t]*```[^\n`]*\n(.*?)(^[ \t]*```|\Z)")
_CODE_LINE = re.compile(r"(?m)^(?:(?:async )?def |class |import |from \w|@\w)")
_PROMPT_SIGN = re.compile(r"(?m)^(?:>>> |\.\.\. |>>>$|\.\.\.$)")


def find_code(completion: str) -> tuple[str, bool]:
    """(the code of a completion, whether it stood in a closed block); ("", False) where there is none."""
    block = _BLOCK.search(completion)
    if block and block[2]:
        return _PROMPT_SIGN.sub("", block[1]), True
    if block:
        return compilable(_PROMPT_SIGN.sub("", block[1])), False
    start = _CODE_LINE.search(completion)
    return (compilable(completion[start.start() :]), False) if start else ("", False)


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


def _parse(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # published programs hold escapes such as "\\d"
        return ast.parse(source)


def defined_names(source: str) -> set[str]:
    """Names that a module binds at its top level: functions, classes and variables, imports left out."""
    names: set[str] = set()
    for node in _parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        else:
            stored = (n for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
            names.update(n.id for n in stored)
    return names


def used_names(source: str) -> set[str]:
    """Names that `source` reads."""
    return {n.id for n in ast.walk(_parse(source)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def imports_of(source: str) -> str:
    """The import lines at the top level of `source`."""
    imports = [node for node in _parse(source).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    return "\n".join(map(ast.unparse, imports))


def imported_names(source: str) -> set[str]:
    """Names that imports bind anywhere in `source`."""
    imports = (n for n in ast.walk(_parse(source)) if isinstance(n, (ast.Import, ast.ImportFrom)))
    return {(name.asname or name.name).split(".")[0] for node in imports for name in node.names}


def split_tests(tests: str) -> list[str]:
    """`tests` once per assert, without the others: those at the top level, or those of `check` where it is defined."""
    tree = _parse(tests)
    check = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "check"), None)
    body = check.body if check else tree.body
    asserts = [node for node in body if isinstance(node, ast.Assert)]
    whole, parts = list(body), []
    for one in asserts:
        body[:] = [node for node in whole if node is one or not isinstance(node, ast.Assert)]
        parts.append(ast.unparse(tree))
    return parts or [tests]
