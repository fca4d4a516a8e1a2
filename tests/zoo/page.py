"""The table of kinds in boostlib/models/README.md: a row is what the checks of one kind came to."""

from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn

from boostlib import target_modules
from boostlib.common.targets import coverage
from boostlib.config import installed_version
from boostlib.evaluation.generate import generate
from boostlib.evaluation.layout import layout
from zoo.checks import SHARED, TAILS, Animal, checks_of
from zoo.kinds import KINDS

PAGE = Path(__file__).resolve().parents[2] / "boostlib" / "models" / "README.md"
BEGIN = "<!-- written by `pytest tests/zoo --write-table` -->"
END = "<!-- end of what is written -->"
HEAD = "| Kind | Class | Adapted | Prompts | Outcome |\n| --- | --- | --- | --- | --- |"
STEPS = {"export": "`export_merged`", "PEFT": "`export_peft`", "bundle": "`export_bundle`", "greedy": "decoding"}


def row(animal: Animal) -> str:
    """One line of the table."""
    kind = animal.kind
    refusals, wrong = {}, []
    for check in checks_of(kind):
        try:
            outcome = animal.outcome(check)
        except Exception as error:
            wrong.append(f"{check} ({type(error).__name__})")
            continue
        if outcome.refusal:
            refusals[check] = outcome.refusal
        elif not animal.passes(check):
            wrong.append(check)
    whole = next((refusals[check] for check in ("loading", "folding", "rounds") if check in refusals), None)
    if whole:
        facts = ["", "", f"refused: {whole}"]
    else:
        steps: dict[str, list[str]] = {}
        for check, why in refusals.items():
            steps.setdefault(why, []).append(STEPS.get(check, check))
        partly = [f"{', '.join(checks)} refused: {why}" for why, checks in steps.items()]
        facts = [adapted(animal), path(animal), "; ".join(["works", *partly])]
    if wrong:
        facts[-1] += f"; WRONG in {', '.join(wrong)}"
    cells = [kind.name, type(kind_of(animal)).__name__, *facts]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def kind_of(animal: Animal) -> nn.Module:
    """The model itself, or the encoder in a classifier."""
    made = animal.kind.make()
    return getattr(made, "encoder", made) if animal.kind.encoder and not animal.kind.named else made


def adapted(animal: Animal) -> str:
    """How many matrices are adapted, and their share of the numbers in the blocks' matrices."""
    model, targets = animal.untrained, animal.kind.targets
    return f"{len(target_modules(model, targets))} matrices, {coverage(model, targets).share:.0%}"


@torch.no_grad()
def path(animal: Animal) -> str:
    """Whether the tokens that all prompts begin with are read once, seen from what the model is given to read."""
    if animal.kind.encoder:
        return "-"
    model, tokenizer = animal.untrained, animal.tokenizer
    prompts = tokenizer([SHARED[:8] + tail[:4] for tail in TAILS]).input_ids
    shapes: list[tuple[int, ...]] = []
    watch = model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    generate(model, tokenizer, prompts, 1)
    watch.remove()
    return "beginning read once" if (1, 8) in shapes else f"read whole: {layout(model).reason}"


def table(rows: dict[str, str]) -> str:
    """The table of the kinds that have a row, in their order."""
    libraries = ", ".join(f"{name} {installed_version(name)}" for name in ("torch", "transformers", "trl", "peft"))
    made = f"Written on {datetime.now(UTC):%Y-%m-%d} on a CPU in fp32 with {libraries}."
    return "\n".join([BEGIN, "", made, "", HEAD, *(rows[name] for name in in_order() if name in rows), "", END])


def in_order() -> list[str]:
    """Names of all kinds, encoders last."""
    return sorted(KINDS, key=lambda name: KINDS[name].encoder)


def written() -> dict[str, str]:
    """The rows that the page has now, by kind."""
    inside = PAGE.read_text().split(BEGIN)[1].split(END)[0].splitlines()
    rows = [line for line in inside if line.startswith("| ")][2:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in rows}


def write(rows: dict[str, str]) -> None:
    """Put these rows in the place of the old ones of their kinds."""
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + table(written() | rows) + rest.split(END)[1])
