"""The path of the paper preset, small and end to end: chat prompts, GSM8K files, checkpointing, a local model."""

import json
from dataclasses import replace

import torch

from boostlib import Ledger, load_model, replay
from boostlib.experiments.methods import run_method, with_method
from boostlib.experiments.presets import MATH


def test_gsm8k_with_a_local_model_and_the_paper_presets_trainer(tiny_llama, tiny_tokenizer, tmp_path):
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "data" / "gsm8k").mkdir(parents=True)
    for split, count in (("train", 5), ("test", 3)):
        rows = [{"question": f"What is {i} + {len(split)}?", "answer": f"#### {i + len(split)}"} for i in range(count)]
        (tmp_path / "data" / "gsm8k" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paper = MATH["paper"]
    small = replace(
        paper,
        model=str(tmp_path / "model"),
        dtype="fp32",
        task_options={"dev": 0, "max_new_tokens": 4},
        trainer=replace(paper.trainer, prompts=4, samples=2, max_samples=4, max_steps=1, micro_batch=4),
        boost=replace(paper.boost, rounds=2, adapter=replace(paper.boost.adapter, n_tie=7)),
    )
    assert small.trainer.gradient_checkpointing
    run_method(with_method(small, "rotate"), tmp_path / "run", str(tmp_path / "data"))
    rounds = Ledger(tmp_path / "run").verify()
    assert len(rounds) == 2 and all(row.failures and len(row.metrics["test"].bits()) == 3 for row in rounds)
    rebuilt, plain = replay(tmp_path / "run"), load_model(str(tmp_path / "model"), dtype="fp32")[0]
    same = [torch.equal(p, q) for p, q in zip(rebuilt.parameters(), plain.parameters(), strict=True)]
    assert all(same) == all(row.skipped for row in rounds)
