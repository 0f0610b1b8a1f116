"""Why something is not done: three kinds of no, a sentence for people. No request is known; ``security/faults.py`` gives each a status."""


class ActionRefused(ValueError):  # noqa: N818 -- a refusal is an answer, not a fault of ours
    """Something that cannot be done now; says why."""


class NotForRole(ActionRefused):
    """Something that others may do now."""


class NotHere(ActionRefused):
    """Something that does not exist, or is another hospital's: both sound the same."""
