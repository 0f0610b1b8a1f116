import io
import json
import pickle
import resource
import struct
import tracemalloc
from copy import copy
from dataclasses import dataclass, fields, replace
from hashlib import sha256

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from federation.engines import SequentialEngine
from federation.flare.fields import hints_of
from federation.flare.groups import GroupCache, KnownDigests
from federation.flare.notices import Assignment, Fault, Hello
from federation.flare.records import (
    KINDS,
    RECORD_VERSION,
    Limits,
    MissingGroups,
    RecordError,
    decode,
    decode_method,
    digests,
    encode,
)
from federation.method import Method
from federation.methods import METHODS
from federation.methods.fedka import FedKA
from federation.methods.scaffold import SCAFFOLD
from federation.round import RoundConfig, run_round
from federation.server import new_server
from incremental.head import Weights
from incremental.network import NetworkConfig
from incremental.proxy import ProxyConfig, ProxyServer, Score, StoredModel
from incremental.reconstruction import ReconstructionConfig
from twin.compression import CompressionConfig, pack, unpack
from twin.config import TwinConfig, TwinSetting
from twin.local_training import TrainingConfig
from twin.mask_messages import Member, Roster
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate

MESSAGES = {name: kind for name, kind in KINDS.items() if not issubclass(kind, Method)}
START = struct.Struct("<8sHI")
WEIGHTS = {"conv": torch.arange(6.0).reshape(1, 2, 3), "head.bias": torch.tensor([-0.0]), "steps": torch.tensor(7)}
OLD = {"head.bias": torch.tensor([1.0, 2.0])}
BROADCAST = Broadcast(
    weights=WEIGHTS,
    class_names=("liver", "spleen, left"),
    round=3,
    rounds_since_growth=1,
    seed=2**63 - 1,
    old_model=StoredModel(OLD, ("liver",), 2, Score(0.75, "held-back images of task 1")),
    extras={"control/conv": torch.ones(2, dtype=torch.float64), "taught_rows": torch.tensor(1)},
)
OBSERVATION = Observation("north", 3, 5, True, ("kidney",), 0.25, 1.5, 0.5, 10, 4, 3, (0.1, 0.2), (True, False))
GOLDEN = "3ac9f51977981855e74ce094eb605c771d48ca1f68e0df4332a9766b77afbb56"


def parts(record):
    """Header as plain data, and the block of tensors."""
    _, _, length = START.unpack_from(record)
    return json.loads(record[START.size : START.size + length]), record[START.size + length :]


def built(header, block, version=RECORD_VERSION, magic=b"FEDKA\r\n\0"):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return START.pack(magic, version, len(raw)) + raw + block


def changed(record, path, value):
    """The record with another value at a path of its header."""
    header, block = parts(record)
    place = header
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return built(header, block)


