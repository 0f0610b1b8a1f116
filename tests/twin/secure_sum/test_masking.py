import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy import bool
from numpy.typing import NDArray

from twin.messages import TwinUpdate
from twin.secure_sum.fixed_point import RESOLUTION, change_of, decode, encode
from twin.secure_sum.mask_keys import long_term_key, mask_stream
from twin.secure_sum.mask_messages import Masked, Member, OpenReply, OpenRequest, Roster, Sealed
from twin.secure_sum.masking import Masker, MaskingConfig, MaskingError  # type: ignore[attr-defined]  # looked up where it is used

pytest.importorskip("cryptography", reason="the keys are those of the extra package cryptography")

CLASSES = ("liver", "heart")
NAMES = ("north", "east", "south", "west")
GLOBAL = {
    "head.weight": torch.linspace(-1, 1, 600).reshape(2, 300),
    "head.bias": torch.ones(2),
    "batches": torch.tensor(3),
}
MASK = 2**64 - 1


def update_of(name: str, number: int = 0, round_number: int = 5) -> TwinUpdate:
    generator = torch.Generator().manual_seed(number)
    weights = {
        key: value + 0.1 * torch.randn(value.shape, generator=generator)
        if value.is_floating_point()
        else value + number
        for key, value in GLOBAL.items()
    }
    return TwinUpdate(
        name,
        round_number,
        weights,
        10 + number,
        metrics={"total": float(number)},
        class_names=CLASSES,
    )


def sealed_ward(
    names: tuple[str, ...] = NAMES,
    round_number: int = 5,
    make: Callable[..., Any] | type[Any] = Masker,
) -> tuple[Any, ...]:
    maskers = {name: make(name) for name in names}
    sealed = {
        name: masker.seal(update_of(name, number, round_number), GLOBAL)
        for number, (name, masker) in enumerate(maskers.items())
    }
    return maskers, sealed


def roster_of(
    sealed: dict[str, Sealed], names: tuple[str, ...] | None = None, mean: Any = "by_images"
) -> Roster:
    chosen = {name: sealed[name] for name in names or sealed}
    members = {
        name: Member(each.public_key, each.num_images, each.signature)
        for name, each in chosen.items()
    }
    first = next(iter(sealed.values()))
    return Roster(first.round, first.class_names, members, mean)


def summed(masked: list[Masked], seeds: list[bytes] | tuple[Any, ...] = ()) -> NDArray[Any]:
    total = np.zeros(masked[0].vector.numel(), np.uint64)
    for each in masked:
        total += each.vector.numpy().view(np.uint64)
    for seed in seeds:
        total -= mask_stream(seed, len(total))
    return total


def looks_random(vector: NDArray[Any]) -> bool:
    """Chi-square of the bytes, 255 degrees of freedom: mean 255, deviation 22.6.

    Noise exceeds 480 once in 10^16 tests.
    """
    counts = np.bincount(vector.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return ((counts - expected) ** 2 / expected).sum() < 480


def ladder(secret: bytes, point: bytes) -> bytes:
    """X25519 as in RFC 7748, section 5."""
    prime = 2**255 - 19
    scalar = (int.from_bytes(secret, "little") & ~7 & ~(128 << 248)) | (64 << 248)
    x1 = int.from_bytes(point, "little") & (2**255 - 1)
    x2, z2, x3, z3 = 1, 0, x1, 1
    for bit in reversed(range(255)):
        if scalar >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        e = a * a - b * b
        x3, z3 = (d * a + c * b) ** 2 % prime, x1 * (d * a - c * b) ** 2 % prime
        x2, z2 = a * a * b * b % prime, e * (a * a + 121665 * e) % prime
        if scalar >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, prime - 2, prime) % prime).to_bytes(32, "little")


