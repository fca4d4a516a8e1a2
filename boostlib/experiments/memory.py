"""The peak memory of a run's rounds, estimated before anything is loaded, and the settings that make it fit.

    peak = what a run holds + the largest of its phases

    holds      weights, W0; on a CPU also folded copies of the adapted weights, basis, summed update and adapter
    rollout    on a GPU folded weights; key-value cache, one step
    train      activations of one micro-batch (all layers, or their inputs and one layer), the loss
    evaluate   key-value cache, one decoding step; of a classifier, which has no rollouts, one layer's moment

Loading (an SVD at a time) and merging (a weight at a time) stay below these. Activations: bytes that the backward pass
through one layer waits for, per token (h hidden, a = heads * head size, i the widest output of a target, e bytes a
number, L tokens a row, m adapted weights of rank r). Weights are frozen, so no linear keeps its input:

    Llama, Qwen   8h (the fp32 input of two RMSNorms) + 4ae (q, k, v, attention's output) + 3ie (gate, silu(gate), up)
    BERT          2he (the input of two LayerNorms)   + 4ae                               + ie  (GELU's input)
    ESM2          2he                                 + 4ae                               + 3ie (GELU written out)
    all           + Le (the mask, once more in every layer) + 4rm (Vh x of every adapted weight, fp32)

Keys and values are counted a each: grouped heads are repeated before attention wherever rows are padded. The
log-probabilities are TRL's chunked ones: the logits of a micro-batch (16 x 512 tokens of Qwen2.5 would be 5 GB) are
never whole, only a tile of at most 4,096 tokens by 32,768 entries.

An upper estimate: every row is as long as the longest, every completion uses all its tokens, no two are equal and all
groups carry an advantage. `retried`: a round that found no advantage samples more (GRPO's `max_samples`).

`remedy` takes, while the peak is too high, the first change of a list that lowers it. The list begins with what changes
no result: W0 on the CPU, fewer completions sampled or trained on together, smaller batches in evaluation; gradient
checkpointing, which runs every layer twice, comes last.

Not counted: Python, torch and its libraries (about 0.7 GB of the host), the CUDA context (about 0.5 GB), workspaces of
cuBLAS, fragmentation of the allocator, a vLLM engine beside the model, the data set, LoRA baselines; of a GPU's run the
host. Prompt lengths are those of SmolLM2's tokenizer; another one's differ. Compared with a CPU's real peaks (tests),
never with a GPU's.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig

from boostlib.common.errors import ModelError
from boostlib.common.targets import matrix, target_modules
from boostlib.evaluation.layout import window
from boostlib.experiments.presets import Preset
from boostlib.models.checkpoint import encoder_class
from boostlib.models.classifier import SequenceClassifier
from boostlib.models.language import chosen_dtype, default_device, loading, weights_source
from boostlib.models.sequences import BATCH_TOKENS, LONGEST
from boostlib.tasks import load_task
from boostlib.training.grpo import GRPO

GB = 1e9
COMPARED = ("llama", "qwen2", "bert", "esm")  # kinds of model whose activations the tests compare
TILE = (4096, 32768)  # TRL's chunked log-probabilities: tokens, entries of the vocabulary

# tokens of the longest training prompt, of the longest prompt of any split, and of what all prompts begin with
PROMPTS = {
    "arithmetic": (43, 43, 36),
    "word_problems": (156, 156, 122),
    "python_basics": (79, 79, 28),
    "python_more": (79, 79, 28),
    "gsm8k": (281, 281, 24),
    "math500": (961, 961, 24),
    "mbpp": (427, 3754, 24),
    "humaneval": (512, 512, 24),  # not measured
    "synthetic_binding": (129, 129, 0),
    "order_binding": (29, 29, 0),
    "binding": (LONGEST, LONGEST, 0),
    "tickets": (69, 69, 0),
}
UNKNOWN_PROMPT = (512, 512, 0)

# the models of the presets, so that their shapes are known before anything is fetched
SETTINGS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
            "vocab_size", "max_position_embeddings")  # fmt: skip
KNOWN: Mapping[str, tuple[str, tuple[int, ...], Mapping[str, Any]]] = {  # kind, SETTINGS, what else matters
    "smollm2": ("llama", (576, 30, 9, 3, 1536, 49152, 8192), {"tie_word_embeddings": True}),
    "antiberty": ("bert", (512, 8, 8, 8, 2048, 25, 512), {}),
    "minilm": ("bert", (384, 6, 12, 12, 1536, 30522, 512), {}),
    "Qwen/Qwen2.5-3B-Instruct": ("qwen2", (2048, 36, 16, 2, 11008, 151936, 32768), {"tie_word_embeddings": True}),
    "facebook/esm2_t33_650M_UR50D": (
        "esm",
        (1280, 33, 20, 20, 5120, 33, 1026),
        {"position_embedding_type": "rotary", "pad_token_id": 1, "mask_token_id": 32},
    ),
}


# --- what a model and its texts are like: nothing is loaded, a model is built on torch's meta device


@dataclass(frozen=True)
class Shapes:
    """Sizes that memory depends on. targets: (out, in) of every adapted weight; attention: heads * head size."""

    parameters: int
    targets: tuple[tuple[int, int], ...]
    layers: int
    hidden: int
    intermediate: int
    attention: int
    keys: int  # key-value heads * head size: what a cache holds, twice, per token and layer
    vocab: int
    longest: int  # tokens that an encoder takes
    shares: bool  # what all prompts begin with is read once, as far as the config tells
    kind: str  # "gated", "esm" or "plain": which line of the formula holds

    @property
    def target_numbers(self) -> int:
        """Numbers in all adapted weights."""
        return sum(out * into for out, into in self.targets)

    @property
    def sides(self) -> int:
        """Sum of out + in over the adapted weights: a factor pair of rank 1 has as many numbers."""
        return sum(out + into for out, into in self.targets)

    def saved(self, e: int, length: int, rank: int) -> int:
        """Bytes per token that one layer's backward pass waits for, at rows of `length` tokens. See the formula."""
        h, a, i = self.hidden, self.attention, self.intermediate
        norms = 8 * h if self.kind == "gated" else 2 * h * e
        inside = i * e * (1 if self.kind == "plain" else 3)
        modules = len(self.targets) / self.layers
        return round(norms + 4 * a * e + inside + length * e + 4 * rank * modules)

    def passing(self, e: int, adapted: bool) -> int:
        """Bytes per token that are there for the moment of one linear. adapted: its hook's fp32 input, branch, sum."""
        if not adapted:
            return 8 * self.hidden + 3 * self.intermediate * e
        return max((4 * into if e < 4 else 0) + out * (8 + e) for out, into in self.targets)


