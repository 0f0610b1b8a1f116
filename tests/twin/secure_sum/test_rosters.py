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
from twin.secure_sum.mask_messages import OpenReply, OpenRequest, Roster
from twin.secure_sum.masking import Masker, MaskingError  # type: ignore[attr-defined]  # looked up where it is used


def without_own(roster: Roster) -> Roster:
    return replace(
        roster, members={name: each for name, each in roster.members.items() if name != "north"}
    )


def changed(roster: Roster, name: str, **what: Any) -> Roster:
    return replace(roster, members={**roster.members, name: replace(roster.members[name], **what)})


WRONG_ROSTERS = {
    "a roster that it is not in": (without_own, "not what north sealed"),
    "a key that is not its own": (
        lambda roster: changed(roster, "north", public_key=bytes(32)),
        "not what north sealed",
    ),
    "another number of its images": (
        lambda roster: changed(roster, "north", num_images=9),
        "not what north sealed",
    ),
    "another round": (lambda roster: replace(roster, round=6), "it sealed round 5"),
    "other classes": (lambda roster: replace(roster, class_names=("liver",)), "other classes"),
    "two hospitals": (
        lambda roster: replace(roster, members=dict(list(roster.members.items())[:2])),
        "it has 2 hospitals; allowed: 3 or more",
    ),
    "a hospital without images": (lambda roster: changed(roster, "east", num_images=0), "no image"),
    "a short key": (
        lambda roster: changed(roster, "east", public_key=b"short"),
        "no key of 32 bytes",
    ),
    "a key that gives no secret": (
        lambda roster: changed(roster, "east", public_key=bytes(32)),
        "no X25519 secret",
    ),
    "one key for two": (
        lambda roster: changed(roster, "east", public_key=roster.members["south"].public_key),
        "two hospitals have one key",
    ),
}


@pytest.mark.parametrize("what", WRONG_ROSTERS)
def test_a_hospital_refuses_a_wrong_roster(what: str) -> None:
    spoil, message = WRONG_ROSTERS[what]
    maskers, sealed = sealed_hospitals()
    with pytest.raises(MaskingError, match=message):
        maskers["north"].mask(spoil(roster_of(sealed)))


def test_a_hospital_refuses_a_roster_before_it_has_trained_and_after_it_has_opened() -> None:
    maskers, sealed = sealed_hospitals()
    roster = roster_of(sealed)
    with pytest.raises(MaskingError, match="holds no update"):
        Masker("north").mask(roster)
    maskers["north"].mask(roster)
    maskers["north"].open(OpenRequest(5, roster.digest))
    with pytest.raises(MaskingError, match="or has opened it already"):
        maskers["north"].mask(roster_of(sealed, NAMES[:3]))


def test_a_second_roster_must_be_a_part_of_the_first() -> None:
    _, others = sealed_hospitals((*NAMES, "centre"))
    maskers, sealed = sealed_hospitals()
    first = roster_of(sealed, NAMES)
    maskers["north"].mask(first)
    larger = replace(
        first, members={**first.members, "centre": roster_of(others).members["centre"]}
    )
    swapped = roster_of({**sealed, "east": others["east"]}, NAMES[:3])
    for wrong in (first, larger, swapped, replace(roster_of(sealed, NAMES[:3]), mean="equal")):
        with pytest.raises(MaskingError, match="not a part of the roster before"):
            maskers["north"].mask(wrong)
    maskers["north"].mask(roster_of(sealed, NAMES[:3]))


def test_a_hospital_opens_what_it_masked_last_and_nothing_else() -> None:
    maskers, sealed = sealed_hospitals()
    whole, smaller = roster_of(sealed), roster_of(sealed, NAMES[:3])
    with pytest.raises(MaskingError, match="has masked nothing"):
        maskers["north"].open(OpenRequest(5, whole.digest))
    maskers["north"].mask(whole)
    maskers["north"].mask(smaller)
    for wrong in (OpenRequest(5, whole.digest), OpenRequest(4, smaller.digest)):
        with pytest.raises(MaskingError, match="allowed: what it masked last"):
            maskers["north"].open(wrong)
    assert maskers["north"].open(OpenRequest(5, smaller.digest)).roster_digest == smaller.digest


def play(
    maskers: dict[str, Masker], names: tuple[str, ...], mean: Any = "by_images"
) -> list[OpenReply]:
    sealed = {
        name: maskers[name].seal(update_of(name, number), GLOBAL)
        for number, name in enumerate(names)
    }
    roster = roster_of(sealed, mean=mean)
    for name in names:
        maskers[name].mask(roster)
    return [maskers[name].open(OpenRequest(5, roster.digest)) for name in names]


def test_a_round_that_is_repeated_is_opened_for_the_same_hospitals_alone() -> None:
    maskers = {name: Masker(name) for name in NAMES}
    play(maskers, NAMES)
    play(maskers, NAMES)
    for names, mean in ((NAMES[:3], "by_images"), (NAMES, "equal")):
        with pytest.raises(MaskingError, match="has opened round 5 for other hospitals before"):
            play(maskers, names, mean)


def test_a_hospital_says_for_whom_it_has_opened_a_round_that_is_repeated() -> None:
    maskers = {name: Masker(name) for name in NAMES}
    play(maskers, NAMES[:3])
    again = {name: maskers[name].seal(update_of(name), GLOBAL) for name in NAMES}
    assert [again[name].opened_for for name in NAMES] == [("east", "north", "south")] * 3 + [()]
    assert maskers["north"].seal(update_of("north", round_number=6), GLOBAL).opened_for == ()


def test_the_same_number_of_a_round_in_another_run_is_another_round() -> None:
    maskers = {name: Masker(name) for name in NAMES}
    play(maskers, NAMES)
    other = {key: value + 1 for key, value in GLOBAL.items()}
    sealed = {name: maskers[name].seal(update_of(name), other) for name in NAMES[:3]}
    roster = roster_of(sealed)
    for name in NAMES[:3]:
        maskers[name].mask(roster)
        maskers[name].open(OpenRequest(5, roster.digest))


def test_a_roster_of_an_earlier_round_is_refused_in_a_later_one() -> None:
    maskers, sealed = sealed_hospitals()
    replayed = roster_of(sealed)
    for number, name in enumerate(NAMES):
        maskers[name].seal(update_of(name, number, 6), GLOBAL)
    with pytest.raises(MaskingError, match="it sealed round 6"):
        maskers["north"].mask(replayed)
    with pytest.raises(MaskingError, match="not what north sealed"):
        maskers["north"].mask(replace(replayed, round=6))
