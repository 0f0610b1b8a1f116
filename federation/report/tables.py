"""Tables of a report: the numbers behind its figures.

Knows the run folder, no figure and no HTML; cells are plain text, escaped when the page is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from federation.report import number_format
from federation.report.figures.accuracy import drops, first_accuracy
from federation.report.figures.matrices import (
    MOST_NUMBERED_CLASSES,
    accuracy_matrix,
    last_confusion,
)
from federation.report.figures.rounds import joining_rounds
from federation.report.folder import RunFolder
from federation.report.records import QUIET, Observation, names, number, sequence, whole

_DIGEST_LETTERS = 19
_WORST_CONFUSIONS = 30


@dataclass(frozen=True)
class Table:
    """A table of text; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_text_columns: int = (
        1  # leading columns that hold words, set left; the others are numbers, set right
    )


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], num_text_columns: int = 1
) -> Table | None:
    return Table(title, tuple(columns), tuple(map(tuple, rows)), num_text_columns) if rows else None


def task_table(run: RunFolder) -> Table | None:
    """What each task brought."""
    spans = {task: f"{first}\u2013{last}" for task, first, last in run.task_spans}
    ended = {record.task: record for record in run.tasks}
    planned = run.task_classes
    rows = []
    for task in range(max([len(planned), *(task + 1 for task in ended)], default=0)):
        record = ended.get(task)
        state = "finished" if record else "begun" if task in spans else "not begun"
        classes = number_format.listed(planned[task]) if task < len(planned) else number_format.NONE
        rows.append(
            (
                str(task),
                classes,
                state,
                spans.get(task, number_format.NONE),
                number_format.count(len(planned[task]))
                if task < len(planned)
                else number_format.NONE,
            )
        )
    return _table("Tasks", ("task", "classes that appear", "state", "rounds", "how many"), rows, 3)


def accuracy_table(run: RunFolder) -> Table | None:
    """Accuracy, macro-F1 and forgetting at each task's end."""
    rows = [
        (
            str(r.task),
            str(r.round),
            number_format.count(len(r.seen_classes)),
            number_format.percent(r.accuracy),
            number_format.percent(r.macro_f1),
            number_format.points(r.forgetting),
        )
        for r in run.tasks
    ]
    return _table(
        "At the end of each task",
        ("after task", "round", "seen classes", "accuracy", "macro-F1", "forgetting"),
        rows,
    )


def matrix_table(run: RunFolder) -> Table | None:
    """The accuracy matrix."""
    matrix = accuracy_matrix(run)
    rows = [
        (
            f"after task {record.task}",
            *(number_format.percent(value if np.isfinite(value) else None) for value in row),
        )
        for record, row in zip(run.tasks, matrix, strict=True)
    ]
    return (
        _table(
            "Accuracy matrix",
            ("", *(f"classes of task {task}" for task in range(matrix.shape[1]))),
            rows,
        )
        if matrix.size
        else None
    )


def forgetting_table(run: RunFolder) -> Table | None:
    """What each earlier task lost."""
    rows = [
        (
            f"task {task}",
            number_format.percent(best),
            number_format.percent(now),
            number_format.points(best - now),
        )
        for task, best, now in drops(run)
    ]
    return _table(
        "Forgetting per task", ("", "best earlier accuracy", "last accuracy", "drop"), rows
    )


def class_table(run: RunFolder) -> Table | None:
    """Accuracy of each class, new and now."""
    shown = [record for record in run.tasks if record.per_class_accuracy]
    if not shown:
        return None
    last = shown[-1].per_class_accuracy
    rows = []
    for name in last:
        task, then = first_accuracy(run, name) or (0, None)
        rows.append(
            (name, str(task), number_format.percent(then), number_format.percent(last[name]))
        )
    return _table(
        "Accuracy per class",
        ("class", "new in task", "when new", f"after task {shown[-1].task}"),
        rows,
    )


def confusion_table(run: RunFolder) -> Table | None:
    """Counts of the confusion matrix; with very many classes only the commonest confusions."""
    found = last_confusion(run)
    if found is None:
        return None
    record, counts = found
    classes = record.seen_classes
    if len(classes) <= MOST_NUMBERED_CLASSES:
        rows = [
            (name, *map(number_format.count, row.tolist()), number_format.count(int(row.sum())))
            for name, row in zip(classes, counts, strict=True)
        ]
        return _table(
            f"{run.measured_on.capitalize()} by true class (row) and predicted class (column)",
            ("true \\ predicted", *record.predicted_names, "sum"),
            rows,
        )
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(wrong, axis=None)[::-1][:_WORST_CONFUSIONS]
    pairs = [divmod(int(place), counts.shape[1]) for place in order]
    rows = [
        (
            classes[i],
            record.predicted_names[j],
            number_format.count(int(wrong[i, j])),
            number_format.count(int(counts[i].sum())),
        )
        for i, j in pairs
        if wrong[i, j]
    ]
    return _table("The commonest confusions", ("true class", "taken for", "images", "of"), rows, 2)


