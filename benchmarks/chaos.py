"""Long failure test of a deployment: real processes over mutual TLS with faults at random times.

    python -m benchmarks.chaos --seconds 1200 --seed 1        # make chaos

A federation of ``phantom_tiny`` (FedKA with reconstruction) first runs undisturbed in this process.
Then ``fedka deploy up --local`` runs the same experiment while a seeded plan kills, stops and
disconnects hospitals and server, fills disks and damages twins' states. All hospitals must answer
in every round, so a disturbed round is repeated, and the result must equal the undisturbed run's
bit for bit: weights, records, and the images in every twin's memory. Otherwise the exit code is 1.

MLflow is unreachable all the time: the tracking address has no server.

Needs Linux with namespaces and ``ip`` (iproute2). Everything runs in namespaces that end with this
command; Ctrl-C ends all.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

# As on the sites: another number of threads adds in another order and changes the last bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.chaos_faults import own_disks
from benchmarks.chaos_plan import BY_NAME, KINDS, plan
from benchmarks.chaos_report import Episode, check_table, cost_table, episode_log, usual_seconds
from benchmarks.chaos_run import PATIENCE_SECONDS, FaultRun, run_deployment
from benchmarks.chaos_verdict import Check, attempts, checks
from benchmarks.machine import describe
from benchmarks.measuring import ROOT, print_progress
from federation.experiment.config import ExperimentConfig, load_experiment
from federation.experiment.loop import run_experiment
from federation.experiment.run_folder import RunFolder
from federation.flare.engine import LinkConfig
from federation.flare.local_processes import isolated
from federation.flare.provisioning import init_deployment
from federation.flare.server import ServerConfig

PORT = 8102
DEADLINE_SECONDS = 20.0
SHARE = 0.5  # share of the time left for rounds while faults take the rest
# Fewest seconds of a round under faults, even if a round is measured to be faster.
ONE_ROUND_IN = 7.0
NOBODY = "http://127.0.0.1:9"
SETTINGS = (
    "method={name: fedka, head_loss: ce, reconstruction: {perturb_steps: 2, invert_steps: 5}}",
    "evaluation.round_images=60",
    "evaluation.task_images=60",
    f"tracking.uri={NOBODY}",
)


def experiment(rounds_per_task: int, epochs: int) -> ExperimentConfig:
    """Return the experiment; images arrive often, so that a fault can always lose something."""
    sizes = (
        f"scenario.rounds_per_task={rounds_per_task}",
        f"scenario.arrivals_per_task={min(rounds_per_task, 12)}",
    )
    return load_experiment(
        ROOT / "hospital_configs" / "phantom_tiny", (*SETTINGS, *sizes, f"training.epochs={epochs}")
    )


def rounds_for(seconds: float, round_seconds: float) -> int:
    """Return the number of rounds of each of the two tasks in a run of this length."""
    return max(3, round(seconds / 2 * max(SHARE / max(round_seconds, 0.1), 1 / ONE_ROUND_IN)))


def disturbed(options: argparse.Namespace) -> bool:
    """Run both federations, write the report and return whether all checks pass."""
    folder: Path = options.folder
    folder.mkdir(parents=True)
    print_progress("a run of two rounds, to see how long one takes")
    run_experiment(experiment(1, options.epochs), folder / "measured")
    measured = [  # the last round, which is warm
        each["seconds"]
        for each in RunFolder(folder / "measured").read_records()
        if each["kind"] == "round"
    ][-1]
    rounds = options.rounds or rounds_for(options.seconds, measured)
    config = experiment(rounds, options.epochs)
    print_progress(f"{measured:.1f} s a round; the undisturbed run of {2 * rounds} rounds")
    reference_began = time.time()
    run_experiment(config, folder / "reference")
    reference_seconds = time.time() - reference_began
    names = [each.name for each in config.hospitals]
    link = LinkConfig(deadline_seconds=DEADLINE_SECONDS, minimum_hospitals=len(names))
    made = init_deployment(
        config, folder / "deployment", ServerConfig((), link), host="localhost", port=PORT
    )
    kinds = [BY_NAME[each] for each in options.only] if options.only else KINDS
    with own_disks([made.hospital(name) for name in names]):
        with run_deployment(made, folder / "up.log") as process:
            chaos = FaultRun(made, options.seconds, process, PORT)
            chaos.run(plan(options.seed, names, DEADLINE_SECONDS, kinds))
            print_progress(
                f"no more faults after {time.time() - chaos.started:.0f} s and "
                f"{chaos.rounds_done()} rounds; the run goes on to its end"
            )
            if all(each.recovered for each in chaos.episodes):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(PATIENCE_SECONDS, options.seconds + 3 * reference_seconds))
            lasted = time.time() - chaos.started
        ended = Check(
            "the deployment ended by itself",
            f"exit code {process.returncode}",
            process.returncode == 0,
        )
        found = [
            ended,
            recovered_check(chaos.episodes),
            missed_check((folder / "up.log").read_text(encoding="utf-8", errors="replace")),
        ]
        found += checks(config, folder / "reference", made)
    facts = (
        f"Command: `python -m benchmarks.chaos --seconds {options.seconds:g} "
        f"--seed {options.seed} --epochs {options.epochs}`: "
        f"{2 * rounds} rounds of {len(names)} hospitals; undisturbed and sequential "
        f"{reference_seconds:.0f} s, under faults {lasted:.0f} s."
    )
    text = report(facts, chaos, found, 2 * rounds)
    RunFolder(folder).write_json("verdict.json", {"good": all(each.good for each in found)})
    (folder / "report.md").write_text(text, encoding="utf-8")
    print(text)
    return all(each.good for each in found)


def recovered_check(episodes: Sequence[Episode]) -> Check:
    """Return the check that a round was finished after every fault."""
    done = sum(each.recovered is not None for each in episodes)
    return Check(
        "a round is finished after every fault",
        f"{done} of {len(episodes)}",
        done == len(episodes) > 0,
    )


def missed_check(log: str) -> Check:
    """Return the check that the deployment reports a missing MLflow at its end."""
    missed = "MLflow is behind" in log
    return Check(
        "MLflow is missed, and stops nothing",
        "said so at the end" if missed else "not a word of it",
        missed,
    )


def report(facts: str, chaos: FaultRun, found: Sequence[Check], rounds: int) -> str:
    """Return the report as Markdown."""
    feed = chaos.feed()
    sessions, repeated = attempts(feed, rounds)
    usual, good = usual_seconds(feed), all(each.good for each in found)
    faults = sum(len(each.faults) for each in chaos.episodes)
    parts = (
        f"## {'Good' if good else 'BAD'}: {faults} faults, {sessions} sessions, "
        f"{repeated} repeated rounds",
        facts,
        describe(),
        check_table(found),
        f"A round takes {usual:.1f} s (median). Lost: how much later the next round was finished "
        "than without the fault; the time that the fault itself lasted is in it.",
        cost_table(chaos.episodes, usual),
        episode_log(chaos.episodes, feed, chaos.started, usual),
    )
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, restart in separate namespaces, and run there."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--seconds", type=float, default=1200.0, help="for which faults are begun")
    options.add_argument("--seed", type=int, default=1, help="of the plan")
    options.add_argument(
        "--epochs", type=int, default=30, help="of a training: how long a round is"
    )
    options.add_argument(
        "--rounds", type=int, help="of each of the two tasks; none: as many as fill the time"
    )
    options.add_argument(
        "--only",
        nargs="+",
        choices=list(BY_NAME),
        metavar="KIND",
        help=f"kinds of faults; of {', '.join(BY_NAME)}",
    )
    options.add_argument("--folder", type=Path, help="must be new; none: one below runs/")
    options.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    settings = options.parse_args(arguments)
    if settings.folder is None:
        settings.folder = (
            ROOT / "runs" / f"chaos-{datetime.now(UTC):%Y%m%d-%H%M%S}-seed{settings.seed}"
        )
    settings.folder = settings.folder.resolve()
    if not settings.inside:
        own = [
            *(sys.argv[1:] if arguments is None else arguments),
            "--folder",
            str(settings.folder),
            "--inside",
        ]
        command = isolated([sys.executable, "-m", "benchmarks.chaos", *own])
        os.chdir(ROOT)
        os.execv(command[0], command)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(0 if disturbed(settings) else 1)
    except KeyboardInterrupt:
        print_progress(f"interrupted; what there is lies in {settings.folder}")
        sys.exit(130)


if __name__ == "__main__":
    main()
