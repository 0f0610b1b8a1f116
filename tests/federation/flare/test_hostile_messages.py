"""What a hostile hospital or server puts into the bytes that cross.

Nothing of it stops a run, poisons a model or fills memory.
"""

import json
import pickle
import resource
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.hostile import KINDS, HonestMessages
from federation.experiment.config import ExperimentConfig
from federation.flare.hospital_site import HospitalSite
from federation.flare.link_messages import Fault, Hello
from federation.flare.records import RecordError, decode, encode, kind_of
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate

HOSTILE = "south"
FIVE = (
    "hospitals=[{name: east}, {name: north}, {name: south}, {name: west}, {name: centre}]",
    "federation.twins_per_round=5",
)
MEDIAN = "federation.robust={rule: median}"
GIB = 2**30
_START = struct.Struct("<8sHI")


class Hostile:
    """Changes what one hospital answers when it has trained; all else passes as it is.

    What was changed is kept.
    """

    def __init__(self, damage: Callable[..., Any]) -> None:
        self.damage, self.honest, self.sent = damage, [], []  # type: ignore[var-annotated]  # any

    def __call__(self, wires: Any, verb: Any, twin_id: str, content: bytes) -> bytes:
        if (verb, twin_id) != ("train", HOSTILE):
            return content
        self.honest.append(decode(TwinUpdate, content))
        self.sent.append(
            self.damage(
                HonestMessages(
                    self.honest[-1], wires.engine.broadcasts[-1][twin_id], self.honest[0]
                )
            )
        )
        return self.sent[-1]


