"""Messages and methods come back from their records as they went, also.

Where weights that the receiver holds are not sent again.
"""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from federation.engines.sequential import SequentialEngine
from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.flare.link_messages import Assignment, Fault, Hello
from federation.flare.record_fields import hints_of
from federation.flare.records import (
    KINDS,
    RECORD_VERSION,
    MissingGroups,
    RecordError,
    decode,
    decode_method,
    digests,
    encode,
)
from federation.flare.weight_cache import GroupCache, KnownDigests
from federation.method import Method
from federation.methods import METHODS
from federation.methods.fedka import FedKA
from federation.methods.scaffold import SCAFFOLD
from federation.round import RoundConfig, run_round
from federation.server import new_server
from incremental.head import Weights
from incremental.proxy import ProxyConfig, ProxyServer, StoredModel
from incremental.reconstruction import ReconstructionConfig
from tests.federation.flare.example_records import BROADCAST, OLD, WEIGHTS, changed, example
from twin.compression import CompressionConfig, pack, unpack
from twin.config import TwinSetting
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate

MESSAGES = {name: kind for name, kind in KINDS.items() if not issubclass(kind, Method)}
GOLDEN = "9e3773642201ef697eba15cac32b0b11148ff3a2485c820b7d966153658f166a"


@pytest.mark.parametrize(
    "kind",
    [kind for kind in MESSAGES.values() if kind is not Assignment],
    ids=lambda kind: kind.__name__,
)
@given(data=st.data())
def test_every_message_comes_back_as_it_went(
    data: Any, kind: type[Any], draw_message: Callable[..., Any], same: Callable[..., Any]
) -> None:
    message = draw_message(data, kind)
    found = decode(kind, encode(message))
    if isinstance(message, TwinUpdate) and message.packed is not None:
        message = replace(message, weights={})
    assert same(found, message)


def test_a_setting_comes_back_as_it_went(tiny_setting: TwinSetting) -> None:
    for assignment in (example("assignment"), Assignment("run-2", tiny_setting, 3)):
        found = decode(Assignment, encode(assignment))
        assert (
            found == assignment
            and found.setting.training.batch_size == assignment.setting.training.batch_size
        )


@pytest.mark.parametrize("name", METHODS)
def test_every_method_comes_back_as_it_went(name: str) -> None:
    method = METHODS[name]()
    assert (
        decode_method(encode(method)) == method
        and type(decode_method(encode(method))) is METHODS[name]
    )


@pytest.mark.parametrize(
    "method",
    [
        FedKA(reconstruction=None, semantic_weight=0.1, head_loss="ce"),
        FedKA(reconstruction=ReconstructionConfig(perturb_steps=3)),
        SCAFFOLD(num_twins=7, memory=True),
    ],
    ids=str,
)
def test_hyper_parameters_travel(method: FedKA | SCAFFOLD) -> None:
    assert decode_method(encode(method)) == method


@pytest.mark.parametrize("kind", MESSAGES.values(), ids=MESSAGES)
def test_every_message_that_carries_weights_carries_its_class_names(kind: Any) -> None:
    hints = hints_of(kind)
    assert Weights not in hints.values() or hints["class_names"] == tuple[str, ...]


def test_the_bytes_of_a_known_message_are_what_they_were() -> None:
    assert sha256(encode(BROADCAST)).hexdigest() == GOLDEN, (
        "the format changed: raise RECORD_VERSION, then pin the new digest"
    )


def test_weights_may_be_written_to_and_are_not_the_records_own_memory() -> None:
    record = encode(BROADCAST)
    before = bytes(record)
    decode(Broadcast, record).weights["conv"].zero_()
    assert record == before


# ----- weights that are not sent again


def test_weights_that_nobody_was_told_to_leave_out_are_asked_of_nobody() -> None:
    with pytest.raises(RecordError, match="without its weights"):
        decode(Broadcast, encode(BROADCAST, omit=digests(BROADCAST)))
    with pytest.raises(MissingGroups):
        decode(Broadcast, encode(BROADCAST, omit=digests(BROADCAST)), {})


def test_weights_that_the_receiver_holds_are_left_out_and_put_back(
    same: Callable[..., Any],
) -> None:
    both = digests(BROADCAST)
    held = dict(zip(both, (WEIGHTS, OLD), strict=True))
    whole, less = encode(BROADCAST), encode(BROADCAST, omit=both)
    assert len(whole) - len(less) > 40
    assert same(decode(Broadcast, less, held), BROADCAST)
    assert same(decode(Broadcast, encode(BROADCAST, omit=both[1:]), held), BROADCAST)


def test_weights_that_come_are_held_from_then_on(same: Callable[..., Any]) -> None:
    cache = GroupCache(10_000)
    decode(GlobalModel, encode(GlobalModel(WEIGHTS, ("liver", "spleen"), 3)), cache)
    assert list(cache) == list(digests(BROADCAST))[:1]
    with pytest.raises(MissingGroups) as caught:
        decode(Broadcast, encode(BROADCAST, omit=digests(BROADCAST)), cache)
    assert caught.value.digests == digests(BROADCAST)[1:]
    decode(Broadcast, encode(BROADCAST, omit=tuple(cache)), cache)
    assert same(decode(Broadcast, encode(BROADCAST, omit=digests(BROADCAST)), cache), BROADCAST)


