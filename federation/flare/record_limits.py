"""Limits of records: sizes, strict JSON, texts, and the error.

A record comes from another machine: it is checked as if somebody hostile had written it.
"""

import json
import unicodedata
from dataclasses import fields
from math import isfinite
from typing import Any

import pydantic.dataclasses
from pydantic import ConfigDict

ADVICE = "let the sender send it again, with the version of fedka that runs here"
_MEBIBYTE = 2**20
_UNSEEN = frozenset(
    ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
)  # control, format, half of a pair, private, line and paragraph ends
_NOT_FINITE = ("nan", "inf", "-inf")
SMALLEST_INT, LARGEST_INT = -(2**63), 2**64 - 1


class RecordError(ValueError):
    """Bytes that are no record, or a message that cannot become one.

    What, got, allowed, what to do.
    """


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Limits:
    """How large a record may be. Everything is checked before memory is taken for it.

    Args:
        record_bytes: The whole record [bytes]; a ResNet-18 has 45 MB, and a broadcast may hold two
            models and what a method adds.
        header_bytes: Each of its two JSON headers [bytes].
        tensors: Tensors in it.
        dimensions: Of one tensor.
        items: Of one list or mapping.
        text_characters: Of one text or name.
    """

    record_bytes: int = 512 * _MEBIBYTE
    header_bytes: int = _MEBIBYTE
    tensors: int = 4096
    dimensions: int = 8
    items: int = 4096
    text_characters: int = 1000

    def __post_init__(self) -> None:
        """Check the ranges."""
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}; allowed: 1 or more")


DEFAULT_LIMITS = Limits()


def refusal(what: str, got: Any, allowed: str, advice: str = ADVICE) -> RecordError:
    """Return the error in four parts.

    What was got is shortened, so that a record cannot fill a log.
    """
    shown = got if isinstance(got, str) else repr(got)
    shown = ascii(shown)[1:-1] if not shown.isprintable() else shown
    return RecordError(
        f"{what} is {shown if len(shown) <= 80 else shown[:77] + '...'}; allowed: {allowed}; "
        f"{advice}"
    )


def parse_json(raw: bytes, what: str) -> dict[str, Any]:
    """Return a JSON object: UTF-8, no name twice, no number that JSON does not have.

    Raises:
        RecordError: If it is anything else.
    """
    try:
        plain = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_once_each, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise refusal(
            what, f"no JSON ({type(error).__name__})", "a JSON object in UTF-8 with each name once"
        ) from None
    if not isinstance(plain, dict):
        raise refusal(what, type(plain).__name__, "a JSON object")
    return plain


def check_keys(plain: Any, names: tuple[str, ...], what: str) -> dict[str, Any]:
    """Return an object that has exactly these names."""
    if not isinstance(plain, dict):
        raise refusal(what, type(plain).__name__, f"an object with {', '.join(names) or 'no name'}")
    unknown, missing = (
        [name for name in plain if name not in names],
        [name for name in names if name not in plain],
    )
    if unknown or missing:
        got = (
            f"an object with {', '.join(unknown)!a} too much and {', '.join(missing) or 'nothing'} "
            "missing"
        )
        raise refusal(what, got, f"an object with {', '.join(names) or 'no name'}")
    return plain


def check_int(value: Any, what: str) -> int:
    """Return a whole number of at most 64 bits."""
    if type(value) is not int or not SMALLEST_INT <= value <= LARGEST_INT:
        got = (
            value
            if type(value) is not int or abs(value) < 2**80
            else f"a number of {value.bit_length()} bits"
        )
        raise refusal(what, got, "a whole number of at most 64 bits")
    return value


def check_float(plain: Any, what: str) -> float:
    """Return a number as it was written.

    Finite as JSON's number, anything else as one of three words.
    """
    if isinstance(plain, str) and plain in _NOT_FINITE:
        return float(plain)
    if type(plain) is not float or not isfinite(plain):  # 1e999 is JSON and becomes infinite
        raise refusal(
            what,
            plain,
            f"a finite number with a point or exponent, or one of {', '.join(_NOT_FINITE)}",
        )
    return plain


def plain_float(value: Any, what: str) -> float | str:
    """Return a number as JSON can hold it."""
    if isinstance(value, bool) or not isinstance(value, float | int):
        raise refusal(what, value, "a number")
    number = float(value)
    return number if isfinite(number) else str(number)


def check_text(value: Any, what: str, limits: Limits) -> str:
    """Return a text without characters that cannot be seen."""
    if type(value) is not str:
        raise refusal(what, value, "a text")
    if len(value) > limits.text_characters:
        raise refusal(
            what, f"a text of {len(value)} characters", f"at most {limits.text_characters}"
        )
    if any(unicodedata.category(each) in _UNSEEN for each in value):
        raise refusal(
            what, value, "a text without control characters and others that cannot be seen"
        )
    return value


def check_id(value: Any, what: str, limits: Limits) -> str:
    """Return an id: a text that may become the name of a folder and of nothing outside it."""
    text = check_text(value, what, limits)
    if (
        not text.strip()
        or text != text.strip()
        or text.startswith(".")
        or any(each in text for each in "/\\:")
    ):
        raise refusal(
            what,
            text,
            "an id: not empty, no blank around it, no '.' in front, none of / \\ : in it",
        )
    return text


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
