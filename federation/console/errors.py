"""Reasons for not doing what a user asked; ``security/error_responses.py`` maps them to status."""


class ActionRefused(ValueError):  # noqa: N818 -- an answer to the user, not a fault of the program
    """The action is not possible now; the message says why."""


class NotForRole(ActionRefused):
    """The action is for other roles or persons."""


class NotFound(ActionRefused):
    """The thing does not exist or belongs to another hospital; the message is the same for both."""