def test_weights_that_a_message_holds_twice_are_sent_once(same: Callable[..., Any]) -> None:
    twice = replace(BROADCAST, old_model=StoredModel(dict(WEIGHTS), ("liver",), 2, None))
    assert same(decode(Broadcast, encode(twice)), twice)
    assert digests(twice) == digests(BROADCAST)[:1]
    assert len(encode(twice)) < len(encode(BROADCAST))


def test_a_refused_record_leaves_nothing_with_the_receiver() -> None:
    held: dict[Any, Any] = {}
    with pytest.raises(RecordError):
        decode(Broadcast, changed(encode(BROADCAST), ("message", "extras"), ["taught_rows"]), held)
    with pytest.raises(MissingGroups):
        decode(Broadcast, encode(BROADCAST, omit=digests(BROADCAST)[1:]), held)
    assert held == {}


def test_what_is_done_to_a_message_does_not_reach_the_list_of_what_is_held() -> None:
    held: dict[Any, Any] = {}
    decode(GlobalModel, encode(GlobalModel(WEIGHTS, ("liver",), 3)), held).weights.clear()
    assert [list(each) for each in held.values()] == [list(WEIGHTS)]


def test_weights_of_another_digest_are_refused() -> None:
    record = encode(GlobalModel(OLD, ("liver",), 3))
    with pytest.raises(RecordError, match="another digest"):
        decode(GlobalModel, record[:-1] + b"\1")
    with pytest.raises(RecordError, match="another digest"):
        decode(GlobalModel, changed(record, ("message", "weights", "digest"), "0" * 64))


def test_a_sender_asks_for_a_digest_once(same: Callable[..., Any]) -> None:
    known = KnownDigests()
    assert encode(BROADCAST, digest=known) == encode(BROADCAST, digest=known) == encode(BROADCAST)
    assert digests(BROADCAST, known) == digests(BROADCAST)


@pytest.mark.parametrize("kind", ["float16", "int8", "top_k"])
def test_a_packed_update_leaves_its_weights_to_the_receiver(
    kind: Any, same: Callable[..., Any]
) -> None:
    reference = {
        "w": torch.rand(40, 3, generator=torch.Generator().manual_seed(1)),
        "w.running_mean": torch.rand(3),
        "n": torch.tensor(2),
    }
    packed, _ = pack(
        {name: each + 1 for name, each in reference.items()},
        reference,
        CompressionConfig(kind),
        {},
        torch.Generator(),
    )
    update = TwinUpdate(
        "north", 3, unpack(packed, reference), 5, class_names=("liver",), packed=packed
    )
    found = decode(TwinUpdate, encode(update))
    assert found.weights == {} and len(encode(update)) < len(encode(replace(update, packed=None)))
    assert same(replace(found, weights=unpack(cast(Any, found.packed), reference)), update)


# ----- the same round


class RecordEngine(SequentialEngine):
    """A hospital behind a wire: all that goes to a twin and comes from it goes through bytes."""

    def __init__(self, hospitals: SimulatedHospitals) -> None:
        super().__init__(hospitals)
        self.held: dict[Any, Any] = {}
        self.bytes_down: list[int] = []

    def observe(self, model: Any, twin_ids: Any) -> Any:
        model = self._sent(model)
        return [decode(Observation, encode(each)) for each in super().observe(model, twin_ids)]

    def train(self, method: Any, broadcasts: Any) -> Any:
        method = decode_method(encode(method))
        broadcasts = {twin_id: self._sent(each) for twin_id, each in broadcasts.items()}
        return [decode(TwinUpdate, encode(each)) for each in super().train(method, broadcasts)]

    def _sent(self, message: Broadcast | GlobalModel) -> Broadcast | GlobalModel:
        record = encode(message, omit=tuple(self.held))
        self.bytes_down.append(len(record))
        return decode(type(message), record, self.held)


ROUNDS = [
    FedKA(reconstruction=ReconstructionConfig(perturb_steps=3, invert_steps=5)),
    SCAFFOLD(memory=True),
]


@pytest.mark.parametrize("method", ROUNDS, ids=lambda each: type(each).__name__)
def test_rounds_over_records_are_the_sequential_rounds_bit_for_bit(
    tiny_hospitals: SimulatedHospitals, method: FedKA | SCAFFOLD, same: Callable[..., Any]
) -> None:
    servers, engines = [], (SequentialEngine(tiny_hospitals), RecordEngine(tiny_hospitals))
    for engine in engines:
        torch.set_num_threads(1)
        server, proxy = (
            new_server(tiny_hospitals.setting.network, 1, settle_rounds=0),
            ProxyServer(ProxyConfig()),
        )
        for _ in range(4):
            server, record = run_round(server, engine, method, proxy, RoundConfig())
            assert record.accepted and not record.rejected
        servers.append(server)
    assert same(servers[0].weights, servers[1].weights)
    assert servers[0].class_names == servers[1].class_names and len(servers[0].class_names) > 3
    whole = len(encode(GlobalModel(servers[0].weights, servers[0].class_names, 4)))
    assert min(engines[1].bytes_down) < whole / 4  # the same model is not sent to the next twin


def test_a_hello_and_a_fault_say_who_they_are() -> None:
    hello = Hello("north", RECORD_VERSION, "0.1.0", "2.6", 4, ("liver",), digests(BROADCAST))
    assert decode(Hello, encode(hello)) == hello
    with pytest.raises(RecordError, match="an id"):
        encode(Fault("north/../south", "train", 3, "ValueError"))
