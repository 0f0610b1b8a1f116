import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.catalogue.class_names import (
    CatalogueError,
    check_code,
    check_name,
    check_text,
    exact_key,
    similarity,
    words,
)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        *(
            (" left   kidney ", "left kidney"),
            ("Du\u0308nndarm", "Dünndarm"),
            ("left\u00a0lung", "left lung"),
            ("心臓", "心臓"),
        ),
        *(("5th rib (left)", "5th rib (left)"), ("Crohn's disease", "Crohn's disease")),
    ],
)
def test_names_are_stored_in_composed_unicode_with_single_blanks(given: str, stored: str) -> None:
    assert check_name(given) == stored


@given(st.text(max_size=100))
def test_any_text_is_refused_or_becomes_a_valid_name(text: str) -> None:
    try:
        name = check_name(text)
    except CatalogueError:
        return
    assert check_name(name) == name
    assert not set(name) & set('<>"`\\{}=\n\r\t')
    assert exact_key(name) == exact_key(name.upper().lower()) or not name.isascii()


@given(st.text(max_size=40), st.text(max_size=40))
def test_similarity_is_between_0_and_1_and_1_for_equal_names(one: str, other: str) -> None:
    assert 0 <= similarity(one, other) <= 1
    assert similarity(one, one) == (1.0 if words(one) else 0.0)


@pytest.mark.parametrize(
    ("system", "code"),
    [
        ("SNOMED CT", ""),
        ("", "12"),
        ("a" * 65, "1"),
        ("S", "1 2"),
        ("S", "<b>"),
        ("S<", "1"),
        ("S", "é"),
    ],
)
def test_incomplete_or_invalid_code_is_refused(system: str, code: str) -> None:
    with pytest.raises(CatalogueError):
        check_code(system, code)


def test_text_keeps_line_breaks_but_no_invisible_characters() -> None:
    assert check_text(" one\r\ntwo ") == "one\ntwo"
    for wrong in ("a\x00", "a\u202e", "a" * 2001):
        with pytest.raises(CatalogueError):
            check_text(wrong)
