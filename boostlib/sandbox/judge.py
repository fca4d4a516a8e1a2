"""The judge's side of a check, in a locked child: runs the trusted tests against the candidate's exports.

Nothing of the candidate's runs here. Its functions are opaque handles, its values are copies made of exact types, and
the descriptor for the verdict exists in this process alone.

Where the job says "watch", the tests say as well whether they came to an assertion: a statement that asserts or raises,
or holds one that does.
"""

import ast
import json
import os
import sys
import types

from boostlib.sandbox.peer import Malformed, NotPassable, Peer

GONE = "gone"  # no verdict of the tests: how the candidate ended decides
TASK_ERROR = "task_error"
MARK = "__reached__"
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def run(job: dict, rpc: int, note: int) -> None:
    """Runs the tests and writes {"status", "detail", "reached"} on the note."""
    peer = Peer(rpc, {})
    peer.ops["call"] = lambda *request: _call(peer, *request)
    reached: list[bool] = []
    try:
        status, detail = _judge(job, peer, reached)
    except BaseException as error:  # a test may well call sys.exit, and unittest.main ends with exit(not successful)
        successful = isinstance(error, SystemExit) and error.code is False
        status, detail = ("passed", "") if successful else ("failed", _line(error))
    if peer.broken:  # whatever the tests made of it
        status = "protocol_error" if isinstance(peer.broken, Malformed) else GONE
        detail = str(peer.broken)
    verdict = json.dumps({"status": status, "detail": detail[:500], "reached": bool(reached)}).encode()
    while verdict:
        verdict = verdict[os.write(note, verdict) :]


def _call(peer: Peer, function: object, args: object, kwargs: object) -> object:
    """What a candidate may ask for: a function that a test handed over, called with arguments."""
    if not peer.handed_over(function):
        peer.refuse("asked to call what no test handed over")
    if type(args) is not tuple or type(kwargs) is not dict:
        peer.refuse("malformed message: no arguments")
    return function(*args, **kwargs)


def _judge(job: dict, peer: Peer, reached: list[bool]) -> tuple[str, str]:
    try:
        exports = peer.request("exports", job["exports"])
    except Exception as error:
        return "candidate_error", _line(error)
    if type(exports) is not dict:
        return "protocol_error", "the exports are not a dict"
    missing = [name for name in job["exports"] if name not in exports]
    if job["entry_point"] in missing:
        return "candidate_error", f"does not define {job['entry_point']}"
    module = types.ModuleType("tests")
    sys.modules["tests"] = sys.modules["__main__"] = module  # where unittest.main looks for tests
    scope = module.__dict__
    scope[MARK] = lambda: reached or reached.append(True)
    stage, asked = "trusted_prompt", peer.asked
    try:
        _execute(job, stage, scope)
        scope.update({name: exports[name] for name in job["exports"] if name in exports})
        for stage in ("setup", "tests"):
            _execute(job, stage, scope)
        if job["entry_point"] is not None:
            scope["check"](scope[job["entry_point"]])
    except Exception as error:
        return _blame(error, job, stage, missing, unasked=peer.asked == asked)
    return "passed", ""


def _execute(job: dict, stage: str, scope: dict) -> None:
    source = _Watched().visit(ast.parse(job[stage])) if job["watch"] else job[stage]
    exec(compile(source, stage, "exec", dont_inherit=True), scope)


class _Watched(ast.NodeTransformer):
    """Puts a mark before every statement that asserts something."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, None)
            if isinstance(body, list):
                setattr(node, name, [part for one in body for part in _marked(one)])
        return node


def _marked(statement: ast.stmt) -> list[ast.stmt]:
    if isinstance(statement, DEFINITIONS) or not any(map(_asserts, ast.walk(statement))):
        return [statement]
    mark = ast.copy_location(ast.Expr(ast.Call(ast.Name(MARK, ast.Load()), [], [])), statement)
    return [ast.fix_missing_locations(mark), statement]


def _asserts(node: ast.AST) -> bool:
    """An assert, a raise, or a call of something like `self.assertEqual`, `pytest.raises` or `sys.exit`."""
    if isinstance(node, ast.Call):
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        return any(word in called.lower() for word in ("assert", "raises", "fail", "exit"))
    return isinstance(node, (ast.Assert, ast.Raise))


def _blame(error: Exception, job: dict, stage: str, missing: list[str], unasked: bool) -> tuple[str, str]:
    """Whose fault it is: the candidate's if it raised or lacks a name, the task's if it fails by itself."""
    if hasattr(error, "raised_by_peer"):
        return "candidate_error", _line(error)
    if isinstance(error, NameError) and error.name in missing:
        return "candidate_error", f"does not define {error.name}"
    if isinstance(error, NotPassable) or (stage != "tests" and unasked):
        return TASK_ERROR, f"{stage}: {_line(error)}"
    return "failed", _failing_line(error, job) or _line(error)


def _failing_line(error: Exception, job: dict) -> str:
    """The source of the assert that failed, and its message."""
    number, frame = 0, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == "tests":
            number = frame.tb_lineno
        frame = frame.tb_next
    if not number:
        return ""
    source = job["tests"].splitlines()[number - 1].strip()
    return source if isinstance(error, AssertionError) and not str(error) else f"{source}  # {_line(error)}"


def _line(error: BaseException) -> str:
    name = getattr(error, "raised_by_peer", type(error).__name__)
    return " ".join(f"{name}: {error}".split())
