"""Whether what trains is what is merged: an adapter's live branch against the weights that it is folded into.

The branch hangs on a module's call; folding changes the module's weight. They are the same function only where the
weight is read by that call and nowhere else, and multiplied as it is. `nn.MultiheadAttention` and Mamba read weights
of modules that they never call, and some layers round theirs first: a run would train one model and merge another.

Checked once, before a run's first round: a few random tokens, a step of the size of the weights' own leading directions
with random signs, outputs live (with gradients on, as in training) and folded. Nothing of it stays, and torch's
generators are left as they were.

    disagree:  |live - folded| > part |folded - plain| + floor |plain|        norms over all outputs
    (part, floor) = (0.003, 1e-5) in fp32, (0.3, 0.05) in bf16

Where the live output is the plain one to the last bit, and the folded one is not, they disagree whatever the sizes.
Measured on SmolLM2: 1e-6 of the change in fp32; in bf16 0.01 to 0.13, as each weight and output is rounded. So that a
kind of module is not lost among the others, kinds are tried one by one in bf16; in fp32 only to name them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from boostlib.adapter import AdapterConfig, TinyLoRA
from boostlib.basis import SVDBasis
from boostlib.common.errors import BoostError, ModelError
from boostlib.common.stable import philox
from boostlib.common.targets import kind
from boostlib.models.classifier import SequenceClassifier
from boostlib.update import Weights

ROWS, TOKENS = 2, 8
HUGE = 1e6  # outputs beyond it, or not finite, stand for "never" and are not compared


def require_agreement(model: nn.Module, basis: SVDBasis, weights: Weights) -> None:
    """Raises ModelError, naming them, where modules of `basis` do not give live what they give folded.

    model: a language model or a SequenceClassifier that holds W0, of which `weights` has the copy.
    """
    adapter = TinyLoRA(basis, AdapterConfig(rank=min(2, basis.rank), n_tie=1, strategy="top"))
    was_training, devices = model.training, [model.device] if model.device.type == "cuda" else []
    model.eval()
    try:
        with torch.random.fork_rng(devices):
            adapter.attach(model, weights)
            wrong = _wrong(list(basis), _trial(model, adapter), exact=model.dtype == torch.float32)
    except BoostError:
        raise
    except Exception as error:  # whatever the code of any model may raise
        raise ModelError(
            f"{type(model).__name__} cannot be adapted: it fails on {TOKENS} tokens with an adapter attached "
            f"({type(error).__name__}: {error}). A language model that reads input_ids alone is needed, or a "
            "SequenceClassifier; or leave the modules out with targets= that do not give one tensor for another"
        ) from error
    finally:
        adapter.detach()
        model.train(was_training)
    if wrong:
        kinds, last = sorted(set(map(kind, wrong))), {name: name.rsplit(".", 1)[-1] for name in basis}
        fine = sorted(set(last.values()) - {last[name] for name in wrong})
        raise ModelError(
            f"{', '.join(kinds)}: what trains there would not be what is merged ({wrong[0]} and {len(wrong) - 1} more "
            "read their weight without being called, or change it before they use it). Leave them out: "
            f"targets={tuple(fine)}"
        )


def _wrong(names: Sequence[str], agree: Callable[[Sequence[str]], bool], exact: bool) -> list[str]:
    """The names of modules that do not agree: by themselves, or else all of a kind that does not."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(kind(name), []).append(name)
    if exact and agree(names):
        return []
    failing = [group for group in kinds.values() if not agree(group)]
    return [name for group in failing for name in [n for n in group if not agree([n])] or group]


def _trial(model: nn.Module, adapter: TinyLoRA) -> Callable[[Sequence[str]], bool]:
    """Whether outputs with a step in these modules alone are the same live and folded; see above."""
    part, floor = (3e-3, 1e-5) if model.dtype == torch.float32 else (0.3, 0.05)
    draw = philox("agreement")
    ids = torch.from_numpy(draw.choice(_tokens(model.config), (ROWS, TOKENS))).to(model.device)
    step = torch.from_numpy(draw.choice([-1.0, 1.0], tuple(adapter.v.shape))).to(adapter.v)  # (modules, 1)
    with torch.no_grad():
        plain = _outputs(model, ids)  # v is 0: not a bit of it is the adapter's

    def agree(names: Sequence[str]) -> bool:
        chosen = torch.tensor([name in names for name in adapter.names], device=step.device)
        adapter.v.data = step * chosen[:, None]
        live = _outputs(model, ids).detach()
        with torch.no_grad(), adapter.folded():
            folded = _outputs(model, ids)
        seen = (plain.abs() < HUGE) & (live.abs() < HUGE) & (folded.abs() < HUGE)
        error, effect, size = (
            (one - other)[seen].norm() for one, other in ((live, folded), (folded, plain), (plain, 0))
        )
        unheard = torch.equal(live, plain) and not torch.equal(folded, plain)
        return bool(error <= part * effect + floor * size) and not unheard

    return agree


def _tokens(config) -> list[int]:
    """The ids of a model's vocabulary that stand for text: those of padding, images and the like have rules of their
    own."""
    text = config.get_text_config()
    special = {
        value
        for one in (config, text)
        for key, value in vars(one).items()
        if "token" in key and value is not None and isinstance(value, int)
    }
    return [i for i in range(text.vocab_size) if i not in special]


def _outputs(model: nn.Module, ids: Tensor) -> Tensor:
    """What training looks at, in fp32: logits, or a classifier's features, since its head may still be zero."""
    if isinstance(model, SequenceClassifier):
        return model.features(ids, torch.ones_like(ids), torch.ones_like(ids))
    out = model(input_ids=ids)
    return (out.logits if "logits" in out else out[0]).float()
