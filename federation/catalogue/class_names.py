"""Rules for class names: which names are allowed, and how similar two names are.

A name is typed by a person and appears in web pages, manifests of models and file names. The rules
therefore list what is allowed, not what is forbidden.
"""

import re
import unicodedata
from difflib import SequenceMatcher

MAX_NAME_LENGTH, MAX_TEXT_LENGTH, MAX_CODE_LENGTH = 80, 2000, 64  # characters
SIMILAR_SPELLING = 0.84
"""Least similarity of two spellings, in [0, 1], of which one may be a typing error of the other.

It is about one different letter in six.
"""

_PUNCTUATION = frozenset(" -_'’(),./+&:%")
_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")
# Letters that Unicode does not decompose into a plain letter and a mark.
_PLAIN = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i"}
)
# Names that differ by such a pair are different classes, however similar their spelling.
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


class CatalogueError(ValueError):
    """A value or a change that the catalogue does not allow: what, got, allowed, what to do."""


def check_name(text: str) -> str:
    """Return a class name as it is stored: composed Unicode, single blanks, none around it.

    Raises:
        CatalogueError: If it is empty, too long, or holds a character that is not allowed.
    """
    composed = unicodedata.normalize("NFC", text)
    blanks = (" " if unicodedata.category(each) == "Zs" else each for each in composed)
    name = re.sub(" +", " ", "".join(blanks)).strip()
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        raise CatalogueError(
            f"a class name has {len(name)} characters; allowed: 1 to {MAX_NAME_LENGTH}; "
            "explain in the text"
        )
    wrong = sorted(
        each
        for each in set(name) - _PUNCTUATION
        if unicodedata.category(each)[0] not in "LMN"  # letters, marks, numbers
    )
    if wrong or not any(each.isalpha() for each in name) or not name[0].isalnum():
        signs = "".join(sorted(_PUNCTUATION - {" "}))
        got = f" it has {', '.join(f'U+{ord(each):04X}' for each in wrong[:5])};" if wrong else ""
        raise CatalogueError(
            f"class name {name!r} is not allowed;{got} allowed: letters, digits, blanks and "
            f"{signs}, beginning with a letter or digit, with one letter at least"
        )
    return name


def check_text(text: str, what: str = "text") -> str:
    """Return free text as it is stored: composed Unicode, with line breaks.

    Raises:
        CatalogueError: If it is too long or holds invisible characters other than line breaks.
    """
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").strip()
    if len(text) > MAX_TEXT_LENGTH:
        raise CatalogueError(
            f"the {what} has {len(text)} characters; allowed: at most {MAX_TEXT_LENGTH}; shorten it"
        )
    if any(
        unicodedata.category(each) in ("Cc", "Cf", "Cs", "Co", "Cn") for each in set(text) - {"\n"}
    ):
        raise CatalogueError(
            f"the {what} holds invisible characters; "
            "allowed: characters that can be printed, and line breaks"
        )
    return text


def check_code(system: str, code: str) -> tuple[str, str]:
    """Return a code system and a code without blanks around them; both are empty without a code.

    Raises:
        CatalogueError: If only one of them is given, or one holds a character that is not allowed.
    """
    system, code = " ".join(system.split()), code.strip()
    if bool(system) != bool(code):
        raise CatalogueError(
            f"code system {system!r} with code {code!r}; allowed: both or neither, "
            "such as SNOMED CT with 10200004 or RadLex with RID58"
        )
    if len(system) > MAX_CODE_LENGTH or any(
        not (each.isalnum() or each in " -._/") for each in system
    ):
        raise CatalogueError(
            f"code system {system!r}; "
            f"allowed: up to {MAX_CODE_LENGTH} letters, digits, blanks, - . _ and /"
        )
    if code and (len(code) > MAX_CODE_LENGTH or not _CODE.fullmatch(code)):
        raise CatalogueError(
            f"code {code!r}; "
            f"allowed: up to {MAX_CODE_LENGTH} letters, digits and . _ : / - of ASCII"
        )
    return system, code


def exact_key(name: str) -> str:
    """Return a key that is equal for names that differ only in upper and lower case."""
    return unicodedata.normalize("NFC", name.casefold())


def code_key(system: str, code: str) -> str:
    """Return a key that is equal for two spellings of one code; empty without a code."""
    return f"{re.sub('[^a-z0-9]', '', system.casefold())}:{code.casefold()}" if code else ""


def words(name: str) -> tuple[str, ...]:
    """Return the words of a name, sorted, without diacritics, upper case and plural endings."""
    return tuple(sorted(_plain_words(name)))


def similarity(name: str, other: str) -> float:
    """Return the similarity of two spellings, in [0, 1]; 0 for opposites such as left and right."""
    first, second = words(name), words(other)
    only_first, only_second = set(first) - set(second), set(second) - set(first)
    if not first or not second:
        return 0.0
    if any(only_first & pair and only_second & pair for pair in _OPPOSITES):
        return 0.0
    return max(
        _ratio(" ".join(first), " ".join(second)),
        _ratio("".join(_plain_words(name)), "".join(_plain_words(other))),
    )


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def _plain_words(name: str) -> list[str]:
    """Return the words of a name in their order, without diacritics, case and plural endings."""
    decomposed = unicodedata.normalize("NFKD", name.casefold().translate(_PLAIN))
    plain = "".join(each for each in decomposed if not unicodedata.combining(each))
    return [_singular(word) for word in re.findall(r"[^\W_]+", plain)]


def _singular(word: str) -> str:
    """Return a word without the commonest plural endings; good for comparing, not for reading."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith("ae"):
        return word[:-1]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
