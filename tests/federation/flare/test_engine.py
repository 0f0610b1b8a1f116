import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml

from federation.experiment.config import ExperimentConfig, load_experiment
from federation.experiment.loop import run_experiment
from federation.experiment.run_folder import RunFolder
from federation.experiment.setup import ExperimentSetup, prepare_experiment
from federation.flare.engine import LinkConfig, RemoteEngine, TooFewHospitals
from federation.flare.hospital_site import HospitalSite
from federation.flare.link_messages import Assignment, Fault
from federation.flare.records import decode, encode, kind_of
from federation.server import new_server
from incremental.model_file import load_model
from physical.archive_file import load_hospital, save_archive
from twin.messages import GlobalModel, Observation, TwinUpdate

ROOT = Path(__file__).parents[3]
SMALL = (
    "scenario.rounds_per_task=2",
    "federation.settle_rounds=1",
    "training.epochs=1",
    "method={name: fedka, head_loss: ce, reconstruction: {perturb_steps: 2, invert_steps: 5}}",
    "evaluation.round_images=60",
    "evaluation.task_images=60",
    "tracking.enabled=false",
)


def experiment(*changes: Any) -> ExperimentConfig:
    return load_experiment(ROOT / "hospital_configs" / "phantom_tiny", (*SMALL, *changes))


def open_hospitals(
    config: ExperimentConfig,
    folder: Path,
    own: Mapping[str, dict] = {},  # type: ignore[type-arg]  # any
) -> dict[str, Path]:
    hospitals = prepare_experiment(config).hospitals()
    places = {}
    for twin_id, joins in hospitals.joins.items():
        places[twin_id] = folder / twin_id
        save_archive(
            places[twin_id] / "archive.safetensors",
            hospitals.archive,
            hospitals.arrivals[twin_id],
            joins,
        )
        (places[twin_id] / "hospital.yaml").write_text(
            yaml.safe_dump({"hospital": twin_id, **own.get(twin_id, {})})
        )
    return places


class Wires:
    """Carries records within this process, and whatever may go wrong on the way.

    ``faults`` are called with each answer.
    """

    def __init__(
        self,
        places: Mapping[str, Path],
        faults: Callable[..., Any] = lambda verb, twin_id, content: content,
    ) -> None:
        self.places = places
        self.sites = {twin_id: HospitalSite(place) for twin_id, place in places.items()}
        self.faults = faults
        self.asked: list[tuple[str, str]] = []

    @property
    def hospitals(self) -> tuple[str, ...]:
        return tuple(self.sites)

    def restart(self, twin_id: str) -> None:
        self.sites[twin_id] = HospitalSite(self.places[twin_id])

    def ask(
        self, verb: str, requests: Mapping[str, bytes], seconds: float
    ) -> Iterable[tuple[str, bytes | Exception]]:
        for twin_id, request in reversed(list(requests.items())):  # answers come in any order
            self.asked.append((verb, twin_id))
            try:
                yield twin_id, self.faults(verb, twin_id, self.sites[twin_id].answer(verb, request))
            except TimeoutError as error:
                yield twin_id, error


def engine_over(
    wires: Any, config: ExperimentConfig, told: list[Any] | None = None, **limits: Any
) -> Callable[..., Any]:
    def engine_for(setup: ExperimentSetup) -> RemoteEngine:
        joins = {
            name: plan.joins_at_task * setup.scenario.rounds_per_task
            for name, plan in setup.scenario.hospitals.items()
        }
        tell = (lambda event: None) if told is None else told.append
        assignment = Assignment("run", config.setting(), config.engine.threads)
        return RemoteEngine(
            wires,
            joins,
            assignment,
            LinkConfig(**limits),
            tell,
            config.federation.secure_aggregation,
        )

    return engine_for


def weights_of(run: Path) -> dict[str, dict[Any, Any]]:
    return {
        folder.name: load_model(folder)[0].state_dict()
        for folder in sorted((run / "models").iterdir())
    }


def assert_same(one: Path, other: Path) -> None:
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    for name, weights in first.items():
        assert weights.keys() == second[name].keys()
        assert all(torch.equal(value, second[name][key]) for key, value in weights.items())


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("method=scaffold",),
        ("outgoing.compression={kind: top_k, share: 0.1}",),
        ("method=fedavg", "federation.secure_aggregation={}"),
        ("training.precision=bfloat16",),
    ],
    ids=["fedka", "scaffold", "top_k", "secure_sum", "bfloat16"],
)
def test_a_run_over_the_wire_is_the_sequential_run_bit_for_bit(
    tmp_path: Path, changes: tuple[Any, ...]
) -> None:
    config = experiment(*changes)
    here = run_experiment(config, tmp_path / "here")
    wires = Wires(open_hospitals(config, tmp_path / "hospitals"))
    there = run_experiment(
        config, tmp_path / "there", engine_for=engine_over(wires, config, minimum_hospitals=3)
    )
    assert_same(tmp_path / "here", tmp_path / "there")
    assert {**here, "seconds": 0} == {**there, "seconds": 0}


