from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import federation.engines.twin_states as room
from federation.engines.sequential import SequentialEngine
from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.engines.twin_states import StateError, StateFolder
from federation.methods.scaffold import SCAFFOLD
from federation.round import RoundConfig, run_round
from federation.server import new_server
from incremental.proxy import ProxyConfig, ProxyServer
from twin.memory import ExemplarMemory
from twin.privacy.differential_privacy import PrivacySpent
from twin.state import TwinState

METHOD = SCAFFOLD()  # keeps tensors on its twins
TWO = RoundConfig(twins_per_round=2)


def state_of(last_round: int, **more: Any) -> TwinState:
    return TwinState(
        ExemplarMemory(10, {"liver": np.array([3, 1])}), observed_until=last_round, **more
    )


def assert_equal(found: TwinState, expected: TwinState) -> None:
    for field in fields(TwinState):
        mine, theirs = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "memory":
            assert list(mine.positions) == list(theirs.positions)
            mine, theirs = mine.all_positions(), theirs.all_positions()
        if field.name == "kept":
            assert mine.keys() == theirs.keys() and all(
                torch.equal(mine[name], value) for name, value in theirs.items()
            )
        elif isinstance(theirs, np.ndarray):
            assert mine.tolist() == theirs.tolist()
        else:
            assert mine == theirs, field.name


def play(
    hospitals: SimulatedHospitals,
    states: dict[Any, Any] | StateFolder,
    rounds: int,
    start: tuple[Any, ...] | None = None,
    config: RoundConfig = TWO,
) -> tuple[Any, ...]:
    """Run rounds; returns what is needed to go on."""
    server, proxy = start or (
        new_server(hospitals.setting.network, seed=3, settle_rounds=0),
        ProxyServer(ProxyConfig()),
    )
    engine = SequentialEngine(hospitals, states)
    for _ in range(rounds):
        server, _ = run_round(server, engine, METHOD, proxy, config)
    return server, proxy


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def copy(start: tuple[Any, ...]) -> tuple[Any, ...]:
    server, proxy = start
    again = ProxyServer(proxy.config)
    again.best, again.old_model = proxy.best, proxy.old_model
    return server, again


def test_a_state_comes_back_from_the_disk_as_it_was(tmp_path: Path) -> None:
    states = StateFolder(tmp_path / "twins")
    assert states.get("north") is None and not list(states)
    states["north"] = state_of(
        4,
        inbox=np.array([5]),
        current_names=("heart",),
        previous_mean=0.1 + 0.2,
        model_round=4,
        kept={"control": torch.rand(2, 2)},
    )
    states["south"] = state_of(-1)
    fresh = StateFolder(tmp_path / "twins")
    for twin_id in ("north", "south"):
        assert_equal(fresh[twin_id], states[twin_id])
    assert list(fresh) == ["north", "south"] and len(fresh) == 2
    assert fresh["north"].previous_mean == 0.1 + 0.2


def test_a_round_that_is_shown_hides_what_came_later(tmp_path: Path) -> None:
    states = StateFolder(tmp_path)
    for number in (3, 4, 5):
        states["north"] = state_of(number)
    states["late"] = state_of(5)
    view = StateFolder(tmp_path, until=4)
    assert view["north"].observed_until == 4
    assert view.get("late") is None and list(view) == ["north"]


def test_what_no_checkpoint_needs_is_deleted(tmp_path: Path) -> None:
    states = StateFolder(tmp_path, checkpoints=2)
    for number in (0, 1, 5, 6, 7):
        states["north"] = state_of(number)
    # The checkpoints after rounds 5 and 6 count while round 7 is under way.
    assert names_in(tmp_path / "north") == [
        "00005.safetensors",
        "00006.safetensors",
        "00007.safetensors",
    ]
    states["north"] = state_of(20)
    assert names_in(tmp_path / "north") == ["00007.safetensors", "00020.safetensors"]


def test_what_a_method_keeps_is_written_only_when_the_twin_has_trained(tmp_path: Path) -> None:
    states = StateFolder(tmp_path)
    state = state_of(2, model_round=2, kept={"control": torch.ones(3)})
    states["north"] = state
    written = (tmp_path / "north" / "00002.kept.safetensors").stat().st_mtime_ns
    for number in range(3, 8):
        states["north"] = replace(states["north"], observed_until=number)
        assert torch.equal(states["north"].kept["control"], torch.ones(3))
    assert [name for name in names_in(tmp_path / "north") if "kept" in name] == [
        "00002.kept.safetensors"
    ]
    assert (tmp_path / "north" / "00002.kept.safetensors").stat().st_mtime_ns == written


