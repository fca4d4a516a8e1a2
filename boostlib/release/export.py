"""A run as something to release: a plain model, a LoRA in PEFT's format, or one small file.

    merged   cast(W0 + sum of rounds), saved by transformers: loads without boostlib, costs nothing at inference
    peft     B = [B_0 .. B_T] (out, r*T), A = [A_0; ..; A_T] (r*T, in), lora_alpha = r*T, so that alpha / rank = 1
    bundle   the ledger, every round's numbers and sketches (see `bundle.py`): `replay` rebuilds from it

Departures and choices: a skipped or rejected round adds no columns, so T counts merged rounds. The LoRA keeps fp32
factors, and where the base is bf16 it adds them in the forward pass instead of rounding them into the weights: it then
differs from the merged model by that rounding, and is the finer of the two.

vLLM reads a LoRA's files with rules of its own: its LoRA rank is at most one of a few numbers, and it knows modules by
their last names. That it takes no modules_to_save, DoRA or bias does not matter: there are none here.

Directories are written aside, loaded back (see `loadback.py`) and renamed: an export exists whole, and is the run's
model, or not at all. Nothing is overwritten.
"""

import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.pytorch_utils import Conv1D

from boostlib.common.durable import new_directory, require_absent
from boostlib.common.errors import BoostError, RunError
from boostlib.common.settings import File, checks
from boostlib.common.stable import fingerprint_file
from boostlib.models.classifier import SequenceClassifier
from boostlib.models.language import load_tokenizer
from boostlib.records.bundle import Bundle, open_record, write_bundle
from boostlib.records.ledger import Ledger
from boostlib.records.sketch import sketch
from boostlib.release.card import USE, model_card
from boostlib.release.loadback import in_base, misread_lora, plain_model, require_same_model
from boostlib.run import Run, each_round, load_recorded, rebuild, rebuilt_rounds, replay_run, rounds_until
from boostlib.tasks.base import Task
from boostlib.update import LowRankUpdate

log = logging.getLogger(__name__)

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank may be (MaxLoRARanks, vLLM 0.27)
PREFIX = "base_model.model."  # of every module in a PEFT file


@checks
def export_merged(
    run_dir: str | Path,
    out_dir: File,
    round: int | None = None,
    model: nn.Module | None = None,
    tokenizer=None,
    task: Task | None = None,
) -> Path:
    """Write the model after `round` (default: the last) as a plain transformers model with tokenizer; returns out_dir.

    run_dir: a run's directory or a bundle. A classifier becomes an encoder with `head.safetensors` beside it, which
    `load_classifier(out_dir)` reads. model, tokenizer: the run's untrained ones, where they do not load by their name;
    the model ends up at that round. task: the run's, for a table by error class in the card. Raises RunError where
    `out_dir` exists, `model` is another, or what was written loads as another model.
    """
    ledger = open_record(run_dir)
    with new_directory(Path(out_dir)) as folder:
        if model is None:
            model, recorded = load_recorded(ledger)
            tokenizer = tokenizer or recorded
        elif tokenizer is None:
            generates = not isinstance(model, SequenceClassifier)
            tokenizer = load_tokenizer(ledger.header["identity"]["model"]["name"], generates)
        done = replay_run(ledger, round, model)
        _save_model(done.model, folder)
        tokenizer.save_pretrained(folder)
        note = require_same_model(plain_model(done.model), folder)
        _save_card(done, folder, round, "\n\n".join(filter(None, [_use(done.model), note])), task)
    return Path(out_dir)


