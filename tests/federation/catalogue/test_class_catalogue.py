import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.catalogue.class_catalogue import ClassCatalogue
from federation.catalogue.class_names import (
    CatalogueError,
    check_code,
    check_name,
    check_text,
    exact_key,
    similarity,
    words,
)
from federation.catalogue.look_alikes import Suggestion

SNOMED = "SNOMED CT"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'console.sqlite'}"


@pytest.fixture
def catalogue(url: str) -> ClassCatalogue:
    moments: Iterator[datetime] = (
        datetime(2024, 2, 19, 8, tzinfo=UTC) + timedelta(seconds=each) for each in range(1000)
    )
    return ClassCatalogue(url, lambda: next(moments))


def why(found: list[Suggestion]) -> list[tuple[str, str]]:
    return [(each.entry.name, each.why) for each in found]


def test_proposal_waits_for_another_person(catalogue: ClassCatalogue) -> None:
    entry = catalogue.propose(
        "pancreas", "ada", "north", SNOMED, "15776009", ["Bauchspeicheldrüse"], "seen since Monday"
    )
    assert (entry.state, entry.proposed_by, entry.hospital, entry.synonyms) == (
        "proposed",
        "ada",
        "north",
        ("Bauchspeicheldrüse",),
    )
    assert entry.proposed_at == "2024-02-19T08:00:00.000+00:00"
    with pytest.raises(CatalogueError, match="approval by another person"):
        catalogue.approve(entry.entry_id, "ada")
    approved = catalogue.approve(entry.entry_id, "grace")
    assert (approved.state, approved.approved_by) == ("approved", "grace")
    assert catalogue.approve(entry.entry_id, "linus") == approved
    assert [each.what for each in catalogue.history(entry.entry_id)] == [
        "proposed by north (SNOMED CT 15776009)",
        "approved",
    ]


def test_name_or_synonym_that_is_known_is_answered_with_its_entry(
    catalogue: ClassCatalogue,
) -> None:
    entry = catalogue.propose("spleen", "ada", "north", SNOMED, "78961009", ["Milz"])
    assert catalogue.propose(" SPLEEN ", "bob", "south") == entry
    assert catalogue.propose("milz", "bob", "south", SNOMED, "78961009") == entry
    with pytest.raises(
        CatalogueError, match="known as 'spleen' with SNOMED CT 78961009; got SNOMED CT 1"
    ):
        catalogue.propose("Milz", "bob", "south", SNOMED, "1")
    assert len(catalogue.entries()) == 1


def test_catalogue_outlives_its_process(catalogue: ClassCatalogue, url: str) -> None:
    entry = catalogue.propose("pancreas", "ada", "north")
    assert ClassCatalogue(url).entries() == [entry]


def test_entries_that_may_be_the_same_are_offered_with_the_reason(
    catalogue: ClassCatalogue,
) -> None:
    catalogue.propose("kidney-left", "ada", "north", SNOMED, "18639004", ["left nephros"])
    catalogue.propose("gallbladder", "ada", "north")
    catalogue.propose("Dünndarm", "ada", "north")
    assert why(catalogue.suggestions("linke Niere", "snomed-ct", "18639004")) == [
        ("kidney-left", "the same code, SNOMED CT 18639004")
    ]
    assert why(catalogue.suggestions("Left Kidneys")) == [
        ("kidney-left", "the same words in another order, case or form")
    ]
    assert why(catalogue.suggestions("LEFT NEPHROS")) == [
        ("kidney-left", "a synonym of kidney-left")
    ]
    assert why(catalogue.suggestions("dunndarm")) == [
        ("Dünndarm", "the same words in another order, case or form")
    ]
    assert why(catalogue.suggestions("gall bladder")) == [
        ("gallbladder", "nearly the same spelling as gallbladder")
    ]
    assert why(catalogue.suggestions("galbladder")) == [
        ("gallbladder", "nearly the same spelling as gallbladder")
    ]
    assert why(catalogue.suggestions("GALLBLADDER")) == [("gallbladder", "the same name")]