def shapes_of(model: nn.Module) -> Shapes:
    """The shapes of a language model, or of a SequenceClassifier, on whatever device, the meta device included.

    Raises ModelError for a kind that the formula does not describe: experts, of which a token sees a few, states and
    convolutions, layers without attention heads.
    """
    config = model.config.get_text_config()
    names = target_modules(model)
    targets = tuple(tuple(matrix(model.get_submodule(name)).shape) for name in names)
    others = any("experts" in name or isinstance(module, nn.Conv1d) for name, module in model.named_modules())
    heads, layers = (getattr(config, name, None) for name in ("num_attention_heads", "num_hidden_layers"))
    if others or not isinstance(heads, int) or not layers:
        raise ModelError(f"memory is not estimated for models of the kind {config.model_type!r}")
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    gated = any(name.endswith("gate_proj") for name in names)
    return Shapes(
        parameters=sum(p.numel() for p in model.parameters()),
        targets=targets,
        layers=layers,
        hidden=config.hidden_size,
        intermediate=max(out for out, _ in targets),
        attention=heads * size,
        keys=(getattr(config, "num_key_value_heads", None) or heads) * size,
        vocab=config.vocab_size,
        longest=getattr(model, "positions", None) or LONGEST,
        shares=not window(model.config),
        kind="gated" if gated else "esm" if config.model_type == "esm" else "plain",
    )


@lru_cache
def shapes_by_name(name: str, classifier: bool = False) -> Shapes:
    """The shapes of a model of the presets, of a local folder, or of a hub id, from its config alone.

    classifier: as an encoder. Raises ModelError where there is no config to be had.
    """
    return shapes_of(built(config_by_name(name), classifier))


def config_by_name(name: str) -> PretrainedConfig:
    """The config of `name`: from the table of this file, a local folder or the hub. Raises ModelError."""
    if name in KNOWN:
        kind, sizes, more = KNOWN[name]
        return AutoConfig.for_model(kind, **dict(zip(SETTINGS, sizes, strict=True)), **more)
    with loading(name):
        return AutoConfig.from_pretrained(weights_source(name))


