"""Measures this machine's peak matrix product and memory speed, and describes the machine.

``python -m benchmarks.machine`` prints both. Peaks are measured in the same run as the work that
is compared with them, because the speed of a shared machine changes.
"""

import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Literal

from benchmarks.measuring import parser, print_progress, scaled, table, use_threads

PRECISIONS = ("float32", "bfloat16")
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Peak:
    """Highest measured speeds.

    Args:
        flops: Operations per second of a matrix product, by precision; a multiply-add is two.
        bytes_per_second: The better of a large copy (reads and writes each byte) and a large triad
            (reads two, writes one).
        threads: Number of torch threads.
        device: torch device.
    """

    flops: dict[str, float]
    bytes_per_second: float
    threads: int
    device: str


def measure_peak(
    threads: int,
    sizes: tuple[int, ...] = (1024, 2048, 4096),
    megabytes: int = 1024,
    repeats: int = 5,
    device: str = "cpu",
) -> Peak:
    """Measure matrix products and memory.

    Args:
        threads: Number of torch threads.
        sizes: Sides of square matrices; the best one counts.
        megabytes: Size of each copied array; must be larger than the last-level cache (on shared
            servers several hundred megabytes).
        repeats: Number of timings of each; the best counts.
        device: ``cpu`` or ``cuda``.
    """
    import torch

    use_threads(threads)
    flops = {}
    for name in PRECISIONS:
        rates = []
        for size in sizes:
            left = torch.rand(size, size, device=device).to(getattr(torch, name))
            right, out = left.clone(), torch.empty_like(left)
            seconds = _best(partial(torch.mm, left, right, out=out), repeats, device)
            rates.append(2 * size**3 / seconds)
            print_progress(f"  {name} {size} x {size}: {scaled(rates[-1], 'FLOP/s')}")
        flops[name] = max(rates)
    count = megabytes * 2**20 // 4
    one, other, out = (torch.ones(count, device=device) for _ in range(3))
    copy = 2 * 4 * count / _best(lambda: out.copy_(one), repeats, device)
    triad = (
        3 * 4 * count / _best(lambda: torch.add(one, other, alpha=3.0, out=out), repeats, device)
    )
    print_progress(f"  copy {scaled(copy, 'B/s')}, triad {scaled(triad, 'B/s')}")
    return Peak(flops, max(copy, triad), threads, device)


def _best(work: Callable[[], object], repeats: int, device: str) -> float:
    import torch

    seconds = []
    for turn in range(repeats + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        started = perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if turn:  # the first turn warms up
            seconds.append(perf_counter() - started)
    return min(seconds)


def peak_table(peak: Peak) -> str:
    """Return the measured peaks as Markdown."""
    rows: list[tuple[str, str]] = [
        (f"matrix product, {name}", scaled(rate, "FLOP/s")) for name, rate in peak.flops.items()
    ]
    rows.append(("memory, copy or triad", scaled(peak.bytes_per_second, "B/s")))
    return table((f"peak of {peak.device}, {peak.threads} threads", "measured"), rows)


def describe() -> str:
    """Return machine, versions, date and commit as Markdown."""
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "load before (1, 5, 15 min)": ", ".join(f"{load:.2f}" for load in os.getloadavg()),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    for package in ("torch", "torchvision", "numpy", "pillow", "grad-cam"):
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            facts[package] = "not installed"
    return table(("machine", ""), list(facts.items()))


def _commit() -> str:
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not known"
    return f"{commit}, with changes that are not committed" if changed else commit


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    found = {key.strip(): value.strip() for key, value in facts.items()}
    units = [
        name
        for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
        if name in found.get("flags", "").split()
    ]
    return (
        f"{found.get('model name', platform.machine())} ({', '.join(units) or 'no wide vectors'})"
    )


def _memory() -> str:
    import psutil

    return scaled(psutil.virtual_memory().total, "B")


def main(arguments: list[str] | None = None) -> None:
    """Print the description of the machine and its peaks."""
    options = parser(__doc__)
    options.add_argument(
        "--megabytes", type=int, default=1024, help="size of each array that is copied"
    )
    options.add_argument(
        "--sizes", type=int, nargs="+", default=[1024, 2048, 4096], help="sides of the matrices"
    )
    settings = options.parse_args(arguments)
    print(describe())
    print()
    print(peak_table(measure_peak(settings.threads, tuple(settings.sizes), settings.megabytes)))


if __name__ == "__main__":
    main()
