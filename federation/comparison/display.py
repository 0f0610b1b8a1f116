"""Progress of a comparison in the terminal."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from federation.comparison.cells import Run, SuiteCallbacks
from federation.comparison.outcomes import Block, read_outcome
from federation.comparison.suite import Suite
from federation.comparison.tables import heading, result_cells
from federation.experiment.progress import bars

_WIDTH_OF_A_COLUMN = 14


class SuiteDisplay:
    """Shows a suite on a terminal; on a pipe, one line per run and no bars.

    Args:
        console: Where to.
        runs: That are wanted, finished or not.
    """

    def __init__(self, console: Console, runs: Sequence[Run]) -> None:
        self._console = console
        self._all = runs
        self._under_way: dict[Path, tuple[int, int]] = {}
        self._progress = bars(console)
        self._runs = self._progress.add_task(
            "runs", total=len(runs), completed=self._num_finished()
        )
        self._rounds = self._progress.add_task("rounds", total=None)

    @contextmanager
    def live(self) -> Iterator[SuiteCallbacks]:
        """Show the bars while the context is open."""
        finished = self._num_finished()
        if finished:
            self._console.print(
                f"{finished} of {len(self._all)} runs are there already and are not repeated",
                highlight=False,
            )
        with self._progress:
            yield SuiteCallbacks(
                begin=self._begin, rounds=self._tell_rounds, done=self._done, failed=self._failed
            )

    def tell_how_to_go_on(self, command: Sequence[str], page: Path) -> None:
        """Say what an interrupted comparison has and how to go on."""
        self._console.print(
            f"\n[yellow]interrupted[/]: {self._num_finished()} of {len(self._all)} runs are "
            "finished, and of those under way the last "
            f"finished round is saved; what there is stands in {page}; go on with\n  "
            f"{escape(shlex.join(command))}",
            highlight=False,
        )

    def _num_finished(self) -> int:
        return sum(run.is_finished for run in self._all)

    def _begin(self, run: Run) -> None:
        self._progress.update(
            self._runs, description=escape(run.name), completed=self._num_finished()
        )

    def _tell_rounds(self, run: Run, done: int, total: int) -> None:
        self._under_way[run.path] = (done, total)
        counts = self._under_way.values()
        self._progress.update(
            self._rounds,
            completed=sum(done for done, _ in counts),
            total=sum(total for _, total in counts),
        )

    def _end(self, run: Run) -> None:
        self._under_way.pop(run.path, None)
        self._progress.update(self._runs, completed=self._num_finished())

    def _done(self, run: Run) -> None:
        outcome = read_outcome(run)
        self._end(run)
        if outcome is not None:
            self._console.print(
                f"{self._num_finished():3d} of {len(self._all)}  {escape(run.name)}: average "
                "accuracy "
                f"{100 * outcome.average('accuracy'):.2f}, last "
                f"{100 * outcome.by_task['accuracy'][-1]:.2f}  "
                f"[dim]{outcome.costs['seconds']:.0f} s[/]",
                highlight=False,
            )

    def _failed(self, run: Run, reason: str) -> None:
        self._end(run)
        self._console.print(
            f"[red]failed[/]  {escape(run.name)}: {escape(reason)}", highlight=False
        )


def closing_lines(suite: Suite, blocks: Sequence[Block], page: Path, width: int) -> Iterator[Any]:
    """Return what is printed at the end.

    The tables, as much of them as a terminal of this width has room for, and where all is.
    """
    for block in blocks:
        columns = heading(suite, block)
        tasks = len(block.classes)
        hidden = (
            set()
            if width >= _WIDTH_OF_A_COLUMN * (tasks + 8)
            else {*range(2, 2 + tasks), 5 + tasks}
        )
        table = Table(
            title=f"{suite.config.title}: {block.experiment.title}, percent", box=box.SIMPLE
        )
        for place, name in enumerate(columns):
            if place not in hidden:
                table.add_column(
                    escape(name.removesuffix(" [95 %]") if hidden else name),
                    justify="right" if place else "left",
                )
        for row in block.rows:
            cells = result_cells(suite, block, row, with_interval=not hidden)
            table.add_row(
                *(escape(cell) for place, cell in enumerate(cells) if place not in hidden)
            )
        yield table
    outcomes = [outcome for block in blocks for row in block.rows for outcome in row.outcomes]
    num_changed = sum(not outcome.by_todays_code for outcome in outcomes)
    if num_changed:
        yield (
            f"[yellow]{num_changed} of {len(outcomes)} results were made by other code[/] than "
            "this program's; --rerun-changed runs them again, the summary names them"
        )
    yield f"summary  {escape(str(page))}"
    if suite.config.shrinkage:
        yield f"[dim]smaller than the paper: {escape(' '.join(suite.config.shrinkage.split()))}[/]"
