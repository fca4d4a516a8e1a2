"""Real peaks of memory, in a process of its own: python peak_memory.py TOKENIZER_DIR, JSON on standard output.

A random Llama in fp32 (8M numbers) goes through the phases of a round, and the
kernel's high-water mark of resident memory is reset before each: what is reported is the growth since before the model.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from helpers import ParityTask
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from boostlib import GRPO, AdapterConfig, BoostConfig, SVDBasis, TinyLoRA, evaluate
from boostlib.experiments.memory import Lengths, estimate, shapes_of
from boostlib.experiments.presets import Preset
from boostlib.models.subject import Subject
from boostlib.training.trl import Pass
from boostlib.update import Weights

CONFIG = LlamaConfig(
    vocab_size=8192,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=6,
    num_attention_heads=8,
    num_key_value_heads=4,
    pad_token_id=0,
    bos_token_id=None,
    eos_token_id=1,
    tie_word_embeddings=True,
)
TRAINER = GRPO(learning_rate=1e-3, prompts=4, samples=8, max_steps=1, micro_batch=32, rollout_batch=32)
NEW, BATCH = 40, 64


def resident(field: str) -> int:
    """Bytes of resident memory: "VmRSS" now, "VmHWM" at its highest since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def peak(before: int, work) -> int:
    """Growth of resident memory over `before`, at its highest during `work()`."""
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's high-water mark falls to what is held now
    work()
    return resident("VmHWM") - before


def main(tokenizer_dir: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    task = ParityTask(train=16, test=BATCH, max_new_tokens=NEW)
    examples = task.split("train")[: TRAINER.prompts]
    before = resident("VmRSS")
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG).eval()
    basis = SVDBasis.from_model(model, 8)
    weights = Weights(model, list(basis))

    def train(trainer: GRPO) -> None:
        adapter = TinyLoRA(basis, AdapterConfig(n_tie=8)).attach(model, weights)
        Pass(trainer, Subject(model, tokenizer, task), examples, 0).train(adapter)
        adapter.detach()

    found = {
        # first: what training frees stays resident
        "evaluate": peak(before, lambda: evaluate(model, tokenizer, task, "test", BATCH, progress=False)),
        "round": peak(before, lambda: train(TRAINER)),
        "checkpointed": peak(before, lambda: train(replace(TRAINER, gradient_checkpointing=True))),
    }
    print(json.dumps({"real": found, "estimate": estimates(shapes_of(model), tokenizer, task)}))


def estimates(shapes, tokenizer, task) -> dict[str, float]:
    longest = max(len(tokenizer(e.prompt)["input_ids"]) for e in task.split("train"))
    lengths = Lengths(longest, len("count tr"), NEW, ((longest, NEW),))
    boost = BoostConfig(rounds=4, adapter=AdapterConfig(n_tie=8), batch_size=BATCH)
    preset = Preset("test", "random", "parity", TRAINER, boost, dtype="fp32")

    def of(trainer: GRPO, *phases: str) -> float:
        made = estimate(replace(preset, trainer=trainer), torch.device("cpu"), (shapes, lengths))
        return max(made[phase] for phase in phases)

    return {
        "round": of(TRAINER, "rollout", "train"),
        "checkpointed": of(replace(TRAINER, gradient_checkpointing=True), "rollout", "train"),
        "evaluate": of(TRAINER, "evaluate"),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
