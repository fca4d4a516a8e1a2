"""How many directions an update really uses, measured from its thin factors.

An update dW = B A with B (out, k) and A (k, in) has at most k non-zero singular values, and they are those of the
k x k matrix R_B R_A^T of the two QR decompositions B = Q_B R_B, A^T = Q_A R_A. Nothing here ever forms dW, and nothing
is read off W_T - W_0: in bf16 that difference holds rounding noise of full rank (see `fold_retention`).

Definitions (the BoostLoRA paper plots a rank without defining it; these are ours):
- epsilon rank: singular values above eps times the largest;
- effective rank: exp of the entropy of the normalised singular values (Roy & Vetterli, EUSIPCO 2007);
- overlap of two row spaces: mean squared cosine of their principal angles, 0 = orthogonal, 1 = contained.

Ranks add. Let the rounds' blocks J_t be disjoint sets of r directions of one SVD with S[J_t] > 0, and every R_t be
invertible. Then sum_t dW_t = U_J D Vh_J, J the union of the blocks, D block diagonal with blocks diag(S[J_t]) R_t. U_J
has orthonormal columns and Vh_J orthonormal rows, whatever the shape of W0 and however often a singular value repeats;
so the singular values of the sum are those of all diag(S[J_t]) R_t together, none of them 0: its rank is r T.
Without the hypotheses: a singular R_t adds only its own rank (v_t = 0: none); a block used again adds none, as cores of
one block sum to one r x r core; and a W0 of rank below r T has no such blocks (the basis refuses it).
"""

import torch
from torch import Tensor

from boostlib.common.errors import BoostError
from boostlib.common.settings import Share, checks

EXACT = 1e-6  # the eps of the exact rank: in fp64, far above the rounding of fp32 factors and far below any direction


def singular_values(B: Tensor, A: Tensor) -> Tensor:
    """Singular values of B @ A, descending, fp64, (min(k, out, in),). B (out, k), A (k, in), any float dtype."""
    _require_factors(B=B, A=A)
    if B.shape[1] != A.shape[0]:
        raise BoostError(f"B {tuple(B.shape)} and A {tuple(A.shape)}: B @ A needs as many columns in B as rows in A")
    r_b = torch.linalg.qr(B.double(), mode="r").R  # (min(out, k), k)
    r_a = torch.linalg.qr(A.double().T, mode="r").R  # (min(in, k), k)
    return torch.linalg.svdvals(r_b @ r_a.T)


def _require_factors(**factors: Tensor) -> None:
    """Raises BoostError for what is no matrix of finite numbers."""
    for name, factor in factors.items():
        if not isinstance(factor, Tensor) or factor.dim() != 2 or factor.is_complex():
            shape = tuple(factor.shape) if isinstance(factor, Tensor) else type(factor).__name__
            raise BoostError(f"{name} is {shape}: a matrix is needed, a tensor of two dimensions")
        if not factor.isfinite().all():
            raise BoostError(f"{name} {tuple(factor.shape)} holds a number that is not finite: its rank means nothing")


@checks
def epsilon_rank(B: Tensor, A: Tensor, eps: Share = 1e-3) -> int:
    """Singular values of B @ A above eps times the largest, counted; 0 for a zero update. eps=EXACT: its exact rank."""
    return rank_of(singular_values(B, A), eps)


def effective_rank(B: Tensor, A: Tensor) -> float:
    """exp(-sum p log p), p = s / sum(s): between 1 and the rank; 0 for a zero update."""
    return effective_rank_of(singular_values(B, A))


def rank_of(s: Tensor, eps: float) -> int:
    """`epsilon_rank` from singular values at hand: (k,), descending."""
    return int((s > eps * s[0]).sum()) if s.numel() and s[0] > 0 else 0


def effective_rank_of(s: Tensor) -> float:
    """`effective_rank` from singular values at hand: (k,), descending."""
    if not s.numel() or s[0] == 0:
        return 0.0
    p = s[s > 0] / s.sum()
    return float(torch.exp(-(p * p.log()).sum()))


def subspace_overlap(A1: Tensor, A2: Tensor) -> float:
    """Mean squared cosine of the principal angles between the row spaces of A1 (k1, in) and A2 (k2, in)."""
    _require_factors(A1=A1, A2=A2)
    if A1.shape[1] != A2.shape[1] or 0 in (*A1.shape, *A2.shape):
        raise BoostError(
            f"A1 {tuple(A1.shape)} and A2 {tuple(A2.shape)}: rows of the same length are needed, at least one each"
        )
    q1, q2 = torch.linalg.qr(A1.double().T).Q, torch.linalg.qr(A2.double().T).Q
    return float((q1.T @ q2).square().sum() / min(A1.shape[0], A2.shape[0]))