@pytest.mark.parametrize("kind", [kind for kind in MESSAGES.values() if kind is not Assignment], ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_message_comes_back_as_it_went(data, kind, draw_message, same):
    message = draw_message(data, kind)
    found = decode(kind, encode(message))
    if isinstance(message, TwinUpdate) and message.packed is not None:
        message = replace(message, weights={})
    assert same(found, message)


def test_a_setting_comes_back_as_it_went(tiny_setting):
    for assignment in (example("assignment"), Assignment("run-2", tiny_setting, 3)):
        found = decode(Assignment, encode(assignment))
        assert found == assignment and found.setting.training.batch_size == assignment.setting.training.batch_size


@pytest.mark.parametrize("name", METHODS)
def test_every_method_comes_back_as_it_went(name):
    method = METHODS[name]()
    assert decode_method(encode(method)) == method and type(decode_method(encode(method))) is METHODS[name]


@pytest.mark.parametrize(
    "method",
    [
        FedKA(reconstruction=None, semantic_weight=0.1, head_loss="ce"),
        FedKA(reconstruction=ReconstructionConfig(perturb_steps=3)),
        SCAFFOLD(num_twins=7, memory=True),
    ],
    ids=str,
)
def test_hyper_parameters_travel(method):
    assert decode_method(encode(method)) == method


@pytest.mark.parametrize("kind", MESSAGES.values(), ids=MESSAGES)
def test_every_message_that_carries_weights_carries_its_class_names(kind):
    hints = hints_of(kind)
    assert Weights not in hints.values() or hints["class_names"] == tuple[str, ...]


def test_the_bytes_of_a_known_message_are_what_they_were():
    assert sha256(encode(BROADCAST)).hexdigest() == GOLDEN, "the format changed: raise RECORD_VERSION, then pin the new digest"


def test_weights_may_be_written_to_and_are_not_the_records_own_memory():
    record = encode(BROADCAST)
    before = bytes(record)
    decode(Broadcast, record).weights["conv"].zero_()
    assert record == before


# ----- weights that are not sent again


def test_weights_that_nobody_was_told_to_leave_out_are_asked_of_nobody():
    with pytest.raises(RecordError, match="without its weights"):
        decode(Broadcast, encode(BROADCAST, omit=digests(BROADCAST)))
    with pytest.raises(MissingGroups):
        decode(Broadcast, encode(BROADCAST, omit=digests(BROADCAST)), {})


def test_weights_that_the_receiver_holds_are_left_out_and_put_back(same):
    both = digests(BROADCAST)
    held = dict(zip(both, (WEIGHTS, OLD), strict=True))
    whole, less = encode(BROADCAST), encode(BROADCAST, omit=both)
    assert len(whole) - len(less) > 40
    assert same(decode(Broadcast, less, held), BROADCAST)
    assert same(decode(Broadcast, encode(BROADCAST, omit=both[1:]), held), BROADCAST)


def test_weights_that_come_are_held_from_then_on(same):
    cache = GroupCache(10_000)
    decode(GlobalModel, encode(GlobalModel(WEIGHTS, ("liver", "spleen"), 3)), cache)
    assert list(cache) == list(digests(BROADCAST))[:1]
    with pytest.raises(MissingGroups) as caught:
        decode(Broadcast, encode(BROADCAST, omit=digests(BROADCAST)), cache)
    assert caught.value.digests == digests(BROADCAST)[1:]
    decode(Broadcast, encode(BROADCAST, omit=tuple(cache)), cache)
    assert same(decode(Broadcast, encode(BROADCAST, omit=digests(BROADCAST)), cache), BROADCAST)


def test_weights_that_a_message_holds_twice_are_sent_once(same):
    twice = replace(BROADCAST, old_model=StoredModel(dict(WEIGHTS), ("liver",), 2, None))
    assert same(decode(Broadcast, encode(twice)), twice)
    assert digests(twice) == digests(BROADCAST)[:1]
    assert len(encode(twice)) < len(encode(BROADCAST))


def test_a_refused_record_leaves_nothing_with_the_receiver():
    held = {}
    with pytest.raises(RecordError):
        decode(Broadcast, changed(encode(BROADCAST), ("message", "extras"), ["taught_rows"]), held)
    with pytest.raises(MissingGroups):
        decode(Broadcast, encode(BROADCAST, omit=digests(BROADCAST)[1:]), held)
    assert held == {}


def test_what_is_done_to_a_message_does_not_reach_the_list_of_what_is_held():
    held = {}
    decode(GlobalModel, encode(GlobalModel(WEIGHTS, ("liver",), 3)), held).weights.clear()
    assert [list(each) for each in held.values()] == [list(WEIGHTS)]


def test_weights_of_another_digest_are_refused():
    record = encode(GlobalModel(OLD, ("liver",), 3))
    with pytest.raises(RecordError, match="another digest"):
        decode(GlobalModel, record[:-1] + b"\1")
    with pytest.raises(RecordError, match="another digest"):
        decode(GlobalModel, changed(record, ("message", "weights", "digest"), "0" * 64))


def test_a_sender_asks_for_a_digest_once(same):
    known = KnownDigests()
    assert encode(BROADCAST, digest=known) == encode(BROADCAST, digest=known) == encode(BROADCAST)
    assert digests(BROADCAST, known) == digests(BROADCAST)


@pytest.mark.parametrize("kind", ["float16", "int8", "top_k"])
def test_a_packed_update_leaves_its_weights_to_the_receiver(kind, same):
    reference = {"w": torch.rand(40, 3, generator=torch.Generator().manual_seed(1)), "w.running_mean": torch.rand(3), "n": torch.tensor(2)}
    packed, _ = pack({name: each + 1 for name, each in reference.items()}, reference, CompressionConfig(kind), {}, torch.Generator())
    update = TwinUpdate("north", 3, unpack(packed, reference), 5, class_names=("liver",), packed=packed)
    found = decode(TwinUpdate, encode(update))
    assert found.weights == {} and len(encode(update)) < len(encode(replace(update, packed=None)))
    assert same(replace(found, weights=unpack(found.packed, reference)), update)


# ----- what is refused


@pytest.mark.parametrize("name", KINDS)
def test_a_record_cut_short_anywhere_is_refused(name):
    record = encode(example(name))
    for length in range(len(record)):
        with pytest.raises(RecordError):
            opened(name, record[:length])


def example(name):
    kind = KINDS[name]
    made = {
        "broadcast": BROADCAST,
        "observation": OBSERVATION,
        "global_model": GlobalModel(OLD, ("liver",), 3, (0.5, 1.0), 9),
        "twin_update": TwinUpdate("north", 3, OLD, 5, class_names=("liver",), upload={"a": torch.ones(2)}, metrics={"total": float("nan")}),
        "assignment": Assignment("run-1", TwinSetting(TwinConfig(), NetworkConfig(), TrainingConfig(), 2), 1),
        "roster": Roster(3, ("liver",), {"north": Member(b"key", 5)}),
    }
    if name in made:
        return made[name]
    samples = {int: 3, str: "north", bytes: b"key", tuple[str, ...]: ("liver",), Tensor: torch.arange(3)}
    return kind(**{each: samples[hint] for each, hint in hints_of(kind).items() if hint in samples and not issubclass(kind, Method)})


def forced(message, **values):
    """The message with values that its types forbid."""
    message = copy(message)
    for name, value in values.items():
        object.__setattr__(message, name, value)
    return message


def opened(name, record, groups=None):
    return decode_method(record) if issubclass(KINDS[name], Method) else decode(KINDS[name], record, groups)


def test_bytes_behind_a_record_are_refused():
    for name in KINDS:
        with pytest.raises(RecordError):
            opened(name, encode(example(name)) + b"\0")


def test_pickle_is_refused_at_the_first_bytes():
    buffer = io.BytesIO()
    torch.save(WEIGHTS, buffer)
    for content in (pickle.dumps(OBSERVATION), buffer.getvalue(), b"\x80\x04cposix\nsystem\n."):
        with pytest.raises(RecordError, match="nothing else is opened here, pickle least of all"):
            decode(Observation, content)


@pytest.mark.parametrize("content", [None, "text", bytearray(b"FEDKA\r\n\0"), OBSERVATION], ids=lambda each: type(each).__name__)
def test_what_are_no_bytes_is_refused(content):
    with pytest.raises(RecordError, match=type(content).__name__):
        decode(Observation, content)


def test_a_record_of_another_version_is_refused_with_what_to_do():
    header, block = parts(encode(OBSERVATION))
    with pytest.raises(RecordError, match=f"version is 9; allowed: {RECORD_VERSION}; install the same version of fedka on server"):
        decode(Observation, built(header, block, version=9))


def test_another_message_than_the_one_expected_is_refused():
    with pytest.raises(RecordError, match="is a observation; allowed: a twin_update; check who sends what"):
        decode(TwinUpdate, encode(OBSERVATION))
    with pytest.raises(RecordError, match="allowed: a method"):
        decode_method(encode(OBSERVATION))


OBSERVED = encode(OBSERVATION)
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
def test_a_wrong_field_is_refused_in_words(name):
    with pytest.raises(RecordError, match=r" is .*; allowed: ") as caught:
        decode(Observation, changed(OBSERVED, *WRONG[name]))
    assert len(str(caught.value)) < 700 and str(caught.value).isprintable()


@pytest.mark.parametrize("field", fields(Observation), ids=lambda field: field.name)
def test_a_missing_field_is_refused_even_where_the_message_has_a_default(field):
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
        OBSERVED[START.size :].replace(b'"signal":true', b'"signal":' + b"[" * 50_000 + b"]" * 50_000),
        OBSERVED[START.size :].replace(b"north", b"n\xffrth"),
    ],
    ids=["infinite", "no number", "a name twice", "nine thousand digits", "fifty thousand lists", "no UTF-8"],
)
def test_what_is_no_strict_json_is_refused(raw):
    header = raw[: raw.rindex(b"}}") + 2]  # the block of no tensors behind it ends in one brace
    with pytest.raises(RecordError):
        decode(Observation, built(header, parts(OBSERVED)[1]))


