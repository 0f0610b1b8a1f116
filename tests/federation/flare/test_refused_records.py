"""What is no record, or no message of the expected kind in all its parts, is refused in words.

What would be refused is not written.
"""

import io
import pickle
from copy import copy
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch

from federation.flare.records import (
    KINDS,
    RECORD_VERSION,
    Limits,
    RecordError,
    decode,
    decode_method,
    encode,
)
from federation.methods.scaffold import SCAFFOLD
from tests.federation.flare.example_records import (
    BROADCAST,
    OBSERVATION,
    OBSERVED,
    START,
    WEIGHTS,
    built,
    changed,
    example,
    opened,
    parts,
)
from twin.messages import Broadcast, Observation, TwinUpdate


@pytest.mark.parametrize("name", KINDS)
def test_a_record_cut_short_anywhere_is_refused(name: str) -> None:
    record = encode(example(name))
    for length in range(len(record)):
        with pytest.raises(RecordError):
            opened(name, record[:length])


def forced(message: Broadcast | Observation, **values: Any) -> Broadcast | Observation:
    """The message with values that its types forbid."""
    message = copy(message)
    for name, value in values.items():
        object.__setattr__(message, name, value)
    return message


def test_bytes_behind_a_record_are_refused() -> None:
    for name in KINDS:
        with pytest.raises(RecordError):
            opened(name, encode(example(name)) + b"\0")


def test_pickle_is_refused_at_the_first_bytes() -> None:
    buffer = io.BytesIO()
    torch.save(WEIGHTS, buffer)
    for content in (pickle.dumps(OBSERVATION), buffer.getvalue(), b"\x80\x04cposix\nsystem\n."):
        with pytest.raises(RecordError, match="nothing else is opened here, pickle least of all"):
            decode(Observation, content)


@pytest.mark.parametrize(
    "content",
    [None, "text", bytearray(b"FEDKA\r\n\0"), OBSERVATION],
    ids=lambda each: type(each).__name__,
)
def test_what_are_no_bytes_is_refused(content: Any) -> None:
    with pytest.raises(RecordError, match=type(content).__name__):
        decode(Observation, content)


def test_a_record_of_another_version_is_refused_with_what_to_do() -> None:
    header, block = parts(encode(OBSERVATION))
    with pytest.raises(
        RecordError,
        match=f"version is 9; allowed: {RECORD_VERSION}; install the same version of fedka",
    ):
        decode(Observation, built(header, block, version=9))


def test_another_message_than_the_one_expected_is_refused() -> None:
    with pytest.raises(
        RecordError, match="is a observation; allowed: a twin_update; check who sends what"
    ):
        decode(TwinUpdate, encode(OBSERVATION))
    with pytest.raises(RecordError, match="allowed: a method"):
        decode_method(encode(OBSERVATION))


