"""A hospital's disk damages its twin's newest state.

The round is repeated from the state before, and nothing is lost in silence.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml

from federation.engines.twin_states import StateFolder
from federation.experiment.config import ExperimentConfig
from federation.experiment.loop import run_experiment
from federation.experiment.run_folder import RunFolder
from federation.flare.event_feed import read_feed, read_status
from federation.flare.hospital_site import HospitalSite
from federation.flare.link_messages import Fault, StateLost
from federation.flare.records import decode, encode, kind_of
from federation.flare.server import PLAN_FILE, SERVER_FILE, ServerPlace, serve
from incremental.model_file import load_model

SMALL = (
    "scenario.rounds_per_task=2",
    "federation.settle_rounds=1",
    "training.epochs=1",
    "network={backbone: lenet, width: 4, image_size: 28, channels: 1}",
    "evaluation.round_images=40",
    "evaluation.task_images=40",
    "tracking.enabled=false",
)
METHOD = {
    "fedka": "method={name: fedka, head_loss: ce, reconstruction: {perturb_steps: 2, invert_steps: "
    "5}}",
    "scaffold": "method=scaffold",
}


class Wires:
    """Carries records within this process and calls ``after`` with every answer."""

    def __init__(
        self, places: dict[str, Path], after: Any = lambda verb, twin_id, answer: answer
    ) -> None:
        self.places, self.after = places, after
        self.sites = {twin_id: HospitalSite(place) for twin_id, place in places.items()}

    @property
    def hospitals(self) -> tuple[str, ...]:
        return tuple(self.sites)

    def ask(
        self, verb: str, requests: dict[str, bytes], seconds: float
    ) -> Iterator[tuple[Any, ...]]:
        for twin_id, request in requests.items():
            yield twin_id, self.after(verb, twin_id, self.sites[twin_id].answer(verb, request))


def place_of(folder: Path, config: ExperimentConfig, minimum: int) -> ServerPlace:
    folder.mkdir()
    server = {
        "hospitals": [each.name for each in config.hospitals],
        "link": {"minimum_hospitals": minimum},
    }
    (folder / SERVER_FILE).write_text(yaml.safe_dump(server))
    (folder / PLAN_FILE).write_text(json.dumps(config.as_plain()))
    return ServerPlace(folder)


def newest(place: Path) -> Path:
    files = [each for each in place.glob("state/*/*/*.safetensors") if each.name.count(".") == 1]
    return max(files, key=lambda each: each.name)


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


class Damaging:
    """Damages the newest state of north after it has answered a verb for the so-manieth time."""

    def __init__(
        self,
        verb: Any,
        time: int,
        damage: Callable[..., Any] = lambda place: cut_in_half(newest(place)),
    ) -> None:
        self.verb, self.time, self.damage = verb, time, damage
        self.place, self.count = None, 0

    def __call__(self, verb: Any, twin_id: str, answer: bytes) -> bytes:
        if (verb, twin_id) == (self.verb, "north") and kind_of(answer) is not Fault:
            self.count += 1
            if self.count == self.time:
                self.damage(self.place)
        return answer


def weights_of(run: Path) -> dict[str, dict[Any, Any]]:
    return {
        folder.name: load_model(folder)[0].state_dict()
        for folder in sorted((run / "models").iterdir())
    }


def assert_same(one: Path, other: Path) -> None:
    first, second = weights_of(one), weights_of(other)
    assert first and first.keys() == second.keys()
    for name, weights in first.items():
        assert all(torch.equal(value, second[name][key]) for key, value in weights.items())


@pytest.fixture(scope="module")
def experiments(over: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, ...]]:
    made = {}
    for name, method in METHOD.items():
        config = over.config(*SMALL, method)
        out = tmp_path_factory.mktemp(name) / "run"
        run_experiment(config, out)
        made[name] = config, out
    return made


@pytest.mark.parametrize("method", METHOD)
@pytest.mark.parametrize(
    ("verb", "time"), [("observe", 2), ("train", 2), ("train", 4), ("observe", 5)]
)
def test_a_damaged_newest_state_costs_repeated_rounds_and_nothing_else(
    over: Any,
    experiments: dict[str, tuple[Any, ...]],
    tmp_path: Path,
    method: str,
    verb: Any,
    time: int,
) -> None:
    config, alone = experiments[method]
    places, damaging = over.hospitals(config), Damaging(verb, time)
    damaging.place = places["north"]
    wires, place = Wires(places, damaging), place_of(tmp_path / "server", config, 4)
    ended = [serve(place, cast(Any, wires))]
    while ended[-1] != "finished" and len(ended) < 4:
        ended.append(serve(place, cast(Any, wires)))
    last_look = (verb, time) == ("observe", 5)  # after which nothing of it is asked for
    assert (
        damaging.count >= time and ended == ["finished"]
        if last_look
        else ended == ["waiting", "finished"]
    )
    assert_same(alone, place.run)
    if not last_look:
        states, expected = (
            StateFolder(places["north"] / "state" / place.run_id()),
            StateFolder(RunFolder(alone).twins)["north"],
        )
        plain = [
            each.name
            for each in fields(expected)
            if each.name not in ("memory", "inbox", "current", "held_back", "kept")
        ]
        assert all(getattr(states["north"], name) == getattr(expected, name) for name in plain)
        assert len(states["north"].memory.all_positions()) == len(expected.memory.all_positions())
        assert not list(places["north"].glob("state/*/*/*.damaged"))


def test_the_feed_says_whose_state_of_which_round_is_damaged(
    over: Any, experiments: dict[str, tuple[Any, ...]], tmp_path: Path
) -> None:
    config, _ = experiments["fedka"]
    places, damaging = over.hospitals(config), Damaging("train", 2)
    damaging.place = places["north"]
    place = place_of(tmp_path / "server", config, 4)
    assert serve(place, cast(Any, Wires(places, damaging))) == "waiting"
    texts = [each["text"] for each in read_feed(place.folder, 100)]
    assert "north, round 2, observe: its twin's state of round 1 is damaged" in texts
    assert (
        read_status(place.folder)["reason"]
        == "the state of round 1 is damaged at north; that round is repeated"
    )


def test_a_state_damaged_again_and_again_is_absent_and_holds_up_nobody_else(
    over: Any, experiments: dict[str, tuple[Any, ...]], tmp_path: Path
) -> None:
    config, _ = experiments["fedka"]
    places = over.hospitals(config)

    def spoil(verb: Any, twin_id: str, answer: bytes) -> bytes:
        if (verb, twin_id) == ("train", "north") and kind_of(answer) is not Fault:
            cut_in_half(newest(places["north"]))
        return answer

    wires, place = Wires(places, spoil), place_of(tmp_path / "server", config, 1)
    ended: list[Any] = []
    while "finished" not in ended and len(ended) < 9:
        ended.append(serve(place, cast(Any, wires)))
    assert (
        ended[-1] == "finished" and len(ended) <= 5
    )  # one session for each round that is repeated once


def test_with_two_damaged_states_it_refuses_to_go_on_from_an_older_one(
    over: Any, experiments: dict[str, tuple[Any, ...]], tmp_path: Path
) -> None:
    config, _ = experiments["fedka"]
    places = over.hospitals(config)

    def both(place: Path) -> None:
        for each in sorted(place.glob("state/*/north/*.safetensors"))[-2:]:
            cut_in_half(each)

    damaging = Damaging("train", 3, both)
    damaging.place = places["north"]
    answers = []

    def watched(verb: Any, twin_id: str, answer: bytes) -> bytes:
        answers.append((verb, twin_id, answer))
        return damaging(verb, twin_id, answer)

    wires, place = Wires(places, watched), place_of(tmp_path / "server", config, 4)
    assert [serve(place, cast(Any, wires)), serve(place, cast(Any, wires))] == [
        "waiting",
        "waiting",
    ]
    last = [answer for verb, twin_id, answer in answers if (verb, twin_id) == ("observe", "north")][
        -1
    ]
    assert decode(StateLost, last) == StateLost("north", 1)
    assert len(list(places["north"].glob("state/*/north/*.damaged"))) == 2


def test_a_session_that_ends_in_the_first_round_begins_it_again(
    over: Any, experiments: dict[str, tuple[Any, ...]], tmp_path: Path
) -> None:
    config, alone = experiments["fedka"]
    places = over.hospitals(config)
    fails = [True]

    def once(verb: Any, twin_id: str, answer: bytes) -> bytes:
        if verb == "train" and twin_id == "south" and fails.pop() if fails else False:
            return encode(Fault("south", "train", 0, "a full disk"))
        return answer

    wires, place = Wires(places, once), place_of(tmp_path / "server", config, 4)
    assert [serve(place, cast(Any, wires)), serve(place, cast(Any, wires))] == [
        "waiting",
        "finished",
    ]
    assert_same(alone, place.run)
