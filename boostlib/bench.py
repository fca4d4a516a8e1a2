"""Speed against named peers on the same work: interleaved runs in one process, medians, and ratios within that process.

Absolute figures depend on the machine and on what else it does; only ratios are worth quoting.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import TinyLoraConfig, get_peft_model
from tqdm.auto import tqdm

from boostlib.adapter import AdapterConfig, TinyLoRA
from boostlib.basis import SVDBasis, target_modules
from boostlib.generate import encode, generate
from boostlib.identity import environment
from boostlib.models import load_model
from boostlib.tasks import load_task

REPEATS = 5


def bench_rollout(json_path: str | None = None, prompts: int = 16, new_tokens: int = 16) -> dict:
    """Sampling throughput: plain model, folded adapter, live adapter, PEFT's TinyLoRA live and merged. Prints a table.

    All sample `prompts` x 4 completions of `new_tokens` tokens from the embedded model, through the same generation
    code; "folded + fold" counts the folding, once a rollout as in training. 12 parameters over all linear layers.
    """
    model, tokenizer = load_model("smollm2")
    peer, _ = load_model("smollm2")
    ids = encode(tokenizer, [e.prompt for e in load_task("arithmetic").split("train")[:prompts]])
    adapter = TinyLoRA(SVDBasis.from_model(model, rank=2), AdapterConfig(n_tie=18)).attach(model)
    adapter.v.data.normal_(std=0.03)
    with torch.no_grad():
        peft_model = _peft_tiny_lora(peer, len(target_modules(model)))

    def sample(which: torch.nn.Module) -> Callable[[], float]:
        return lambda: _timed(which, tokenizer, ids, new_tokens)

    def folded() -> float:
        with adapter.folded():
            return _timed(model, tokenizer, ids, new_tokens)

    def folded_with_fold() -> float:
        start = time.perf_counter()
        folded()
        return time.perf_counter() - start

    def merged() -> float:
        peft_model.merge_adapter()
        try:
            return _timed(peft_model, tokenizer, ids, new_tokens)
        finally:
            peft_model.unmerge_adapter()

    def plain() -> float:
        adapter.detach()
        try:
            return _timed(model, tokenizer, ids, new_tokens)
        finally:
            adapter.attach(model)

    seconds = interleaved(
        {
            "plain model": plain,
            "folded": folded,
            "folded + fold": folded_with_fold,
            "live": sample(model),
            "PEFT TinyLoRA, live": sample(peft_model),
            "PEFT TinyLoRA, merged": merged,
        }
    )
    tokens = prompts * 4 * new_tokens
    rates = {name: tokens / value for name, value in seconds.items()}
    return report("rollout, tokens a second", rates, "plain model", environment(model.device), json_path)


def _timed(model, tokenizer, ids, new_tokens: int) -> float:
    torch.manual_seed(0)
    _sync()
    start = time.perf_counter()
    generate(model, tokenizer, ids, new_tokens, temperature=1.0, samples=4, stop_at_end=False)
    _sync()
    return time.perf_counter() - start


def _sync() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleaved(timings: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Median seconds of each, one run of every kind after the other; the first pass warms up and is dropped."""
    seen: dict[str, list[float]] = {name: [] for name in timings}
    for repeat in tqdm(range(REPEATS + 1), desc="bench", unit="pass"):
        for name, timing in timings.items():
            value = timing()
            if repeat:
                seen[name].append(value)
    return {name: statistics.median(values) for name, values in seen.items()}


def _peft_tiny_lora(model, modules: int):
    """PEFT's TinyLoRA on all linear layers with v shared to 12 numbers, as far as its ratio allows."""
    config = TinyLoraConfig(
        r=2, u=1, weight_tying=1 - 12 / modules, target_modules="all-linear", init_weights="uniform"
    )
    return get_peft_model(model, config).eval()


def report(title: str, rates: dict[str, float], reference: str, where: dict, json_path: str | None = None) -> dict:
    result = {"what": title, "environment": where, "rates": rates}
    result["ratio"] = {name: rate / rates[reference] for name, rate in rates.items()}
    print(f"{title} ({where['device']}, {where['threads']} threads, {where['date']})")
    for name, rate in rates.items():
        print(f"  {name:<24} {rate:9.1f}   {result['ratio'][name]:5.2f} x {reference}")
    if json_path:
        Path(json_path).write_text(json.dumps(result, indent=1) + "\n")
    return result