@checks
def export_peft(
    run_dir: str | Path,
    out_dir: File,
    round: int | None = None,
    model: nn.Module | None = None,
    task: Task | None = None,
) -> Path:
    """Write all merged rounds up to `round` as one LoRA of rank r*T that PEFT and vLLM load; returns out_dir.

    task: as for `export_merged`. Raises RunError where `out_dir` exists, no round was merged, or PEFT would make
    another model of it. Whether vLLM takes the LoRA, and with which `--max-lora-rank`, is logged and in the card.
    """
    ledger = open_record(run_dir)
    with new_directory(Path(out_dir)) as folder:
        done = replay_run(ledger, round, model)
        config = _save_lora(done, folder)
        notes = serving_notes(config)
        for note in notes:
            log.info("%s: %s", out_dir, note)
        if isinstance(done.model, SequenceClassifier):
            done.model.save_head(folder)
        _save_card(done, folder, round, "\n\n".join([USE["peft"], *notes]), task)
    return Path(out_dir)


@checks
def export_bundle(run_dir: str | Path, file: File, round: int | None = None, model: nn.Module | None = None) -> Path:
    """Write the run up to `round` as one file of some kilobytes, after rebuilding it once; returns file.

    The file holds no weights beside v (and a classifier's head): whoever replays it needs the base model.
    """
    require_absent(Path(file))
    ledger = open_record(run_dir)
    count = rounds_until(ledger, round)
    done = replay_run(ledger, round, model)
    rebuilt = rebuilt_rounds(ledger, done.basis, done.config.learner, count)
    sketches = {one.round: sketch(one.update(), one.groups()) for one in rebuilt}
    head = done.model.head_state() if isinstance(done.model, SequenceClassifier) else {}
    write_bundle(Path(file), ledger, sketches, head, count)
    try:
        again = rebuild(Bundle(Path(file)), done.basis, done.config.learner, count)
        if any(not (again[name][0].equal(b) and again[name][1].equal(a)) for name, (b, a) in done.update.items()):
            raise RunError(f"{file}: what was written gives another update than the run: nothing is kept")
    except BoostError:
        Path(file).unlink()
        raise
    return Path(file)


def verify_weights(ledger: Ledger, model: nn.Module | None = None) -> pd.DataFrame:
    """Rebuild every round and compare its target weights with the ledger's: one row a round, the untrained one first.

    "bit for bit" where the hash agrees, else "not bit for bit", which another device, other versions or another number
    of threads explain. Raises RunError where a bundle's sketch says that a round was rebuilt wrongly.
    """
    run = replay_run(ledger, -1, model)
    found: list[tuple[str | int, bool]] = [("base", ledger.base.weights_fingerprint == run.fingerprint())]
    found += [(row.index, run.fingerprint() == row.weights_fingerprint) for row in each_round(run)]
    words = {True: "bit for bit", False: "not bit for bit"}
    return pd.DataFrame([(name, words[same]) for name, same in found], columns=["round", "weights"]).set_index("round")


