"""The gradient of a loss in the coordinates of the basis, one small core per module.

    W = W0 + U diag(S) C Vh        G = dL/dC at C = 0 = diag(S) U^T (dL/dW) Vh^T        (K, K)
    dL/dW = sum over tokens of g x^T, so     G = diag(S) sum over tokens of (U^T g)(Vh x)^T

G tells of every adapter that a round could take: its diagonal block J, r x r, is dL/dR of the adapter in block J
(times what "normalized" scaling stretches S[J] by), and <P_i, G[J, J]> is dL/dv_i at v = 0.

The sum is taken token by token in the backward pass: Vh x (tokens, K) is kept in the forward pass, and neither a
weight's gradient nor anything of a weight's shape is made. At Qwen2.5-3B's shape all cores are 252 * 40 * 40 numbers.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from boostlib.adapter import BoostAdapter, only_trainable
from boostlib.basis import SVDBasis


@contextmanager
def core_gradients(model: nn.Module, basis: SVDBasis) -> Iterator[dict[str, Tensor]]:
    """Inside, every backward pass adds to the yielded {module: G (K, K)}, K = basis.rank, in the basis's dtype (fp32).

    The G's lie on the model's device and are complete when the block is left. Inside, the model's weights are frozen
    and its one trainable number, `boost_adapter.v`, takes part in nothing: it makes trainers run their backward pass.
    Outputs are the model's own. Raises ModelError where an adapter is attached.
    """
    anchor = BoostAdapter(groups=1, u=1, device=next(model.parameters()).device)
    cores, scales = {}, {}
    with only_trainable(model, anchor), ExitStack() as hooks:
        for name, (u, s, vh) in basis.items():
            module = model.get_submodule(name)
            u, scales[name], vh = (t.to(module.weight.device) for t in (u, s, vh))
            cores[name] = vh.new_zeros(len(s), len(s))
            hook = _hook(u, vh, anchor.v, cores[name])
            hooks.callback(module.register_forward_hook(hook).remove)
        yield cores
    for name, core in cores.items():
        core.mul_(scales[name][:, None])


def _hook(u: Tensor, vh: Tensor, anchor: Tensor, core: Tensor):
    def collect(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # rollouts and evaluation
            return out
        with torch.autocast(out.device.type, enabled=False):
            return _Collect.apply(out, anchor, args[0], u, vh, core)

    return collect


class _Collect(torch.autograd.Function):
    """The identity on a module's output whose backward pass adds this call's share to the core."""

    @staticmethod
    def forward(ctx, out: Tensor, anchor: Tensor, x: Tensor, u: Tensor, vh: Tensor, core: Tensor) -> Tensor:
        ctx.save_for_backward(x.to(vh.dtype).flatten(0, -2) @ vh.T)  # (tokens, K); checkpointing recomputes it
        ctx.u, ctx.core, ctx.anchor = u, core, anchor
        return out.view_as(out)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (seen,) = ctx.saved_tensors
        ctx.core.addmm_((grad.to(seen.dtype).flatten(0, -2) @ ctx.u).T, seen)  # (K, tokens) @ (tokens, K)
        return grad, torch.zeros_like(ctx.anchor), None, None, None, None
