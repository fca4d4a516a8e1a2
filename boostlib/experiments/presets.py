"""Every hyper-parameter of a run, in one frozen object per preset and section.

smoke: continuous integration, a few steps. demo: 2 CPU cores, minutes, no hub. lab: the demo's model for 20 rounds on
one GPU. paper: the models and data of the paper, one 80 GB GPU and the hub.

Not stated by the paper and chosen here: learning rate, samples a prompt, steps a round, tying. The demo's
were chosen on the dev splits of `arithmetic` and `python_basics` and the validation split of `synthetic_binding`
alone (see data/runs/README.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from boostlib.adapter import AdapterConfig
from boostlib.common.errors import BoostError
from boostlib.config import BoostConfig
from boostlib.strategies.gate import Gate
from boostlib.training.cross_entropy import CrossEntropy
from boostlib.training.grpo import GRPO


@dataclass(frozen=True)
class Preset:
    """A model, a task, a trainer and the loop's settings: all that `boost` takes."""

    name: str
    model: str
    task: str
    trainer: GRPO | CrossEntropy  # CrossEntropy: the model is a classifier, its head is trained first
    boost: BoostConfig
    task_options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    full_learning_rate: float = 1e-6  # of the full fine-tuning baseline
    lora_learning_rate: float = 1e-4  # of the LoRA baseline, alpha = r
    sizes: Mapping[int, tuple[int, int, float]] = field(default_factory=dict)  # numbers: (n_tie, u, learning rate)
    method: str = "rotate"  # as `with_method` sets it
    gate: Gate | None = None  # None: every round is merged, as in the paper
    also: tuple[str, ...] = ()  # other tasks that the base and the boosted model are scored on at the end

    def with_seed(self, seed: int) -> "Preset":
        """The same preset with another seed, of the adapter's P and of the training alike."""
        return replace(self, boost=replace(self.boost, seed=seed, adapter=replace(self.boost.adapter, seed=seed)))


_SMOL_12 = AdapterConfig(rank=2, u=1, n_tie=18)  # 210 modules: 12 parameters
_SMOL_12_EVEN = replace(_SMOL_12, scaling="normalized")  # later rounds take steps of the first one's size
_ANTI_12 = AdapterConfig(rank=2, u=1, n_tie=4)  # 48 modules: 12 parameters
_ESM_12 = AdapterConfig(rank=2, u=1, n_tie=17)  # 198 modules: 12 parameters
_QWEN_12 = AdapterConfig(rank=2, u=1, n_tie=21)  # 252 modules: 12 parameters

_MATH_DEMO = Preset(
    name="demo",
    model="smollm2",
    task="arithmetic",
    trainer=GRPO(learning_rate=0.01, prompts=16, samples=8, max_steps=8),
    boost=BoostConfig(rounds=3, adapter=_SMOL_12),
    full_learning_rate=1e-5,
    lora_learning_rate=2e-3,
    sizes={210: (1, 1, 0.005)},
)
_QWEN_GRPO = GRPO(learning_rate=0.002, prompts=32, samples=8, max_steps=50, micro_batch=16, gradient_checkpointing=True)

MATH = {
    "smoke": replace(
        _MATH_DEMO,
        name="smoke",
        task_options={"train": 48, "dev": 16, "test": 48},
        trainer=GRPO(learning_rate=0.01, prompts=8, samples=4, max_steps=2),
        boost=BoostConfig(rounds=2, adapter=_SMOL_12),
        sizes={},
    ),
    "demo": _MATH_DEMO,
    "lab": replace(_MATH_DEMO, name="lab", boost=BoostConfig(rounds=20, adapter=_SMOL_12, batch_size=256), sizes={}),
    "paper": Preset(
        name="paper",
        model="Qwen/Qwen2.5-3B-Instruct",
        task="gsm8k",
        task_options={"dev": 0},
        trainer=_QWEN_GRPO,
        boost=BoostConfig(rounds=20, adapter=_QWEN_12, batch_size=128),
        also=("math500",),
    ),
}

_CODE_DEMO = Preset(
    name="demo",
    model="smollm2",
    task="python_basics",
    trainer=GRPO(learning_rate=0.01, prompts=8, samples=8, max_steps=4),
    boost=BoostConfig(rounds=2, adapter=_SMOL_12_EVEN, held_out=("test", "neighbour"), batch_size=80),
)

CODE = {
    "smoke": replace(
        _CODE_DEMO,
        name="smoke",
        task_options={"limits": {"train": 16, "dev": 8, "test": 16, "neighbour": 8}},
        trainer=GRPO(learning_rate=0.01, prompts=4, samples=4, max_steps=1),
        boost=replace(_CODE_DEMO.boost, batch_size=64),
    ),
    "demo": _CODE_DEMO,
    "lab": replace(
        _CODE_DEMO,
        name="lab",
        trainer=GRPO(learning_rate=0.01, prompts=16, samples=16, max_steps=6),
        boost=replace(_CODE_DEMO.boost, rounds=20, batch_size=256),
    ),
    "paper": Preset(
        name="paper",
        model="Qwen/Qwen2.5-3B-Instruct",
        task="mbpp",
        trainer=_QWEN_GRPO,
        boost=BoostConfig(rounds=20, adapter=_QWEN_12, held_out=("dev", "test"), batch_size=128),
        also=("humaneval",),
    ),
}

_PROTEIN_DEMO = Preset(
    name="demo",
    model="antiberty",
    task="synthetic_binding",
    trainer=CrossEntropy(learning_rate=0.03, batch=16, micro_batch=16, epochs=8.0, max_steps=16),
    boost=BoostConfig(rounds=3, adapter=_ANTI_12, held_out=("validation", "test")),
    full_learning_rate=1e-5,
    sizes={4032: (1, 84, 0.003), 129024: (1, 2688, 0.00003)},
)

