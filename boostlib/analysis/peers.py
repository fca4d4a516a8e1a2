"""Peers on the same model: how few numbers each can train, and what rank those numbers reach.

                 dW                                              numbers a module    rank
    LoRA         B A                                             r (out + in)        r
    PiSSA        B A - B0 A0, which was taken out of W0          r (out + in)        2 r
    AdaLoRA      B diag(E) A                                     r (out + in + 1)    r
    DoRA         diag(m / |W0 + B A|) (W0 + B A) - W0            r (out + in) + out  min(out, in)
    VeRA         diag(b) B diag(d) A, one frozen B, A for all    out + r             r
    LoRA-XS      U_r diag(S_r) R Vh_r                            r^2                 r
    TinyLoRA     U_r diag(S_r) (sum_i v_i P_i) Vh_r              u for n_tie of them r

Measured, not looked up: each adapter is built (with PEFT where it has it), its trainable numbers are counted, moved by
noise and merged, and the rank of W - W0 is taken in fp64 at 1e-6 of its largest singular value. After a round it is
merged and a fresh one started. Noise shows what rank is within reach; training need not use it.

Departures:
- Not the whole model is wrapped but one copy of a linear of each distinct shape, and numbers are multiplied by how
  often that shape occurs. Ranks of a shape are those of its first module. Adapters are counted on fp32 weights, as one
  would train: on fp64 ones PEFT unfreezes AdaLoRA's counter of ranks.
- The rows built with boostlib count by the formula ceil(modules / n_tie) * u, as tying does not show on one module of
  each shape; and their ranks, of the thin factors B A, are measured untied (n_tie=1) whatever the row's tying: a module
  has its own P either way, and which modules share v changes no module's rank at generic v.
"""

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
import torch
from peft import AdaLoraConfig, LoraConfig, TinyLoraConfig, VeraConfig, get_peft_model
from torch import nn

from boostlib.adapter import AdapterConfig, TinyLoRA
from boostlib.basis import SVDBasis, target_modules
from boostlib.rank import EXACT, epsilon_rank, rank_of
from boostlib.update import LowRankUpdate

NOISE = 0.1  # standard deviation of what trainable numbers are moved by


@dataclass(frozen=True)
class Peer:
    """A kind of adapter, mostly at its smallest.

    trained: what is counted. config: makes PEFT's, or is boostlib's own. start: dtype of the weights that rounds start
    from; PiSSA takes none finer than fp32.
    """

    name: str
    source: str
    setting: str
    trained: str
    formula: str
    formula_rounds: str
    config: Callable | AdapterConfig
    built: str = "PEFT"
    start: torch.dtype = torch.float64


lora = partial(LoraConfig, r=1, lora_alpha=1)
adalora = partial(AdaLoraConfig, init_r=1, target_r=1, lora_alpha=1, tinit=0, tfinal=0, total_step=1)
PEERS = (
    Peer("LoRA", "2106.09685", "r=1", "A, B", "r", "r T", lora),
    Peer(
        "PiSSA", "2404.02948", "r=1", "A, B", "2 r", "2 r T",
        partial(lora, init_lora_weights="pissa"), start=torch.float32,
    ),
    Peer("AdaLoRA", "2303.10512", "init_r=1", "A, B, E", "r", "r T", adalora),
    Peer("DoRA", "2402.09353", "r=1", "A, B, magnitudes", "min(out, in)", "min(out, in)", partial(lora, use_dora=True)),
    Peer(
        "VeRA", "2310.11454", "r=1", "b, d (shared A, B frozen)", "r", "r: A is the same each time",
        partial(VeraConfig, r=1),
    ),
    Peer(
        "TinyLoRA", "2602.04118", "r=2, u=1, all modules tied", "v", "r", "r, or more: the SVD is taken anew",
        partial(TinyLoraConfig, r=2, u=1, weight_tying=1.0),
    ),
)  # fmt: skip