def test_tensors_that_the_header_does_not_name_are_refused():
    record = encode(BROADCAST)
    with pytest.raises(RecordError, match="1 tensors too much"):
        decode(Broadcast, changed(record, ("message", "extras"), ["taught_rows"]))
    with pytest.raises(RecordError, match="asked for twice"):
        decode(Broadcast, changed(record, ("message", "extras"), ["taught_rows", "taught_rows", "control/conv"]))
    with pytest.raises(RecordError, match="not in the block"):
        decode(Broadcast, changed(record, ("message", "extras"), ["taught_rows", "control/conv", "other"]))


def test_a_key_that_is_not_in_digits_is_refused_and_not_shown():
    record = encode(example("opened"))
    for wrong in ("6b 6579", "6B", "6", "xyz", "6b\u0660"):
        with pytest.raises(RecordError) as caught:
            decode(KINDS["opened"], changed(record, ("message", "seed"), wrong))
        assert wrong not in str(caught.value)


def test_a_hyper_parameter_that_the_method_refuses_is_refused():
    record = encode(SCAFFOLD())
    for path, value in ((("message", "num_twins"), -1), (("message", "head_loss"), "mse"), (("kind",), "method/exploit")):
        with pytest.raises(RecordError):
            decode_method(changed(record, path, value))


