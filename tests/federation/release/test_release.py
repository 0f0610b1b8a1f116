import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from federation.release.findings import ComparisonError
from federation.release.release import ReleaseError, fetch_champion, release, roll_back
from federation.release.rules import ReleaseRules
from incremental.model_file import load_model
from incremental.registry import ModelRegistry, RegistryError

ORGANS = ("liver", "spleen", "heart", "bladder")


Make = Callable[..., Path]


class Console:
    """Releases and rolls back models, as the console's jobs do."""

    def __init__(self, registry: ModelRegistry, models: Path) -> None:
        self.registry, self.models = registry, models

    def release(
        self, candidate: Path, comparison: Path | None, job_id: str, reason: str = ""
    ) -> int:
        return release(
            self.registry, candidate, comparison, self.models, job_id, "grace", reason, "test"
        ).version

    def roll_back(self, version: int, job_id: str) -> int:
        return roll_back(self.registry, version, job_id, "grace", "too many mistakes").version

    def serving(self) -> int:
        champion = self.registry.champion()
        return cast(Any, champion.version if champion else None)


@pytest.fixture
def console(registry: ModelRegistry, tmp_path: Path) -> Console:
    return Console(registry, tmp_path / "models")


@pytest.fixture
def compared_candidate(console: Console, model: Make, compared: Make) -> tuple[Path, Path]:
    """A candidate and its comparison with the champion, which is version 1."""
    champion, candidate = model(ORGANS[:3], 1), model(ORGANS, 2)
    console.release(champion, compared(champion, None), "job-1")
    return candidate, compared(candidate, champion)


def test_release_moves_the_alias_and_roll_back_moves_it_back(
    console: Console, compared_candidate: tuple[Path, Path]
) -> None:
    assert console.serving() == 1
    assert console.release(*compared_candidate, "job-2") == 2
    assert console.serving() == 2
    assert console.registry.load()[1]["class_names"] == list(ORGANS)
    version = console.registry.find(2)
    assert [version.facts[key] for key in ("released_by", "acceptance", "job.job-2")] == [
        "grace",
        "accepted",
        "released",
    ]
    assert version.facts["compared_with"] == console.registry.find(1).facts["digest"]
    assert console.roll_back(2, "job-3") == 2
    assert console.serving() == 1
    assert console.registry.load()[1]["class_names"] == list(ORGANS[:3])
    assert console.registry.find(2).facts["rolled_back_because"] == "too many mistakes"


def test_repeated_job_neither_releases_twice_nor_undoes_a_roll_back(
    console: Console, compared_candidate: tuple[Path, Path]
) -> None:
    assert [console.release(*compared_candidate, "job-2") for _ in range(2)] == [2, 2]
    assert [console.roll_back(2, "job-3") for _ in range(2)] == [2, 2]
    assert console.release(*compared_candidate, "job-2") == 2
    assert console.serving() == 1
    assert len(console.registry.list_versions()) == 2


def test_rolled_back_version_can_be_released_by_another_job(
    console: Console, compared_candidate: tuple[Path, Path]
) -> None:
    console.release(*compared_candidate, "job-2")
    console.roll_back(2, "job-3")
    console.release(*compared_candidate, "job-4")
    assert console.serving() == 2
    console.roll_back(2, "job-3")
    assert console.serving() == 2
    console.roll_back(2, "job-5")
    assert console.serving() == 1


