from dataclasses import replace
from typing import Any

import pytest

from tests.twin.secure_sum.masked_rounds import (
    GLOBAL,
    NAMES,
    roster_of,
    sealed_hospitals,
    update_of,
)
from twin.secure_sum.mask_keys import long_term_key
from twin.secure_sum.masking import Masker, MaskingConfig, MaskingError  # type: ignore[attr-defined]  # looked up where it is used


def pinned_ward(
    pinned: dict[str, str] | None = None, identities: dict[str, tuple[Any, ...]] | None = None
) -> tuple[Any, ...]:
    identities = identities or {name: long_term_key() for name in NAMES}
    keys = pinned or {name: public for name, (_, public) in identities.items()}
    return sealed_hospitals(
        make=lambda name: Masker(name, MaskingConfig(pinned_keys=keys), identities[name][0])
    )


def test_pinned_keys_let_the_hospitals_through_that_signed() -> None:
    maskers, sealed = pinned_ward()
    roster = roster_of(sealed)
    assert all(len(masker.mask(roster).vector) == 603 for masker in maskers.values())


def test_pinned_keys_detect_a_server_that_replaces_keys() -> None:
    maskers, sealed = pinned_ward()
    _, unsigned = sealed_hospitals()
    _, by_another = pinned_ward()
    for middle in (
        unsigned["east"],
        by_another["east"],
        replace(sealed["east"], num_images=1),
        replace(unsigned["east"], signature=sealed["east"].signature),
    ):
        with pytest.raises(MaskingError, match="the key of east is not signed"):
            maskers["north"].mask(roster_of({**sealed, "east": middle}))


def test_a_signature_of_another_round_is_refused() -> None:
    identities = {name: long_term_key() for name in NAMES}
    maskers, sealed = pinned_ward(identities=identities)
    old = Masker("east", identity=identities["east"][0]).seal(update_of("east", 1, 4), GLOBAL)
    with pytest.raises(MaskingError, match="the key of east is not signed"):
        maskers["north"].mask(roster_of({**sealed, "east": replace(old, round=5)}))


def test_a_hospital_that_is_not_pinned_is_refused() -> None:
    identities = {name: long_term_key() for name in NAMES}
    keys = {
        name: public for name, (_, public) in identities.items() if name not in ("east", "north")
    }  # its own need not be there
    maskers, sealed = pinned_ward(keys, identities)
    with pytest.raises(MaskingError, match="east is not among pinned_keys"):
        maskers["north"].mask(roster_of(sealed))


def test_pinned_keys_without_an_own_key_are_refused() -> None:
    with pytest.raises(MaskingError, match="no long-term key of its own"):
        Masker("north", MaskingConfig(pinned_keys={"east": long_term_key()[1]}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"minimum_hospitals": 2}, "minimum_hospitals is 2; allowed: 3 or more"),
        ({"max_relative_change": 0.0}, "max_relative_change"),
        (
            {"pinned_keys": {"east": "12"}},
            "pinned_keys.east is '12'; allowed: 32 bytes as 64 hexadecimal digits",
        ),
        ({"pinned_keys": {"east": "xyz"}}, "pinned_keys.east"),
        ({"minimum": 3}, "minimum"),
    ],
)
def test_a_configuration_that_protects_nothing_is_refused(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MaskingConfig(**wrong)
