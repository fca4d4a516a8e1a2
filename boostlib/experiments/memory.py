"""The peak memory of a run's rounds, estimated before anything is loaded, and the settings that make it fit.

    peak of a phase = sum of the parts that are alive in it;  peak of a run = the largest phase

    load       weights, the fp64 SVD of the widest weight, on a CPU of as many as there are threads, at most 8
    rollout    weights, W0, folded copies of the adapted weights (a CPU keeps them), key-value cache, one step
    train      weights, W0, activations of one micro-batch (all layers, or their inputs and one layer), the loss
    merge      weights, W0, one weight in fp32
    evaluate   weights, W0, key-value cache, one decoding step

Activations are those of shapes.py. The log-probabilities are TRL's chunked ones: the logits of a micro-batch (16 x 512
tokens of Qwen2.5 would be 5 GB) are never whole, only a tile of at most 4,096 tokens by 32,768 entries.

An upper estimate: every row is as long as the longest, every completion uses all its tokens, no two are equal and all
groups carry an advantage. `retried`: a round that found no advantage samples more (GRPO's `max_samples`).

`remedy` takes, while the peak is too high, the first change of a list that lowers it. The list begins with what changes
no result: W0 on the CPU, fewer completions sampled or trained on together, smaller batches in evaluation; gradient
checkpointing, which runs every layer twice, comes last.

Not counted: Python, torch and its libraries (about 0.7 GB of the host), the CUDA context (about 0.5 GB), workspaces of
cuBLAS, fragmentation of the allocator, a vLLM engine beside the model, the data set, LoRA baselines. Prompt lengths are
those of SmolLM2's tokenizer; another one's differ. Compared with a CPU's real peaks (tests), never with a GPU's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from boostlib.basis import TOGETHER
from boostlib.experiments.presets import Preset
from boostlib.experiments.shapes import Shapes, shapes_by_name
from boostlib.models.language import chosen_dtype, default_device
from boostlib.models.sequences import BATCH_TOKENS, LONGEST
from boostlib.tasks import load_task
from boostlib.training.grpo import GRPO

GB = 1e9
TILE = (4096, 32768)  # TRL's chunked log-probabilities: tokens, entries of the vocabulary
BASIS_CHUNK = 8  # a basis is held in multiples of so many directions

# tokens of the longest training prompt, of the longest prompt of any split, and of what all prompts begin with
PROMPTS = {
    "arithmetic": (43, 43, 36),
    "word_problems": (156, 156, 122),
    "python_basics": (79, 79, 28),
    "gsm8k": (281, 281, 24),
    "math500": (961, 961, 24),
    "mbpp": (427, 3754, 24),
    "humaneval": (512, 512, 24),  # not measured
    "synthetic_binding": (129, 129, 0),
    "binding": (LONGEST, LONGEST, 0),
}
UNKNOWN_PROMPT = (512, 512, 0)


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


@dataclass(frozen=True)
class Part:
    """Bytes that are alive together in `phases`, on the "device" or the "host"."""

    name: str
    bytes: float
    place: str
    phases: tuple[str, ...]


@dataclass(frozen=True)
class Estimate:
    """The parts of a run on `device`. On a CPU device and host are one memory."""

    parts: tuple[Part, ...]
    device: torch.device
    phases: tuple[str, ...]

    def peak(self, place: str = "device", phase: str | None = None) -> float:
        """Bytes at the worst of a phase, or of all; "device" on a CPU is all of memory."""
        phases = self.phases if phase is None else (phase,)
        here = [part for part in self.parts if self.device.type == "cpu" or part.place == place]
        return max(sum(part.bytes for part in here if one in part.phases) for one in phases)


def estimate(
    preset: Preset,
    device: torch.device | None = None,
    sizes: tuple[Shapes, Lengths] | None = None,
    retried: bool = False,
) -> Estimate:
    """The memory of `preset`'s rounds on `device` (default: this machine's), from shapes alone.

    sizes: of the model, and of prompts and answers, where their names say too little. retried: GRPO with as many
    samples a prompt as a round without an advantage comes to. Raises ModelError where the model's shapes are not to be
    had.
    """
    classifier = not isinstance(preset.trainer, GRPO)
    shapes, lengths = sizes or (shapes_by_name(preset.model, classifier), lengths_of(preset))
    run = _Run(preset, device or default_device(), shapes, lengths, retried)
    parts = run.weights() + run.adapter() + run.training() + run.answering()
    return Estimate(tuple(parts), run.device, run.phases)


@dataclass
class _Run:
    """A preset's sizes, and its parts in four groups."""

    preset: Preset
    device: torch.device
    shapes: Shapes
    lengths: Lengths
    retried: bool

    def __post_init__(self) -> None:
        trainer: Any = self.preset.trainer
        self.generates = isinstance(trainer, GRPO)
        self.e = chosen_dtype(self.preset.dtype, self.device).itemsize
        self.samples = getattr(trainer, "samples", 1)
        while self.retried and self.generates and self.samples * 2 <= trainer.max_samples:
            self.samples *= 2
        answers = "rollout" if self.generates else "validate"
        self.phases = ("load", answers, "train", "merge", "evaluate")

    def weights(self) -> list[Part]:
        """The model itself."""
        parts = [Part("weights", self.shapes.parameters * self.e, "device", self.phases)]
        if self.device.type != "cpu":
            parts.append(Part("weights, on their way", self.shapes.parameters * self.e, "host", ("load",)))
        return parts

    def adapter(self) -> list[Part]:
        """W0, basis, the merged update, the round's adapter, and what SVD, fold and merge take for a moment."""
        s, boost = self.shapes, self.preset.boost
        rank, later = boost.adapter.basis_rank(boost.rounds), self.phases[1:]
        held = -(-rank // BASIS_CHUNK) * BASIS_CHUNK
        merged = s.sides * boost.adapter.rank * boost.rounds * 4
        own = 4 * (s.sides * boost.adapter.rank + len(s.targets) * boost.adapter.u * boost.adapter.rank**2)
        short = max(min(shape) for shape in s.targets)
        at_once = min(torch.get_num_threads(), TOGETHER) if self.device.type == "cpu" else 1
        folded = later if self.device.type == "cpu" else later[:1]
        w0 = "device" if boost.w0_device is None or boost.w0_device == self.device.type else "host"
        return [
            Part("SVD of the widest weights, fp64", at_once * 8 * (s.widest + 4 * short**2), "device", ("load",)),
            Part("W0 of the adapted weights", s.target_numbers * self.e, w0, later),
            Part(f"basis, {held} directions, fp32", s.sides * held * 4, "host", self.phases),
            Part("update of all rounds, twice", 2 * merged, "host", later[:3]),
            Part("adapter", own, "host", later),
            Part("adapter, attached, with its optimizer", own + 16 * self._numbers(), "device", later[:2]),
            Part("folded weights", s.target_numbers * self.e, "device", folded),
            Part("one weight, fp32", 4 * s.widest * 4, "device", ("merge",)),
        ]

    def _numbers(self) -> int:
        return self.preset.boost.adapter.num_parameters(len(self.shapes.targets))

    def training(self) -> list[Part]:
        """Activations and loss of one micro-batch."""
        s, (rows, length) = self.shapes, self._micro_batch()
        tokens = rows * length
        one = tokens * s.saved(self.e, length, self.preset.boost.adapter.rank)
        if getattr(self.preset.trainer, "gradient_checkpointing", False):
            kept, name = s.layers * tokens * s.hidden * self.e + one, "activations, checkpointed"
        else:
            kept, name = s.layers * one, "activations"
        moment = tokens * s.passing(self.e, adapted=True)
        parts = [(name, kept), ("one linear's moment", moment), ("log-probabilities", self._loss(rows, length))]
        return [Part(name, size, "device", ("train",)) for name, size in parts]

    def _micro_batch(self) -> tuple[int, int]:
        """(rows, tokens a row) of the longest micro-batch; what all prompts share is run once, unless checkpointing."""
        trainer: Any = self.preset.trainer
        if not self.generates:
            length = min(self.lengths.prompt, self.shapes.longest)
            return max(1, min(trainer.micro_batch, trainer.batch, BATCH_TOKENS // length)), length
        prompt = self.lengths.prompt - (0 if trainer.gradient_checkpointing else self.lengths.shared)
        return min(trainer.micro_batch, trainer.prompts * self.samples), prompt + self.lengths.new

    def _loss(self, rows: int, length: int) -> int:
        """TRL's tile, in the model's dtype, with fp32 copies where there is no kernel; the hidden state's gradient."""
        if not self.generates:
            return 0
        s, on_cpu = self.shapes, self.device.type == "cpu"
        scored = rows * (length if on_cpu else self.lengths.new)
        tile = min(scored, TILE[0]) * (TILE[1] * self.e + (20 * min(s.vocab, TILE[1]) if on_cpu else 0))
        return tile + scored * s.hidden * (4 + self.e)

    def answering(self) -> list[Part]:
        """Caches and moments of rollouts and evaluation; a classifier keeps no cache."""
        boost, answers = self.preset.boost, self.phases[1]
        trainer: Any = self.preset.trainer
        if not self.generates:
            tokens = min(max(boost.batch_size, 64) * min(self.lengths.prompt, self.shapes.longest), BATCH_TOKENS)
            moment = tokens * self.shapes.passing(self.e, adapted=False)
            return [Part("one layer's moment", moment, "device", (answers, "evaluate"))]
        rows = min(trainer.rollout_batch, trainer.prompts * self.samples)
        own = self.lengths.prompt, self.lengths.new
        parts = [] if trainer.use_vllm else self._decoding(answers, rows, own, self.samples)
        return parts + self._decoding("evaluate", boost.batch_size, max(self.lengths.asked, key=sum))

    def _decoding(self, phase: str, rows: int, tokens: tuple[int, int], samples: int = 1) -> list[Part]:
        """Cache of `rows` sequences, tokens: of (prompt, answer); the larger of one step and of reading their prompts,
        once for all samples.

        A step holds fp32 logits twice, and twice more where it samples; attention holds keys and values of one layer
        once more, repeated for grouped heads. Reading holds one layer's moment and its mask, as bool and as numbers.
        """
        s, (prompt, new) = self.shapes, tokens
        length = prompt + new
        cache = 2 * s.layers * s.keys * self.e
        growing = rows * length * 2 * (s.keys + (s.attention if s.attention > s.keys else 0)) * self.e
        step = growing + rows * s.vocab * (self.e + (16 if samples > 1 else 8))
        reading = rows / samples * prompt * (s.passing(self.e, adapted=False) + prompt * (1 + self.e))
        return [
            Part(f"key-value cache, {phase}", rows * length * cache, "device", (phase,)),
            Part(f"one step, {phase}", max(step, reading), "device", (phase,)),
        ]


def remedy(preset: Preset, have: float, device: torch.device | None = None) -> str:
    """Settings under which the preset's estimate is at most `have` bytes, in words; "" where it fits as it is.

    Says what is the least that it needs where none of them is enough.
    """

    def peak(of: Preset) -> float:
        return estimate(of, device).peak()

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