BOUNDS = [{"record_bytes": 100}, {"header_bytes": 50}, {"items": 1}, {"text_characters": 8}, {"tensors": 2}, {"dimensions": 2}]


@pytest.mark.parametrize("limits", BOUNDS, ids=str)
def test_a_record_beyond_a_limit_is_refused(limits):
    with pytest.raises(RecordError):
        decode(Broadcast, encode(BROADCAST), limits=Limits(**limits))


@pytest.mark.parametrize("limits", [{"record_bytes": 100}, {"header_bytes": 50}, {"text_characters": 8}, {"tensors": 2}])
def test_a_record_that_would_be_refused_is_not_written(limits):
    with pytest.raises(RecordError):
        encode(BROADCAST, limits=Limits(**limits))


@pytest.mark.parametrize("wrong", [{"tensors": 0}, {"header_bytes": -1}, {"bytes": 1}])
def test_limits_that_cannot_be_are_refused(wrong):
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
def test_a_message_that_is_not_what_its_types_say_is_not_written(wrong):
    with pytest.raises(RecordError, match="observation"):
        encode(forced(OBSERVATION, **wrong))


def test_what_is_no_message_is_not_written():
    @dataclass(frozen=True)
    class Louder(Observation):
        pixels: bytes = b""

    for wrong in (Louder("north", 3, 5, True), {"round": 3}, None, Observation):
        with pytest.raises(RecordError, match="add it to KINDS"):
            encode(wrong)
    with pytest.raises(RecordError, match="a tensor"):
        encode(forced(BROADCAST, extras={"a": 3}))


def test_a_number_that_is_whole_may_stand_where_one_with_a_point_is_meant():
    assert decode(Observation, encode(forced(OBSERVATION, threshold=1))).threshold == 1.0


# ----- noise and malice


RECORDS = {name: encode(example(name)) for name in KINDS}
SCRAPS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5), st.just([]), st.just({}), st.just("../../x"),
    st.just([[[]]]), st.just({"digest": "0" * 64, "tensors": None}), st.just({"digest": "0" * 64, "tensors": ["head.bias"]}), st.just([""]),
)  # fmt: skip


def only_refuses(name, record):
    try:
        opened(name, record)
    except (RecordError, MissingGroups) as error:
        assert len(str(error)) < 1500


@settings(max_examples=300)
@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=200), st.booleans())
def test_random_bytes_are_only_ever_refused(name, noise, begins_well):
    only_refuses(name, noise)
    only_refuses(name, (START.pack(b"FEDKA\r\n\0", RECORD_VERSION, len(noise) // 2) if begins_well else b"FEDKA\r\n\0") + noise)


@settings(max_examples=500)
@given(st.sampled_from(sorted(KINDS)), st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bits_are_only_ever_refused(name, flips):
    record = bytearray(RECORDS[name])
    for at, mask in flips:
        record[at % len(record)] ^= mask
    only_refuses(name, bytes(record))


@settings(max_examples=300)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 10**6), st.integers(0, 40), st.binary(max_size=20))
def test_bytes_put_in_or_taken_out_are_only_ever_refused(name, at, taken, put):
    record = RECORDS[name]
    at %= len(record)
    only_refuses(name, record[:at] + put + record[at + taken :])


def paths(plain, path=()):
    yield path
    for name, each in plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ():
        yield from paths(each, (*path, name))


@settings(max_examples=500)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 10**6), SCRAPS)
def test_a_header_with_any_part_replaced_is_only_ever_refused(name, which, scrap):
    places = list(paths(parts(RECORDS[name])[0]))[1:]
    only_refuses(name, changed(RECORDS[name], places[which % len(places)], scrap))


