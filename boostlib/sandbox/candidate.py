"""The candidate's side of a check, in a locked child: runs what a model wrote, then answers the judge's requests."""

import contextlib
import os
import sys
import types

from boostlib.sandbox.peer import OPS, Peer


def run(job: dict, rpc: int, note: int) -> None:
    """Executes the code and serves what the judge asks of it, until the judge closes the line."""
    os.close(note)  # the start went well: nothing that follows may say otherwise
    module = types.ModuleType("candidate")
    sys.modules["candidate"] = module  # dataclasses look their module up
    raised = None
    try:
        exec(compile(job["code"], "<candidate>", "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:  # SystemExit too
        raised = error

    def exports(names: list[str]) -> dict[str, object]:
        if raised is not None:
            raise raised
        return {name: module.__dict__[name] for name in names if name in module.__dict__}

    peer = Peer(rpc, {name: _flushed(op) for name, op in {**OPS, "exports": exports}.items()})
    _flushed(lambda: None)()
    peer.serve()


def _flushed(op):
    """`op`, and then what it printed is sent: the child ends by a kill."""

    def wrapped(*args):
        try:
            return op(*args)
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()

    return wrapped
