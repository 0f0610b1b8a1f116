"""What may be the name of a class, and when two names look like one. Pure functions; know no catalogue and no model.

A name is written by a person and ends up in web pages, manifests of models and file names of exports, so what is allowed is listed,
not what is forbidden.
"""

import re
import unicodedata
from difflib import SequenceMatcher

LONGEST_NAME, LONGEST_TEXT, LONGEST_CODE = 80, 2000, 64
CLOSE_SPELLING = 0.84
"""Similarity of two spellings, in [0, 1], from which on one may be a slip of the other: one letter in six."""

_PUNCTUATION = frozenset(" -_'’(),./+&:%")
_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")
# Letters that Unicode does not take apart into a plain one and a mark.
_PLAIN = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i"}
)
_OPPOSITES = tuple(
    frozenset(pair.split())
    for pair in (
        "left right",
        "upper lower",
        "superior inferior",
        "anterior posterior",
        "medial lateral",
        "proximal distal",
        "ascending descending",
        "ventral dorsal",
        "internal external",
        "benign malignant",
        "with without",
        "hyper hypo",
    )
)
# Two names of which one has a word of such a pair where the other has its partner are two things, however close their spelling.


class CatalogueError(ValueError):
    """Something that the catalogue of class names cannot take or do: what, got, allowed, what to do."""


def check_name(text: str) -> str:
    """Return a name as it is stored: Unicode's composed form, single blanks, none around it.

    Raises:
        CatalogueError: If it is empty, too long, or holds anything but letters, digits and a few signs.
    """
    composed = unicodedata.normalize("NFC", text)
    name = re.sub(
        " +", " ", "".join(" " if unicodedata.category(each) == "Zs" else each for each in composed)
    ).strip()
    if not 1 <= len(name) <= LONGEST_NAME:
        raise CatalogueError(
            f"a class name has {len(name)} characters; allowed: 1 to {LONGEST_NAME}; explain in the text"
        )
    wrong = sorted(
        {
            each
            for each in name
            if unicodedata.category(each)[0] not in "LMN" and each not in _PUNCTUATION
        }
    )
    if wrong or not any(each.isalpha() for each in name) or not name[0].isalnum():
        signs = "".join(sorted(_PUNCTUATION - {" "}))
        got = f" it has {', '.join(f'U+{ord(each):04X}' for each in wrong[:5])};" if wrong else ""
        raise CatalogueError(
            f"class name {name!r} is not allowed;{got} allowed: letters, digits, blanks and {signs}, beginning with a letter or digit, "
            "with one letter at least"
        )
    return name


def check_text(text: str, what: str = "text") -> str:
    """Return free text as it is stored; line breaks are kept, other control characters are refused.

    Raises:
        CatalogueError: If it is too long or holds such characters.
    """
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").strip()
    if len(text) > LONGEST_TEXT:
        raise CatalogueError(
            f"the {what} has {len(text)} characters; allowed: at most {LONGEST_TEXT}; shorten it"
        )
    if any(
        unicodedata.category(each) in ("Cc", "Cf", "Cs", "Co", "Cn") and each != "\n"
        for each in text
    ):
        raise CatalogueError(
            f"the {what} holds characters that cannot be seen; allowed: what can be printed, and line breaks"
        )
    return text


def check_code(system: str, code: str) -> tuple[str, str]:
    """Return a code and its system without blanks around them; both empty: no code.

    Raises:
        CatalogueError: If one is given without the other, or the code has signs that codes do not have.
    """
    system, code = " ".join(system.split()), code.strip()
    if bool(system) != bool(code):
        raise CatalogueError(
            f"code system {system!r} with code {code!r}; allowed: both or neither, such as SNOMED CT with 10200004 or RadLex with RID58"
        )
    if len(system) > LONGEST_CODE or any(
        not (each.isalnum() or each in " -._/") for each in system
    ):
        raise CatalogueError(
            f"code system {system!r}; allowed: up to {LONGEST_CODE} letters, digits, blanks, - . _ and /"
        )
    if code and (len(code) > LONGEST_CODE or not _CODE.fullmatch(code)):
        raise CatalogueError(
            f"code {code!r}; allowed: up to {LONGEST_CODE} letters, digits and . _ : / - of ASCII"
        )
    return system, code


def exact_key(name: str) -> str:
    """Return what two spellings of one name have in common: the letters without upper and lower case."""
    return unicodedata.normalize("NFC", name.casefold())


def code_key(system: str, code: str) -> str:
    """Return what two spellings of one code have in common; empty without a code."""
    return f"{re.sub('[^a-z0-9]', '', system.casefold())}:{code.casefold()}" if code else ""


def words(name: str) -> tuple[str, ...]:
    """Return the words of a name without diacritics, case and plural, in alphabetical order."""
    return tuple(sorted(_spoken(name)))


def similarity(name: str, other: str) -> float:
    """Return how close two spellings are, in [0, 1]; 0 for opposites such as left and right."""
    first, second = words(name), words(other)
    only_first, only_second = set(first) - set(second), set(second) - set(first)
    for pair in _OPPOSITES:
        if only_first & pair and only_second & pair:
            return 0.0
    if not first or not second:
        return 0.0
    return max(
        _ratio(" ".join(first), " ".join(second)),
        _ratio("".join(_spoken(name)), "".join(_spoken(other))),
    )


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def _spoken(name: str) -> list[str]:
    """Return the words of a name as ``words`` does, in the order in which they are spoken."""
    apart = unicodedata.normalize("NFKD", name.casefold().translate(_PLAIN))
    plain = "".join(each for each in apart if not unicodedata.combining(each))
    return [_singular(word) for word in re.findall(r"[^\W_]+", plain)]


def _singular(word: str) -> str:
    """Return a word without the commonest plural endings: good for comparing, not for reading."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith("ae"):
        return word[:-1]
    return (
        word[:-1]
        if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
        else word
    )