def test_a_model_that_a_hospital_holds_is_not_sent_again(tmp_path: Path) -> None:
    config = experiment("method=fedavg", "network.width=32")
    wires = Wires(open_hospitals(config, tmp_path / "hospitals"))
    told: list[dict[Any, Any]] = []
    run_experiment(config, tmp_path / "run", engine_for=engine_over(wires, config, told))
    really = [each["bytes_down"] for each in told if each["event"] == "round"][1:]
    counted = [
        1e6 * each["megabytes_down"]
        for each in RunFolder(tmp_path / "run").read_records()
        if each["kind"] == "round"
    ]
    assert (
        len(really) == len(counted)
        and 0 < really[1] < 0.7 * counted[1]
        and 0 < really[3] < 0.7 * counted[3]
    )


def test_hospitals_and_server_that_are_killed_repeat_the_round_and_end_with_the_same_weights(
    tmp_path: Path,
) -> None:
    config = experiment()
    run_experiment(config, tmp_path / "here")
    killed = {("train", "north"): 2, ("train", "south"): 2, ("observe", "east"): 6}

    def faults(verb: Any, twin_id: str, content: bytes) -> bytes:
        if (verb, twin_id) in killed:
            killed[verb, twin_id] -= 1
            if killed[verb, twin_id] == 0:
                del killed[verb, twin_id]
                wires.restart(twin_id)  # its process is gone with all that was not on its disk
                raise TimeoutError
        return content

    wires = Wires(open_hospitals(config, tmp_path / "hospitals"), faults)
    ended = 0
    for _ in range(6):
        try:
            run_experiment(
                config,
                tmp_path / "there",
                resume=ended > 0 or (tmp_path / "there").exists(),
                engine_for=engine_over(wires, config, minimum_hospitals=4, deadline_seconds=5),
            )
            break
        except TooFewHospitals:
            ended += 1
    assert not killed and ended >= 2
    assert_same(tmp_path / "here", tmp_path / "there")


def test_a_dead_hospital_is_suspect_and_asked_no_more_until_it_greets_again(tmp_path: Path) -> None:
    config = experiment("federation.twins_per_round=4")
    dead = threading.Event()

    def faults(verb: Any, twin_id: str, content: bytes) -> bytes:
        if twin_id == "east" and dead.is_set():
            raise TimeoutError
        return content

    wires = Wires(open_hospitals(config, tmp_path / "hospitals"), faults)
    told: list[dict[Any, Any]] = []
    engine = engine_over(wires, config, told)(prepare_experiment(config))
    server = new_server(config.network, 1, settle_rounds=0)
    assert engine.present(0) == ["east", "north", "south"]
    dead.set()
    assert [each.twin_id for each in engine.observe(server.model, ("east", "north", "south"))] == [
        "north",
        "south",
    ]
    assert engine.suspects == ("east",) and engine.present(1) == ["north", "south"]
    wires.asked.clear()
    engine.observe(replace(server.model, round=1), ("north", "south"))
    assert ("observe", "east") not in wires.asked
    dead.clear()
    end = time.monotonic() + 20
    while engine.suspects and time.monotonic() < end:
        engine.present(1)
    assert engine.present(1) == ["east", "north", "south"]
    assert {
        "event": "absent",
        "hospital": "east",
        "stage": "observe",
        "round": 0,
        "reason": "did not answer (TimeoutError)",
        "suspect": True,
    } in told
    engine.close()


def another_round(content: bytes) -> bytes:
    found = kind_of(content)
    return (
        encode(replace(decode(found, content), round=77))
        if found in (Observation, TwinUpdate)
        else content
    )


def another_twin(content: bytes) -> bytes:
    found = kind_of(content)
    return (
        encode(replace(decode(found, content), twin_id="west"))
        if found in (Observation, TwinUpdate)
        else content
    )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-7],
        lambda content: b"\x80\x04\x95pickle",
        lambda content: content + b"more",
        lambda content: b"",
        another_round,
        another_twin,
        lambda content: encode(Fault("south", "train", 0, "OSError (No space left on device)")),
    ],
    ids=["cut", "pickle", "more", "nothing", "another_round", "another_twin", "full_disk"],
)
def test_what_one_hospital_sends_never_stops_the_others(
    tmp_path: Path, spoil: Callable[..., Any]
) -> None:
    config = experiment("method=fedavg")

    def faults(verb: Any, twin_id: str, content: bytes) -> bytes:
        return spoil(content) if twin_id == "south" and verb in ("observe", "train") else content

    wires = Wires(open_hospitals(config, tmp_path / "hospitals"), faults)
    told: list[dict[Any, Any]] = []
    results = run_experiment(config, tmp_path / "run", engine_for=engine_over(wires, config, told))
    assert results["champion"]
    absent = [each for each in told if each["event"] == "absent"]
    assert (
        absent
        and {each["hospital"] for each in absent} == {"south"}
        and not any(each["suspect"] for each in absent)
    )


