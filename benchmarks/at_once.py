"""Throughput of FedKA's local step with one single-threaded twin per core, all at once.

``python -m benchmarks.at_once`` prints images per second of ours and of the plain reference
(``benchmarks.local_step``). Each side runs one twin after the other with all threads, and one
twin per thread at once. A small batch of a small network does not keep two threads busy.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection

import torch.multiprocessing

from benchmarks.local_step import (
    NAMES,
    Case,
    case_parser,
    cases_of,
    make_material,
    our_step,
    plain_step,
)
from benchmarks.measuring import print_progress, table, time_in_turns, use_threads

SIDES = {"ours": our_step, "reference": plain_step}


@contextmanager
def parallel_workers(side: str, case: Case, size: int) -> Iterator[Callable[[], None]]:
    """Yield a function that runs a timing's work in single-threaded processes at the same time.

    Args:
        side: Name in ``SIDES``.
        case: Work of each process.
        size: Number of processes.
    """
    context = torch.multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(size):
        here, there = context.Pipe()
        processes.append(context.Process(target=_work, args=(side, case, there), daemon=True))
        processes[-1].start()
        there.close()
        pipes.append(here)

    def work() -> None:
        for pipe in pipes:
            pipe.send(None)
        for pipe in pipes:
            pipe.recv()

    try:
        work()  # returns when all processes have loaded images and built networks
        yield work
    finally:
        for process in processes:
            process.kill()
            process.join()


def _work(side: str, case: Case, pipe: Connection) -> None:
    use_threads(1)
    work = SIDES[side](case, make_material(case))
    while True:
        pipe.recv()
        work()
        pipe.send(None)


def compare(case: Case, repeats: int, threads: int) -> list[str]:
    """Return a case's row of the table."""
    print_progress(f"at once: {case}")
    use_threads(threads)
    material = make_material(case)
    with ExitStack() as stack:
        works: dict[str, Callable[[], object]] = {
            side: make(case, material) for side, make in SIDES.items()
        }
        works |= {
            f"{side}, at once": stack.enter_context(parallel_workers(side, case, threads))
            for side in SIDES
        }
        seconds = time_in_turns(works, repeats)
    rates = {
        name: case.num_images * (threads if name.endswith("at once") else 1) / each
        for name, each in seconds.items()
    }
    return [
        NAMES[case.network],
        str(case.batch_size),
        *(
            f"{rates[name]:.4g}"
            for name in ("ours", "ours, at once", "reference", "reference, at once")
        ),
        f"{rates['ours, at once'] / rates['reference']:.1f}",
        f"{rates['ours, at once'] / rates['reference, at once']:.1f}",
    ]


def headers(threads: int) -> Sequence[str]:
    """Return the column headers."""
    return (
        "network",
        "batch",
        "ours, images/s",
        f"ours, {threads} at once",
        "reference, images/s",
        f"reference, {threads} at once",
        "ours at once to reference",
        "both at once",
    )


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    settings = case_parser(__doc__, thin=16).parse_args(arguments)
    print(
        table(
            headers(settings.threads),
            [compare(case, settings.repeats, settings.threads) for case in cases_of(settings)],
        )
    )
    print(
        f"\nMedians of {settings.repeats} turns, all four in turn; ours in {settings.precision}. "
        f"One after the other: {settings.threads} threads for one twin; "
        "at once: one thread for each of as many twins."
    )


if __name__ == "__main__":
    main()