@pytest.mark.parametrize("name", ["kidney-right", "right kidney", "pancreas"])
def test_the_other_side_and_another_organ_are_not_offered(
    catalogue: ClassCatalogue, name: str
) -> None:
    catalogue.propose("kidney-left", "ada", "north")
    assert catalogue.suggestions(name) == []


def test_two_codes_of_one_system_are_two_classes(catalogue: ClassCatalogue) -> None:
    catalogue.propose("bowel", "ada", "north", SNOMED, "1")
    assert catalogue.suggestions("bowels", SNOMED, "2") == []
    assert [each.similarity for each in catalogue.suggestions("bowels", "RadLex", "2")] == [0.95]


def test_merged_name_leads_to_the_one_that_stays_and_can_be_split_again(
    catalogue: ClassCatalogue,
) -> None:
    spleen, milz = (
        catalogue.propose("spleen", "ada", "north"),
        catalogue.propose("Milz", "bob", "south", SNOMED, "78961009", ["lien"]),
    )
    stays = catalogue.merge(milz.entry_id, spleen.entry_id, "grace", "the same organ in German")
    assert (stays.name, set(stays.synonyms), stays.code) == ("spleen", {"Milz", "lien"}, "78961009")
    assert (
        catalogue.resolve("LIEN")
        == catalogue.resolve("milz")
        == catalogue.resolve("spleen")
        == "spleen"
    )
    assert [each.name for each in catalogue.entries()] == ["spleen"]
    assert [each.state for each in catalogue.entries(merged=True)] == ["merged", "proposed"]
    assert catalogue.merge(milz.entry_id, spleen.entry_id, "grace", "again") == stays
    assert why(catalogue.suggestions("Milz")) == [("spleen", "a synonym of spleen")]
    back = catalogue.split(milz.entry_id, "grace", "a mistake")
    assert (back.name, back.synonyms, back.state, back.merged_into) == (
        "Milz",
        ("lien",),
        "proposed",
        None,
    )
    assert catalogue.resolve("lien") == "Milz"
    assert catalogue.get(spleen.entry_id) == spleen


def test_merging_twice_leads_to_the_last(catalogue: ClassCatalogue) -> None:
    first, second, third = (
        catalogue.propose(name, "ada", "north") for name in ("rein", "Niere", "kidney")
    )
    catalogue.merge(first.entry_id, second.entry_id, "grace", "")
    catalogue.merge(second.entry_id, third.entry_id, "grace", "")
    assert catalogue.resolve("rein") == "kidney"
    assert catalogue.get(first.entry_id).merged_into == third.entry_id
    for wrong in (
        (first.entry_id, second.entry_id),
        (third.entry_id, third.entry_id),
        (third.entry_id, first.entry_id),
    ):
        with pytest.raises(
            CatalogueError, match="allowed: two different entries of which none is merged"
        ):
            catalogue.merge(*wrong, "grace", "")
    with pytest.raises(CatalogueError, match="was merged into entry"):
        catalogue.approve(first.entry_id, "grace")


def test_class_of_a_released_model_is_merged_into_nothing(catalogue: ClassCatalogue) -> None:
    (liver,) = catalogue.add_model_classes(["liver"], "system")
    assert (liver.state, liver.learned, liver.approved_by) == ("approved", True, "system")
    assert catalogue.add_model_classes(["liver"], "system") == [liver]
    foie = catalogue.propose("foie", "ada", "north")
    with pytest.raises(
        CatalogueError, match=r"has a row in a released model; .* merge 'foie' into it instead"
    ):
        catalogue.merge(liver.entry_id, foie.entry_id, "grace", "")
    assert catalogue.merge(foie.entry_id, liver.entry_id, "grace", "").name == "liver"


def test_slip_can_be_forgotten_until_it_is_approved(catalogue: ClassCatalogue) -> None:
    entry = catalogue.propose("livr", "ada", "north")
    catalogue.delete_proposal(entry.entry_id)
    assert catalogue.entries() == []
    (liver,) = catalogue.add_model_classes(["liver"], "system")
    with pytest.raises(CatalogueError, match="allowed: a proposal"):
        catalogue.delete_proposal(liver.entry_id)


