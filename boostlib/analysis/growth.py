"""Rank growth, measured: what the sum of the first rounds of a run spans, in every weight, after every round.

    dW_1..t = B_t A_t        B_t (out, r t), A_t (r t, in): the rounds' thin factors side by side, from the ledger alone

One singular value decomposition a weight and round gives the exact rank (singular values above 1e-6 of the largest, in
fp64), the epsilon-ranks for coarser eps, and the effective rank. The basis is that of the run's model, from the cache
where it is there; no model is run. Definitions and their sources: rank.py.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from boostlib.adapter import AdapterConfig, TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.common.errors import RunError
from boostlib.rank import EXACT, effective_rank_of, rank_of, singular_values
from boostlib.records.ledger import Ledger
from boostlib.run import given_model, rebuilt_rounds
from boostlib.update import LowRankUpdate

EPS = (1e-1, 1e-2, 1e-3)  # beside the exact rank: what counts as a direction is a matter of taste, so several


def recorded_adapters(ledger: Ledger, model: nn.Module) -> list[TinyLoRA]:
    """The adapters of a run's merged rounds with their recorded numbers, in order.

    model: the run's untrained model; or the one that `boost` trained, while its Run is kept: it goes back to W0 and
    stays there. A classifier gets the run's head. Raises RunError for any other model, by its fingerprint, and for a
    run whose update is not of this kind (full fine-tuning).
    """
    identity, rounds = ledger.header["identity"], ledger.rounds
    if not isinstance(identity["adapter"], dict):
        raise RunError(f"{ledger.dir} trained {identity['adapter']}: it has no adapters to rebuild")
    config, model = AdapterConfig(**identity["adapter"]), given_model(model, ledger)
    basis = SVDBasis.from_model(model, config.basis_rank(max(len(rounds), 1)), identity["targets"])
    return list(rebuilt_rounds(ledger, basis, config, len(rounds)))


def recorded_updates(ledger: Ledger, model: nn.Module) -> list[LowRankUpdate]:
    """Each merged round's own update, in order. model and errors: as for `recorded_adapters`."""
    return [adapter.update() for adapter in recorded_adapters(ledger, model)]


def growth_table(updates: Sequence[LowRankUpdate], eps: Sequence[float] = EPS) -> pd.DataFrame:
    """One row a merged round and weight: what the sum so far spans.

    Columns: rounds (merged so far, from 1), module, "exact" (rank at 1e-6), one column for each of `eps` (under its
    number), "effective" (exp of the spectral entropy).
    """
    rows, total = [], LowRankUpdate()
    for t, update in enumerate(updates, start=1):
        total = total + update
        for name, factors in total.items():
            s = singular_values(*factors)
            rows.append((t, name, rank_of(s, EXACT), *(rank_of(s, e) for e in eps), effective_rank_of(s)))
    return pd.DataFrame(rows, columns=["rounds", "module", "exact", *eps, "effective"])


def spread(table: pd.DataFrame, column) -> pd.DataFrame:
    """Median and range over modules by round: columns low, median, high; index rounds."""
    return table.groupby("rounds")[column].agg(["min", "median", "max"]).set_axis(["low", "median", "high"], axis=1)


def growth_summary(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a method: its last round's ranks as "median (low to high)" over modules."""
    rows = {}
    for label, table in tables.items():
        last = table[table.rounds == table.rounds.max()].drop(columns=["rounds", "module"])
        cells = {column: _cell(last[column]) for column in last}
        rows[label] = {"merged rounds": table.rounds.max(), **cells}
    names = {e: f"eps {e:g}" for table in tables.values() for e in table if isinstance(e, float)}
    return pd.DataFrame.from_dict(rows, orient="index").rename(columns={"exact": "exact rank", **names})


def spectra(update: LowRankUpdate) -> np.ndarray:
    """Singular values of every weight's update, each divided by its largest: (modules, k), zeros where there are fewer
    than k."""
    values = [singular_values(*factors) for factors in update.values()]
    padded = torch.nn.utils.rnn.pad_sequence(values, batch_first=True)  # (modules, k)
    return (padded / padded[:, :1].clamp_min(torch.finfo(padded.dtype).tiny)).numpy()


def _cell(values: pd.Series) -> str:
    digits = 0 if pd.api.types.is_integer_dtype(values) else 1
    low, middle, high = values.min(), values.median(), values.max()
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
