"""All merged rounds as one LoRA in PEFT's format, and whether vLLM would load it.

    B = [B_0 .. B_T] (out, r*T)    A = [A_0; ..; A_T] (r*T, in)    lora_alpha = r*T, so that alpha / rank = 1

vLLM reads the same files, with rules of its own: its `PEFTHelper` takes no modules_to_save, DoRA or bias, its LoRA
rank is at most one of a few numbers, and it knows modules by their last names.
"""

from collections.abc import Mapping
from typing import Any

from peft import LoraConfig
from torch import Tensor, nn

from boostlib.common.errors import RunError
from boostlib.models.classifier import SequenceClassifier
from boostlib.run import Run
from boostlib.update import LowRankUpdate

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank may be (MaxLoRARanks, vLLM 0.27)
PREFIX = "base_model.model."  # of every module in a PEFT file


def lora_config(run: Run) -> dict[str, Any]:
    """The content of adapter_config.json. Raises RunError where there is nothing to export."""
    ranks = {b.shape[1] for b, _ in run.update.values()}
    if not ranks:
        raise RunError(f"{run.dir} has no merged round up to this one: there is no LoRA to export")
    (rank,) = ranks
    classifier = isinstance(run.model, SequenceClassifier)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=_target_names(run),
        task_type="FEATURE_EXTRACTION" if classifier else "CAUSAL_LM",
        base_model_name_or_path=run.ledger.header["identity"]["model"]["name"],
        inference_mode=True,
    ).to_dict()
    return {**config, "target_modules": sorted(config["target_modules"])}  # a set has another order in each process


def vllm_problems(config: Mapping[str, Any]) -> list[str]:
    """What of a PEFT config vLLM would refuse, by the rules of its `PEFTHelper` and `MaxLoRARanks`; empty: nothing."""
    problems = []
    if config["r"] > VLLM_RANKS[-1]:
        problems.append(f"rank {config['r']} is above {VLLM_RANKS[-1]}, the most vLLM takes: export fewer rounds")
    if any("." in name for name in config["target_modules"]):
        problems.append("vLLM knows modules by plain names such as q_proj: these targets cover only some layers")
    unset = ("modules_to_save", "use_dora", "use_rslora", "rank_pattern", "alpha_pattern")
    problems += [f"vLLM does not take {key}={config[key]!r}" for key in unset if config.get(key)]
    if config.get("bias", "none") != "none":
        problems.append(f"vLLM does not take bias={config['bias']!r}")
    return problems


def serving_notes(config: Mapping[str, Any]) -> list[str]:
    """What to tell who serves it: the setting of vLLM, or why it is not for vLLM. Nothing for an encoder."""
    problems = vllm_problems(config)
    if config["task_type"] != "CAUSAL_LM":
        return []
    if problems:
        return [f"Not for vLLM: {'; '.join(problems)}."]
    return [f"vLLM: `--enable-lora --max-lora-rank {vllm_max_lora_rank(config['r'])}`."]


def vllm_max_lora_rank(rank: int) -> int:
    """The smallest `--max-lora-rank` of vLLM that a LoRA of `rank` fits. Raises RunError where none does."""
    fitting = [allowed for allowed in VLLM_RANKS if allowed >= rank]
    if not fitting:
        raise RunError(f"a LoRA of rank {rank} fits no vLLM: its ranks end at {VLLM_RANKS[-1]}. Export fewer rounds")
    return fitting[0]


def _target_names(run: Run) -> list[str]:
    """Plain last names (q_proj) where PEFT then matches exactly the run's modules, else their full names.

    An encoder gets full names: a plain load gives it back the pooler that `SequenceClassifier` drops, another `dense`.
    """
    names = list(run.update)
    last = {name.rsplit(".", 1)[-1] for name in names}
    matched = {name for name, _ in run.model.named_modules() if name.rsplit(".", 1)[-1] in last}
    if matched == set(names) and not isinstance(run.model, SequenceClassifier):
        return sorted(last)
    return [_in_base(name, run.model) for name in names]


def lora_tensors(update: LowRankUpdate, model: nn.Module) -> dict[str, Tensor]:
    """The content of adapter_model.safetensors: fp32 factors under PEFT's names."""
    return {
        f"{PREFIX}{_in_base(name, model)}.lora_{part}.weight": factor.detach().cpu().contiguous()
        for name, (b, a) in update.items()
        for part, factor in (("A", a), ("B", b))
    }


def _in_base(name: str, model: nn.Module) -> str:
    """The module's name in the base model as plain transformers loads it: of a classifier, in its encoder."""
    return name.removeprefix("encoder.") if isinstance(model, SequenceClassifier) else name