def built(config: PretrainedConfig, classifier: bool = False, device: str = "meta") -> nn.Module:
    """A model of that config in fp32: shapes only on "meta", else with random numbers. The config stays as it is.

    Raises ModelError where transformers does not build it.
    """
    config = copy.deepcopy(config)
    encoder: Any = encoder_class(config)
    try:
        with torch.device(device):
            if not classifier:
                return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            whole = encoder is AutoModel
            return SequenceClassifier(encoder.from_config(config, dtype=torch.float32) if whole else encoder(config))
    except Exception as error:  # whatever a kind's own code raises
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"transformers builds no model of the kind {config.model_type!r} from its config: {reason}"
        ) from error


@dataclass(frozen=True)
class Lengths:
    """Tokens: of a training row's prompt, of what all prompts share, of an answer; (prompt, answer) of evaluations."""

    prompt: int
    shared: int
    new: int
    asked: tuple[tuple[int, int], ...]


def lengths_of(preset: Preset) -> Lengths:
    """The lengths of a preset's tasks, from PROMPTS and the tasks' own limits; 512 a prompt where none is known."""
    task: Any = load_task(preset.task, **preset.task_options)
    prompt, longest, shared = PROMPTS.get(preset.task, UNKNOWN_PROMPT)
    if not isinstance(preset.trainer, GRPO):
        chain = min(prompt, task.max_length or LONGEST)
        return Lengths(chain, 0, 0, ((chain, 0),))
    others: list[Any] = [load_task(name) for name in preset.also]
    also = [(PROMPTS.get(other.name, UNKNOWN_PROMPT)[1], other.max_new_tokens) for other in others]
    return Lengths(prompt, shared, task.max_new_tokens, ((longest, task.max_new_tokens), *also))


# --- the estimate


def estimate(
    preset: Preset,
    device: torch.device | None = None,
    sizes: tuple[Shapes, Lengths] | None = None,
    retried: bool = False,
) -> dict[str, float]:
    """Phase ("rollout", "train", "evaluate") -> bytes at its peak on `device` (default: this machine's; on a CPU: in
    all), from shapes alone.

    sizes: of the model, and of prompts and answers, where their names say too little. retried: GRPO with as many
    samples a prompt as a round without an advantage comes to. Raises ModelError where the model's shapes are not to be
    had.
    """
    sizes = sizes or (shapes_by_name(preset.model, not isinstance(preset.trainer, GRPO)), lengths_of(preset))
    run = _Run(preset, device or default_device(), sizes, retried)
    held = run.held()
    return {phase: held + more for phase, more in run.phases().items()}