def chacha(key: bytes, length: int) -> list[int]:
    """ChaCha20 as in RFC 8439, section 2.3, with nonce 0 and a counter from 0."""

    def turn(value: int, by: int) -> int:
        return (value << by | value >> 32 - by) & 0xFFFFFFFF

    def quarter(s: list[int], a: int, b: int, c: int, d: int) -> None:
        for first, second, third, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[first] = (s[first] + s[second]) & 0xFFFFFFFF
            s[third] = turn(s[third] ^ s[first], by)

    words = [int.from_bytes(key[at : at + 4], "little") for at in range(0, 32, 4)]
    out = b""
    for block in range(-(-8 * length // 64)):
        start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *words, block, 0, 0, 0]
        state = list(start)
        for _ in range(10):
            for column in range(4):
                quarter(state, column, column + 4, column + 8, column + 12)
            for column in range(4):
                quarter(
                    state, column, (column + 1) % 4 + 4, (column + 2) % 4 + 8, (column + 3) % 4 + 12
                )
        out += b"".join(
            ((a + b) & 0xFFFFFFFF).to_bytes(4, "little") for a, b in zip(state, start, strict=True)
        )
    return [int.from_bytes(out[8 * at : 8 * at + 8], "little") for at in range(length)]


def test_a_masked_vector_is_that_of_the_equations_written_out() -> None:
    maskers, sealed = sealed_ward()
    secrets = {
        name: masker._held.private_key.private_bytes_raw() for name, masker in maskers.items()
    }
    roster = roster_of(sealed)
    total = sum(each.num_images for each in sealed.values())
    for number, name in enumerate(NAMES):
        vector = maskers[name].mask(roster).vector
        seed = maskers[name].open(OpenRequest(5, roster.digest)).seed
        floats = [
            (update_of(name, number).weights[key].double() - GLOBAL[key].double()).flatten()
            for key in ("head.bias", "head.weight")
        ]
        expected = [
            round(float(value) * (10 + number) / total * 2**40) for value in torch.cat(floats)[:40]
        ]
        for other in NAMES:
            if other != name:
                secret = ladder(secrets[name], sealed[other].public_key)
                info = json.dumps(
                    ["fedka secure sum 1", "pair", 5, roster.digest, sorted((name, other))]
                ).encode()
                key = hmac.digest(
                    hmac.digest(bytes(32), secret, hashlib.sha256), info + b"\1", hashlib.sha256
                )  # HKDF of RFC 5869
                sign = 1 if name < other else -1
                expected = [
                    value + sign * mask
                    for value, mask in zip(expected, chacha(key, 40), strict=True)
                ]
        expected = [
            (value + mask) & MASK for value, mask in zip(expected, chacha(seed, 40), strict=True)
        ]
        differences = [
            (int(got) - value + 2**63) % 2**64 - 2**63
            for got, value in zip(vector[:40], expected, strict=True)
        ]
        assert (
            max(map(abs, differences)) <= 1
        )  # a value halfway between two integers may be rounded to either


@pytest.mark.parametrize("mean", ["by_images", "equal"])
def test_masks_cancel_exactly_and_the_sum_is_the_weighted_mean_within_the_resolution(
    mean: Any,
) -> None:
    maskers, sealed = sealed_ward()
    roster = roster_of(sealed, mean=mean)
    masked = [masker.mask(roster) for masker in maskers.values()]
    seeds = [masker.open(OpenRequest(5, roster.digest)).seed for masker in maskers.values()]
    counts = [sealed[name].num_images if mean == "by_images" else 1 for name in NAMES]
    changes = [
        change_of(update_of(name, number).weights, GLOBAL) for number, name in enumerate(NAMES)
    ]
    plain = np.zeros(603, np.uint64)
    for change, count in zip(changes, counts, strict=True):
        plain += encode(change, count, sum(counts))
    assert np.array_equal(summed(masked, seeds), plain)
    weights = decode(plain, GLOBAL, roster.total)
    locals_ = [update_of(name, number).weights for number, name in enumerate(NAMES)]
    for key in ("head.weight", "head.bias"):
        expected = np.average(
            [each[key].double().numpy() for each in locals_], axis=0, weights=counts
        )
        assert (
            np.abs(weights[key].double().numpy() - expected).max()
            <= len(NAMES) / 2 * RESOLUTION + 2**-24 * 1.5
        )
    assert int(weights["batches"]) == round(
        sum(count * (3 + number) for number, count in enumerate(counts)) / sum(counts)
    )


def test_a_single_vector_looks_uniform_where_the_share_itself_does_not() -> None:
    big = {"head.weight": torch.zeros(20_000)}
    maskers = {name: Masker(name) for name in NAMES}
    moved = {"head.weight": torch.full((20_000,), 0.25)}
    config = {"num_images": 10, "class_names": CLASSES}
    sealed = {
        name: maskers[name].seal(
            TwinUpdate(name, 0, moved, **cast(Any, config)), {"head.weight": big["head.weight"] + 1}
        )
        for name in NAMES
    }
    roster = roster_of(sealed)
    masked = {name: maskers[name].mask(roster) for name in NAMES}
    seeds = {name: maskers[name].open(OpenRequest(0, roster.digest)).seed for name in NAMES}
    assert not looks_random(encode(change_of(moved, big), 10, 40))
    for name in NAMES:
        assert looks_random(summed([masked[name]]))
        assert looks_random(
            summed([masked[name]], [seeds[name]])
        )  # its own mask alone does not open it
        others = [other for other in NAMES if other != name]
        assert looks_random(
            summed([masked[other] for other in others], [seeds[other] for other in others])
        )  # one vector is missing
        assert looks_random(
            summed(list(masked.values()), [seeds[other] for other in others])
        )  # one seed is missing
    assert not looks_random(summed(list(masked.values()), list(seeds.values())))


def test_the_vectors_of_a_roster_that_was_given_up_stay_noise_even_when_the_late_one_comes() -> (
    None
):
    maskers, sealed = sealed_ward()
    whole, smaller = roster_of(sealed), roster_of(sealed, NAMES[:3])
    given_up = [masker.mask(whole) for masker in maskers.values()]  # that of west comes late
    again = [maskers[name].mask(smaller) for name in NAMES[:3]]
    seeds = [maskers[name].open(OpenRequest(5, smaller.digest)).seed for name in NAMES[:3]]
    assert not looks_random(summed(again, seeds))
    assert looks_random(summed(given_up))
    assert looks_random(summed(given_up, seeds))
    for name in NAMES[:3]:
        with pytest.raises(MaskingError, match="has opened it already"):
            maskers[name].open(OpenRequest(5, whole.digest))


def test_masks_of_two_rosters_have_nothing_in_common() -> None:
    maskers, sealed = sealed_ward()
    first, second = (
        maskers["north"].mask(roster_of(sealed, names)) for names in (NAMES, NAMES[:3])
    )
    assert looks_random((first.vector - second.vector).numpy())


def test_each_round_has_a_key_pair_of_its_own_and_forgets_the_last() -> None:
    masker = Masker("north")
    keys = {masker.seal(update_of("north"), GLOBAL).public_key for _ in range(3)}
    assert len(keys) == 3


def test_nothing_is_held_after_a_round() -> None:
    maskers, sealed = sealed_ward()
    roster = roster_of(sealed)
    maskers["north"].mask(roster)
    maskers["north"].open(OpenRequest(5, roster.digest))
    assert maskers["north"]._held is None


def test_what_is_held_is_not_shown() -> None:
    maskers, sealed = sealed_ward()
    maskers["north"].mask(roster_of(sealed))
    shown = repr(maskers["north"]._held)
    assert "PrivateKey" not in shown and "change" not in shown and "seed" not in shown


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
def test_a_hospital_refuses(what: str) -> None:
    spoil, message = WRONG_ROSTERS[what]
    maskers, sealed = sealed_ward()
    with pytest.raises(MaskingError, match=message):
        maskers["north"].mask(spoil(roster_of(sealed)))


def test_a_hospital_refuses_a_roster_before_it_has_trained_and_after_it_has_opened() -> None:
    maskers, sealed = sealed_ward()
    roster = roster_of(sealed)
    with pytest.raises(MaskingError, match="holds no update"):
        Masker("north").mask(roster)
    maskers["north"].mask(roster)
    maskers["north"].open(OpenRequest(5, roster.digest))
    with pytest.raises(MaskingError, match="or has opened it already"):
        maskers["north"].mask(roster_of(sealed, NAMES[:3]))


def test_a_second_roster_must_be_a_part_of_the_first() -> None:
    _, others = sealed_ward((*NAMES, "centre"))
    maskers, sealed = sealed_ward()
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
    maskers, sealed = sealed_ward()
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


def test_a_roster_of_an_earlier_round_is_no_use_in_a_later_one() -> None:
    maskers, sealed = sealed_ward()
    replayed = roster_of(sealed)
    for number, name in enumerate(NAMES):
        maskers[name].seal(update_of(name, number, 6), GLOBAL)
    with pytest.raises(MaskingError, match="it sealed round 6"):
        maskers["north"].mask(replayed)
    with pytest.raises(MaskingError, match="not what north sealed"):
        maskers["north"].mask(replace(replayed, round=6))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda update: replace(update, twin_id="east"), "is east's"),
        (
            lambda update: replace(update, upload={"prototypes": torch.zeros(1)}),
            "holds prototypes besides weights",
        ),
        (lambda update: replace(update, num_images=0), "trained on 0 images"),
        (
            lambda update: replace(
                update, weights={key: value * 100 for key, value in update.weights.items()}
            ),
            "times the global norm",
        ),
        (
            lambda update: replace(
                update, weights={**update.weights, "head.bias": torch.tensor([float("nan"), 0.0])}
            ),
            "not finite",
        ),
    ],
)
def test_an_update_that_cannot_be_summed_is_not_sealed_and_nothing_is_held(
    spoil: Callable[..., Any], message: str
) -> None:
    masker = Masker("north")
    with pytest.raises(ValueError, match=message):
        masker.seal(spoil(update_of("north")), GLOBAL)
    assert masker._held is None


