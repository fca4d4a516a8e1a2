"""Every speed that this project claims, measured against a named peer on the same work, in one process.

    python -m boostlib bench [SUBJECT] [--json DIR]

setup.py says what is measured on, measure.py how, data/bench/README.md what was found.
"""

import gc
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from boostlib.bench.decoding import bench_decode, bench_evaluate
from boostlib.bench.drafts import bench_drafts
from boostlib.bench.measure import Measurement, print_tables, write
from boostlib.bench.round import bench_round
from boostlib.bench.sandbox import bench_sandbox
from boostlib.bench.setup import Setup
from boostlib.bench.weights import bench_basis, bench_fold, bench_merge
from boostlib.common.errors import BoostError
from boostlib.config import environment
from boostlib.models.language import default_device

SUBJECTS: Mapping[str, tuple[Callable[[Setup], list[Measurement]], int]] = {  # with minutes on 2 free CPU cores
    "basis": (bench_basis, 6),
    "decode": (bench_decode, 12),
    "drafts": (bench_drafts, 15),
    "fold": (bench_fold, 1),
    "merge": (bench_merge, 1),
    "evaluate": (bench_evaluate, 5),
    "round": (bench_round, 10),
    "sandbox": (bench_sandbox, 1),
}


def bench(
    what: str = "all", json_dir: str | None = None, setup: Setup | None = None, steps: int | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Measure a subject, or "all"; prints tables, writes a JSON file a subject; returns the records by subject.

    Says beforehand how long a subject takes, and what is measured just now.

    steps: of the round's training, default the demo's 8. Raises BoostError for an unknown subject; of "all", one whose
    peer is not installed is named and left out.
    """
    if what not in ("all", *SUBJECTS):
        raise BoostError(f"no subject {what!r} to measure; there are all, {', '.join(SUBJECTS)}")
    setup = setup or Setup()
    if steps is not None:
        setup = replace(setup, trainer=replace(setup.trainer, max_steps=steps))
    device, records = default_device(), {}
    for subject in SUBJECTS if what == "all" else (what,):
        measure, minutes = SUBJECTS[subject]
        print(f"{subject}: about {minutes} min on 2 free CPU cores; loading the model", flush=True)
        try:
            found = measure(setup)
        except BoostError as error:
            if what != "all":
                raise
            print(f"{subject}: not run: {error}")
            continue
        records[subject] = [one.record(environment(device)) for one in found]
        print_tables(subject, records[subject])
        if json_dir:
            print(f"  written to {write(json_dir, subject, device.type, records[subject])}")
        gc.collect()
    if device.type != "cuda":
        print("GPU: not run")
    return records
