import json
import sys
from pathlib import Path
from typing import Any

import pytest

from federation.engines.twin_states import StateFolder
from federation.experiment.config import ExperimentConfig, from_plain, load_experiment
from federation.experiment.config_file import ConfigError
from federation.experiment.loop import RunCallbacks, run_experiment
from federation.experiment.run_folder import RunFolder
from federation.experiment.setup import prepare_experiment
from twin.privacy.differential_privacy import PrivacyError, PrivacySpent, epsilon_of

TINY = Path(__file__).parents[2] / "hospital_configs" / "phantom_tiny"
PLAIN = [
    "training.epochs=1",
    "tracking.enabled=false",
    "method={name: fedavg, memory: true}",
    "network.norm=group",
]
NOISY = {
    "private training": ["training.private={noise_multiplier: 1.1, max_grad_norm: 0.5}"],
    "noise on updates": ["outgoing={noise: {clip_norm: 0.5, noise_multiplier: 0.2}}"],
}
VARYING = ("seconds", "code_version")


def config(which: str, *changes: Any) -> ExperimentConfig:
    if which == "private training":
        pytest.importorskip("opacus")
    return load_experiment(TINY, [*PLAIN, *NOISY[which], *changes])


def comparable(out: Path) -> tuple[Any, ...]:
    results = json.loads((out / "results.json").read_text())
    models = [path.read_bytes() for path in sorted(out.glob("models/*/weights.safetensors"))]
    rounds = [
        {**record, "seconds": 0}
        for record in RunFolder(out).read_records()
        if record["kind"] == "round"
    ]
    return {name: value for name, value in results.items() if name not in VARYING}, models, rounds


def accounts(out: Path) -> dict[str, tuple[PrivacySpent, ...]]:
    states = StateFolder(RunFolder(out).twins)
    return {name: states[name].privacy for name in states}


@pytest.fixture(scope="module", params=NOISY)
def finished(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    out = tmp_path_factory.mktemp("private") / "finished"
    run_experiment(config(request.param), out)
    return request.param, out


def test_a_round_records_the_epsilon_of_the_twin_that_has_spent_most_and_no_loss(
    finished: tuple[Any, ...],
) -> None:
    _, out = finished
    rounds = [record for record in RunFolder(out).read_records() if record["kind"] == "round"]
    assert all(record["losses"] == {} and record["epsilon"] > 0 for record in rounds)
    spent = {name: epsilon_of(account, 1e-5) for name, account in accounts(out).items()}
    assert max(record["epsilon"] for record in rounds) == max(spent.values())
    assert len(spent) == 4 and min(spent.values()) > 0


@pytest.mark.parametrize("when", [1, 4])
def test_a_resumed_run_has_spent_what_an_uninterrupted_one_has_and_ends_in_the_same_bits(
    finished: tuple[Any, ...], tmp_path: Path, when: int
) -> None:
    which, out = finished

    class Stop(Exception):
        pass

    def stop(record: Any) -> None:
        if record["kind"] == "round" and record["round"] == when:
            raise Stop

    with pytest.raises(
        Stop
    ):  # between the round's record and its checkpoint: the round is repeated
        run_experiment(config(which), tmp_path, callbacks=RunCallbacks(record=stop))
    run_experiment(config(which), tmp_path, resume=True)
    assert accounts(tmp_path) == accounts(out)
    assert comparable(tmp_path) == comparable(out)


def test_worker_processes_draw_the_same_noise(finished: tuple[Any, ...], tmp_path: Path) -> None:
    which, out = finished
    run_experiment(config(which, "engine.name=processes", "engine.workers=2"), tmp_path)
    assert comparable(tmp_path) == comparable(out)
    assert accounts(tmp_path) == accounts(out)


def test_noise_of_the_system_makes_a_run_that_cannot_be_repeated(tmp_path: Path) -> None:
    runs = []
    for name in ("one", "other"):
        run_experiment(
            config("noise on updates", "outgoing.noise.noise_source=system"), tmp_path / name
        )
        runs.append(comparable(tmp_path / name)[1])
    assert runs[0] != runs[1]
    assert not any(
        each.seeded for account in accounts(tmp_path / "one").values() for each in account
    )


def test_a_run_whose_twins_have_spent_their_budget_ends_all_the_same(tmp_path: Path) -> None:
    budget = epsilon_of([PrivacySpent(0.1, 1.0, 2, True)], 1e-5)
    results = run_experiment(
        config("noise on updates", f"outgoing.noise.epsilon_budget={budget}"), tmp_path
    )
    rounds = [record for record in RunFolder(tmp_path).read_records() if record["kind"] == "round"]
    assert len(rounds) == 6 and rounds[0]["chosen"] and not rounds[-1]["chosen"]
    assert "epsilon" not in rounds[-1] and results["rejected_updates"] == 0
    assert {epsilon_of(account, 1e-5) for account in accounts(tmp_path).values()} == {budget}


# --- configuration ---


def test_an_experiment_without_privacy_keeps_its_digest_and_privacy_changes_it() -> None:
    base = load_experiment(TINY, PLAIN)
    assert (
        base.digest()
        == load_experiment(TINY, [*PLAIN, "training.private=null", "outgoing.noise=null"]).digest()
    )
    private = [load_experiment(TINY, [*PLAIN, *changes]) for changes in NOISY.values()]
    assert len({base.digest(), *(each.digest() for each in private)}) == 3
    assert [from_plain(json.loads(json.dumps(each.as_plain()))) for each in private] == private


REFUSED = {
    "batch normalisation": (
        [*NOISY["private training"], "network.norm=batch"],
        "network.norm is batch",
    ),
    "fedka": (
        [*NOISY["private training"], "method={name: fedka}"],
        "the loss of FedKA with these settings is no mean over images",
    ),
    "uploads": (
        [*NOISY["noise on updates"], "method={name: fedka}"],
        "uploads prototype_gradients",
    ),
    "both": ([*NOISY["private training"], *NOISY["noise on updates"]], "choose one"),
    "no noise": (["training.private={noise_multiplier: 0}"], "without noise there is no privacy"),
    "half precision": (
        [*NOISY["private training"], "training.precision=bfloat16"],
        "set precision to float32",
    ),
    "typo": (["training.private={noise: 1}"], "training.private.noise is not a known key"),
    "typo in noise": (["outgoing={noise: {clip: 1}}"], "outgoing.noise.clip is not a known key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_privacy_that_cannot_be_given_stops_before_the_first_round(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        load_experiment(TINY, [*PLAIN, *changes])
    assert message in str(caught.value)


def test_a_run_stops_before_its_first_round_where_opacus_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    private = config("private training")
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(PrivacyError, match=r"fedka\[privacy\]"):
        run_experiment(private, tmp_path)
    assert not list(tmp_path.rglob("records.jsonl"))
    prepare_experiment(
        private, None
    )  # what a run that is over holds can be looked at without Opacus


def test_seeded_noise_is_not_deployed() -> None:
    load_experiment(TINY, PLAIN).check_deployable()
    config("noise on updates", "outgoing.noise.noise_source=system").check_deployable()
    with pytest.raises(PrivacyError, match="the server sends the seed"):
        config("noise on updates").check_deployable()
