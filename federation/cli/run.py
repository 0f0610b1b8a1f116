"""``fedka run`` and ``fedka check``: run an experiment, or only check its configuration."""

from pathlib import Path
from typing import Annotated

import typer

from federation.cli import fail, interrupt_on_sigterm

_EXAMPLES = """
Examples:

  fedka run hospital_configs/organa_demo --out runs/first

  fedka run hospital_configs/organa_demo --out runs/first --resume

  fedka run hospital_configs/organa_demo --out runs/fedavg --seed 2 --set method.name=fedavg

Ctrl-C ends a run at once: the last finished round is always on disk, and --resume goes on from it.
"""


def run(
    folder: Annotated[Path, typer.Argument(help="Folder that holds experiment.yaml.")],
    out: Annotated[Path, typer.Option(help="Run folder; must be new unless resumed.")],
    seed: Annotated[
        int | None, typer.Option(help="Seed of everything random; default: the experiment's.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last finished round of --out.")
    ] = False,
    resume_if_begun: Annotated[
        bool,
        typer.Option(
            "--resume-if-begun", help="Resume where --out holds this run, begin where it does not."
        ),
    ] = False,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: path.to.key=value. May be repeated."),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="FEDKA_DATA", help="Folder with your own data files.")
    ] = None,
) -> None:
    """Run an experiment: train, detect, grow, measure, report, register."""
    from rich.console import Console

    from federation.experiment.config import load_experiment
    from federation.experiment.loop import ExperimentError, run_experiment, with_seed
    from federation.experiment.progress import RunDisplay, closing_table
    from federation.report import write_report
    from federation.tracking import RunMirror

    interrupt_on_sigterm()
    console = Console()
    config = with_seed(load_experiment(folder, change or []), seed)
    resume = resume or (resume_if_begun and (out / "config.json").exists())
    display = RunDisplay(console)
    mirror = RunMirror(
        config.tracking, out, lambda text: console.print(f"[yellow]{text}[/]", highlight=False)
    )
    try:
        with display.live() as live:
            callbacks = mirror.with_upload(live)
            results = run_experiment(
                config, out, resume=resume, data_dir=data_dir, callbacks=callbacks
            )
    # Nothing was begun: the folder belongs to another run, or there is nothing to resume.
    except ExperimentError:
        raise
    except KeyboardInterrupt:
        mirror.finish("KILLED")
        console.print(
            f"\n[yellow]interrupted[/]: the last finished round is saved; go on with\n  "
            f"fedka run {folder} --out {out} --seed {config.seed} --resume",
            highlight=False,
        )
        raise typer.Exit(130) from None
    except Exception:
        mirror.finish("FAILED")
        raise
    page = write_report(out)
    mirror.finish()
    console.print(closing_table(results))
    console.print(f"report   {page}\nresults  {out / 'results.json'}", highlight=False)


def check(
    folders: Annotated[list[Path], typer.Argument(help="Folders that hold experiment.yaml.")],
) -> None:
    """Check experiments without running them: every key, every range, and what fits together."""
    from rich.console import Console

    from federation.experiment.config import load_experiment
    from federation.experiment.config_file import ConfigError

    console = Console()
    problems = []
    for folder in folders:
        try:
            config = load_experiment(folder)
        except ConfigError as error:
            problems.append(f"{folder}: {error}")
            continue
        scenario, method = config.scenario, config.as_plain()["method"]["name"]
        console.print(
            f"[green]ok[/] {folder}: {method} on {scenario.dataset}, "
            f"{scenario.num_tasks} tasks of {scenario.classes_per_task} classes, "
            f"{len(config.hospitals)} hospitals, "
            f"{scenario.num_tasks * scenario.rounds_per_task} rounds",
            highlight=False,
        )
    if problems:
        fail("\n".join(problems))


run.__doc__ = f"{run.__doc__}\n{_EXAMPLES}"
