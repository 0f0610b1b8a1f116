"""Noise and malice: random bytes.

Records with any part changed and false claims of size are only ever refused, and take no memory.
"""

import json
import resource
import struct
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.flare.records import (
    KINDS,
    RECORD_VERSION,
    MissingGroups,
    RecordError,
    decode,
    digests,
    encode,
)
from tests.federation.flare.example_records import (
    BROADCAST,
    OBSERVED,
    START,
    built,
    changed,
    example,
    opened,
    parts,
)
from twin.messages import Broadcast, Observation

RECORDS = {name: encode(example(name)) for name in KINDS}
SCRAPS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5),
    st.just([]), st.just({}), st.just("../../x"),
    st.just([[[]]]), st.just({"digest": "0" * 64, "tensors": None}),
    st.just({"digest": "0" * 64, "tensors": ["head.bias"]}), st.just([""]),
)  # fmt: skip


def only_refuses(name: str, record: bytes) -> None:
    try:
        opened(name, record)
    except (RecordError, MissingGroups) as error:
        assert len(str(error)) < 1500


@settings(max_examples=300)
@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=200), st.booleans())
def test_random_bytes_are_only_ever_refused(name: str, noise: bytes, begins_well: bool) -> None:
    only_refuses(name, noise)
    only_refuses(
        name,
        (
            START.pack(b"FEDKA\r\n\0", RECORD_VERSION, len(noise) // 2)
            if begins_well
            else b"FEDKA\r\n\0"
        )
        + noise,
    )


@settings(max_examples=500)
@given(
    st.sampled_from(sorted(KINDS)),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4),
)
def test_flipped_bits_are_only_ever_refused(name: str, flips: list[tuple[int, ...]]) -> None:
    record = bytearray(RECORDS[name])
    for at, mask in flips:
        record[at % len(record)] ^= mask
    only_refuses(name, bytes(record))


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(KINDS)),
    st.integers(0, 10**6),
    st.integers(0, 40),
    st.binary(max_size=20),
)
def test_bytes_put_in_or_taken_out_are_only_ever_refused(
    name: str, at: int, taken: int, put: bytes
) -> None:
    record = RECORDS[name]
    at %= len(record)
    only_refuses(name, record[:at] + put + record[at + taken :])


def paths(plain: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for name, each in (
        plain.items()
        if isinstance(plain, dict)
        else enumerate(plain)
        if isinstance(plain, list)
        else ()
    ):
        yield from paths(each, (*path, name))


@settings(max_examples=500)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 10**6), SCRAPS)
def test_a_header_with_any_part_replaced_is_only_ever_refused(
    name: str, which: int, scrap: Any
) -> None:
    places = list(paths(parts(RECORDS[name])[0]))[1:]
    only_refuses(name, changed(RECORDS[name], places[which % len(places)], scrap))


@settings(max_examples=300)
@given(
    st.sampled_from(["broadcast", "global_model", "twin_update", "masked"]),
    st.integers(0, 10**6),
    SCRAPS,
)
def test_a_block_with_any_part_of_its_header_replaced_is_only_ever_refused(
    name: str, which: int, scrap: Any
) -> None:
    header, block = parts(RECORDS[name])
    (length,) = struct.unpack("<Q", block[:8])
    plain = {"block": json.loads(block[8 : 8 + length])}
    places = list(paths(plain))[1:]
    place, path = plain, places[which % len(places)]
    for each in path[:-1]:
        place = place[each]
    place[path[-1]] = scrap
    raw = json.dumps(plain["block"]).encode()
    only_refuses(name, built(header, struct.pack("<Q", len(raw)) + raw + block[8 + length :]))


def test_what_a_record_claims_takes_no_memory() -> None:
    def claims(count: int, size: int) -> bytes:
        places = ([index * size, (index + 1) * size] for index in range(count))
        block = {
            f"extras/{index}": {"dtype": "U8", "shape": [size], "data_offsets": place}
            for index, place in enumerate(places)
        }
        header, _ = parts(encode(replace(BROADCAST, extras={}), omit=digests(BROADCAST)))
        header["message"]["extras"] = [str(index) for index in range(count)]
        raw = json.dumps(block).encode()
        return built(header, struct.pack("<Q", len(raw)) + raw + bytes(1000))

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        for record in (
            claims(1, 2**31),
            claims(4000, 2**28),
            claims(4000, 2**60),
            START.pack(b"FEDKA\r\n\0", 1, 2**32 - 1) + bytes(1000),
        ):
            with pytest.raises(RecordError):
                decode(Broadcast, record)
        with pytest.raises(RecordError):
            decode(
                Observation,
                built(
                    b'{"kind":"observation","message":[' + b"{}," * 300_000 + b"0]}",
                    parts(OBSERVED)[1],
                ),
            )
        assert (
            tracemalloc.get_traced_memory()[1] < 100e6
        )  # Python's objects for the largest header that is allowed
    finally:
        tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300e3  # kB