def pinned_ward(
    pinned: dict[str, str] | None = None, identities: dict[str, tuple[Any, ...]] | None = None
) -> tuple[Any, ...]:
    identities = identities or {name: long_term_key() for name in NAMES}
    keys = pinned or {name: public for name, (_, public) in identities.items()}
    return sealed_ward(
        make=lambda name: Masker(name, MaskingConfig(pinned_keys=keys), identities[name][0])
    )


def test_pinned_keys_let_the_hospitals_through_that_signed() -> None:
    maskers, sealed = pinned_ward()
    roster = roster_of(sealed)
    assert all(len(masker.mask(roster).vector) == 603 for masker in maskers.values())


def test_a_server_in_the_middle_is_found_out_by_pinned_keys() -> None:
    maskers, sealed = pinned_ward()
    _, unsigned = sealed_ward()
    _, by_another = pinned_ward()
    for middle in (
        unsigned["east"],
        by_another["east"],
        replace(sealed["east"], num_images=1),
        replace(unsigned["east"], signature=sealed["east"].signature),
    ):
        with pytest.raises(MaskingError, match="the key of east is not signed"):
            maskers["north"].mask(roster_of({**sealed, "east": middle}))


def test_a_signature_of_another_round_is_no_use() -> None:
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


def test_what_crosses_the_wall_holds_no_update_and_no_secret() -> None:
    maskers, sealed = sealed_ward()
    roster = roster_of(sealed)
    masked = maskers["north"].mask(roster)
    assert [
        each.name for each in fields(masked) if isinstance(getattr(masked, each.name), torch.Tensor)
    ] == ["vector"]
    assert not any(
        isinstance(getattr(sealed["north"], each.name), torch.Tensor)
        for each in fields(sealed["north"])
    )
    secret = maskers["north"]._held.private_key.private_bytes_raw()
    assert secret.hex() not in repr(sealed["north"]) + repr(roster)
    assert secret not in masked.vector.numpy().tobytes()