class _Run:
    """A preset's sizes, and the bytes that they come to."""

    def __init__(self, preset: Preset, device: torch.device, sizes: tuple[Shapes, Lengths], retried: bool):
        trainer: Any = preset.trainer
        self.boost, self.trainer, self.generates = preset.boost, trainer, isinstance(trainer, GRPO)
        self.shapes, self.lengths = sizes
        self.on_cpu, self.e = device.type == "cpu", chosen_dtype(preset.dtype, device).itemsize
        self.samples = trainer.samples if self.generates else 1
        while retried and self.generates and self.samples * 2 <= trainer.max_samples:
            self.samples *= 2

    def held(self) -> float:
        """The model and W0; on a CPU also folded weights, basis, update (twice, while it is summed) and adapter."""
        s, adapter, rounds = self.shapes, self.boost.adapter, self.boost.rounds
        if not self.on_cpu:
            return self.e * (s.parameters + (0 if self.boost.w0_device == "cpu" else s.target_numbers))
        directions = adapter.basis_rank(rounds) + (2 * rounds + 1) * adapter.rank
        return self.e * (s.parameters + 2 * s.target_numbers) + 4 * s.sides * directions

    def phases(self) -> dict[str, float]:
        """What each phase takes beside that; sampling by vLLM takes nothing here."""
        trainer, lengths = self.trainer, self.lengths
        if not self.generates:
            tokens = min(max(self.boost.batch_size, 64) * self._chain(), BATCH_TOKENS)
            return {"train": self._train(), "evaluate": tokens * self.shapes.passing(self.e, adapted=False)}
        rows = 0 if trainer.use_vllm else min(trainer.rollout_batch, trainer.prompts * self.samples)
        folded = 0 if self.on_cpu else self.shapes.target_numbers * self.e
        return {
            "rollout": folded + self._decode(rows, (lengths.prompt, lengths.new), self.samples),
            "train": self._train(),
            "evaluate": self._decode(self.boost.batch_size, max(lengths.asked, key=sum)),
        }

    def _chain(self) -> int:
        return min(self.lengths.prompt, self.shapes.longest)

    def _train(self) -> float:
        """Activations, one linear's moment and the loss, of the longest micro-batch; what all prompts share is run
        once, unless checkpointing or a model that reads every prompt whole.

        The loss: TRL's tile, in the model's dtype, with fp32 copies where there is no kernel; the hidden state's
        gradient.
        """
        s, e, trainer, new = self.shapes, self.e, self.trainer, self.lengths.new
        checkpointed, loss = getattr(trainer, "gradient_checkpointing", False), 0
        if self.generates:
            length = self.lengths.prompt - (self.lengths.shared if s.shares and not checkpointed else 0) + new
            rows = min(trainer.micro_batch, trainer.prompts * self.samples)
            scored = rows * (length if self.on_cpu else new)
            tile = min(scored, TILE[0]) * (TILE[1] * e + (20 * min(s.vocab, TILE[1]) if self.on_cpu else 0))
            loss = tile + scored * s.hidden * (4 + e)
        else:
            length = self._chain()
            rows = max(1, min(trainer.micro_batch, trainer.batch, BATCH_TOKENS // length))
        layer = s.saved(e, length, self.boost.adapter.rank)  # a token
        kept = s.layers * s.hidden * e + layer if checkpointed else s.layers * layer
        return rows * length * (kept + s.passing(e, adapted=True)) + loss

    def _decode(self, rows: int, tokens: tuple[int, int], samples: int = 1) -> float:
        """Cache of `rows` sequences, tokens: of (prompt, answer); and the larger of one step and of reading their
        prompts, once for all samples.

        A step holds fp32 logits twice, and twice more where it samples; attention holds keys and values of one layer
        once more, repeated for grouped heads. Reading holds one layer's moment and its mask, as bool and as numbers.
        """
        s, e, (prompt, new) = self.shapes, self.e, tokens
        cache = rows * (prompt + new) * 2 * e  # of one number each of a key and a value
        step = cache * (s.keys + (s.attention if s.attention > s.keys else 0))
        step += rows * s.vocab * (e + (16 if samples > 1 else 8))
        reading = rows / samples * prompt * (s.passing(e, adapted=False) + prompt * (1 + e))
        return cache * s.layers * s.keys + max(step, reading)


# --- what makes it fit


def remedy(preset: Preset, have: float, device: torch.device | None = None) -> str:
    """Settings under which the preset's estimate is at most `have` bytes, in words; "" where it fits as it is.

    Says what is the least that it needs where none of them is enough.
    """

    def peak(of: Preset) -> float:
        return max(estimate(of, device).values())

    need, changed = peak(preset), {}
    while need > have:
        smaller = next(((n, p, size) for n, p in _changes(preset) if (size := peak(p)) < need), None)
        if smaller is None:
            return f"no setting is enough: it needs {need / GB:.1f} GB at least"
        (name, value), preset, need = smaller
        changed[name] = value
    settings = ", ".join(f"{name}={value!r}" for name, value in changed.items())
    return f"{settings}: {need / GB:.1f} GB" if changed else ""


def _changes(preset: Preset) -> Iterator[tuple[tuple[str, object], Preset]]:
    """((setting, its new value), the preset with it), the least disturbing first."""
    boost = preset.boost
    trainer: Any = preset.trainer
    if boost.w0_device is None:
        yield ("w0_device", "cpu"), replace(preset, boost=replace(boost, w0_device="cpu"))
    step = trainer.prompts * trainer.samples if isinstance(trainer, GRPO) else trainer.batch
    for name in ("rollout_batch", "micro_batch"):
        half = min(getattr(trainer, name, 1), step) // 2  # a setting above what a step takes has no effect
        if half:
            yield (name, half), replace(preset, trainer=replace(trainer, **{name: half}))
    if boost.batch_size > 1:
        half = boost.batch_size // 2
        yield ("batch_size", half), replace(preset, boost=replace(boost, batch_size=half))
    if getattr(trainer, "gradient_checkpointing", True) is False:
        checkpointed = replace(trainer, gradient_checkpointing=True)
        yield ("gradient_checkpointing", True), replace(preset, trainer=checkpointed)
