"""Every figure that shows recorded runs and can be drawn anew from them alone: `python -m boostlib figures`."""

from pathlib import Path

from torch import nn

from boostlib.analysis.growth import growth_table, recorded_updates
from boostlib.analysis.recorded import LABELS, growth_runs, measured, of_seed, several_rounds, shown_runs
from boostlib.common.errors import BoostError
from boostlib.models.language import load_model
from boostlib.plots import dynamics, rank, theory
from boostlib.plots.style import save_figure, use_style


def rebuild(
    folder: str | Path, data: str | Path, name: str = "growth", seed: int = 0, model: nn.Module | None = None
) -> list[Path]:
    """Draw every figure of notebooks 04 and 05 that shows recorded runs: `math-<name>-*` of the folder `data`, and the
    measurements beside it in `theory`, which are about the rotating run of seed 0. Returns the files written."""
    if Path(folder).exists() and not Path(folder).is_dir():
        raise BoostError(f"{folder} is a file: give a folder for the figures")
    use_style()
    groups = growth_runs(data, name)
    missing = [method for method in ("rotate", "top", "monolithic") if LABELS[method] not in groups]
    if missing:
        raise BoostError(
            f"{data} has no runs math-{name}-{missing[0]}-seed*: give the folder that holds them (data/runs)"
        )
    rounds, shown = several_rounds(groups), shown_runs(groups, seed)
    model = load_model("smollm2", dtype="fp32")[0] if model is None else model
    grown = {short: of_seed(groups[LABELS[short]], seed) for short in ("rotate", "top", "monolithic")}
    updates = {label: recorded_updates(run, model) for label, run in grown.items()}
    tables = {label: growth_table(found) for label, found in updates.items()}
    made = {
        "05_flows": dynamics.flows(shown),
        "05_histories": dynamics.problem_histories(shown),
        "05_waiting": dynamics.waiting(rounds, shown),
        "05_costs": dynamics.costs(rounds, grown["rotate"]),
        "05_going_on": dynamics.plot_going_on(rounds).figure,
        "04_rank_growth": rank.rank_growth(tables),
        "04_spans": rank.spans(updates),
        "04_eps": rank.plot_eps(tables["rotate"]).figure,
        "04_ablation": rank.ablation(groups),
    }
    of_theory, run = Path(data).parent / "theory", f"math-{name}-rotate-seed0"
    if (of_theory / f"{run}-noise.csv").exists():
        noise, fresh, moves = (measured(of_theory, run, what) for what in ("noise", "fresh-svd", "isolation-round0"))
        made |= {
            "04_fresh_svd": rank.fresh_svd(tables["rotate"], fresh),
            "04_bounds": theory.bounds(of_seed(groups[LABELS["rotate"]], 0), noise),
            "05_isolation": theory.isolation(moves),
        }
    return [path for title, fig in made.items() for path in save_figure(fig, title, folder)]
