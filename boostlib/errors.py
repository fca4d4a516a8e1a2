"""Errors that a user can act on: each message names the offending value and the remedy."""


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
