"""Images of cases in the database: membership and selection."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, insert, select, update

from twin.review.cases import CaseImage, pairs_from_plain, pairs_to_plain
from twin.review.database import Stored
from twin.review.tables import IMAGES

ORDERS: Mapping[str, tuple[ColumnElement[Any], ...]] = {
    "arrived": (IMAGES.c.arrived, IMAGES.c.image_id),
    "entropy": (IMAGES.c.entropy.desc(), IMAGES.c.image_id.desc()),  # least certain first
    "distance": (IMAGES.c.distance, IMAGES.c.image_id),  # most typical first
}
_AT_ONCE = 500  # image ids in one statement: databases bound the number of parameters


def read_image(row: Stored) -> CaseImage:
    """Return an image as its readers see it."""
    return CaseImage(
        row.image_id,
        row.entropy,
        pairs_from_plain(row.top),
        row.distance,
        row.arrived,
        row.selected,
    )


def open_case_of(connection: Connection, hospital: str, image_ids: Sequence[str]) -> dict[str, int]:
    """Return the open case of each of these images that is in one."""
    wanted = select(IMAGES.c.image_id, IMAGES.c.case_id).where(
        IMAGES.c.hospital == hospital, IMAGES.c.open
    )
    found = (
        connection.execute(wanted.where(IMAGES.c.image_id.in_(some))) for some in _chunks(image_ids)
    )
    return {row.image_id: row.case_id for rows in found for row in rows}


def all_ids(connection: Connection, hospital: str) -> frozenset[str]:
    """Return the images of all cases of a hospital."""
    return frozenset(
        connection.execute(select(IMAGES.c.image_id).where(IMAGES.c.hospital == hospital)).scalars()
    )


def add(connection: Connection, case_id: int, hospital: str, images: Iterable[CaseImage]) -> None:
    """Put images into an open case; none may be in an open one."""
    rows = [
        {
            "case_id": case_id,
            "image_id": image.image_id,
            "hospital": hospital,
            "entropy": float(image.entropy),
            "top": pairs_to_plain(image.top),
            "distance": float(image.distance),
            "arrived": image.arrived,
            "selected": bool(image.selected),
            "open": True,
        }
        for image in images
    ]
    connection.execute(insert(IMAGES), rows)


def ids(connection: Connection, case_id: int, selected_only: bool = False) -> list[str]:
    """Return a case's images in the order in which they arrived."""
    wanted = (
        select(IMAGES.c.image_id).where(IMAGES.c.case_id == case_id).order_by(*ORDERS["arrived"])
    )
    return list(
        connection.execute(wanted.where(IMAGES.c.selected) if selected_only else wanted).scalars()
    )


def mark(connection: Connection, case_id: int, image_ids: Sequence[str], selected: bool) -> int:
    """Select or deselect images of a case; return how many were not so before."""
    change = (
        update(IMAGES)
        .where(IMAGES.c.case_id == case_id, IMAGES.c.selected.is_(not selected))
        .values(selected=selected)
    )
    return sum(
        connection.execute(change.where(IMAGES.c.image_id.in_(some))).rowcount
        for some in _chunks(image_ids)
    )


def mark_open(connection: Connection, case_id: int, is_open: bool) -> None:
    """Say of all images of a case whether it is open."""
    connection.execute(update(IMAGES).where(IMAGES.c.case_id == case_id).values(open=is_open))


def other_open_case(connection: Connection, case_id: int) -> int | None:
    """Return an open case that holds an image of this closed one; none if none does."""
    other = IMAGES.alias()
    same = (
        (other.c.hospital == IMAGES.c.hospital)
        & (other.c.image_id == IMAGES.c.image_id)
        & other.c.open
    )
    wanted = (
        select(other.c.case_id)
        .select_from(IMAGES.join(other, same))
        .where(IMAGES.c.case_id == case_id, other.c.case_id != case_id)
    )
    return connection.execute(wanted.limit(1)).scalar()


def digest(image_ids: Iterable[str]) -> str:
    """Return a short name for a set of images, for the audit log.

    It changes if any of them does.
    """
    return hashlib.sha256("\n".join(sorted(image_ids)).encode()).hexdigest()


def _chunks(image_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (image_ids[start : start + _AT_ONCE] for start in range(0, len(image_ids), _AT_ONCE))
