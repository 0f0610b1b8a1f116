"""The console's tables, and the triggers that keep its audit log append-only."""

from collections.abc import Mapping

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

TABLES = MetaData()

CASES = Table(
    "review_case",
    TABLES,
    Column("case_id", Integer, primary_key=True),
    Column("hospital", String, nullable=False),
    Column("state", String, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("opened", String, nullable=False),
    Column("changed", String, nullable=False),
    Column("class_name", String),
    Column("named_by", String),
    Column("summary", JSON, nullable=False),
    Column(
        "num_images", Integer, nullable=False
    ),  # kept, so that a page need not count thousands of rows
    Column("num_selected", Integer, nullable=False),
    Column("training_id", String),
    Column("candidate_version", String),
    Column("reason", Text, nullable=False),
    Index("review_case_by_hospital", "hospital", "changed", "case_id"),
    Index("review_case_by_state", "state", "changed", "case_id"),
    Index("review_case_by_training", "training_id"),
)

IMAGES = Table(
    "review_image",
    TABLES,
    Column("case_id", Integer, ForeignKey("review_case.case_id"), primary_key=True),
    Column("image_id", String, primary_key=True),
    Column("hospital", String, nullable=False),
    Column("entropy", Float, nullable=False),
    Column("top", JSON, nullable=False),
    Column("distance", Float, nullable=False),
    Column("arrived", String, nullable=False),
    Column("selected", Boolean, nullable=False),
    Column(
        "open", Boolean, nullable=False
    ),  # its case is open; here so that an index can hold the rule below
    Index("review_image_by_arrival", "case_id", "arrived", "image_id"),
    Index("review_image_by_entropy", "case_id", "entropy", "image_id"),
    Index("review_image_by_distance", "case_id", "distance", "image_id"),
    Index("review_image_by_hospital", "hospital", "image_id"),
)
Index(  # an image is in one open case of its hospital at most
    "review_image_in_one_open_case",
    IMAGES.c.hospital,
    IMAGES.c.image_id,
    unique=True,
    sqlite_where=IMAGES.c.open,
    postgresql_where=IMAGES.c.open,
)

DECISIONS = Table(
    "review_decision",
    TABLES,
    Column("decision_id", Integer, primary_key=True),
    Column("case_id", Integer, ForeignKey("review_case.case_id"), nullable=False, index=True),
    Column("at", String, nullable=False),
    Column("user", String, nullable=False),
    Column("role", String, nullable=False),
    Column("action", String, nullable=False),
    Column("from_state", String, nullable=False),
    Column("to_state", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("class_name", String),
    Column("revision", Integer, nullable=False),
)

AUDIT = Table(
    "review_audit",
    TABLES,
    Column("number", Integer, primary_key=True, autoincrement=False),  # 1, 2, 3, ... without a gap
    Column("at", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("role", String, nullable=False),
    Column("hospital", String),
    Column("what", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("details", Text, nullable=False),  # canonical JSON as it was hashed
    Column("previous", String, nullable=False),  # hash of the row before
    Column("hash", String, nullable=False),
    Column("seal", String, nullable=False),
    Index("review_audit_by_hospital", "hospital", "number"),
)

USERS = Table(
    "review_user",
    TABLES,
    Column("user", String, primary_key=True),
    Column("role", String, nullable=False),
    Column("hospital", String),
    Column("password_hash", String, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created", String, nullable=False),
)

SESSIONS = Table(
    "review_session",
    TABLES,
    Column("token_hash", String, primary_key=True),
    Column("user", String, ForeignKey("review_user.user"), nullable=False, index=True),
    Column("created", String, nullable=False),
    Column("used", String, nullable=False),
)

FAILURES = Table(
    "review_login_failure",
    TABLES,
    Column(
        "key", String, primary_key=True
    ),  # a hash: people type passwords where their name belongs
    Column("failures", Integer, nullable=False),
    Column("last", String, nullable=False),
)

_NOT_ALLOWED = "the audit log is append-only"
_SQLITE_GUARDS = (
    *(
        f"CREATE TRIGGER IF NOT EXISTS review_audit_no_{verb} BEFORE {verb.upper()} ON "
        "review_audit "
        f"BEGIN SELECT RAISE(ABORT, '{_NOT_ALLOWED}'); END"
        for verb in ("update", "delete")
    ),
    # INSERT OR REPLACE deletes a row without asking the trigger above
    "CREATE TRIGGER IF NOT EXISTS review_audit_in_order BEFORE INSERT ON review_audit "
    "WHEN NEW.number IS NOT (SELECT coalesce(max(number), 0) + 1 FROM review_audit) "
    f"BEGIN SELECT RAISE(ABORT, '{_NOT_ALLOWED}'); END",
)
_POSTGRESQL_GUARDS = (
    "CREATE OR REPLACE FUNCTION review_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN RAISE EXCEPTION '{_NOT_ALLOWED}'; END $$",
    "CREATE OR REPLACE TRIGGER review_audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON "
    "review_audit "
    "FOR EACH STATEMENT EXECUTE FUNCTION review_audit_refuse()",
)
GUARDS: Mapping[str, tuple[str, ...]] = {"sqlite": _SQLITE_GUARDS, "postgresql": _POSTGRESQL_GUARDS}
