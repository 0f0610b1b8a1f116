"""Local step on a GPU: images per second, share of the peak, device utilisation, memory.

``python -m benchmarks.gpu``; without a GPU it prints that and does nothing.
"""

import subprocess
import threading
from statistics import median

from benchmarks.machine import measure_peak, peak_table
from benchmarks.measuring import parser, scaled, table, time_in_turns, use_threads

NONE = "no GPU: not run"


class Busy:
    """Polls nvidia-smi for the device's utilisation; ``percent`` holds the values."""

    def __init__(self) -> None:
        self.percent: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> "Busy":
        """Start polling."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop polling."""
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        question = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self._over.wait(0.2):
            answer = subprocess.run(
                question, capture_output=True, text=True, check=False
            ).stdout.split()
            self.percent += [float(each) for each in answer[:1]]


def main(arguments: list[str] | None = None) -> None:
    """Print the table, or that there is no GPU."""
    options = parser(__doc__)
    options.add_argument("--batches", nargs="+", type=int, default=[32, 128], help="batch sizes")
    options.add_argument("--steps", type=int, default=100, help="steps of one timing")
    options.add_argument("--repeats", type=int, default=3, help="timings")
    settings = options.parse_args(arguments)
    import torch

    if not torch.cuda.is_available():
        print(NONE)
        return
    from benchmarks.flops import model_flops_per_image
    from benchmarks.local_step import (
        NAMES,
        OLD_ROWS,
        ROWS,
        Case,
        make_material,
        our_step,
        plain_step,
    )

    use_threads(settings.threads)
    peak = measure_peak(settings.threads, (4096, 8192), 4096, device="cuda")
    print(f"{torch.cuda.get_device_name()}\n\n{peak_table(peak)}\n")
    rows = []
    for network in NAMES:
        for batch in settings.batches:
            few = Case(network, batch, 4, device="cuda")
            many = Case(network, batch, settings.steps, device="cuda")
            material = make_material(many)
            with Busy() as busy:
                ours = (
                    time_in_turns({"ours": our_step(many, material)}, settings.repeats)["ours"]
                    / settings.steps
                )
            plain = (
                time_in_turns({"reference": plain_step(few, make_material(few))}, settings.repeats)[
                    "reference"
                ]
                / few.steps
            )
            flops = model_flops_per_image(material.network, ROWS, OLD_ROWS) * batch
            rows.append(
                (
                    NAMES[network],
                    batch,
                    f"{batch / ours:.0f}",
                    f"{batch / plain:.0f}",
                    f"{plain / ours:.1f}",
                    f"{flops / ours / peak.flops['bfloat16']:.1%}",
                    f"{median(busy.percent):.0f} %" if busy.percent else "not known",
                    scaled(torch.cuda.max_memory_allocated(), "B"),
                )
            )
    headers = (
        "network",
        "batch",
        "ours, images/s",
        "reference, images/s",
        "ratio",
        "ours, share of peak",
        "device busy",
        "peak memory",
    )
    print(table(headers, rows))


if __name__ == "__main__":
    main()