def _seen(observation: Observation | None) -> str:
    if observation is None or not observation.was_judged:
        return (
            number_format.NONE
            if observation is None or observation.outcome == QUIET
            else f"no model, {observation.outcome}"
        )
    values = [number_format.decimal(observation.entropy, 2)]
    if observation.statistic is not None and observation.statistic != observation.entropy:
        values.append(f"({number_format.decimal(observation.statistic, 2)})")
    return " ".join(values) + ("" if observation.outcome == QUIET else f" {observation.outcome}")


def entropy_table(run: RunFolder) -> Table | None:
    """Entropy (statistic in brackets where it is another number) by round and twin.

    With the outcome if any.
    """
    by_place = {(index, observation.twin): observation for index, observation in run.observations}
    if not any(observation.was_judged for observation in by_place.values()):
        return None
    rows = [
        (str(record.round), *(_seen(by_place.get((record.round, twin))) for twin in run.twins))
        for record in run.rounds
    ]
    return _table(
        "Entropy, with the statistic in brackets where it differs, by round and twin",
        ("round", *run.twins),
        rows,
    )


def participation_table(run: RunFolder) -> Table | None:
    """How often each twin trained, and when it signalled."""
    joins = joining_rounds(run)
    rows = []
    for twin in run.twins:
        signals = [
            index
            for index, observation in run.observations
            if observation.twin == twin and observation.signal
        ]
        trained = sum(twin in record.accepted for record in run.rounds)
        rejected = sum(twin == who for record in run.rounds for who, _ in record.rejected)
        rows.append(
            (
                twin,
                number_format.listed(signals),
                str(joins.get(twin, "start")),
                number_format.count(trained),
                number_format.count(rejected),
            )
        )
    return _table(
        "Twins",
        ("twin", "signalled in rounds", "joins in round", "rounds trained", "rejected updates"),
        rows,
        2,
    )


def loss_table(run: RunFolder) -> Table | None:
    """Losses of every round."""
    losses = list(dict.fromkeys(name for record in run.rounds for name in record.losses))
    rows = [
        (str(r.round), str(r.task), *(number_format.decimal(r.losses.get(name)) for name in losses))
        for r in run.rounds
    ]
    return _table("Losses by round", ("round", "task", *losses), rows) if losses else None


def round_table(run: RunFolder) -> Table | None:
    """Traffic, time and work of every round."""
    rows = [
        (
            str(r.round),
            str(r.task),
            f"{len(r.accepted)} of {len(r.chosen)}",
            number_format.count(r.num_classes),
            number_format.percent(r.accuracy),
            number_format.count(r.images_trained),
            number_format.decimal(r.seconds, 1),
            number_format.decimal(r.megabytes_up, 1),
            number_format.decimal(r.megabytes_down, 1),
        )
        for r in run.rounds
    ]
    columns = (
        "round",
        "task",
        "trained",
        "classes",
        "accuracy",
        "images",
        "seconds",
        "MB up",
        "MB down",
    )
    return _table("All rounds", columns, rows)


def hospital_table(run: RunFolder) -> Table | None:
    """Which hospital sees which classes when."""
    rows = []
    for name, entry in run.hospitals.items():
        by_task = [names(classes) for classes in sequence(entry.get("classes_by_task"))]
        classes = (
            "; ".join(
                f"task {task}: {number_format.listed(seen)}"
                for task, seen in enumerate(by_task)
                if seen
            )
            or number_format.NONE
        )
        images = [number(value) for value in sequence(entry.get("images_by_task"))]
        joins = whole(entry.get("joins_at_task"))
        rows.append(
            (
                name,
                classes,
                "start" if not joins else f"task {joins}",
                " + ".join(map(number_format.count, images)) or number_format.NONE,
                number_format.count(number_format.total(images)),
            )
        )
    return _table(
        "Hospitals", ("hospital", "classes", "joins at", "images by task", "images"), rows, 3
    )


def rejection_table(run: RunFolder) -> Table | None:
    """Updates that the server did not take, with its reason."""
    rows = [
        (str(record.round), who, reason) for record in run.rounds for who, reason in record.rejected
    ]
    return _table("Rejected updates", ("round", "twin", "reason"), rows, 3)


def event_table(run: RunFolder) -> Table | None:
    """Whatever else happened."""
    rows = [
        (number_format.NONE if index is None else str(index), what) for index, what in run.events
    ]
    return _table("Events", ("round", "what happened"), rows, 2)


def model_table(run: RunFolder) -> Table | None:
    """The model kept at each task's end."""
    rows = []
    for task, model in run.models:
        digest = str(model.get("digest") or number_format.NONE)
        short = digest if len(digest) <= _DIGEST_LETTERS else digest[:_DIGEST_LETTERS] + "\u2026"
        rows.append(
            (
                f"task {task}",
                str(model.get("folder") or number_format.NONE),
                short,
                number_format.count(whole(model.get("round"))),
                number_format.decimal(number(model.get("score"))),
                number_format.percent(number(model.get("test_accuracy"))),
            )
        )
    return _table(
        "Models kept", ("after", "folder", "digest", "from round", "score", "accuracy"), rows, 3
    )