def peers_table(model: nn.Module, adapter: AdapterConfig | None = None, rounds: int = 20) -> pd.DataFrame:
    """One row a method: numbers that train on `model`, rank of one adapter, rank after `rounds` of them, merged.

    adapter: setting of the TinyLoRA and BoostLoRA rows, default r=2, u=1, 18 modules tied (12 numbers on SmolLM2).
    Ranks are "lowest-highest" over the distinct shapes. Deterministic; `model` and the global seed stay as they are.
    Raises ModelError where a weight has fewer than r * rounds directions.
    """
    adapter = adapter or AdapterConfig(rank=2, u=1, n_tie=18)
    names, rows = target_modules(model), []
    with torch.random.fork_rng(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # PEFT on a bare module, and its settings left at their smallest
        basis = SVDBasis.from_model(one_of_each(model, names)[0], max(adapter.rank * rounds, 2), cache_dir=folder)
        for peer in (*PEERS, *_own(adapter)):
            torch.manual_seed(0)
            if isinstance(peer.config, AdapterConfig):
                numbers, ranks = peer.config.num_parameters(len(names)), _own_ranks(basis, peer.config, rounds)
            else:
                numbers = _count(peer.config, *one_of_each(model, names))
                ranks = _peft_ranks(peer, one_of_each(model, names)[0], rounds)
            rows.append(
                {
                    "method": peer.name,
                    "arXiv": peer.source,
                    "built with": peer.built,
                    "smallest setting": peer.setting,
                    "trained": peer.trained,
                    "numbers": numbers,
                    "rank": _span(ranks[0]),
                    "rank, formula": peer.formula,
                    f"numbers, {rounds} rounds": numbers * rounds,
                    f"rank, {rounds} rounds": _span(ranks[-1]),
                    "rank, T rounds, formula": peer.formula_rounds,
                }
            )
    return pd.DataFrame(rows)


def _own(adapter: AdapterConfig) -> list[Peer]:
    """What boostlib builds. LoRA-XS is TinyLoRA with r^2 numbers for every module: both span every R."""
    top, rotate = (replace(adapter, strategy=strategy) for strategy in ("top", "rotate"))
    tied, same = f"r={adapter.rank}, u={adapter.u}, {adapter.n_tie} modules tied", "r: the block is the same each time"
    spans = [AdapterConfig(rank=r, u=r * r, n_tie=1, strategy="top") for r in (1, 2)]
    built = "boostlib (TinyLoRA, u=r^2, untied)"
    return [
        *(Peer("LoRA-XS", "2405.17604", f"r={span.rank}", "R", "r", same, span, built) for span in spans),
        Peer("TinyLoRA", "2602.04118", tied, "v", "r", same, top, "boostlib"),
        Peer("BoostLoRA", "2604.27308", tied, "v", "r", "r T: blocks are disjoint", rotate, "boostlib"),
    ]


def one_of_each(model: nn.Module, names: list[str]) -> tuple[nn.ModuleDict, list[int]]:
    """Copies, in `layers`, of the first linear of each distinct shape, and how many modules have that shape."""
    found: dict[tuple, list[nn.Parameter]] = {}
    for name in names:
        weight = model.get_submodule(name).weight
        found.setdefault(tuple(weight.shape), []).append(weight)
    layers = [nn.Linear(wide, high, bias=False) for high, wide in found]
    for layer, weights in zip(layers, found.values(), strict=True):
        layer.weight = nn.Parameter(weights[0].detach().float().clone())
    return nn.ModuleDict({"layers": nn.ModuleList(layers)}), [len(weights) for weights in found.values()]


def _count(config: Callable, small: nn.ModuleDict, counts: list[int]) -> int:
    """Trainable numbers of the whole model, from those of one module of each shape; wraps `small`."""
    names = [f"layers.{i}" for i in range(len(counts))]
    whole = get_peft_model(small, config(target_modules=names))
    each = [_trainable(small.get_submodule(name)) for name in names]
    if sum(each) > _trainable(whole):  # all modules train the same numbers
        return _trainable(whole)
    return sum(count * one for count, one in zip(counts, each, strict=True))


def _peft_ranks(peer: Peer, small: nn.ModuleDict, rounds: int) -> list[list[int]]:
    """Ranks of W - W0 of every shape after one round and after `rounds`; each round is merged into `small`."""
    w0, ranks = _weights(small), []
    for t in range(rounds):
        names = [f"layers.{i}" for i in range(len(w0))]
        wrapped = get_peft_model(small.to(peer.start), peer.config(target_modules=names)).double()
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter += NOISE * torch.randn_like(parameter)
        small = wrapped.merge_and_unload()
        if t in (0, rounds - 1):
            deltas = (w - before for w, before in zip(_weights(small), w0, strict=True))
            ranks.append([rank_of(torch.linalg.svdvals(delta), EXACT) for delta in deltas])
    return ranks


def _own_ranks(basis: SVDBasis, config: AdapterConfig, rounds: int) -> list[list[int]]:
    """Ranks of every shape after 1, 2, ... `rounds` rounds."""
    total, ranks = LowRankUpdate(), []
    for t in range(rounds):
        tiny = TinyLoRA(basis, replace(config, n_tie=1), t)
        tiny.v.data.normal_(std=NOISE)
        total += tiny.update()
        ranks.append([epsilon_rank(b, a, EXACT) for b, a in total.values()])
    return ranks


def _weights(small: nn.ModuleDict) -> list[torch.Tensor]:
    """Copies of the present weights, (out, in) fp64 each."""
    return [layer.weight.detach().double().clone() for layer in small["layers"]]


def _trainable(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _span(ranks: list[int]) -> str:
    low, high = min(ranks), max(ranks)
    return str(low) if low == high else f"{low}-{high}"
