import pytest

from federation.catalogue.class_catalogue import ClassCatalogue
from federation.catalogue.look_alikes import Suggestion

SNOMED = "SNOMED CT"


def reasons(found: list[Suggestion]) -> list[tuple[str, str]]:
    return [(each.entry.name, each.why) for each in found]


def test_similar_entries_are_suggested_with_the_reason(
    catalogue: ClassCatalogue,
) -> None:
    catalogue.propose("kidney-left", "ada", "north", SNOMED, "18639004", ["left nephros"])
    catalogue.propose("gallbladder", "ada", "north")
    catalogue.propose("Dünndarm", "ada", "north")
    assert reasons(catalogue.suggestions("linke Niere", "snomed-ct", "18639004")) == [
        ("kidney-left", "the same code, SNOMED CT 18639004")
    ]
    assert reasons(catalogue.suggestions("Left Kidneys")) == [
        ("kidney-left", "the same words in another order, case or form")
    ]
    assert reasons(catalogue.suggestions("LEFT NEPHROS")) == [
        ("kidney-left", "a synonym of kidney-left")
    ]
    assert reasons(catalogue.suggestions("dunndarm")) == [
        ("Dünndarm", "the same words in another order, case or form")
    ]
    assert reasons(catalogue.suggestions("gall bladder")) == [
        ("gallbladder", "nearly the same spelling as gallbladder")
    ]
    assert reasons(catalogue.suggestions("galbladder")) == [
        ("gallbladder", "nearly the same spelling as gallbladder")
    ]
    assert reasons(catalogue.suggestions("GALLBLADDER")) == [("gallbladder", "the same name")]


@pytest.mark.parametrize("name", ["kidney-right", "right kidney", "pancreas"])
def test_other_side_and_other_organ_are_not_suggested(catalogue: ClassCatalogue, name: str) -> None:
    catalogue.propose("kidney-left", "ada", "north")
    assert catalogue.suggestions(name) == []


def test_two_codes_of_one_system_are_two_classes(catalogue: ClassCatalogue) -> None:
    catalogue.propose("bowel", "ada", "north", SNOMED, "1")
    assert catalogue.suggestions("bowels", SNOMED, "2") == []
    assert [each.similarity for each in catalogue.suggestions("bowels", "RadLex", "2")] == [0.95]