WRONG = {
    "an unknown field": (("message", "pixels"), [1]),
    "an unknown kind": (("kind",), "exploit"),
    "a kind that is no text": (("kind",), ["observation"]),
    "a third part": (("more",), 1),
    "a message that is a list": (("message",), []),
    "a number as a text": (("message", "round"), "3"),
    "a number with a point": (("message", "round"), 3.0),
    "true as a number": (("message", "round"), True),
    "a number of 65 bits": (("message", "round"), 2**64),
    "a whole number where one has a point": (("message", "threshold"), 1),
    "a word that is no number": (("message", "threshold"), "NaN"),
    "nothing where there must be something": (("message", "threshold"), None),
    "a number as truth": (("message", "signal"), 1),
    "an object as a list": (("message", "new_class_names"), {"liver": 1}),
    "a text as a list": (("message", "new_class_names"), "liver"),
    "a list of lists": (("message", "watched"), [[True]]),
    "a number as a name": (("message", "new_class_names"), [3]),
    "a list that is too long": (("message", "watched"), [True] * 5000),
    "a text that is too long": (("message", "new_class_names"), ["x" * 1001]),
    "a control character": (("message", "new_class_names"), ["liver\n\x1b[2J"]),
    "text that turns round": (("message", "new_class_names"), ["\u202elevil"]),
    "half a character": (("message", "new_class_names"), ["\ud800"]),
    "an id that is a path": (("message", "twin_id"), "../north"),
    "an id that is another path": (("message", "twin_id"), "c:north"),
    "an id that is a folder above": (("message", "twin_id"), ".."),
    "an empty id": (("message", "twin_id"), ""),
    "an id with a blank around it": (("message", "twin_id"), "north "),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_refused_in_words(name: str) -> None:
    with pytest.raises(RecordError, match=r" is .*; allowed: ") as caught:
        decode(Observation, changed(OBSERVED, *WRONG[name]))
    assert len(str(caught.value)) < 700 and str(caught.value).isprintable()


@pytest.mark.parametrize("field", fields(Observation), ids=lambda field: field.name)
def test_a_missing_field_is_refused_even_where_the_message_has_a_default(field: Any) -> None:
    header, block = parts(OBSERVED)
    del header["message"][field.name]
    with pytest.raises(RecordError, match=f"{field.name} missing"):
        decode(Observation, built(header, block))


@pytest.mark.parametrize(
    "raw",
    [
        OBSERVED[START.size :].replace(b'"threshold":0.5', b'"threshold":1e999'),
        OBSERVED[START.size :].replace(b'"threshold":0.5', b'"threshold":NaN'),
        OBSERVED[START.size :].replace(b'"round":3', b'"round":3,"round":3'),
        OBSERVED[START.size :].replace(b'"round":3', b'"round":' + b"9" * 9000),
        OBSERVED[START.size :].replace(
            b'"signal":true', b'"signal":' + b"[" * 50_000 + b"]" * 50_000
        ),
        OBSERVED[START.size :].replace(b"north", b"n\xffrth"),
    ],
    ids=[
        "infinite",
        "no number",
        "a name twice",
        "nine thousand digits",
        "fifty thousand lists",
        "no UTF-8",
    ],
)
def test_what_is_no_strict_json_is_refused(raw: bytes) -> None:
    header = raw[: raw.rindex(b"}}") + 2]  # the block of no tensors behind it ends in one brace
    with pytest.raises(RecordError):
        decode(Observation, built(header, parts(OBSERVED)[1]))


def test_tensors_that_the_header_does_not_name_are_refused() -> None:
    record = encode(BROADCAST)
    with pytest.raises(RecordError, match="1 tensors too much"):
        decode(Broadcast, changed(record, ("message", "extras"), ["taught_rows"]))
    with pytest.raises(RecordError, match="asked for twice"):
        decode(
            Broadcast,
            changed(record, ("message", "extras"), ["taught_rows", "taught_rows", "control/conv"]),
        )
    with pytest.raises(RecordError, match="not in the block"):
        decode(
            Broadcast,
            changed(record, ("message", "extras"), ["taught_rows", "control/conv", "other"]),
        )


def test_a_key_that_is_not_in_digits_is_refused_and_not_shown() -> None:
    record = encode(example("opened"))
    for wrong in ("6b 6579", "6B", "6", "xyz", "6b\u0660"):
        with pytest.raises(RecordError) as caught:
            decode(KINDS["opened"], changed(record, ("message", "seed"), wrong))
        assert wrong not in str(caught.value)


def test_a_hyper_parameter_that_the_method_refuses_is_refused() -> None:
    record = encode(SCAFFOLD())
    for path, value in (
        (("message", "num_twins"), -1),
        (("message", "head_loss"), "mse"),
        (("kind",), "method/exploit"),
    ):
        with pytest.raises(RecordError):
            decode_method(changed(record, path, value))


BOUNDS = [
    {"record_bytes": 100},
    {"header_bytes": 50},
    {"items": 1},
    {"text_characters": 8},
    {"tensors": 2},
    {"dimensions": 2},
]


@pytest.mark.parametrize("limits", BOUNDS, ids=str)
def test_a_record_beyond_a_limit_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        decode(Broadcast, encode(BROADCAST), limits=Limits(**limits))


@pytest.mark.parametrize(
    "limits", [{"record_bytes": 100}, {"header_bytes": 50}, {"text_characters": 8}, {"tensors": 2}]
)
def test_a_record_that_would_be_refused_is_not_written(limits: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        encode(BROADCAST, limits=Limits(**limits))


@pytest.mark.parametrize("wrong", [{"tensors": 0}, {"header_bytes": -1}, {"bytes": 1}])
def test_limits_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Limits(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"twin_id": "a/b"},
        {"round": 3.0},
        {"round": True},
        {"signal": 1},
        {"threshold": "nan"},
        {"threshold": True},
        {"new_class_names": ["liver"]},
        {"new_class_names": ("liver\n",)},
        {"usual_entropy": (None,)},
    ],
    ids=str,
)
def test_a_message_that_is_not_what_its_types_say_is_not_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match="observation"):
        encode(forced(OBSERVATION, **wrong))


def test_what_is_no_message_is_not_written() -> None:
    @dataclass(frozen=True)
    class Louder(Observation):
        pixels: bytes = b""

    for wrong in (Louder("north", 3, 5, True), {"round": 3}, None, Observation):
        with pytest.raises(RecordError, match="add it to KINDS"):
            encode(wrong)
    with pytest.raises(RecordError, match="a tensor"):
        encode(forced(BROADCAST, extras={"a": 3}))


def test_a_number_that_is_whole_may_stand_where_one_with_a_point_is_meant() -> None:
    assert decode(Observation, encode(forced(OBSERVATION, threshold=1))).threshold == 1.0
