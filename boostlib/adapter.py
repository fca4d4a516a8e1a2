"""One round's adapter: a handful of numbers that steer every weight inside r of its own singular directions.

    dW = U[:, J] diag(S[J]) R Vh[J, :]     R = sum_i v_i P_i     J = the r directions of the block    (TinyLoRA eq. 2-3)

v (groups, u) is all that trains; it starts at 0. P (u, r, r) per module is fixed noise of variance 1/r. `n_tie`
consecutive target modules share one row of v, so an adapter has ceil(modules / n_tie) * u parameters.

BoostLoRA's contribution is where J lies: "rotate" takes the next block of r directions each round, t*r .. (t+1)*r, so
that ranks of successive updates add up; "top" stays at 0 .. r, as TinyLoRA does. (Monolithic training, an ablation of
the paper, is "top" with rank r*T in a single round.) Ours, not the paper's: "greedy" chooses a block and a P for each
group from gradients, see greedy.py.

Departures and choices that no source states: modules are tied in model order; P is normal and drawn per module from
(seed, round, candidate, module name), so it never has to be stored; "normalized" scaling multiplies S[J] so that its
mean equals the first block's, giving later rounds steps of the same size.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from boostlib.basis import SVDBasis
from boostlib.common.errors import BoostError, ModelError
from boostlib.common.settings import Count, Names, Seed, checked, valid
from boostlib.common.stable import philox
from boostlib.update import LowRankUpdate, Weights

STRATEGIES = ("rotate", "top", "greedy")
MOST_U = 65_536  # numbers a group: each is a matrix P of its own for every module

Plan = Sequence[tuple[int, int]]  # per group of tied modules: (block of directions, candidate for P)


@dataclass(frozen=True)
@checked
class AdapterConfig:
    """Settings of every round's adapter; part of a run's identity.

    rank: directions r per round. u: numbers per group. n_tie: consecutive modules that share them.
    strategy: "rotate" (the paper), "top" or "greedy". scaling: "paper" or "normalized". seed: of P. blocks: how many
    blocks of directions "greedy" chooses from, one a merged round and group; the other strategies have no use for it.
    """

    rank: Count = 2
    u: Annotated[int, Field(ge=1, le=MOST_U, strict=True, description=f"a whole number from 1 to {MOST_U:,}")] = 1
    n_tie: Count = 18
    strategy: Literal["rotate", "top", "greedy"] = "rotate"
    scaling: Literal["paper", "normalized"] = "paper"
    seed: Seed = 0
    blocks: Count = 20

    def groups(self, modules: int) -> int:
        """Number of groups of tied modules."""
        return math.ceil(modules / self.n_tie)

    def num_parameters(self, modules: int) -> int:
        """Trainable numbers of one round's adapter on `modules` target modules."""
        return self.groups(modules) * self.u

    def degrees_of_freedom(self, modules: int) -> int:
        """Dimensions that those numbers really span: a group of m modules has m R's of r x r entries, no more."""
        sizes = [min(self.n_tie, modules - start) for start in range(0, modules, self.n_tie)]
        return sum(min(self.u, self.rank**2 * size) for size in sizes)

    def basis_rank(self, rounds: int) -> int:
        """Directions per weight that a run of `rounds` rounds needs."""
        return self.rank * {"rotate": rounds, "top": 1, "greedy": self.blocks}[self.strategy]

    def basis(self, model: nn.Module, rounds: int, targets: Names | None = None) -> SVDBasis:
        """The directions that a run of `rounds` rounds needs."""
        return SVDBasis.from_model(model, self.basis_rank(rounds), targets)

    def adapter(self, basis: SVDBasis, round: int, plan: Plan) -> "TinyLoRA":
        """A TinyLoRA to `restore` the numbers of a recorded round in."""
        return TinyLoRA(basis, self, round, plan)

    def settings(self) -> dict[str, Any]:
        """What identifies these settings in a run: `blocks` only where it decides anything."""
        return {name: value for name, value in asdict(self).items() if name != "blocks" or self.strategy == "greedy"}

    def stretch(self, s: Tensor, block: int) -> Tensor | float:
        """What S[J] of a block is multiplied by: 1, or, normalized, mean(S of the first block) / mean(S[J])."""
        if self.scaling == "paper":
            return 1.0
        return s[: self.rank].mean() / s[block * self.rank : (block + 1) * self.rank].mean()

    def noise_key(self, round: int, candidate: int, name: str) -> tuple[int | str, ...]:
        """What a module's P (u, r, r) is drawn from."""
        return "P", self.seed, round, candidate, name

    def default_plan(self, modules: int, round: int) -> list[tuple[int, int]]:
        """The plan of a round for "rotate" and "top": the same block for every group, candidate 0."""
        if self.strategy == "greedy":
            raise BoostError('strategy="greedy" has no plan until gradients were seen: pass plan= (greedy.choose_plan)')
        return [(round if self.strategy == "rotate" else 0, 0)] * self.groups(modules)


