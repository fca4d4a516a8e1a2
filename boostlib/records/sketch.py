"""A few numbers by which a rebuilt round is known to be the one that was recorded.

    sketch[g, j] = sum over modules m of group g of  y_mj^T (B_m A_m) x_mj        (groups, PROBES) fp32

The probes x, y are standard normal, drawn by Philox from the module's name, so they are never stored; the mean square
of a sketch entry is |dW|^2 of its group, and a rebuilt round must agree within `TOLERANCE` of that norm. Sketches catch
what checksums cannot: the right numbers put on a wrong basis, other noise P or another order of modules. What another
device or version changes in the last bits stays far below.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from boostlib.common.stable import philox
from boostlib.update import LowRankUpdate

PROBES = 4  # per module: a wrong rebuild passes all of them with probability about (TOLERANCE)^4
TOLERANCE = 1e-4  # a basis computed anew on another device agrees within 1e-5


def wrong_group(update: LowRankUpdate, groups: Sequence[int], recorded: Tensor) -> int | None:
    """The first group of tied modules whose part of `update` is not what `recorded`, its sketch, says; None where all
    agree. A sketch of another shape agrees with nothing."""
    found, norms = sketch(update, groups), group_norms(update, groups)
    if recorded.shape != found.shape:
        return 0
    wrong = (found.double() - recorded.double()).abs().amax(dim=1) > TOLERANCE * norms
    return int(wrong.nonzero()[0]) if wrong.any() else None


def pack(sketch: Tensor) -> str:
    """A sketch as hexadecimal digits, eight a number, for a ledger's line."""
    return sketch.numpy().astype("<f4").tobytes().hex()


def unpack(packed: str) -> Tensor:
    """What `pack` packed, (groups, PROBES)."""
    return torch.from_numpy(np.frombuffer(bytes.fromhex(packed), dtype="<f4").copy()).view(-1, PROBES)


def sketch(update: LowRankUpdate, groups: Sequence[int]) -> Tensor:
    """(groups, PROBES) fp32, as the equation above; groups: of each module in turn, as `TinyLoRA.group`."""
    total = torch.zeros(max(groups) + 1, PROBES, dtype=torch.float64)
    for group, (name, (b, a)) in zip(groups, update.items(), strict=True):
        x, y = _probes(name, a.shape[1], b.shape[0])  # (PROBES, in), (PROBES, out)
        total[group] += ((y @ b.double()) * (x @ a.double().T)).sum(dim=1)
    return total.float()


def group_norms(update: LowRankUpdate, groups: Sequence[int]) -> Tensor:
    """|dW| of each group of tied modules, (groups,) fp64."""
    squares = torch.zeros(max(groups) + 1, dtype=torch.float64)
    for group, (name, pair) in zip(groups, update.items(), strict=True):
        squares[group] += LowRankUpdate({name: pair}).norm() ** 2
    return squares.sqrt()


@lru_cache(maxsize=1024)  # the same for every round
def _probes(name: str, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    noise = philox("sketch", name).standard_normal((PROBES, inputs + outputs))
    return torch.from_numpy(np.ascontiguousarray(noise[:, :inputs])), torch.from_numpy(noise[:, inputs:].copy())