def test_a_dictionary_and_a_folder_serve_a_run_alike(
    tiny_hospitals: SimulatedHospitals, tmp_path: Path
) -> None:
    memory, disk = {}, StateFolder(tmp_path)  # type: ignore[var-annotated]  # any
    expected, found = play(tiny_hospitals, memory, 6), play(tiny_hospitals, disk, 6)
    assert all(
        torch.equal(found[0].weights[name], value) for name, value in expected[0].weights.items()
    )
    assert set(disk) == set(memory)
    for twin_id, state in memory.items():
        assert_equal(disk[twin_id], state)
    assert any(state.kept for state in memory.values())


@pytest.mark.parametrize("finished", [3, 4])
def test_both_kept_checkpoints_find_the_states_that_were_theirs(
    tiny_hospitals: SimulatedHospitals, tmp_path: Path, finished: int
) -> None:
    memory: dict[Any, Any] = {}
    play(tiny_hospitals, memory, finished)  # as it was then
    play(tiny_hospitals, StateFolder(tmp_path), 4)
    view = StateFolder(tmp_path, until=finished - 1)
    assert set(view) == set(memory)
    for twin_id, state in memory.items():
        assert_equal(view[twin_id], state)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("write", range(1, 9))
def test_a_round_that_ends_at_any_write_and_is_repeated_equals_one_that_did_not(
    tiny_hospitals: SimulatedHospitals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    expected_states: dict[Any, Any] = {}
    expected, _ = play(tiny_hospitals, expected_states, 5)
    start = play(tiny_hospitals, StateFolder(tmp_path), 3)
    calls, save = [], room.save_file  # type: ignore[attr-defined]  # looked up where it is used

    def killed(*arguments: Any, **keywords: Any) -> None:
        calls.append(1)
        if len(calls) == write:
            raise Killed
        save(*arguments, **keywords)

    monkeypatch.setattr(room, "save_file", killed)
    try:
        play(tiny_hospitals, StateFolder(tmp_path), 1, copy(start))
    except Killed:
        pass
    else:
        assert write > 7  # three twins look, two of them train and keep something: seven files
    monkeypatch.setattr(room, "save_file", save)
    states = StateFolder(tmp_path)
    states.go_back(2)
    server, _ = play(tiny_hospitals, states, 2, copy(start))
    assert all(torch.equal(server.weights[name], value) for name, value in expected.weights.items())
    for twin_id, state in expected_states.items():
        assert_equal(states[twin_id], state)


def test_half_a_file_is_never_seen_and_is_cleared_away(tmp_path: Path) -> None:
    states = StateFolder(tmp_path)
    states["north"] = state_of(1)
    (tmp_path / "north" / ".00002.safetensors.abc").write_bytes(b"half")
    assert states["north"].observed_until == 1
    states.go_back(1)
    assert names_in(tmp_path / "north") == ["00001.safetensors"]


def test_flushing_writes_through_what_has_changed_and_only_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []
    monkeypatch.setattr(room, "flush", lambda path: flushed.append(path.name))
    states = StateFolder(tmp_path / "twins")
    states.flush()
    assert not flushed
    states["north"] = state_of(1)
    states.flush()
    assert sorted(flushed) == ["00001.safetensors", "north", "twins"]
    states.flush()
    assert len(flushed) == 3


def test_a_damaged_state_is_one_clear_error(tmp_path: Path) -> None:
    states = StateFolder(tmp_path)
    states["north"] = state_of(1)
    (tmp_path / "north" / "00001.safetensors").write_bytes(b"half")
    with pytest.raises(StateError, match="state of twin north, cannot be read"):
        states["north"]


def test_a_full_disk_is_one_clear_error_and_leaves_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = StateFolder(tmp_path)
    states["north"] = state_of(1)

    def full(*arguments: Any, **keywords: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room, "save_file", full)
    with pytest.raises(StateError, match=r"No space left.*--resume"):
        states["north"] = state_of(2)
    assert states["north"].observed_until == 1


def test_forgetting_a_twin_and_forgetting_all(tmp_path: Path) -> None:
    states = StateFolder(tmp_path / "twins")
    states["north"], states["south"] = state_of(1), state_of(1)
    del states["north"]
    assert list(states) == ["south"]
    states.clear()
    assert not list(states)
    states.clear()


SECRET, SEEDED = PrivacySpent(1.0, 1.0, 3, seeded=False), PrivacySpent(1.0, 1.0, 2, seeded=True)


@pytest.mark.parametrize(
    "earlier",
    [(), (PrivacySpent(1.0, 1.0, 1, seeded=False), SEEDED)],
    ids=["from its birth", "from a round"],
)
def test_privacy_spent_on_noise_that_cannot_be_drawn_again_is_not_forgotten(
    tmp_path: Path, earlier: tuple[Any, ...]
) -> None:
    states = StateFolder(tmp_path)
    if earlier:
        states["north"] = state_of(0, privacy=earlier)
    states["north"] = state_of(1, privacy=(SECRET, replace(SEEDED, steps=4)))
    for _ in range(2):  # also when the power fails between writing and deleting
        states.go_back(0)
        state = states["north"]
        assert state.last_round == (0 if earlier else -1)
        assert set(state.privacy) == ({SEEDED, SECRET} if earlier else {SECRET})


def test_seeded_noise_is_drawn_again_and_leaves_nothing_behind(tmp_path: Path) -> None:
    states = StateFolder(tmp_path)
    states["north"] = state_of(1, privacy=(SEEDED,))
    states.go_back(0)
    assert "north" not in states


def test_a_damaged_newest_state_is_put_aside_until_its_round_is_repeated(tmp_path: Path) -> None:
    states = StateFolder(tmp_path)
    states["north"], states["north"] = state_of(1), state_of(2)
    assert states.set_aside_damaged("north") is None and states.set_aside_damaged("nobody") is None
    (tmp_path / "north" / "00002.safetensors").write_bytes(b"half")
    assert states.set_aside_damaged("north") == 2 and states["north"].last_round == 1
    assert states.set_aside_damaged("north") == 2  # until it goes back behind that round
    states.go_back(2)
    assert states.set_aside_damaged("north") == 2
    states.go_back(1)
    states["north"] = state_of(2)
    assert states.set_aside_damaged("north") is None and names_in(tmp_path / "north") == [
        "00001.safetensors",
        "00002.safetensors",
    ]


def test_the_first_of_several_damaged_states_is_what_is_lost(tmp_path: Path) -> None:
    states = StateFolder(tmp_path)
    for number in (1, 2, 3):
        states["north"] = state_of(number)
    for name in ("00002.safetensors", "00003.safetensors"):
        (tmp_path / "north" / name).write_bytes(b"")
    assert states.set_aside_damaged("north") == 2 and states["north"].last_round == 1


def test_a_state_whose_kept_tensors_are_gone_is_damaged(tmp_path: Path) -> None:
    states = StateFolder(tmp_path)
    states["north"] = state_of(1)
    states["north"] = state_of(2, model_round=2, kept={"control": torch.ones(3)})
    (tmp_path / "north" / "00002.kept.safetensors").unlink()
    assert states.set_aside_damaged("north") == 2 and states["north"].last_round == 1


def test_a_disk_that_cannot_be_read_just_now_has_damaged_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = StateFolder(tmp_path)
    states["north"] = state_of(1)

    def failing(*arguments: Any, **keywords: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(room, "safe_open", failing)
    with pytest.raises(StateError, match="Input/output error"):
        states.set_aside_damaged("north")
    assert names_in(tmp_path / "north") == ["00001.safetensors"]


def test_what_the_system_says_of_a_disk_is_told_on_as_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **keywords: Any) -> None:
        raise room.SafetensorError(  # type: ignore[attr-defined]  # looked up where it is used
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr(room, "save_file", full)
    with pytest.raises(StateError) as caught:
        StateFolder(tmp_path)["north"] = state_of(1)
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == 28


def test_a_twin_at_work_does_not_change_when_its_file_does(tmp_path: Path) -> None:
    states = StateFolder(tmp_path)
    before = state_of(
        1, current=np.arange(4000), kept={"weights": torch.arange(4000.0)}, model_round=1
    )
    states["north"] = before
    at_work = states["north"]
    for file in (tmp_path / "north").iterdir():
        file.write_bytes(
            b""
        )  # in place, as a failing disk does: a new file under the old name would not show it
    assert_equal(at_work, before)
