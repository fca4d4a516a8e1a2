"""BoostLoRA: grow an update of high rank from adapters of a few numbers each (arXiv 2604.27308)."""

import sys

if sys.platform == "win32":
    raise ImportError(
        "boostlib does not run on Windows: it needs a POSIX system for file locks and its sandbox. "
        "Install it in WSL (Windows Subsystem for Linux) or on a Linux machine"
    )

from boostlib.adapter import AdapterConfig, TinyLoRA
from boostlib.basis import SVDBasis, target_modules
from boostlib.boost import boost
from boostlib.common.errors import BoostError
from boostlib.config import BoostConfig
from boostlib.evaluation.evaluate import Result, evaluate, paired_bootstrap
from boostlib.evaluation.generate import encode, generate
from boostlib.evaluation.vllm import VLLM
from boostlib.experiments.presets import Preset, preset
from boostlib.models.classifier import SequenceClassifier, load_classifier
from boostlib.models.language import load_model
from boostlib.rank import effective_rank, epsilon_rank, subspace_overlap
from boostlib.records.bundle import Bundle
from boostlib.records.ledger import Ledger
from boostlib.records.rows import Round
from boostlib.release.classes import class_report, plot_classes
from boostlib.release.export import export_bundle, export_merged, export_peft
from boostlib.release.html import write_html
from boostlib.release.mistakes import label_report, pair_report
from boostlib.run import Run, replay
from boostlib.strategies.gate import Gate
from boostlib.strategies.greedy import Greedy
from boostlib.strategies.lora import LoRAConfig
from boostlib.tasks import load_task
from boostlib.training.cross_entropy import CrossEntropy
from boostlib.training.grpo import GRPO
from boostlib.training.probe import train_head
from boostlib.update import LowRankUpdate

__all__ = [
    "GRPO",
    "VLLM",
    "AdapterConfig",
    "BoostConfig",
    "BoostError",
    "Bundle",
    "CrossEntropy",
    "Gate",
    "Greedy",
    "Ledger",
    "LoRAConfig",
    "LowRankUpdate",
    "Preset",
    "Result",
    "Round",
    "Run",
    "SVDBasis",
    "SequenceClassifier",
    "TinyLoRA",
    "boost",
    "class_report",
    "effective_rank",
    "encode",
    "epsilon_rank",
    "evaluate",
    "export_bundle",
    "export_merged",
    "export_peft",
    "generate",
    "label_report",
    "load_classifier",
    "load_model",
    "load_task",
    "pair_report",
    "paired_bootstrap",
    "plot_classes",
    "preset",
    "replay",
    "subspace_overlap",
    "target_modules",
    "train_head",
    "write_html",
]
