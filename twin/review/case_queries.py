"""Queries that read cases from their tables."""

from typing import Any

from sqlalchemy import Connection, Select, func, select

from twin.review.case_images import ORDERS, read_image
from twin.review.cases import (
    Case,
    CaseImage,
    CaseRow,
    Decision,
    Page,
    pairs_from_plain,
    summary_from_plain,
)
from twin.review.database import Stored, page_of
from twin.review.tables import CASES, DECISIONS, IMAGES
from twin.review.workflow import CaseState, Role

_LARGEST_ID = 2**31 - 1  # what every database's integer holds


class StoreError(ValueError):
    """Something was asked of the store that it does not have or hold."""


class CaseNotFound(StoreError):  # noqa: N818  # says what happened, as HTTP does
    """There is no such case, or it is another hospital's: the two look the same."""


class Conflict(StoreError):  # noqa: N818  # the same
    """Somebody else was first."""


def find_case(connection: Connection, hospital: str | None, case_id: int) -> Case:
    """Return a case of a hospital or, for none, of any.

    Raises:
        CaseNotFound: If there is none.
    """
    row = None
    if 0 < case_id <= _LARGEST_ID:
        row = connection.execute(
            _narrow(select(CASES).where(CASES.c.case_id == case_id), hospital)
        ).first()
    if row is None:
        raise CaseNotFound(
            f"case {case_id} does not exist{f' in {hospital}' if hospital else ''}; the list of "
            "cases has those that do"
        )
    return read_case(row)


def list_cases(
    connection: Connection,
    hospital: str | None,
    state: CaseState | None,
    training_id: str | None,
    page: int,
    per_page: int,
) -> Page[CaseRow]:
    """Return a page of cases, last changed first."""
    total = connection.execute(
        _narrow(select(func.count()).select_from(CASES), hospital, state, training_id)
    ).scalar_one()
    wanted = _narrow(select(CASES), hospital, state, training_id).order_by(
        CASES.c.changed.desc(), CASES.c.case_id.desc()
    )
    rows, page = page_of(connection, wanted, total, page, per_page)
    return Page(tuple(_case_row(row) for row in rows), page, per_page, total)


def count_cases(connection: Connection, hospital: str | None) -> dict[CaseState, int]:
    """Return how many cases stand where."""
    wanted = _narrow(
        select(CASES.c.state, func.count().label("num")).group_by(CASES.c.state), hospital
    )
    found = {row.state: row.num for row in connection.execute(wanted)}
    return {state: found.get(state.value, 0) for state in CaseState}


def list_images(
    connection: Connection, case: Case, page: int, per_page: int, order: str
) -> Page[CaseImage]:
    """Return a page of a case's images.

    Raises:
        StoreError: If the order is unknown.
    """
    if order not in ORDERS:
        raise StoreError(f"order is {order!r}; known: {', '.join(ORDERS)}")
    wanted = select(IMAGES).where(IMAGES.c.case_id == case.case_id).order_by(*ORDERS[order])
    rows, page = page_of(connection, wanted, case.num_images, page, per_page)
    return Page(tuple(read_image(row) for row in rows), page, per_page, case.num_images)


def count_days(connection: Connection, case: Case) -> list[tuple[str, int]]:
    """Return how many images of a case came on each day, earliest first."""
    day = func.substr(IMAGES.c.arrived, 1, 10).label("day")
    wanted = (
        select(day, func.count().label("num"))
        .where(IMAGES.c.case_id == case.case_id)
        .group_by("day")
        .order_by("day")
    )
    return [(row.day, row.num) for row in connection.execute(wanted)]


def list_decisions(connection: Connection, case_id: int) -> list[Decision]:
    """Return all acts on a case, oldest first."""
    rows = connection.execute(
        select(DECISIONS).where(DECISIONS.c.case_id == case_id).order_by(DECISIONS.c.decision_id)
    )
    return [_decision(row) for row in rows]


def cases_of_training(connection: Connection, training_id: str) -> list[Case]:
    """Return the cases that are, or were last, part of a training."""
    rows = connection.execute(
        select(CASES).where(CASES.c.training_id == training_id).order_by(CASES.c.case_id)
    )
    return [read_case(row) for row in rows]


def read_case(row: Stored) -> Case:
    """Return a case as its readers see it."""
    return Case(
        case_id=row.case_id,
        hospital=row.hospital,
        state=CaseState(row.state),
        revision=row.revision,
        opened=row.opened,
        changed=row.changed,
        class_name=row.class_name,
        named_by=row.named_by,
        summary=summary_from_plain(row.summary),
        num_images=row.num_images,
        num_selected=row.num_selected,
        training_id=row.training_id,
        candidate_version=row.candidate_version,
        reason=row.reason,
    )


def _case_row(row: Stored) -> CaseRow:
    return CaseRow(
        case_id=row.case_id,
        hospital=row.hospital,
        state=CaseState(row.state),
        revision=row.revision,
        opened=row.opened,
        changed=row.changed,
        class_name=row.class_name,
        num_images=row.num_images,
        num_selected=row.num_selected,
        mean_entropy=row.summary["mean_entropy"],
        nearest=pairs_from_plain(row.summary["nearest"]),
        representative=tuple(row.summary["representative"]),
    )


def _decision(row: Stored) -> Decision:
    return Decision(
        case_id=row.case_id,
        at=row.at,
        user=row.user,
        role=Role(row.role),
        action=row.action,
        from_state=CaseState(row.from_state),
        to_state=CaseState(row.to_state),
        reason=row.reason,
        class_name=row.class_name,
        revision=row.revision,
    )


def _narrow(
    wanted: Select[Any],
    hospital: str | None,
    state: CaseState | None = None,
    training_id: str | None = None,
) -> Select[Any]:
    if hospital is not None:
        wanted = wanted.where(CASES.c.hospital == hospital)
    if training_id is not None:
        wanted = wanted.where(CASES.c.training_id == training_id)
    return wanted if state is None else wanted.where(CASES.c.state == state.value)
