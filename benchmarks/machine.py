"""What this machine can do at its best.

Matrix products per second and bytes per second, measured; and what it is.

``python -m benchmarks.machine`` prints both. Peaks are measured in the same run as whatever is
compared with them: a shared machine is not the same machine an hour later.
"""

import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Literal

from benchmarks.measuring import parser, scaled, table, tell, use_threads

PRECISIONS = ("float32", "bfloat16")
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Peak:
    """The best that was seen.

    Args:
        flops: Floating-point operations per second of a matrix product, by precision; a
            multiplication and an addition are two.
        bytes_per_second: Of the better of a large copy (reads and writes each byte) and a large
            triad (reads two, writes one).
        threads: With which it was measured.
        device: Where.
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
        threads: Of torch.
        sizes: Sides of square matrices; the best one counts.
        megabytes: Size of each array that is copied; must be larger than the last cache (shared
            servers: several hundred megabytes).
        repeats: Times each is measured; the best counts.
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
            seconds = _best(
                lambda left=left, right=right, out=out: torch.mm(left, right, out=out),
                repeats,
                device,
            )  # type: ignore[misc]  # the base is untyped
            rates.append(2 * size**3 / seconds)
            tell(f"  {name} {size} x {size}: {scaled(rates[-1], 'FLOP/s')}")
        flops[name] = max(rates)
    count = megabytes * 2**20 // 4
    one, other, out = (torch.ones(count, device=device) for _ in range(3))
    copy = 2 * 4 * count / _best(lambda: out.copy_(one), repeats, device)
    triad = (
        3 * 4 * count / _best(lambda: torch.add(one, other, alpha=3.0, out=out), repeats, device)
    )
    tell(f"  copy {scaled(copy, 'B/s')}, triad {scaled(triad, 'B/s')}")
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
        if turn:  # the first warms up
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
    """Print what the machine is and what it can do."""
    options = parser(__doc__)
    options.add_argument(
        "--megabytes", type=int, default=1024, help="size of each array that is copied"
    )
    options.add_argument(
        "--sizes", type=int, nargs="+", default=[1024, 2048, 4096], help="sides of the matrices"
    )
    given = options.parse_args(arguments)
    print(describe())
    print()
    print(peak_table(measure_peak(given.threads, tuple(given.sizes), given.megabytes)))


if __name__ == "__main__":
    main()