def test_a_request_that_comes_twice_is_trained_once(tmp_path: Path) -> None:
    config = experiment("method=fedavg")
    doubled = []

    class Twice(Wires):
        def ask(self, verb: str, requests: Any, seconds: float) -> Any:
            for twin_id, answer in super().ask(verb, requests, seconds):
                if verb == "train":
                    again = self.sites[twin_id].answer(verb, requests[twin_id])
                    doubled.append(again == answer)
                yield twin_id, answer

    wires = Twice(open_hospitals(config, tmp_path / "hospitals"))
    run_experiment(config, tmp_path / "there", engine_for=engine_over(wires, config))
    run_experiment(config, tmp_path / "here")
    assert doubled and all(doubled)
    assert_same(tmp_path / "here", tmp_path / "there")


def test_a_hospitals_own_file_decides_what_leaves_it(tmp_path: Path) -> None:
    config = experiment()
    own = {"south": {"policy": {"forbid": ["prototype_gradients"]}}, "north": {"only_in_sum": True}}
    wires = Wires(open_hospitals(config, tmp_path / "hospitals", cast(Any, own)))
    told: list[dict[Any, Any]] = []
    run_experiment(config, tmp_path / "run", engine_for=engine_over(wires, config, told))
    reasons = {each["hospital"]: each["reason"] for each in told if each["event"] == "absent"}
    assert "UploadForbidden" in reasons["south"] and "SiteError" in reasons["north"]


def test_a_server_cannot_send_a_twin_back_to_its_beginning(tmp_path: Path) -> None:
    config = experiment("method=fedavg", "scenario.rounds_per_task=4")
    wires = Wires(open_hospitals(config, tmp_path / "hospitals"))
    run_experiment(config, tmp_path / "run", engine_for=engine_over(wires, config))
    files = sorted((tmp_path / "hospitals" / "north" / "state").rglob("*.safetensors"))
    site = wires.sites["north"]
    answer = site.answer("observe", encode(new_server(config.network, 1, settle_rounds=0).model))
    assert kind_of(answer) is Fault
    assert sorted((tmp_path / "hospitals" / "north" / "state").rglob("*.safetensors")) == files


def test_nothing_of_an_image_is_in_what_leaves_a_hospital(tmp_path: Path) -> None:
    config = experiment()
    places = open_hospitals(config, tmp_path / "hospitals")
    left: list[bytes] = []

    def faults(verb: Any, twin_id: str, content: bytes) -> bytes:
        left.append(content)
        return content

    run_experiment(config, tmp_path / "run", engine_for=engine_over(Wires(places, faults), config))
    everything = b"".join(left)
    for twin_id, place in places.items():
        hospital = load_hospital(twin_id, place / "archive.safetensors")
        pixels = hospital.images(hospital.new_images(-1, 99)).images
        rows = {
            row.tobytes()
            for image in pixels[:40, :, :, 0]
            for row in image[10:18]
            if len(set(row.tolist())) > 12
        }
        floats = {(torch.tensor(list(row)) / 255).numpy().tobytes() for row in list(rows)[:200]}
        assert len(rows) > 50
        assert not any(row in everything for row in (*rows, *floats))


def test_a_session_needs_the_minimum(tmp_path: Path) -> None:
    config = experiment()
    wires = Wires(open_hospitals(config, tmp_path / "hospitals"))
    with pytest.raises(
        TooFewHospitals, match="4 hospitals answered the greeting; the minimum is 5"
    ):
        engine_over(wires, config, minimum_hospitals=5)(prepare_experiment(config))


def test_a_verb_that_nobody_knows_and_a_request_before_a_session_are_faults(tmp_path: Path) -> None:
    config = experiment()
    site = Wires(open_hospitals(config, tmp_path / "hospitals")).sites["north"]
    for verb, content in (
        ("rm -rf", b""),
        ("observe", encode(GlobalModel({}, (), 0))),
        ("train", b"\x80"),
        ("mask", b""),
    ):
        assert kind_of(site.answer(verb, content)) is Fault
