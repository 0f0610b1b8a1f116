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

from tests.twin.secure_sum.masked_rounds import (
    CLASSES,
    GLOBAL,
    NAMES,
    roster_of,
    sealed_hospitals,
    update_of,
)
from twin.messages import TwinUpdate
from twin.secure_sum.fixed_point import RESOLUTION, change_of, decode, encode
from twin.secure_sum.mask_keys import mask_stream
from twin.secure_sum.mask_messages import Masked, OpenRequest
from twin.secure_sum.masking import Masker, MaskingError  # type: ignore[attr-defined]  # looked up where it is used

pytest.importorskip("cryptography", reason="the keys are those of the extra package cryptography")


MASK = 2**64 - 1


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


def test_a_masked_vector_equals_the_equations_written_out() -> None:
    maskers, sealed = sealed_hospitals()
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
    maskers, sealed = sealed_hospitals()
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
    maskers, sealed = sealed_hospitals()
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
    maskers, sealed = sealed_hospitals()
    first, second = (
        maskers["north"].mask(roster_of(sealed, names)) for names in (NAMES, NAMES[:3])
    )
    assert looks_random((first.vector - second.vector).numpy())


def test_each_round_has_a_key_pair_of_its_own_and_forgets_the_last() -> None:
    masker = Masker("north")
    keys = {masker.seal(update_of("north"), GLOBAL).public_key for _ in range(3)}
    assert len(keys) == 3


def test_nothing_is_held_after_a_round() -> None:
    maskers, sealed = sealed_hospitals()
    roster = roster_of(sealed)
    maskers["north"].mask(roster)
    maskers["north"].open(OpenRequest(5, roster.digest))
    assert maskers["north"]._held is None


def test_the_held_update_and_its_secrets_are_not_in_the_repr() -> None:
    maskers, sealed = sealed_hospitals()
    maskers["north"].mask(roster_of(sealed))
    shown = repr(maskers["north"]._held)
    assert "PrivateKey" not in shown and "change" not in shown and "seed" not in shown


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


def test_what_crosses_the_wall_holds_no_update_and_no_secret() -> None:
    maskers, sealed = sealed_hospitals()
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
