"""BoostLoRA: grow an update of high rank from adapters of a few numbers each (arXiv 2604.27308)."""

from boostlib.adapter import AdapterConfig, TinyLoRA
from boostlib.basis import SVDBasis, target_modules
from boostlib.boost import boost
from boostlib.bundle import Bundle
from boostlib.class_report import class_report, plot_classes
from boostlib.classifier import SequenceClassifier, load_classifier
from boostlib.errors import BoostError
from boostlib.evaluate import Result, evaluate, paired_bootstrap
from boostlib.export import export_bundle, export_merged, export_peft
from boostlib.gate import Gate
from boostlib.generate import encode, generate
from boostlib.greedy import Greedy
from boostlib.grpo import GRPO
from boostlib.html_report import write_html
from boostlib.identity import BoostConfig
from boostlib.incremental import Incremental
from boostlib.ledger import Ledger
from boostlib.models import load_model
from boostlib.presets import Preset, preset
from boostlib.probe import train_head
from boostlib.rank import effective_rank, epsilon_rank, subspace_overlap
from boostlib.resting import Resting
from boostlib.rounds import Round
from boostlib.run import Run, replay
from boostlib.supervised import CrossEntropy
from boostlib.tasks import load_task
from boostlib.update import LowRankUpdate
from boostlib.vllm_engine import VLLM

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
    "Incremental",
    "Ledger",
    "LowRankUpdate",
    "Preset",
    "Resting",
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
    "load_classifier",
    "load_model",
    "load_task",
    "paired_bootstrap",
    "plot_classes",
    "preset",
    "replay",
    "subspace_overlap",
    "target_modules",
    "train_head",
    "write_html",
]
