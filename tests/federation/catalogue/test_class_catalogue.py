import threading
from collections.abc import Callable

import pytest

from federation.catalogue.class_catalogue import ClassCatalogue
from federation.catalogue.class_names import (
    CatalogueError,
)

SNOMED = "SNOMED CT"


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


def test_proposal_of_a_known_name_or_synonym_returns_its_entry(
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


def test_new_catalogue_object_reads_the_stored_entries(catalogue: ClassCatalogue, url: str) -> None:
    entry = catalogue.propose("pancreas", "ada", "north")
    assert ClassCatalogue(url).entries() == [entry]


def test_merged_name_resolves_to_the_other_entry_and_can_be_split_again(
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
    (suggested,) = catalogue.suggestions("Milz")
    assert (suggested.entry.name, suggested.why) == ("spleen", "a synonym of spleen")
    back = catalogue.split(milz.entry_id, "grace", "a mistake")
    assert (back.name, back.synonyms, back.state, back.merged_into) == (
        "Milz",
        ("lien",),
        "proposed",
        None,
    )
    assert catalogue.resolve("lien") == "Milz"
    assert catalogue.get(spleen.entry_id) == spleen


def test_name_merged_twice_resolves_to_the_last_entry(catalogue: ClassCatalogue) -> None:
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


def test_class_of_a_released_model_cannot_be_merged_into_another(catalogue: ClassCatalogue) -> None:
    (liver,) = catalogue.add_model_classes(["liver"], "system")
    assert (liver.state, liver.learned, liver.approved_by) == ("approved", True, "system")
    assert catalogue.add_model_classes(["liver"], "system") == [liver]
    foie = catalogue.propose("foie", "ada", "north")
    with pytest.raises(
        CatalogueError, match=r"has a row in a released model; .* merge 'foie' into it instead"
    ):
        catalogue.merge(liver.entry_id, foie.entry_id, "grace", "")
    assert catalogue.merge(foie.entry_id, liver.entry_id, "grace", "").name == "liver"


def test_proposal_can_be_deleted_until_it_is_approved(catalogue: ClassCatalogue) -> None:
    entry = catalogue.propose("livr", "ada", "north")
    catalogue.delete_proposal(entry.entry_id)
    assert catalogue.entries() == []
    (liver,) = catalogue.add_model_classes(["liver"], "system")
    with pytest.raises(CatalogueError, match="allowed: a proposal"):
        catalogue.delete_proposal(liver.entry_id)


def test_error_for_an_unknown_name_lists_similar_names(catalogue: ClassCatalogue) -> None:
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


def test_synonym_of_another_class_is_refused_and_nothing_is_stored(
    catalogue: ClassCatalogue,
) -> None:
    catalogue.propose("spleen", "ada", "north", synonyms=["Milz"])
    with pytest.raises(CatalogueError, match="'Milz' is already a name of 'spleen'"):
        catalogue.propose("pancreas", "bob", "south", synonyms=["Milz"])
    assert [each.name for each in catalogue.entries()] == ["spleen"]
    with pytest.raises(CatalogueError, match="synonyms; allowed"):
        catalogue.propose("pancreas", "bob", "south", synonyms=[f"p{each}" for each in range(30)])


def test_hospitals_that_propose_a_name_at_once_get_one_entry(url: str) -> None:
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
def test_name_with_other_characters_than_letters_digits_and_few_signs_is_refused(
    catalogue: ClassCatalogue, name: str
) -> None:
    with pytest.raises(CatalogueError):
        catalogue.propose(name, "ada", "north")


def test_catalogue_needs_no_torch(modules_imported_by: Callable[[str], set[str]]) -> None:
    modules = modules_imported_by("import federation.catalogue.class_catalogue")
    assert not modules & {"torch", "mlflow", "fastapi"}
