"""Fields of forms and addresses that several pages share, and the form of a class name."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Form, Path

from federation.catalogue.entries import Entry
from federation.catalogue.look_alikes import Suggestion
from federation.console.class_name_actions import Proposal

LARGEST = 2**62  # databases store integers below 2**63
Number = Annotated[int, Path(ge=1, le=LARGEST)]
Text = Annotated[str, Form(max_length=4000)]
Password = Annotated[str, Form(max_length=1000)]


@dataclass(frozen=True)
class ClassNameForm:
    """A class name and its details as typed, to be shown again if refused.

    Args:
        class_name: The name.
        code_system: Such as SNOMED CT; empty if there is no code.
        code: Code in that system.
        synonyms: Further names, one per line.
        text: Description.
        confirmed: The user has confirmed that it is none of the classes that look alike.
    """

    class_name: Text = ""
    code_system: Text = ""
    code: Text = ""
    synonyms: Text = ""
    text: Text = ""
    confirmed: Annotated[bool, Form()] = False

    @property
    def proposal(self) -> Proposal:
        """The details as the catalogue's actions take them."""
        lines = (line.strip() for line in self.synonyms.splitlines())
        return Proposal(
            self.code_system.strip(),
            self.code.strip(),
            tuple(filter(None, lines)),
            self.text.strip(),
            self.confirmed,
        )


@dataclass(frozen=True)
class SuggestedName:
    """A known name that may mean the same class.

    Args:
        name: The known name.
        code: Its code system and code; may be empty.
        why: Why it is suggested.
        action: ``merge`` if the model knows the class, ``name`` if only the catalogue does.
    """

    name: str
    code: str
    why: str
    action: str


def suggested_names(
    suggestions: Iterable[Suggestion], known: Sequence[str] = ()
) -> tuple[SuggestedName, ...]:
    """Return suggestions for a page.

    Args:
        suggestions: From the catalogue.
        known: Classes that the serving model can predict.
    """
    return tuple(
        SuggestedName(
            each.entry.name,
            full_code(each.entry),
            each.why,
            "merge" if each.entry.name in known else "name",
        )
        for each in suggestions
    )


def full_code(entry: Entry) -> str:
    """Return code system and code of an entry; empty without a code."""
    return f"{entry.code_system} {entry.code}".strip()