class Ran:
    """Whoever unpickles it makes a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.place,)


def as_kind(name: str, sent: HonestMessages) -> bytes:
    return encode(KINDS[name].damage(sent))


def unchanged(sent: HonestMessages) -> bytes:
    return encode(sent.update)


def silent(sent: HonestMessages) -> bytes:
    return encode(Fault(HOSTILE, "train", sent.update.round, "OSError"))


def claims(size: int, sent: HonestMessages) -> bytes:
    """Return an honest record whose first tensor is said to have so many bytes.

    It do not come.
    """
    content = encode(sent.update)
    _, _, length = _START.unpack_from(content)
    begin = _START.size + length
    (header_length,) = struct.unpack_from("<Q", content, begin)
    data = begin + 8 + header_length
    header = json.loads(content[begin + 8 : data])
    header[next(iter(header))] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    text = json.dumps(header).encode()
    return content[:begin] + struct.pack("<Q", len(text)) + text + content[data:]


def pickled(place: Path, sent: HonestMessages) -> bytes:
    return pickle.dumps(Ran(place))


@pytest.fixture(scope="module")
def config(over: Any) -> ExperimentConfig:
    return over.config(*FIVE)


@pytest.fixture(scope="module")
def without(over: Any, config: ExperimentConfig) -> Any:
    """The run in which the hostile hospital's trainings fail.

    So nothing of it is ever aggregated.
    """
    return over.run(config, Hostile(silent))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def is_finite(weights: dict[str, Tensor]) -> bool:
    return all(
        bool(torch.isfinite(value).all()) for value in weights.values() if value.is_floating_point()
    )


TURNED_AWAY = {
    "NaN": "not finite",
    "huge norm (x 1e6)": "times the global norm",
    "wrong shape": "head.bias is torch.float32",
    "wrong dtype": "is torch.int32",
    "extra tensor": "other tensors than the global model: backdoor",
    "other class list": "takes the rows of the head for",
    "2 GiB tensor": "sent no usable record",
    "pickle bytes": "nothing else is opened here, pickle least of all",
}


@pytest.mark.parametrize("kind", TURNED_AWAY)
def test_a_malformed_update_is_turned_away_with_its_reason_and_changes_nothing_to_the_last_bit(
    over: Any, config: ExperimentConfig, without: Any, tmp_path: Path, kind: Any
) -> None:
    damage = {
        "2 GiB tensor": partial(claims, 2 * GIB),
        "pickle bytes": partial(pickled, tmp_path / "ran"),
    }.get(kind, partial(as_kind, kind))
    hostile = Hostile(damage)
    outcome = over.run(config, hostile)
    assert len(outcome.rounds) == 4 and len(hostile.sent) == 4
    reasons = outcome.reasons(HOSTILE)
    assert len(reasons) == 4 and all(TURNED_AWAY[kind] in reason for reason in reasons)
    assert same(outcome.weights, without.weights) and is_finite(outcome.weights)
    assert not any(outcome.reasons(other) for other in ("east", "north", "west", "centre"))
    assert not (tmp_path / "ran").exists()


def test_an_honest_update_of_the_same_hospital_does_change_the_model(
    over: Any, config: ExperimentConfig, without: Any
) -> None:
    outcome = over.run(config, Hostile(unchanged))
    assert not outcome.reasons(HOSTILE) and not same(outcome.weights, without.weights)


def test_a_replayed_update_is_taken_in_its_own_round_and_in_no_other(
    over: Any, config: ExperimentConfig
) -> None:
    hostile = Hostile(partial(as_kind, "replayed first round"))
    outcome = over.run(config, hostile)
    assert outcome.reasons(HOSTILE) == ["answered as south for round 0"] * 3
    taken = [HOSTILE in {each.twin_id for each in updates} for updates in outcome.engine.updates]
    assert taken == [True, False, False, False] and is_finite(outcome.weights)


@pytest.mark.parametrize("kind", ["label-flipped", "sign-flipped (x -5)", "scaled x 100"])
def test_a_poisoned_update_moves_no_weight_beyond_those_of_honest_hospitals(
    over: Any, kind: Any
) -> None:
    config = over.config(*FIVE, MEDIAN)
    places = over.hospitals(config, flipped=HOSTILE if KINDS[kind].flips else "")
    outcome = over.run(config, Hostile(partial(as_kind, kind)), places)
    engine, beyond = outcome.engine, 0
    assert len(engine.updates) == 4 and is_finite(outcome.weights)
    for updates, before, after in zip(
        engine.updates, engine.models[:-1], engine.models[1:], strict=True
    ):
        honest = [each.weights for each in updates if each.twin_id != HOSTILE]
        (poisoned,) = [each.weights for each in updates if each.twin_id == HOSTILE]
        for name, value in after.weights.items():
            stack = torch.stack([each[name] for each in honest])
            low, high, room = stack.amin(0), stack.amax(0), 1e-6 * stack.abs().amax(0)
            assert bool(((value >= low - room) & (value <= high + room)).all())
            beyond += int(((poisoned[name] < low) | (poisoned[name] > high)).sum())
        assert before.round + 1 == after.round
    assert beyond > 100  # it did try


def test_the_same_poison_without_a_defence_does_move_them(
    over: Any, config: ExperimentConfig
) -> None:
    outcome = over.run(config, Hostile(partial(as_kind, "sign-flipped (x -5)")))
    updates, after = outcome.engine.updates[0], outcome.engine.models[1].weights
    honest = [each.weights for each in updates if each.twin_id != HOSTILE]
    assert any(
        bool((after[name] < torch.stack([each[name] for each in honest]).amin(0) - 1e-3).any())
        for name in after
    )


def test_a_claim_of_2_gib_takes_no_memory(
    over: Any, config: ExperimentConfig, without: Any
) -> None:
    update = without.engine.updates[0][0]
    sent = HonestMessages(update, without.engine.broadcasts[0][update.twin_id], update)
    record = claims(2 * GIB, sent)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    with pytest.raises(RecordError, match=r"fits in|as its header says"):
        decode(TwinUpdate, record)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10 * len(record)
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    )  # kB; tensors are in this one


REQUESTS = {
    "nothing": lambda content: b"",
    "cut": lambda content: content[:-9],
    "pickle": lambda content: pickle.dumps({"round": 0}),
    "2 GiB": lambda content: content[:10] + b"\xff\xff\xff\x7f" + content[14:],
    "more": lambda content: content + b"more",
    "another kind": lambda content: encode(Hello("server", 1, "", "")),
    "NaN weights": lambda content: encode(with_nan(decode(kind_of(content), content))),
    "wrong shape": lambda content: encode(with_wrong_shape(decode(kind_of(content), content))),
}


def with_nan(message: Broadcast | GlobalModel) -> Broadcast | GlobalModel:
    return replace(
        message, weights={name: value * torch.nan for name, value in message.weights.items()}
    )


def with_wrong_shape(message: Broadcast | GlobalModel) -> Broadcast | GlobalModel:
    return replace(message, weights={**message.weights, "head.bias": torch.zeros(99)})


def first_request(outcome: Any, verb: Any, twin_id: str) -> bytes:
    return next(
        content for asked, who, content in outcome.wires.asked if (asked, who) == (verb, twin_id)
    )


@pytest.mark.parametrize("spoil", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("verb", ["observe", "train"])
def test_a_hostile_servers_request_is_answered_with_a_fault_or_nonsense_and_the_twin_goes_on(
    over: Any, config: ExperimentConfig, without: Any, verb: Any, spoil: Callable[..., Any]
) -> None:
    place = over.hospitals(config)["north"]
    site = HospitalSite(place)
    honest = {
        asked: first_request(without, asked, "north")
        for asked in ("begin", "method", "observe", "train")
    }
    steps = ("begin", "method", "observe", "train")
    for step in steps[: steps.index(verb)]:
        assert kind_of(site.answer(step, honest[step])) is not Fault
    answer = site.answer(verb, spoil(honest[verb]))
    assert kind_of(answer) in (Fault, Observation, TwinUpdate)
    text = decode(Fault, answer).text if kind_of(answer) is Fault else ""
    assert str(place) not in text
    again = HospitalSite(place)  # what lies on its disk was not spoilt
    for step in steps:
        answer = again.answer(step, honest[step])
    expected = next(
        content
        for asked, who, content in without.wires.answered
        if (asked, who) == ("train", "north")
    )
    assert answer == expected


# What a hospital says of its data

NAN, INFINITE = float("nan"), float("inf")
LIES = {
    "too few quantiles": {"usual_entropy": (0.1,) * 5, "num_held_back": 50},
    "quantiles that are no numbers": {"usual_entropy": (NAN,) * 19, "num_held_back": 50},
    "infinite quantiles": {"usual_entropy": (INFINITE,) * 19, "num_held_back": 50},
    "quantiles of no image": {"usual_entropy": (0.1,) * 19, "num_held_back": 0},
    "fewer than no image": {"num_held_back": -1000, "num_correct": -5},
    "more right than there are": {"num_held_back": 1, "num_correct": 2**53},
    "no number": {"entropy": NAN, "statistic": NAN, "threshold": NAN},
    "an infinite entropy": {"entropy": INFINITE},
    "a thousand new classes": {
        "signal": True,
        "new_class_names": tuple(f"class {index}" for index in range(1000)),
    },
    "new classes without a signal": {"signal": False, "new_class_names": ("ghost",)},
    "a class twice": {"signal": True, "new_class_names": ("ghost", "ghost")},
    "more images than a disk holds": {"num_new_images": 2**62, "num_trainable": 2**62},
    "a thousand rules watched": {"watched": (True,) * 1000},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_an_observation_that_cannot_be_is_not_used_and_the_run_goes_on_without_it(
    over: Any, config: ExperimentConfig, lie: dict[str, Any]
) -> None:
    def lying(wires: Any, verb: Any, twin_id: str, content: bytes) -> bytes:
        if (verb, twin_id) != ("observe", HOSTILE):
            return content
        return encode(replace(decode(Observation, content), **lie))

    outcome = over.run(config, lying)
    assert len(outcome.rounds) == 4 and is_finite(outcome.weights)
    assert len(outcome.engine.models[-1].class_names) == 4
    assert len(outcome.reasons(HOSTILE)) == 5 and not any(
        HOSTILE in each["chosen"] for each in outcome.rounds
    )


# Replay


class Remembering:
    """Keeps every answer, and gives one hospital another one than it gave."""

    def __init__(self, choose: Callable[..., Any]) -> None:
        self.choose, self.kept = choose, {}  # type: ignore[var-annotated]  # any

    def __call__(self, wires: Any, verb: Any, twin_id: str, content: bytes) -> bytes:
        number = getattr(decode(kind_of(content), content), "round", -1)
        self.kept[verb, twin_id, number] = content
        return self.choose(self.kept, verb, twin_id, number, content)


def the_round_before(
    kept: dict[tuple[Any, ...], bytes], verb: Any, twin_id: str, number: int, content: bytes
) -> bytes:
    return kept.get((verb, HOSTILE, number - 1), content) if twin_id == HOSTILE else content


def anothers(
    kept: dict[tuple[Any, ...], bytes], verb: Any, twin_id: str, number: int, content: bytes
) -> bytes:
    return (
        kept[verb, "north", number]
        if twin_id == HOSTILE and verb in ("observe", "train")
        else content
    )


@pytest.mark.parametrize(
    ("choose", "reason"),
    [
        (the_round_before, "answered as south for round "),
        (anothers, "answered as north for round "),
    ],
    ids=["the_round_before", "anothers"],
)
def test_an_answer_of_the_round_before_or_of_another_hospital_is_not_taken(
    over: Any, config: ExperimentConfig, choose: Callable[..., Any], reason: str
) -> None:
    outcome = over.run(config, Remembering(choose))
    reasons = outcome.reasons(HOSTILE)
    assert reasons and all(each.startswith(reason) for each in reasons)
    for number, updates in enumerate(outcome.engine.updates):
        named = [each.twin_id for each in updates]
        assert len(set(named)) == len(named) and all(each.round == number for each in updates)
        assert HOSTILE not in named or (choose is the_round_before and number == 0)
    assert is_finite(outcome.weights)


def test_a_broadcast_of_an_older_round_is_not_trained_again(
    over: Any, config: ExperimentConfig, without: Any
) -> None:
    place = over.hospitals(config)["north"]
    site = HospitalSite(place)
    asked = [(verb, content) for verb, who, content in without.wires.asked if who == "north"]
    answers = [(verb, site.answer(verb, content)) for verb, content in asked]
    answered = [(verb, content) for verb, who, content in without.wires.answered if who == "north"]
    assert [each for each in answers if each[0] in ("observe", "train")] == [
        each for each in answered if each[0] in ("observe", "train")
    ]
    before = {path: path.read_bytes() for path in (place / "state").rglob("*.safetensors")}
    of_rounds = [(verb, content) for verb, content in asked if verb in ("observe", "train")]
    assert [verb for verb, _ in of_rounds] == ["observe", "train"] * 4 + [
        "observe"
    ]  # the last one only looks
    for verb, content in (*of_rounds[:4], of_rounds[5], of_rounds[7]):
        assert kind_of(site.answer(verb, content)) is Fault
    assert {path: path.read_bytes() for path in (place / "state").rglob("*.safetensors")} == before


def test_a_training_that_comes_after_the_next_look_is_refused_and_the_next_one_is_not(
    over: Any, config: ExperimentConfig, without: Any
) -> None:
    site = HospitalSite(over.hospitals(config)["north"])
    asked: dict[Any, Any] = {}
    for verb, who, content in without.wires.asked:
        if who == "north":
            asked.setdefault(verb, []).append(content)
    for verb, number in (
        ("begin", 0),
        ("method", 0),
        ("observe", 0),
        ("train", 0),
        ("observe", 1),
        ("observe", 2),
    ):
        assert kind_of(site.answer(verb, asked[verb][number])) is not Fault
    assert (
        kind_of(site.answer("train", asked["train"][1])) is Fault
    )  # of a network that kept it back
    assert kind_of(site.answer("train", asked["train"][2])) is TwinUpdate


def test_an_answer_that_comes_twice_counts_once(over: Any, config: ExperimentConfig) -> None:
    class Doubled(over.wires_kind):  # type: ignore[misc]  # untyped on purpose
        def ask(
            self, verb: str, requests: dict[str, bytes], seconds: float
        ) -> Iterator[tuple[Any, ...]]:
            for twin_id, answer in super().ask(verb, requests, seconds):
                yield twin_id, answer
                yield twin_id, answer

    plain, doubled = over.run(config), over.run(config, wires_kind=Doubled)
    assert same(plain.weights, doubled.weights)
    assert [each["accepted"] for each in plain.rounds] == [
        each["accepted"] for each in doubled.rounds
    ]


def test_a_hospital_that_answers_after_the_deadline_disturbs_no_round_and_takes_part_again(
    over: Any, config: ExperimentConfig
) -> None:
    class Late(over.wires_kind):  # type: ignore[misc]  # untyped on purpose
        """Hands one hospital its request of round 1 only while the others train in round 2.

        Nobody waits for its answer.
        """

        def ask(
            self, verb: str, requests: dict[str, bytes], seconds: float
        ) -> Iterator[tuple[Any, ...]]:
            number = self.engine.models[-1].round if self.engine and self.engine.models else -1
            if verb == "train" and number == 1:
                self.late = [requests[HOSTILE]]
                requests = {
                    twin_id: each for twin_id, each in requests.items() if twin_id != HOSTILE
                }
                yield HOSTILE, TimeoutError()
            elif verb == "train" and number == 2:
                self.late.append(self.sites[HOSTILE].answer(verb, self.late[0]))
            yield from super().ask(verb, requests, seconds)

    longer = over.config(*FIVE, "scenario.rounds_per_task=3")
    outcome = over.run(longer, wires_kind=Late)
    assert len(outcome.wires.late) == 2
    assert outcome.reasons(HOSTILE) == ["did not answer (TimeoutError)"]
    accepted = [each["accepted"] for each in outcome.rounds]
    assert HOSTILE not in accepted[1] and HOSTILE in accepted[-1]
    assert all(set(each) >= {"east", "north", "west", "centre"} for each in accepted) and is_finite(
        outcome.weights
    )