def test_what_is_unknown_is_said_with_what_is_near(catalogue: ClassCatalogue) -> None:
    catalogue.propose("gallbladder", "ada", "north")
    assert catalogue.find("galbladder") is None
    with pytest.raises(CatalogueError, match="no class is called 'galbladder'; known: gallbladder"):
        catalogue.resolve("galbladder")
    for name in ("", "\x00", "<b>"):
        with pytest.raises(CatalogueError):
            catalogue.resolve(name)
    with pytest.raises(CatalogueError, match="no entry 7"):
        catalogue.get(7)
    with pytest.raises(CatalogueError, match=r"undo"):
        catalogue.split(1, "grace", "")


def test_synonym_of_another_class_is_refused_and_nothing_is_entered(
    catalogue: ClassCatalogue,
) -> None:
    catalogue.propose("spleen", "ada", "north", synonyms=["Milz"])
    with pytest.raises(CatalogueError, match="'Milz' is already a name of 'spleen'"):
        catalogue.propose("pancreas", "bob", "south", synonyms=["Milz"])
    assert [each.name for each in catalogue.entries()] == ["spleen"]
    with pytest.raises(CatalogueError, match="synonyms; allowed"):
        catalogue.propose("pancreas", "bob", "south", synonyms=[f"p{each}" for each in range(30)])


def test_two_hospitals_that_propose_at_once_get_one_entry(url: str) -> None:
    catalogues = [ClassCatalogue(url) for _ in range(6)]
    found: list[int] = []
    ready = threading.Barrier(6)

    def propose(number: int) -> None:
        ready.wait()
        found.append(
            catalogues[number]
            .propose("Pancreas" if number % 2 else "pancreas", f"user{number}", "north")
            .entry_id
        )

    threads = [threading.Thread(target=propose, args=(number,)) for number in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(set(found)) == 1 and len(found) == 6


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "   ",
            "a" * 81,
            "a\x00b",
            "line\nbreak",
            "tab\tbed",
            "<script>alert(1)</script>",
            'quote"',
            "a\u202eb",
            "zero\u200bwidth",
        ),
        *(
            "=cmd()",
            "-left",
            "12",
            "back\\slash",
            "semi;colon",
            "\ud800",
            "a{b}",
            "`x`",
            "💀",
            "a\u2028b",
            "../etc",
        ),
    ],
)
def test_name_with_anything_but_letters_digits_and_few_signs_is_refused(
    catalogue: ClassCatalogue, name: str
) -> None:
    with pytest.raises(CatalogueError):
        catalogue.propose(name, "ada", "north")


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
def test_names_are_stored_composed_and_with_single_blanks(given: str, stored: str) -> None:
    assert check_name(given) == stored


@given(st.text(max_size=100))
def test_every_text_is_a_name_or_refused_and_a_name_stays_one(text: str) -> None:
    try:
        name = check_name(text)
    except CatalogueError:
        return
    assert check_name(name) == name
    assert not set(name) & set('<>"`\\{}=\n\r\t')
    assert exact_key(name) == exact_key(name.upper().lower()) or not name.isascii()


@given(st.text(max_size=40), st.text(max_size=40))
def test_similarity_is_symmetric_enough_and_bounded(one: str, other: str) -> None:
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
def test_half_a_code_or_a_strange_one_is_refused(system: str, code: str) -> None:
    with pytest.raises(CatalogueError):
        check_code(system, code)


def test_text_keeps_its_lines_and_nothing_that_cannot_be_seen() -> None:
    assert check_text(" one\r\ntwo ") == "one\ntwo"
    for wrong in ("a\x00", "a\u202e", "a" * 2001):
        with pytest.raises(CatalogueError):
            check_text(wrong)


def test_catalogue_needs_no_torch() -> None:
    code = "import sys, federation.catalogue.class_catalogue; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not set(done.stdout.split()) & {"torch", "mlflow", "fastapi"}
