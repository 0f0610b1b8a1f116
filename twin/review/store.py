"""The console's cases in its database.

Each act is one transaction with its decision and its audit row. Holds no pixels, knows no web.

What may be done is asked of ``workflow.py``; this file adds who was first. A writer has the
database to itself from the moment it reads a case, and who says which revision they saw is refused
if it is not the latest.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert

from twin.review import case_images, case_queries
from twin.review.audit import AuditLog
from twin.review.case_queries import CaseNotFound, Conflict, StoreError, find_case
from twin.review.cases import (
    Case,
    CaseImage,
    CaseRow,
    CaseSummary,
    Decision,
    Page,
    summary_to_plain,
)
from twin.review.database import Clock, utc_now
from twin.review.decision_log import DecisionLog, described
from twin.review.tables import CASES
from twin.review.transition_effects import facts_of, look_around
from twin.review.workflow import (
    ACTIONS,
    CLOSED,
    SELECTABLE,
    SYSTEM,
    Actor,
    CaseState,
    WorkflowError,
    apply,
    check_class_name,
    check_selection,
)

__all__ = ["CaseNotFound", "Conflict", "ReviewStore", "StoreError"]


class ReviewStore:
    """All cases of one database.

    Args:
        url: SQLAlchemy's.
        clock: Tells the time.
        anchor: Where the audit log's anchor is kept; none: beside a SQLite file.
    """

    def __init__(self, url: str, clock: Clock = utc_now, anchor: Path | None = None) -> None:
        self.audit = AuditLog(url, clock, anchor)
        self._engine = self.audit.engine
        self._ledger = DecisionLog(self.audit, clock)

    def open_case(self, hospital: str, images: Sequence[CaseImage], summary: CaseSummary) -> int:
        """Open a case for a group of images that look new.

        Images that are in an open case of the hospital stay there. If all are, no case is opened.

        Args:
            hospital: Whose.
            images: The group.
            summary: What the detector found out.

        Returns:
            The case's number, or that of the open case that holds the first image.

        Raises:
            StoreError: If there are no images.
        """
        if not images:
            raise StoreError("a case has no images; allowed: one or more")
        with self.audit.writing() as connection:
            taken, fresh = _sort_out(connection, hospital, images)
            if not fresh:
                return taken[images[0].image_id]
            values = {
                "hospital": hospital,
                "state": CaseState.DETECTED.value,
                "revision": 1,
                "opened": self._ledger.now(),
                "changed": self._ledger.now(),
                "summary": summary_to_plain(summary),
                "num_images": len(fresh),
                "num_selected": sum(image.selected for image in fresh),
                "reason": "",
            }
            # The table has one.
            key = connection.execute(insert(CASES), values).inserted_primary_key
            assert key is not None  # an insert of one row has one
            case_id = int(key[0])
            case_images.add(connection, case_id, hospital, fresh)
            self._ledger.log(
                connection,
                case_id,
                hospital,
                "detect",
                SYSTEM,
                described([image.image_id for image in fresh]),
            )
            return case_id

    def add_images(
        self,
        case_id: int,
        images: Sequence[CaseImage],
        summary: CaseSummary | None = None,
        *,
        hospital: str | None = None,
    ) -> Case:
        """Put later images of the same group into a case.

        Those in an open case already stay where they are.

        Args:
            case_id: Which, detected or in review.
            images: The images.
            summary: What the detector says now; none: what it said before.
            hospital: The case must be this one's; none: anyone's.

        Raises:
            CaseNotFound: If there is no such case.
            WorkflowError: If people have decided on it.
        """
        with self.audit.writing() as connection:
            case = find_case(connection, hospital, case_id)
            if case.state not in SELECTABLE:
                raise WorkflowError(
                    f"case {case_id} is {case.state} and takes no images; allowed: "
                    f"{', '.join(sorted(SELECTABLE))}"
                )
            _, fresh = _sort_out(connection, case.hospital, images)
            if not fresh and summary is None:
                return case
            if fresh:
                case_images.add(connection, case_id, case.hospital, fresh)
            grown: dict[str, Any] = {
                "num_images": case.num_images + len(fresh),
                "num_selected": case.num_selected + sum(image.selected for image in fresh),
            }
            self._ledger.log(
                connection,
                case_id,
                case.hospital,
                "add_images",
                SYSTEM,
                described([image.image_id for image in fresh]),
            )
            return self._ledger.change(
                connection,
                case,
                grown if summary is None else grown | {"summary": summary_to_plain(summary)},
            )

    def case(self, hospital: str | None, case_id: int) -> Case:
        """Return a case.

        Args:
            hospital: Whose it must be; none: anyone's.
            case_id: Which.

        Raises:
            CaseNotFound: If there is none.
        """
        with self._engine.connect() as connection:
            return find_case(connection, hospital, case_id)

    def cases(
        self,
        hospital: str | None,
        state: CaseState | None = None,
        page: int = 1,
        per_page: int = 50,
        training_id: str | None = None,
    ) -> Page[CaseRow]:
        """Return a page of cases, last changed first.

        Args:
            hospital: Whose; none: all.
            state: Where they stand; none: anywhere.
            page: Its number, from 1.
            per_page: Cases on a page.
            training_id: Those of this training; none: all.
        """
        with self._engine.connect() as connection:
            return case_queries.list_cases(connection, hospital, state, training_id, page, per_page)

    def counts(self, hospital: str | None) -> dict[CaseState, int]:
        """Return how many cases stand where; of one hospital or, for none, of all."""
        with self._engine.connect() as connection:
            return case_queries.count_cases(connection, hospital)

    def of_training(self, training_id: str) -> list[Case]:
        """Return the cases that are, or were last, part of a training, wherever they stand."""
        with self._engine.connect() as connection:
            return case_queries.cases_of_training(connection, training_id)

    def images(
        self,
        case_id: int,
        page: int = 1,
        per_page: int = 50,
        order: str = "arrived",
        *,
        hospital: str | None = None,
    ) -> Page[CaseImage]:
        """Return a page of a case's images.

        Args:
            case_id: Which case.
            page: Its number, from 1.
            per_page: Images on a page.
            order: ``arrived`` (first first), ``entropy`` (least certain first) or ``distance``
                (most typical first).
            hospital: The case must be this one's; none: anyone's.

        Raises:
            CaseNotFound: If there is no such case.
            StoreError: If the order is unknown.
        """
        with self._engine.connect() as connection:
            return case_queries.list_images(
                connection, find_case(connection, hospital, case_id), page, per_page, order
            )

    def days(self, case_id: int, *, hospital: str | None = None) -> list[tuple[str, int]]:
        """Return how many images of a case came on each day (UTC, "2024-02-19"), earliest first.

        Args:
            case_id: Which case.
            hospital: It must be this one's; none: anyone's.

        Raises:
            CaseNotFound: If there is no such case.
        """
        with self._engine.connect() as connection:
            return case_queries.count_days(connection, find_case(connection, hospital, case_id))

    def image_ids(self, hospital: str) -> frozenset[str]:
        """Return all images of a hospital that are or were in a case, also in a rejected one."""
        with self._engine.connect() as connection:
            return case_images.all_ids(connection, hospital)

    def ids(self, case_id: int, *, hospital: str | None = None) -> list[str]:
        """Return the images of a case, in the order in which they arrived."""
        with self._engine.connect() as connection:
            find_case(connection, hospital, case_id)
            return case_images.ids(connection, case_id)

    def selected_ids(self, case_id: int, *, hospital: str | None = None) -> list[str]:
        """Return the images of a case that count, in the order in which they arrived."""
        with self._engine.connect() as connection:
            find_case(connection, hospital, case_id)
            return case_images.ids(connection, case_id, selected_only=True)

    def select(
        self,
        case_id: int,
        image_ids: Sequence[str],
        selected: bool,
        actor: Actor,
        *,
        hospital: str | None = None,
    ) -> Case:
        """Say that images of a case count, or do not.

        Args:
            case_id: Which case, detected or in review.
            image_ids: Which images.
            selected: They count.
            actor: Who says so.
            hospital: The case must be this one's; none: anyone's.

        Returns:
            The case, with a new revision if anything changed.

        Raises:
            CaseNotFound: If there is no such case.
            StoreError: If an image is not in it.
            WorkflowError: If this person may not, or not now.
        """
        with self.audit.writing() as connection:
            case = find_case(connection, hospital, case_id)
            check_selection(case.state, actor)
            unknown = set(image_ids) - set(case_images.ids(connection, case_id))
            if unknown:
                raise StoreError(
                    f"{len(unknown)} of the images are not in case {case_id}, {min(unknown)!r} "
                    "among them; open the case again"
                )
            changed = case_images.mark(connection, case_id, list(image_ids), selected)
            if not changed:
                return case
            details = {"selected": selected, **described(image_ids), "num": changed}
            self._ledger.log(connection, case_id, case.hospital, "select", actor, details)
            return self._ledger.change(
                connection,
                case,
                {"num_selected": case.num_selected + (changed if selected else -changed)},
            )

    def act(
        self,
        case_id: int,
        action: str,
        actor: Actor,
        *,
        hospital: str | None,
        reason: str = "",
        class_name: str | None = None,
        expected_revision: int | None = None,
        training_id: str | None = None,
        candidate_version: str | None = None,
    ) -> Case:
        """Take a step with a case: its state, the decision and the audit row in one transaction.

        Args:
            case_id: Which case.
            action: One of ``workflow.ACTIONS``.
            actor: Who.
            hospital: The case must be this one's; none: anyone's.
            reason: Why; compulsory for some actions.
            class_name: For ``name`` and ``merge``.
            expected_revision: The revision that the actor saw; none: whichever.
            training_id: For ``start_training``.
            candidate_version: For ``finish_training``.

        Returns:
            The case after it.

        Raises:
            CaseNotFound: If there is no such case.
            Conflict: If the case changed since the actor saw it.
            WorkflowError: If this person may not, or not now, or not so.
        """
        with self.audit.writing() as connection:
            case = find_case(connection, hospital, case_id)
            if expected_revision not in {None, case.revision}:
                raise Conflict(
                    f"case {case_id} changed meanwhile: you saw revision {expected_revision}, "
                    f"it is {case.revision} and {case.state}; look again"
                )
            target = apply(action, case.state, actor, case.named_by, reason)
            step, reason = ACTIONS[action], reason.strip()
            named = check_class_name(step, class_name)
            values = {"state": target.value, "reason": reason} | facts_of(
                step, actor, named, training_id, candidate_version
            )
            look_around(connection, case, step)
            if (case.state in CLOSED) != (target in CLOSED):
                case_images.mark_open(connection, case_id, target not in CLOSED)
            after = self._ledger.change(connection, case, values)
            self._ledger.decide(connection, case, after, step, actor)
            return after

    def decisions(self, case_id: int, *, hospital: str | None = None) -> list[Decision]:
        """Return all acts on a case, oldest first."""
        with self._engine.connect() as connection:
            find_case(connection, hospital, case_id)
            return case_queries.list_decisions(connection, case_id)


def _sort_out(
    connection: Connection, hospital: str, images: Sequence[CaseImage]
) -> tuple[dict[str, int], list[CaseImage]]:
    """Return the open cases of images that are in one, and the images that are in none."""
    once = {image.image_id: image for image in images}
    taken = case_images.open_case_of(connection, hospital, list(once))
    return taken, [image for image in once.values() if image.image_id not in taken]
