"""Errors that a user can act on: each message names the offending value and the remedy."""

import contextlib
from collections.abc import Iterator


class BoostError(Exception):
    """Base of every error that boostlib raises on purpose. The command line prints it without a traceback."""


class ModelError(BoostError):
    """A model that is unknown, cannot be loaded, or has none of the weights asked for."""


class DataError(BoostError):
    """A data file that is missing or malformed; names the file and the line."""


class RunError(BoostError):
    """A run directory that cannot be used: another identity, read-only, locked, full disk."""


class LedgerError(RunError):
    """A ledger that was truncated or edited; says which row and which round is the last good one."""


class TrainingError(BoostError):
    """Training that went wrong: NaN, out of memory, a trainable number that is not fp32."""


@contextlib.contextmanager
def explain_oom(setting: str, value: object) -> Iterator[None]:
    """Turns an out-of-memory error, on GPU or CPU, into one that names the setting to lower."""
    import torch  # here alone: what only needs the classes, such as the sandbox, stays light

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "can't allocate memory" not in text:
            raise
        raise TrainingError(
            f"out of memory: lower {setting}, now {value}. Kernels of other notebooks may hold memory on this device "
            f"too: shut them down. ({text.splitlines()[0] if text else type(error).__name__})"
        ) from error