PROTEIN = {
    "smoke": replace(
        _PROTEIN_DEMO,
        name="smoke",
        task_options={"train": 128, "validation": 32, "test": 32},
        trainer=CrossEntropy(learning_rate=0.01, batch=8, micro_batch=8, epochs=1.0, max_steps=2),
        boost=replace(_PROTEIN_DEMO.boost, rounds=2),
        full_learning_rate=1e-6,
        sizes={},
    ),
    "demo": _PROTEIN_DEMO,
    "lab": replace(_PROTEIN_DEMO, name="lab", boost=replace(_PROTEIN_DEMO.boost, rounds=20, batch_size=256), sizes={}),
    "paper": Preset(
        name="paper",
        model="facebook/esm2_t33_650M_UR50D",
        task="binding",
        trainer=CrossEntropy(learning_rate=0.01, batch=32, micro_batch=4, epochs=3.0, max_steps=200),
        boost=BoostConfig(rounds=20, adapter=_ESM_12, held_out=("validation", "test"), batch_size=32),
        full_learning_rate=1e-5,
    ),
}

# a rule of order alone, which composition and a linear probe cannot read: short loops, so that 2 cores do 8 rounds
_ORDER_DEMO = replace(
    _PROTEIN_DEMO,
    task="order_binding",
    trainer=CrossEntropy(learning_rate=0.03, batch=32, micro_batch=32, epochs=8.0, max_steps=16),
    boost=replace(_PROTEIN_DEMO.boost, rounds=8),
    full_learning_rate=1e-4,
)

ORDER = {
    "smoke": replace(PROTEIN["smoke"], task="order_binding"),
    "demo": _ORDER_DEMO,
    "lab": replace(_ORDER_DEMO, name="lab", boost=replace(_ORDER_DEMO.boost, rounds=20, batch_size=256), sizes={}),
}

# real measurements on 2 CPU cores: a sample of the training rows, chains cut to fit
BINDING = {
    "demo": replace(
        PROTEIN["demo"],
        task="binding",
        task_options={"limits": {"train": 320, "validation": 96, "test": 256}, "max_length": 256},
        trainer=replace(PROTEIN["demo"].trainer, max_steps=8, checks=2),  # type: ignore[arg-type]  # a CrossEntropy
        sizes={},
    ),
    "paper": PROTEIN["paper"],
}

# tickets to desks: a head of one logit a desk on MiniLM
_MINI_12 = AdapterConfig(rank=2, u=1, n_tie=3)  # 36 modules: 12 parameters

_TEXT_DEMO = Preset(
    name="demo",
    model="minilm",
    task="tickets",
    trainer=CrossEntropy(learning_rate=0.03, batch=16, micro_batch=16, epochs=8.0, max_steps=16, balance=False),
    boost=BoostConfig(rounds=4, adapter=_MINI_12, held_out=("validation", "test")),
    full_learning_rate=2e-5,
)

TEXT = {
    "smoke": replace(
        _TEXT_DEMO,
        name="smoke",
        task_options={"train": 800, "validation": 160, "test": 40},  # with fewer the probe gets all of train right
        trainer=CrossEntropy(learning_rate=0.03, batch=8, micro_batch=8, epochs=1.0, max_steps=2, balance=False),
        boost=replace(_TEXT_DEMO.boost, rounds=2),
    ),
    "demo": _TEXT_DEMO,
    "lab": replace(_TEXT_DEMO, name="lab", boost=replace(_TEXT_DEMO.boost, rounds=20, batch_size=256)),
}

# rank growth: a live run as short as the theorem allows; comparisons come from recorded runs of MATH["demo"]'s settings
GROWTH = {
    "smoke": replace(
        MATH["smoke"],
        task_options={"train": 32, "dev": 8, "test": 16},
        trainer=replace(MATH["smoke"].trainer, max_steps=1),
    ),
    "demo": replace(
        MATH["demo"],
        task_options={"train": 64, "dev": 16, "test": 64},
        trainer=replace(MATH["demo"].trainer, max_steps=2),
    ),
    "lab": MATH["lab"],
}

# a worked incident: failures of SmolLM2 in three classes with costs, guards, and held-out cases (data/incident)
_INCIDENT: dict[str, Any] = {
    "path": str(Path(__file__).resolve().parents[2] / "data" / "incident"),
    "stop": "\n",
    "max_new_tokens": 4,
}

MAINTENANCE = {
    "smoke": replace(
        MATH["smoke"],
        task="error_log",
        task_options={**_INCIDENT, "limits": {"train": 32, "guard": 12, "test": 12}},
        trainer=replace(MATH["smoke"].trainer, max_steps=4),
        gate=Gate(adjacent=("test",), alpha=0.6, allowed_guards=1),  # four steps on 32 cases: too few to tell from luck
    ),
    "demo": replace(
        MATH["demo"],
        task="error_log",
        task_options=_INCIDENT,
        boost=replace(MATH["demo"].boost, rounds=4),
        gate=Gate(adjacent=("test",), allowed_guards=1),
    ),
    "lab": replace(
        MATH["lab"],
        task="error_log",
        task_options=_INCIDENT,
        gate=Gate(adjacent=("test",), allowed_guards=1, patience=4),
    ),
}

SECTIONS = {"math": MATH, "code": CODE, "protein": PROTEIN, "order": ORDER, "binding": BINDING, "text": TEXT}


def preset(name: str, section: Mapping[str, Preset] = MATH) -> Preset:
    """A preset of a section by name. Raises BoostError that lists the known ones."""
    if name not in section:
        raise BoostError(f"no preset {name!r}; there are {', '.join(section)}")
    return section[name]
