"""Whether what trains is what is merged: an adapter's live branch against the weights that it is folded into.

The branch hangs on a module's call; folding changes the module's weight. They are the same function only where the
weight is read by that call and nowhere else, and multiplied as it is. `nn.MultiheadAttention` and Mamba read weights
of modules that they never call, and some layers round theirs first: a run would train one model and merge another.

Checked before a run trains: a few random tokens, and for each kind of module a step along the weights' own leading
directions, live with gradients on, as in training, and folded. Nothing of it stays, and torch's generators are left as
they were. The step begins at the size of the weights and grows until most tokens move by a share `reach` or more.

    disagree:  |live - folded| > part |folded - plain|      norms over the outputs of a token that moved so far
    (part, reach) = (0.003, 0.01) in fp32, (0.15, 0.33) in bf16

Three tokens in four have to disagree: rounding may send a token to other experts in one of the passes, which says
nothing. Kinds also disagree where the live output is the plain one to the last bit and the folded one is not. Where all
is well, SmolLM2 and some seventy small models of other kinds stay below 1e-4 in fp32 and 0.05 in bf16.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boostlib.adapter import AdapterConfig, TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.common.errors import ModelError
from boostlib.common.stable import philox
from boostlib.common.targets import kind, matrix, without
from boostlib.models.classifier import SequenceClassifier
from boostlib.update import Weights

ROWS, TOKENS = 4, 8
STEPS = (1.0, 4.0, 16.0, 64.0)
HUGE = 1e6  # outputs beyond it, or not finite, stand for "never" and are not compared


def require_agreement(model: nn.Module, basis: SVDBasis, named: bool = False) -> None:
    """Raises ModelError, naming them, where modules of `basis` do not give live what they give folded.

    model: a language model or a SequenceClassifier, without an adapter. named: the user named the targets; otherwise
    modules that no text depends on are an error too, since rounds would change them blindly.
    """
    kinds: dict[str, list[str]] = {}
    for name in basis:
        kinds.setdefault(kind(name), []).append(name)
    was_training, devices = model.training, [model.device] if model.device.type == "cuda" else []
    model.eval()
    try:
        with torch.random.fork_rng(devices):
            trial = _Trial(model, basis)
            failing = [names for names in kinds.values() if not trial.agree(names)]
            wrong = [name for names in failing for name in [n for n in names if not trial.agree([n])] or names]
    finally:
        model.train(was_training)
    if wrong:
        raise ModelError(
            f"{', '.join(sorted(set(map(kind, wrong))))}: what trains there would not be what is merged. {wrong[0]} "
            f"({len(wrong)} in all) has a weight that is read without the module being called, or that is not used as "
            f"it is. Leave such modules out{without(basis, wrong)}"
        )
    unused = [name for names in kinds.values() if kind(names[0]) in trial.unused for name in names]
    if unused and not named:
        raise ModelError(
            f"{', '.join(sorted(trial.unused))}: nothing that the model makes of a text depends on them, so rounds "
            f"would change them blindly. Leave them out{without(basis, unused)}"
        )


def random_directions(model: nn.Module, names: Sequence[str]) -> SVDBasis:
    """Two random directions a weight, with the size of the weight: for the check, where no basis is at hand."""
    found = {}
    for name in names:
        weight, draw = matrix(model.get_submodule(name)).detach(), philox("directions", name)
        u, v = (F.normalize(torch.from_numpy(draw.standard_normal((side, 2))), dim=0).float() for side in weight.shape)
        found[name] = u, weight.float().norm().cpu().repeat(2) / 2**0.5, v.T.contiguous()
    return SVDBasis(found)


class _Trial:
    """One batch of random tokens, and what `model` makes of it."""

    def __init__(self, model: nn.Module, basis: SVDBasis):
        self.model, self.basis = model, basis
        self.unused: set[str] = set()  # kinds without effect
        draw = philox("agreement")
        self.ids = torch.from_numpy(draw.choice(plain_tokens(model.config), (ROWS, TOKENS))).to(model.device)
        try:
            with torch.no_grad():
                self.plain = self.outputs()
        except Exception as error:  # whatever the code of any model may raise
            raise ModelError(
                f"{type(model).__name__} does not read input_ids alone ({type(error).__name__}: {error}): a language "
                "model without an encoder of its own is needed, or a SequenceClassifier"
            ) from error

    def agree(self, names: Sequence[str]) -> bool:
        """Whether steps in these modules give the same live as folded."""
        part, reach = (0.003, 0.01) if self.model.dtype == torch.float32 else (0.15, 0.33)
        basis = SVDBasis({name: self.basis[name] for name in names})
        adapter = TinyLoRA(basis, AdapterConfig(rank=min(2, basis.rank), n_tie=1, strategy="top"))
        signs = philox("agreement", *names).choice([-1.0, 1.0], tuple(adapter.v.shape))
        weights, size = Weights(self.model, list(names)), _sizes(self.plain)
        for step in STEPS:
            adapter.v.data = torch.from_numpy(step * signs).float()
            with torch.no_grad(), weights.holding(adapter.update()):
                folded = self.outputs()
            effect = _sizes(folded - self.plain)  # (tokens,)
            moved = effect > reach * size
            if 2 * moved.sum() > len(moved):
                break
        if torch.equal(folded, self.plain):
            self.unused.add(kind(names[0]))
        live = self.live(adapter)
        unheard = torch.equal(live, self.plain) and not torch.equal(folded, self.plain)
        off = _sizes(live - folded)[moved] > part * effect[moved]
        return not unheard and 4 * off.sum() <= 3 * len(off)

    def live(self, adapter: TinyLoRA) -> Tensor:
        """What the model gives with the adapter attached."""
        adapter.attach(self.model)
        try:
            return self.outputs().detach()
        except Exception as error:  # as above
            raise ModelError(
                f"{adapter.names[0]} takes no adapter ({type(error).__name__}: {error}): a target takes one tensor and "
                "gives one. Leave it out with targets="
            ) from error
        finally:
            adapter.detach()

    def outputs(self) -> Tensor:
        """What training looks at, in fp32: logits, or a classifier's features, since its head may still be zero."""
        if isinstance(self.model, SequenceClassifier):
            return self.model.features(self.ids, torch.ones_like(self.ids), torch.ones_like(self.ids))
        out = self.model(input_ids=self.ids)
        return (out.logits if "logits" in out else out[0]).float()


def _sizes(outputs: Tensor) -> Tensor:
    """The norm of what stands at each token (of a classifier: at each text), (tokens,)."""
    return outputs.where(outputs.abs() < HUGE, 0).flatten(0, -2).norm(dim=1)


def plain_tokens(config) -> list[int]:
    """The ids of a vocabulary that stand for text: those of padding, images and the like have rules of their own."""
    text = config.get_text_config()
    settings = [*vars(config).items(), *vars(text).items()]
    special = {value for key, value in settings if "token" in key and isinstance(value, int)}
    return [i for i in range(text.vocab_size) if i not in special]