@settings(max_examples=300)
@given(st.sampled_from(["broadcast", "global_model", "twin_update", "masked"]), st.integers(0, 10**6), SCRAPS)
def test_a_block_with_any_part_of_its_header_replaced_is_only_ever_refused(name, which, scrap):
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


def test_what_a_record_claims_takes_no_memory():
    def claims(count, size):
        places = ([index * size, (index + 1) * size] for index in range(count))
        block = {f"extras/{index}": {"dtype": "U8", "shape": [size], "data_offsets": place} for index, place in enumerate(places)}
        header, _ = parts(encode(replace(BROADCAST, extras={}), omit=digests(BROADCAST)))
        header["message"]["extras"] = [str(index) for index in range(count)]
        raw = json.dumps(block).encode()
        return built(header, struct.pack("<Q", len(raw)) + raw + bytes(1000))

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        for record in (claims(1, 2**31), claims(4000, 2**28), claims(4000, 2**60), START.pack(b"FEDKA\r\n\0", 1, 2**32 - 1) + bytes(1000)):
            with pytest.raises(RecordError):
                decode(Broadcast, record)
        with pytest.raises(RecordError):
            decode(Observation, built(b'{"kind":"observation","message":[' + b"{}," * 300_000 + b"0]}", parts(OBSERVED)[1]))
        assert tracemalloc.get_traced_memory()[1] < 100e6  # Python's objects for the largest header that is allowed
    finally:
        tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300e3  # kB


# ----- the same round


class RecordEngine(SequentialEngine):
    """A hospital behind a wire: all that goes to a twin and comes from it goes through bytes."""

    def __init__(self, hospitals):
        super().__init__(hospitals)
        self.held, self.bytes_down = {}, []

    def observe(self, model, twin_ids):
        model = self._sent(model)
        return [decode(Observation, encode(each)) for each in super().observe(model, twin_ids)]

    def train(self, method, broadcasts):
        method = decode_method(encode(method))
        broadcasts = {twin_id: self._sent(each) for twin_id, each in broadcasts.items()}
        return [decode(TwinUpdate, encode(each)) for each in super().train(method, broadcasts)]

    def _sent(self, message):
        record = encode(message, omit=tuple(self.held))
        self.bytes_down.append(len(record))
        return decode(type(message), record, self.held)


ROUNDS = [FedKA(reconstruction=ReconstructionConfig(perturb_steps=3, invert_steps=5)), SCAFFOLD(memory=True)]


@pytest.mark.parametrize("method", ROUNDS, ids=lambda each: type(each).__name__)
def test_rounds_over_records_are_the_sequential_rounds_bit_for_bit(tiny_ward, method, same):
    servers, engines = [], (SequentialEngine(tiny_ward), RecordEngine(tiny_ward))
    for engine in engines:
        torch.set_num_threads(1)
        server, proxy = new_server(tiny_ward.setting.network, 1), ProxyServer(ProxyConfig(settle_rounds=0))
        for _ in range(4):
            server, record = run_round(server, engine, method, proxy, RoundConfig())
            assert record.accepted and not record.rejected
        servers.append(server)
    assert same(servers[0].weights, servers[1].weights)
    assert servers[0].class_names == servers[1].class_names and len(servers[0].class_names) > 3
    whole = len(encode(GlobalModel(servers[0].weights, servers[0].class_names, 4)))
    assert min(engines[1].bytes_down) < whole / 4  # the same model is not sent to the next twin


def test_a_hello_and_a_fault_say_who_they_are():
    hello = Hello("north", RECORD_VERSION, "0.1.0", "2.6", 4, ("liver",), digests(BROADCAST))
    assert decode(Hello, encode(hello)) == hello
    with pytest.raises(RecordError, match="an id"):
        encode(Fault("north/../south", "train", 3, "ValueError"))