@pytest.mark.parametrize(
    "at", [3, 6, 8, 9]
)  # while tagging, after the promotion, before the roll-back, during it
def test_job_restarted_after_a_crash_at_any_step_ends_in_the_right_state(
    console: Console,
    compared_candidate: tuple[Path, Path],
    at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Died(BaseException):  # like a kill: no code may catch it
        pass

    steps = []
    for name in ("tag", "promote", "rollback"):
        original = getattr(ModelRegistry, name)

        def step(self: ModelRegistry, *values: Any, original: Any = original) -> Any:
            steps.append(original)
            if len(steps) == at:
                raise Died
            return original(self, *values)

        monkeypatch.setattr(ModelRegistry, name, step)
    acts: tuple[Callable[[], int], ...] = (
        lambda: console.release(*compared_candidate, "job-2"),
        lambda: console.roll_back(2, "job-3"),
    )
    for act in acts:
        try:
            act()
        except Died:
            act()
        assert console.serving() == (
            2 if console.registry.find(2).facts["acceptance"] == "accepted" else 1
        )
    assert console.serving() == 1
    assert console.registry.find(2).facts["job.job-3"] == "rolled back"


def test_candidate_compared_with_another_champion_is_refused(
    console: Console, compared_candidate: tuple[Path, Path], model: Make, compared: Make
) -> None:
    other = model(ORGANS[:3], 5)
    console.release(other, compared(other, compared_candidate[0].parent / "model-3-1"), "job-2")
    with pytest.raises(ReleaseError, match="train again from it"):
        console.release(*compared_candidate, "job-3")
    assert console.serving() == 2


def test_candidate_without_a_class_of_the_champion_is_refused_despite_a_reason(
    console: Console, compared_candidate: tuple[Path, Path], model: Make, compared: Make
) -> None:
    poor = model(ORGANS[:2], 7)
    with pytest.raises(ReleaseError, match="does not know 1 of the champion's 3 classes: heart"):
        console.release(
            poor, compared(poor, compared_candidate[0].parent / "model-3-1"), "job-2", "I want it"
        )


def test_red_comparison_needs_a_reason(
    console: Console, compared_candidate: tuple[Path, Path], compared: Make
) -> None:
    candidate, champion = compared_candidate[0], compared_candidate[0].parent / "model-3-1"
    red = compared(candidate, champion, ReleaseRules(min_accuracy=1.0))
    with pytest.raises(ReleaseError, match="give a reason"):
        console.release(candidate, red, "job-2", " ")
    assert console.serving() == 1
    assert console.release(candidate, red, "job-2", "the hospitals needs it today") == 2
    assert console.registry.find(2).facts["released_because"] == "the hospitals needs it today"
    assert console.registry.find(2).facts["light"] == "red"


def test_missing_comparison_or_one_of_another_candidate_is_refused(
    console: Console, compared_candidate: tuple[Path, Path], model: Make
) -> None:
    with pytest.raises(ComparisonError, match="not this candidate"):
        console.release(model(ORGANS, 9), compared_candidate[1], "job-2")
    with pytest.raises(ReleaseError, match="compared with nothing and version 1 serves"):
        console.release(compared_candidate[0], None, "job-2")


def test_only_the_champion_is_rolled_back(
    console: Console, compared_candidate: tuple[Path, Path]
) -> None:
    with pytest.raises(RegistryError, match="replaced none"):
        console.roll_back(1, "job-2")
    console.release(*compared_candidate, "job-2")
    with pytest.raises(ReleaseError, match="version 1 is not the champion, which is version 2"):
        console.roll_back(1, "job-3")


def test_champion_is_fetched_once_per_version_and_again_if_damaged(
    console: Console, compared_candidate: tuple[Path, Path]
) -> None:
    console.release(*compared_candidate, "job-2")
    current = fetch_champion(console.registry, console.models)
    assert current is not None and current["version"] == "2"
    assert json.loads((console.models / "current.json").read_text()) == current
    folder = Path(current["folder"])
    assert load_model(folder)[1]["digest"] == console.registry.find(2).facts["digest"]
    written = (folder / "weights.safetensors").stat().st_ino
    fetch_champion(console.registry, console.models)
    assert (folder / "weights.safetensors").stat().st_ino == written
    (folder / "weights.safetensors").write_bytes(b"damaged")
    fetch_champion(console.registry, console.models)
    assert load_model(folder)[1]["digest"] == console.registry.find(2).facts["digest"]
    assert sorted(each.name for each in console.models.iterdir()) == [
        "current.json",
        "version-1",
        "version-2",
    ]


def test_reader_sees_the_old_or_the_new_champion_during_a_release(
    console: Console, compared_candidate: tuple[Path, Path], store: str
) -> None:
    console.release(*compared_candidate, "job-0")
    console.roll_back(2, "back-0")
    seen: list[int] = []
    stop, saw = threading.Event(), threading.Event()

    def serve() -> None:
        registry = ModelRegistry(store, "organs")
        while not stop.is_set():
            network, manifest = registry.load()
            seen.append(len(manifest["class_names"]))
            assert len(network.head.bias) == len(manifest["class_names"])
            saw.set()

    service = threading.Thread(target=serve)
    service.start()
    acts: tuple[Callable[[], int], ...] = (
        lambda: console.release(*compared_candidate, "job-1"),
        lambda: console.roll_back(2, "back-1"),
    )
    for act in acts:
        saw.clear()
        assert saw.wait(60)
        act()
    stop.set()
    service.join()
    assert set(seen) <= {3, 4} and seen