def _save_model(model: nn.Module, folder: Path) -> None:
    """By transformers' own means; what tells of a quantized origin (GGUF) goes, since these weights are plain."""
    try:
        plain_model(model).save_pretrained(folder)
    except (RuntimeError, ValueError) as error:  # weights that share memory unannounced, settings it finds invalid
        why = str(error).strip().splitlines()[0]
        raise RunError(f"{type(model).__name__} is not saved by transformers: {why}. export_bundle may do") from error
    if isinstance(model, SequenceClassifier):
        model.save_head(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if config.pop("quantization_config", None):
        path.write_text(json.dumps(config, indent=2) + "\n")


def _save_card(run: Run, folder: Path, round: int | None, use: str, task: Task | None) -> None:
    files = {path.name: fingerprint_file(path) for path in sorted(folder.glob("*.safetensors"))}
    (folder / "README.md").write_text(model_card(run, rounds_until(run.ledger, round), use, files, task))


def _use(model: nn.Module) -> str:
    """How the merged model is loaded: with the class of its own where transformers' usual one would give another."""
    if isinstance(model, SequenceClassifier):
        return USE["encoder"]
    own, usual = type(model), MODEL_FOR_CAUSAL_LM_MAPPING.get(type(model.config), None)
    use = USE["merged"] if usual is own else USE["merged"].replace("AutoModelForCausalLM", own.__name__)
    return use.replace("(folder)", "(folder, trust_remote_code=True)") if own.is_remote_code() else use


def _save_lora(run: Run, folder: Path) -> dict[str, Any]:
    """Write the LoRA and load it back; returns its config.

    Modules that PEFT renames are targeted by their parameter, which it leaves alone. Raises RunError where that gives
    another model, too.
    """
    by_weight: set[str] = set()
    for _ in range(2):
        config = lora_config(run, by_weight)
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        save_file(lora_tensors(run.update, run.model), folder / "adapter_model.safetensors", {"format": "pt"})
        by_weight, why = misread_lora(run, folder)
        if not why:
            return config
    raise RunError(
        f"{run.dir} cannot be written as a LoRA of {type(plain_model(run.model)).__name__}: {why}. Use "
        "export_merged, or export_bundle"
    )


def lora_config(run: Run, by_weight: Collection[str] = ()) -> dict[str, Any]:
    """The content of adapter_config.json. by_weight: targets to name by their weight, not as modules.

    Raises RunError where there is nothing to export.
    """
    ranks = {b.shape[1] for b, _ in run.update.values()}
    if not ranks:
        raise RunError(f"{run.dir} has no merged round up to this one: there is no LoRA to export")
    (rank,) = ranks
    classifier = isinstance(run.model, SequenceClassifier)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=_target_names(run, [name for name in run.update if name not in by_weight]),
        target_parameters=[f"{in_base(name, run.model)}.weight" for name in run.update if name in by_weight] or None,
        fan_in_fan_out=any(isinstance(run.model.get_submodule(name), Conv1D) for name in run.update),
        task_type="FEATURE_EXTRACTION" if classifier else "CAUSAL_LM",
        base_model_name_or_path=run.ledger.header["identity"]["model"]["name"],
        inference_mode=True,
    ).to_dict()
    return {**config, "target_modules": sorted(config["target_modules"])}  # a set has another order in each process


def serving_notes(config: Mapping[str, Any]) -> list[str]:
    """What to tell who serves it: the setting of vLLM, or why it is not for vLLM. Nothing for an encoder."""
    if config["task_type"] != "CAUSAL_LM":
        return []
    fitting, problems = [rank for rank in VLLM_RANKS if rank >= config["r"]], []
    if not fitting:
        problems.append(f"rank {config['r']} is above {VLLM_RANKS[-1]}, the most vLLM takes: export fewer rounds")
    if any("." in name for name in config["target_modules"]):
        problems.append("vLLM knows modules by plain names such as q_proj: these targets cover only some layers")
    if config.get("target_parameters"):
        problems.append("vLLM does not know LoRAs of single parameters, which PEFT needs here")
    if problems:
        return [f"Not for vLLM: {'; '.join(problems)}."]
    return [f"vLLM: `--enable-lora --max-lora-rank {fitting[0]}`."]


def _target_names(run: Run, names: list[str]) -> list[str]:
    """Plain last names (q_proj) where PEFT then matches exactly the modules called `names`, else their full names.

    An encoder gets full names: a plain load gives it back the pooler that `SequenceClassifier` drops, another `dense`.
    """
    last = {name.rsplit(".", 1)[-1] for name in names}
    matched = {name for name, _ in run.model.named_modules() if name.rsplit(".", 1)[-1] in last}
    if matched == set(names) and not isinstance(run.model, SequenceClassifier):
        return sorted(last)
    return [in_base(name, run.model) for name in names]


def lora_tensors(update: LowRankUpdate, model: nn.Module) -> dict[str, Tensor]:
    """The content of adapter_model.safetensors: fp32 factors under PEFT's names."""
    return {
        f"{PREFIX}{in_base(name, model)}.lora_{part}.weight": factor.detach().cpu().contiguous()
        for name, (b, a) in update.items()
        for part, factor in (("A", a), ("B", b))
    }