class BoostAdapter(nn.Module):
    """The one submodule that an attached model gains: it holds v, so that trainers see a parameter and nothing else."""

    def __init__(self, groups: int, u: int, device: torch.device | str = "cpu"):
        super().__init__()
        self.v = nn.Parameter(torch.zeros(groups, u, dtype=torch.float32, device=device))


@contextmanager
def only_trainable(model: nn.Module, adapter: BoostAdapter) -> Iterator[None]:
    """Inside, `adapter` is the model's `boost_adapter`, and nothing else requires a gradient."""
    if hasattr(model, "boost_adapter"):
        raise ModelError("this model has an adapter attached already: detach it first")
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    model.boost_adapter = adapter
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        del model.boost_adapter


class TinyLoRA:
    """The adapter of one round. `plan` overrides where each group looks; the basis must reach that far."""

    def __init__(self, basis: SVDBasis, config: AdapterConfig, round: int = 0, plan: Plan | None = None):
        valid("TinyLoRA(basis=", basis, SVDBasis)
        valid("TinyLoRA(config=", config, AdapterConfig)
        self.config, self.round, self.names = config, valid("TinyLoRA(round=", round, int), list(basis)
        self.plan = [(block, draw) for block, draw in (plan or config.default_plan(len(basis), round))]
        if len(self.plan) != config.groups(len(basis)):
            raise BoostError(f"the plan has {len(self.plan)} entries, but there are {config.groups(len(basis))} groups")
        self._check_reach(basis)
        self._factors = {name: self._factor(basis, i) for i, name in enumerate(self.names)}
        self._parameters = BoostAdapter(len(self.plan), config.u)
        self._model: nn.Module | None = None
        self._weights: Weights | None = None
        self._live = True

    @property
    def v(self) -> nn.Parameter:
        """The trainable numbers, (groups, u), fp32."""
        return self._parameters.v

    @property
    def num_parameters(self) -> int:
        """How many numbers train: groups * u."""
        return self.v.numel()

    @property
    def degrees_of_freedom(self) -> int:
        """Dimensions that they span."""
        return self.config.degrees_of_freedom(len(self.names))

    @property
    def numbers(self) -> dict[str, Tensor]:
        """What a round's file holds: v."""
        return {"v": self.v.detach()}

    def restore(self, numbers: Mapping[str, Tensor]) -> bool:
        """Take up recorded `numbers`; False, and nothing changes, where they are another adapter's."""
        if set(numbers) != {"v"} or numbers["v"].shape != self.v.shape:
            return False
        self.v.data.copy_(numbers["v"])
        return True

    def group(self, index: int) -> int:
        """The group of the index-th target module."""
        return index // self.config.n_tie

    def groups(self) -> list[int]:
        """The group of every target module in turn."""
        return [self.group(index) for index in range(len(self.names))]

    def update(self) -> LowRankUpdate:
        """dW of every target module at the present v, detached, as B = U_J diag(S_J) R (out, r) and A = Vh_J (r, in).

        Computed on the CPU whatever the device, so that a replay finds the same bits.
        """
        v, pairs = self.v.detach().cpu(), {}
        for index, (name, (left, vh, p)) in enumerate(self._factors.items()):
            pairs[name] = (left @ self._core(v[self.group(index)], p), vh)
        return LowRankUpdate(pairs)

    def attach(self, model: nn.Module, weights: Weights | None = None) -> "TinyLoRA":
        """Put the adapter on `model` and freeze everything else. At v = 0 no output bit changes.

        weights: the run's W0 and merged update, from which `folded` recomputes; default: the model's present weights.
        Parameter names stay plain; the model gains one submodule, `boost_adapter`. In a model that is spread over
        several devices each module's factors lie where its weight does, and v with the first (tested by pretending, on
        a CPU: it has not run on two GPUs).
        """
        try:
            modules = [model.get_submodule(name) for name in self.names]
        except AttributeError as error:
            raise ModelError(f"this adapter was made for another model: {error}") from None
        attached = ExitStack()
        attached.enter_context(only_trainable(model, self._parameters))
        places = {name: module.weight.device for name, module in zip(self.names, modules, strict=True)}
        self.v.data = self.v.data.to(places[self.names[0]])
        self._on_device = {name: tuple(t.to(places[name]) for t in parts) for name, parts in self._factors.items()}
        for i, module in enumerate(modules):
            attached.callback(module.register_forward_hook(self._hook(i)).remove)
        self._model, self._weights, self._attached = model, weights, attached
        return self

    def detach(self) -> None:
        """Take the adapter off: the model is as it was before `attach`."""
        if self._model is None:
            return
        self._attached.close()
        self._model = self._weights = None

    @contextmanager
    def folded(self) -> Iterator[None]:
        """Inside, the weights hold cast(W0 + merged + dW) and the live branch is off: the plain model's speed.

        Leaving puts the untouched tensors back, so any number of cycles leaves the weights bit-identical.
        """
        if self._model is None:
            raise BoostError("folded() needs an attached adapter: call attach(model) first")
        if not self._live:  # folded already: the outer fold stands
            yield
            return
        weights = self._weights or Weights(self._model, self.names)
        self._live = False
        try:
            with weights.holding(weights.update + self.update()):
                yield
        finally:
            self._live = True

    def _hook(self, index: int):
        (left, vh, p), group = self._on_device[self.names[index]], self.group(index)

        def add_branch(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            if not self._live:
                return out
            with torch.autocast(out.device.type, enabled=False):
                core = self._core(self.v[group].to(p.device), p)  # (r, r)
                x = args[0].to(vh.device, torch.float32)
                branch = ((x @ vh.T) @ core.T) @ left.T  # (..., in) -> (..., r) -> (..., r) -> (..., out)
                return (out + branch).to(out.dtype)

        return add_branch

    def _core(self, v: Tensor, p: Tensor) -> Tensor:
        """R = sum_i v_i P_i, (r, r), from v (u,) and P (u, r, r)."""
        return (v.view(-1, 1, 1) * p).sum(dim=0)

    def _factor(self, basis: SVDBasis, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """(U_J diag(S_J) (out, r), Vh_J (r, in), P (u, r, r)) of one module, fp32."""
        r, (block, candidate), name = self.config.rank, self.plan[self.group(index)], self.names[index]
        u, s, vh = basis[name]
        span = slice(block * r, (block + 1) * r)
        scale = s[span] * self.config.stretch(s, block)
        noise = philox(*self.config.noise_key(self.round, candidate, name)).standard_normal((self.config.u, r, r))
        return u[:, span] * scale, vh[span].contiguous(), torch.from_numpy(noise / math.sqrt(r)).float()

    def _check_reach(self, basis: SVDBasis) -> None:
        if min(block for block, _ in self.plan) < 0:
            raise BoostError(f"round {self.round} asks for a negative block of directions: rounds count from 0")
        need = (max(block for block, _ in self.plan) + 1) * self.config.rank
        if need > basis.rank:
            raise BoostError(
                f"round {self.round} needs {need} singular directions, but the basis holds {basis.rank}: "
                f"make it with rank >= {need} (rank * rounds)"
            )
