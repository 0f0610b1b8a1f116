"""FedKA's local step where as many twins train at once as there are cores, one thread each.

For worker processes train them.

``python -m benchmarks.at_once``: images per second of ours and of the plain reference
(``benchmarks.local_step``), each one twin after the other with all threads, and a twin for each
thread at once. A small network cannot keep two threads busy on one small batch; two twins can. The
reference is given the same chance.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection

import torch.multiprocessing

from benchmarks.local_step import NAMES, Case, case_parser, cases_of, material, our_step, plain_step
from benchmarks.measuring import alternately, table, tell, use_threads

SIDES = {"ours": our_step, "reference": plain_step}


@contextmanager
def crew(side: str, case: Case, size: int) -> Iterator[Callable[[], None]]:
    """Give a call in which this many single-threaded processes do a timing's work at once.

    Args:
        side: Name in ``SIDES``.
        case: What each of them does.
        size: How many.
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
        work()  # the first answer comes when images are loaded and networks are built
        yield work
    finally:
        for process in processes:
            process.kill()
            process.join()


def _work(side: str, case: Case, pipe: Connection) -> None:
    use_threads(1)
    work = SIDES[side](case, material(case))
    while True:
        pipe.recv()
        work()
        pipe.send(None)


def compare(case: Case, repeats: int, threads: int) -> list[str]:
    """Return one row of the table."""
    tell(f"at once: {case}")
    use_threads(threads)
    given = material(case)
    with ExitStack() as stack:
        works: dict[str, Callable[[], object]] = {
            side: make(case, given) for side, make in SIDES.items()
        }
        works |= {
            f"{side}, at once": stack.enter_context(crew(side, case, threads)) for side in SIDES
        }
        seconds = alternately(works, repeats)
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
    """Return the heads of the columns."""
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
    given = case_parser(__doc__, thin=16).parse_args(arguments)
    print(
        table(
            headers(given.threads),
            [compare(case, given.repeats, given.threads) for case in cases_of(given)],
        )
    )
    print(
        f"\nMedians of {given.repeats} turns, all four in turn; ours in {given.precision}. One "
        f"after the other: {given.threads} threads "
        "for one twin; at once: one thread for each of as many twins."
    )


if __name__ == "__main__":
    main()
