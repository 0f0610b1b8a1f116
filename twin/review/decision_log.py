"""Decision log: writes an act on a case, its decision and its audit row.

Works within a transaction of the store.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, update

from twin.review import case_images
from twin.review.audit import AuditLog
from twin.review.case_queries import find_case
from twin.review.cases import Case
from twin.review.database import Clock, stamp
from twin.review.tables import CASES, DECISIONS
from twin.review.workflow import Action, Actor

_LISTED = 20  # image ids that an audit row spells out; its digest covers all


@dataclass(frozen=True)
class DecisionLog:
    """Where acts are written down.

    Args:
        audit: The log of the same database.
        clock: Tells the time.
    """

    audit: AuditLog
    clock: Clock

    def now(self) -> str:
        """Return the time as rows hold it."""
        return stamp(self.clock())

    def change(self, connection: Connection, case: Case, values: Mapping[str, Any]) -> Case:
        """Give a case other values and the next revision; return it as it is then."""
        new = {"revision": case.revision + 1, "changed": self.now(), **values}
        connection.execute(update(CASES).where(CASES.c.case_id == case.case_id).values(new))
        return find_case(connection, None, case.case_id)

    def decide(
        self, connection: Connection, before: Case, after: Case, step: Action, actor: Actor
    ) -> None:
        """Write down a step as a decision, and in the audit log with what was selected then."""
        facts = {
            "from_state": before.state.value,
            "to_state": after.state.value,
            "reason": after.reason,
            "class_name": after.class_name,
            "revision": after.revision,
        }
        person = {"user": actor.user, "role": actor.role.value}
        connection.execute(
            insert(DECISIONS),
            {"case_id": after.case_id, "at": after.changed, "action": step.name, **person, **facts},
        )
        chosen = {
            "num_selected": after.num_selected,
            "digest": case_images.digest(
                case_images.ids(connection, after.case_id, selected_only=True)
            ),
        }
        part_of = {"training_id": after.training_id, "candidate_version": after.candidate_version}
        self.log(
            connection,
            after.case_id,
            after.hospital,
            step.name,
            actor,
            {**facts, **chosen, **part_of},
        )

    def log(
        self,
        connection: Connection,
        case_id: int,
        hospital: str,
        what: str,
        actor: Actor,
        details: Mapping[str, Any],
    ) -> None:
        """Write a row about a case into the audit log."""
        self.audit.append(
            connection, actor.user, actor.role, hospital, f"case.{what}", f"case {case_id}", details
        )


def described(image_ids: Sequence[str]) -> dict[str, Any]:
    """Return what an audit row says of images: how many, the first few, and a digest of all."""
    return {
        "num": len(image_ids),
        "images": list(image_ids)[:_LISTED],
        "digest": case_images.digest(image_ids),
    }
