"""Helpers of the benchmarks: timing, fresh processes, Markdown tables, options, JSON results."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def time_in_turns(
    works: Mapping[str, Callable[[], object]], repeats: int, warm_up: bool = True
) -> dict[str, float]:
    """Return the median seconds of several works, timed in turn so that load affects all alike.

    Args:
        works: Functions by name.
        repeats: Number of timings of each.
        warm_up: Whether to call each once before the timings.
    """
    if warm_up:
        for name, work in works.items():
            print_progress(f"  warming up: {name}")
            work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats):
        for name, work in works.items():
            started = perf_counter()
            work()
            seconds[name].append(perf_counter() - started)
            print_progress(f"  turn {turn + 1}/{repeats}, {name}: {seconds[name][-1]:.3f} s")
    return {name: median(each) for name, each in seconds.items()}


def in_fresh_process(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run a module in a new single-threaded process; return the JSON object of its last line.

    Args:
        module: Name of the module, run from the root of the repository.
        arguments: Its command line.

    Raises:
        SystemExit: If it fails; with its error output.
    """
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command[1:])}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_results(path: Path, arguments: argparse.Namespace, **results: object) -> None:
    """Write the settings of a command line and a benchmark's results as JSON."""
    settings = {
        name: value for name, value in vars(arguments).items() if name not in ("out", "measure")
    }
    text = json.dumps({"settings": settings, **results}, indent=1) + "\n"
    path.write_text(text, encoding="utf-8")


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table: the first column aligned left, the others right."""
    cells = [[str(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        for row in cells
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in (aligned[0], rule, *aligned[1:]))


def print_progress(line: str) -> None:
    """Print a line of progress to standard error, beside the result."""
    print(line, file=sys.stderr, flush=True)


def scaled(number: float, unit: str) -> str:
    """Return a number with three digits and a prefix: ``1.23 GFLOP``."""
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size:
            return f"{number / size:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}"


def duration(seconds: float) -> str:
    """Return a time with three digits in the unit that suits it."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 600 else f"{seconds / 60:.3g} min"


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a command line with the options of every benchmark."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    made.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="threads of both sides"
    )
    return made


def use_threads(threads: int) -> None:
    """Set torch's number of threads, overriding the environment."""
    import torch

    torch.set_num_threads(threads)
