"""Rank growth, measured: what the sum of the first rounds of a run spans, in every weight, after every round.

    dW_1..t = B_t A_t        B_t (out, r t), A_t (r t, in): the rounds' thin factors side by side, from the ledger alone

One singular value decomposition a weight and round gives the exact rank (singular values above 1e-6 of the largest, in
fp64), the epsilon-ranks for coarser eps, and the effective rank. The basis is that of the run's model, from the cache
where it is there; no model is run. Definitions and their sources: rank.py.

The alternative to one fixed basis is block t of a fresh SVD of the merged weight in every round, and has its price:

    W_t = U S Vh anew,  dW_t = U[:, J] diag(S[J]) R_t Vh[J, :],  J = t*r .. (t+1)*r        W_t+1 = W_t + dW_t

dW_t lies between the spans of U_J and Vh_J, so it leaves every other singular direction of W_t as it is and only
replaces the r values S[J] by those of diag(S[J]) (I + R_t), in directions of the same two spans. A fresh SVD hence
finds the same directions in another *order*. As long as each used block keeps its place above the unused values, block
t is the one that a fixed basis gives, up to signs, and ranks add. Once a value has crossed over, block t may hold
directions that were used before: they add no rank, and overlap with the earlier rounds. Equal values leave the order
open.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from boostlib.common.errors import BoostError, RunError
from boostlib.common.targets import matrix
from boostlib.config import recorded_config
from boostlib.rank import EXACT, effective_rank_of, epsilon_rank, rank_of, singular_values
from boostlib.records.ledger import Ledger
from boostlib.run import given_model, rebuilt_rounds
from boostlib.update import LowRankUpdate

EPS = (1e-1, 1e-2, 1e-3)  # beside the exact rank: what counts as a direction is a matter of taste, so several


def recorded_updates(ledger: Ledger, model: nn.Module) -> list[LowRankUpdate]:
    """The update of each merged round of a run, in order.

    model: the run's untrained model; or the one that `boost` trained, while its Run is kept: it goes back to W0 and
    stays there. A classifier gets the run's head. Raises RunError for any other model, by its fingerprint, and for a
    run whose update is not of this kind (full fine-tuning).
    """
    identity, count = ledger.header["identity"], len(ledger.rounds)
    if not isinstance(identity["adapter"], dict):
        raise RunError(f"{ledger.dir} trained {identity['adapter']}: it has no adapters to rebuild")
    config, model = recorded_config(identity, count), given_model(model, ledger)
    basis = config.learner.basis(model, config.rounds, identity["targets"])
    return [adapter.update() for adapter in rebuilt_rounds(ledger, basis, config.learner, count)]


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


def growth_summary(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a method: its last round's ranks as "median (low to high)" over modules."""
    rows = {}
    for label, table in tables.items():
        last = table[table.rounds == table.rounds.max()].drop(columns=["rounds", "module"])
        cells = {column: _cell(last[column]) for column in last}
        rows[label] = {"merged rounds": table.rounds.max(), **cells}
    names: dict[Any, str] = {e: f"eps {e:g}" for table in tables.values() for e in table if isinstance(e, float)}
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


class FreshRounds(NamedTuple):
    """What the rounds of one weight add up to."""

    overlaps: list[float]  # a round: the share of its r rows that lies in the span of the rounds before it, 0..1
    ranks: list[int]  # exact rank of the sum after each round


def fresh_svd_rounds(weight: Tensor, cores: Sequence[Tensor]) -> FreshRounds:
    """Rounds that each take their block of a fresh fp64 SVD. weight (out, in); cores: R of each round, (r, r).

    Raises BoostError where the weight has fewer than r T directions.
    """
    merged, r = weight.double(), len(cores[0])
    if r * len(cores) > min(weight.shape):
        raise BoostError(f"{len(cores)} rounds of rank {r} need {r * len(cores)} directions of a {tuple(weight.shape)}")
    B, A = merged.new_zeros(len(merged), 0), merged.new_zeros(0, merged.shape[1])
    overlaps, ranks = [], []
    for t, core in enumerate(cores):
        u, s, vh = torch.linalg.svd(merged, full_matrices=False)
        span = slice(t * r, (t + 1) * r)
        left, rows = u[:, span] * s[span] @ core.double(), vh[span]  # (out, r), (r, in)
        overlaps.append(_share_within(rows, A))
        merged = merged + left @ rows
        B, A = torch.cat([B, left], dim=1), torch.cat([A, rows])
        ranks.append(epsilon_rank(B, A, EXACT))
    return FreshRounds(overlaps, ranks)


def _share_within(rows: Tensor, earlier: Tensor) -> float:
    """Mean squared length of the projections of orthonormal `rows` on the span of `earlier`, which may be dependent."""
    if not len(earlier):
        return 0.0
    _, s, vh = torch.linalg.svd(earlier, full_matrices=False)
    span = vh[s > EXACT * s[0]]  # (dimension, in)
    return float((rows @ span.T).square().sum() / len(rows))


def core_of(weight: Tensor, B: Tensor, A: Tensor) -> Tensor:
    """R (r, r) fp64 of a round of W0 = `weight`, from its B = U_J diag(S_J) R and A = Vh_J: W0 A^T = U_J diag(S_J)."""
    return torch.linalg.lstsq(weight.double() @ A.double().T, B.double()).solution


def fresh_table(model: nn.Module, updates: Sequence[LowRankUpdate], modules: Sequence[str]) -> pd.DataFrame:
    """What a run spans if each round takes its block of a fresh SVD, with the R that it had: a row a round and weight.

    model: the run's untrained model. updates: of its merged rounds, in order, from "rotate" (`recorded_updates`).
    Columns: rounds (from 1), module, exact (rank of the sum), overlap. A run that had really been trained so would have
    found other numbers; what is compared is the choice of blocks alone. About 3 s a weight of 576 x 576 and 8 rounds.
    """
    rows = []
    for name in tqdm(modules, desc="fresh SVDs", unit="weight", leave=False):
        weight = matrix(model.get_submodule(name)).detach().cpu()
        found = fresh_svd_rounds(weight, [core_of(weight, *update[name]) for update in updates])
        rows += [(t, name, *pair) for t, pair in enumerate(zip(found.ranks, found.overlaps, strict=True), start=1)]
    return pd.DataFrame(rows, columns=["rounds", "module", "exact", "overlap"])
