"""Which roles may open which address: one table for the guard of every route and for the tests.

The program does not start if a route is missing from the table or a row has no route.
"""

from typing import Final

from twin.review.workflow import Role

CLINICIAN, APPROVER, OPERATOR, AUDITOR = Role.CLINICIAN, Role.APPROVER, Role.OPERATOR, Role.AUDITOR
# Role.SYSTEM, the program itself, never logs in.
EVERY_ROLE: Final = frozenset({CLINICIAN, APPROVER, OPERATOR, AUDITOR})
# Members of one hospital, who see its images.
HOSPITAL_STAFF: Final = frozenset({CLINICIAN, APPROVER})
DECIDERS: Final = frozenset({APPROVER, OPERATOR})
ANYBODY: Final = None  # no login needed

Allowed = frozenset[Role] | None

ROUTES: Final[dict[tuple[str, str], Allowed]] = {
    # Pages
    ("GET", "/health"): ANYBODY,
    ("GET", "/login"): ANYBODY,
    ("POST", "/login"): ANYBODY,
    ("POST", "/theme"): ANYBODY,
    ("POST", "/logout"): EVERY_ROLE,
    ("GET", "/"): EVERY_ROLE,
    ("GET", "/account"): EVERY_ROLE,
    ("POST", "/account/password"): EVERY_ROLE,
    ("GET", "/cases"): HOSPITAL_STAFF | {OPERATOR},
    ("GET", "/cases/{case_id}"): HOSPITAL_STAFF | {OPERATOR},
    ("GET", "/cases/{case_id}/images"): HOSPITAL_STAFF,
    ("POST", "/cases/{case_id}/select"): frozenset({CLINICIAN}),
    ("POST", "/cases/{case_id}/{action}"): HOSPITAL_STAFF | {OPERATOR},
    ("GET", "/images/{hospital}/{image_id}.png"): HOSPITAL_STAFF,
    ("GET", "/overlays/{hospital}/{image_id}.png"): HOSPITAL_STAFF,
    ("GET", "/trainings"): EVERY_ROLE,
    ("GET", "/trainings/{training_id}"): EVERY_ROLE,
    ("GET", "/comparisons/{training_id}"): EVERY_ROLE,
    ("GET", "/comparisons/{training_id}/examples/{number}/{kind}.png"): HOSPITAL_STAFF,
    ("POST", "/comparisons/{training_id}/{action}"): DECIDERS,
    ("GET", "/twin"): HOSPITAL_STAFF,
    ("GET", "/twins/{hospital}"): frozenset({OPERATOR}),
    ("GET", "/operator"): frozenset({OPERATOR, AUDITOR}),
    ("GET", "/catalogue"): EVERY_ROLE,
    ("POST", "/catalogue"): HOSPITAL_STAFF,
    ("POST", "/catalogue/{entry_id}/approve"): DECIDERS,
    ("POST", "/catalogue/{entry_id}/merge"): DECIDERS,
    ("GET", "/audit"): frozenset({OPERATOR, AUDITOR}),
    ("GET", "/users"): frozenset({OPERATOR}),
    ("POST", "/users"): frozenset({OPERATOR}),
    ("POST", "/users/{user}/disable"): frozenset({OPERATOR}),
    ("POST", "/users/{user}/password"): frozenset({OPERATOR}),
    ("GET", "/intake"): frozenset({CLINICIAN}),
    ("POST", "/intake"): frozenset({CLINICIAN}),
    # JSON API
    ("GET", "/api/v1/openapi.json"): ANYBODY,
    ("POST", "/api/v1/login"): ANYBODY,
    ("POST", "/api/v1/logout"): EVERY_ROLE,
    ("GET", "/api/v1/me"): EVERY_ROLE,
    ("GET", "/api/v1/cases"): HOSPITAL_STAFF | {OPERATOR},
    ("GET", "/api/v1/cases/{case_id}"): HOSPITAL_STAFF | {OPERATOR},
    ("GET", "/api/v1/cases/{case_id}/decisions"): HOSPITAL_STAFF | {OPERATOR},
    ("GET", "/api/v1/cases/{case_id}/images"): HOSPITAL_STAFF,
    ("POST", "/api/v1/cases/{case_id}/select"): frozenset({CLINICIAN}),
    ("POST", "/api/v1/cases/{case_id}/act"): HOSPITAL_STAFF | {OPERATOR},
    ("GET", "/api/v1/images/{hospital}/{image_id}.png"): HOSPITAL_STAFF,
    ("GET", "/api/v1/overlays/{hospital}/{image_id}.png"): HOSPITAL_STAFF,
    ("POST", "/api/v1/predictions"): HOSPITAL_STAFF,
    ("POST", "/api/v1/intake"): frozenset({CLINICIAN}),
    ("GET", "/api/v1/catalogue"): EVERY_ROLE,
    ("POST", "/api/v1/catalogue"): HOSPITAL_STAFF,
    ("GET", "/api/v1/catalogue/suggestions"): EVERY_ROLE,
    ("POST", "/api/v1/catalogue/{entry_id}/approve"): DECIDERS,
    ("POST", "/api/v1/catalogue/{entry_id}/merge"): DECIDERS,
    ("GET", "/api/v1/trainings"): EVERY_ROLE,
    ("GET", "/api/v1/trainings/{training_id}"): EVERY_ROLE,
    ("GET", "/api/v1/comparisons/{training_id}"): EVERY_ROLE,
    ("POST", "/api/v1/comparisons/{training_id}/release"): DECIDERS,
    ("POST", "/api/v1/comparisons/{training_id}/roll_back"): DECIDERS,
    ("GET", "/api/v1/twin"): HOSPITAL_STAFF,
    ("GET", "/api/v1/twins/{hospital}"): frozenset({OPERATOR}),
    ("GET", "/api/v1/operator"): frozenset({OPERATOR, AUDITOR}),
    ("GET", "/api/v1/audit"): frozenset({OPERATOR, AUDITOR}),
    ("GET", "/api/v1/audit/verify"): frozenset({OPERATOR, AUDITOR}),
    ("GET", "/api/v1/users"): frozenset({OPERATOR}),
    ("POST", "/api/v1/users"): frozenset({OPERATOR}),
    ("POST", "/api/v1/users/{user}/disable"): frozenset({OPERATOR}),
    ("POST", "/api/v1/users/{user}/password"): frozenset({OPERATOR}),
}
