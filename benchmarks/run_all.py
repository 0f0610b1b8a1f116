"""Runs every benchmark in a process of its own and writes ``benchmarks/RESULTS.md``.

``make bench``, or ``python -m benchmarks.run_all --skip round_full scale``. The error of a failed
part goes into the report, and the other parts still run.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.machine import describe
from benchmarks.measuring import parser

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Part:
    """One section of the report.

    Args:
        name: Name for ``--skip`` and ``--only``.
        title: Title of the section.
        module: Module to run.
        arguments: Its command line.
        tiny: Command line with hardly any work, to check that it runs.
        threaded: Whether it takes ``--threads``.
    """

    name: str
    title: str
    module: str
    arguments: tuple[str, ...] = ()
    tiny: tuple[str, ...] = ()
    threaded: bool = True


_QUICK_PEAK = ("--sizes", "256", "--megabytes", "16")
_QUICK_ROUND = ("--images-per-class", "4", "--twins", "8", "--epochs", "1")
_AS_RUN = ("--engine", "processes")  # as ``fedka run`` trains them on a CPU
PARTS = (
    Part(
        "local_step",
        "Local step",
        "benchmarks.local_step",
        tiny=(
            "--networks",
            "thin",
            "--batches",
            "8",
            "--steps",
            "2",
            "--repeats",
            "1",
            *_QUICK_PEAK,
        ),
    ),
    Part(
        "at_once",
        "Local step, a twin for each core at once",
        "benchmarks.at_once",
        tiny=("--networks", "thin", "--batches", "8", "--steps", "2", "--repeats", "1"),
    ),
    Part(
        "habits",
        "What each habit of the reference costs",
        "benchmarks.local_step",
        ("--habits", "--batches", "32"),
        ("--habits", "--networks", "thin", "--batches", "8", "--steps", "1", "--repeats", "1"),
    ),
    Part(
        "profile",
        "Where the local step's time goes",
        "benchmarks.local_step",
        ("--profile", "--batches", "32"),
        ("--profile", "--networks", "thin", "--batches", "8", "--steps", "1"),
    ),
    Part(
        "convolution",
        "Convolutions, as the library does them and side by side",
        "benchmarks.convolution",
        tiny=("--repeats", "1"),
    ),
    Part(
        "round_thin",
        "A round, thin network",
        "benchmarks.round",
        (*_AS_RUN, "--inversions"),
        _QUICK_ROUND,
    ),
    Part(
        "round_full",
        "A round, full network",
        "benchmarks.round",
        (*_AS_RUN, "--full"),
        ("--full", *_QUICK_ROUND),
    ),
    Part(
        "scale", "Memory and time against the number of twins", "benchmarks.scale", threaded=False
    ),
    Part("engines", "Engines against each other", "benchmarks.engines", threaded=False),
    Part("flare", "What a network costs a round", "benchmarks.flare", threaded=False),
    Part(
        "console",
        "A case of 2,000 images in the console",
        "benchmarks.console",
        tiny=("--images", "20", "--repeats", "1"),
    ),
    Part("gpu", "GPU utilisation", "benchmarks.gpu"),
)


def run_part(part: Part, threads: int, tiny: bool) -> tuple[str, bool]:
    """Return a part's section as Markdown, and whether it succeeded."""
    if importlib.util.find_spec(part.module) is None:
        return f"## {part.title}\n\nNot there yet: {part.module}.\n", True
    if tiny and not part.threaded:
        return f"## {part.title}\n\nNot run in tiny settings.\n", True
    command = [sys.executable, "-m", part.module, *(part.tiny if tiny else part.arguments)]
    command += ["--threads", str(threads)] if part.threaded else []
    started = perf_counter()
    with tempfile.TemporaryFile("w+") as error_output:
        done = subprocess.run(
            command,
            cwd=HERE.parent,
            stdout=subprocess.PIPE,
            stderr=error_output,
            text=True,
            check=False,
        )
        error_output.seek(0)
        last = error_output.read().strip().splitlines()[-12:]
    lead = (
        f"## {part.title}\n\n`python {' '.join(command[1:])}`, {perf_counter() - started:.0f} s.\n"
    )
    if done.returncode:
        return "\n".join(
            [lead, f"Failed with status {done.returncode}:", "", "```", *last, "```", ""]
        ), False
    return f"{lead}\n{wrapped(done.stdout.strip())}\n", True


def wrapped(text: str) -> str:
    """Return Markdown whose lines, except those of tables, have at most 100 characters."""
    wrapper = textwrap.TextWrapper(100, break_long_words=False, break_on_hyphens=False)
    lines = []
    for line in text.splitlines():
        wrapper.subsequent_indent = "  " if line.startswith("* ") else ""
        lines += [line] if line.startswith("|") else wrapper.wrap(line) or [""]
    return "\n".join(lines)


def report(sections: Sequence[str], skipped: Sequence[str], tiny: bool) -> str:
    """Return the whole report."""
    lead = [
        "# Results of the benchmarks",
        "",
        "Written by `make bench`; not edited by hand. `docs/performance.md` explains the numbers.",
    ]
    if tiny:
        lead += [
            "",
            "**Tiny settings: this only shows that everything runs. "
            "No number here means anything.**",
        ]
    if skipped:
        lead += ["", f"Skipped: {', '.join(skipped)}."]
    return "\n".join([*lead, "", describe(), "", *sections])


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that are not skipped; return 1 if one failed."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    settings = _options(arguments)
    chosen = [
        part
        for part in PARTS
        if part.name not in settings.skip and (not settings.only or part.name in settings.only)
    ]
    sections, failed = [], []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("benchmarks", total=len(chosen))
        for part in chosen:
            progress.update(bar, description=part.title)
            section, well = run_part(part, settings.threads, settings.tiny)
            sections.append(section)
            failed += [] if well else [part.name]
            progress.console.print(f"{part.title}: {'done' if well else 'failed'}")
            progress.advance(bar)
    skipped = [part.name for part in PARTS if part not in chosen]
    settings.out.write_text(
        report(sections, skipped, settings.tiny).rstrip() + "\n", encoding="utf-8"
    )
    print(f"wrote {settings.out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    names = [part.name for part in PARTS]
    options = parser(__doc__)
    options.add_argument("--skip", nargs="*", choices=names, default=[], help="parts to leave out")
    options.add_argument(
        "--only", nargs="*", choices=names, default=[], help="parts to run; none: all"
    )
    options.add_argument("--out", type=Path, default=HERE / "RESULTS.md", help="report")
    options.add_argument(
        "--tiny", action="store_true", help="hardly any work: to see that everything runs"
    )
    return options.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
