from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from federation.engines.sequential import SequentialEngine
from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.methods.analytic import Analytic, FeatureSums, sums_of
from federation.methods.fedavg import FedAvg
from federation.round import RoundConfig, run_round
from federation.server import new_server
from incremental.inference import features_of
from incremental.network import NetworkConfig, build_network
from incremental.proxy import ProxyConfig, ProxyServer
from physical.batch import Batch
from physical.transforms import to_tensor
from twin.messages import TwinUpdate

METHOD = Analytic(warm_up_rounds=1, ridge=0.05, logit_scale=4.0)
EVERYBODY = RoundConfig(twins_per_round=10)


def play(hospitals: SimulatedHospitals, method: Analytic | FedAvg, rounds: int) -> tuple[Any, ...]:
    server, proxy, engine = (
        new_server(hospitals.setting.network, 3, settle_rounds=0),
        ProxyServer(ProxyConfig()),
        SequentialEngine(hospitals),
    )
    records = []
    for _ in range(rounds):
        server, record = run_round(server, engine, method, proxy, EVERYBODY)
        records.append(record)
    return server, records, engine


@pytest.fixture(scope="module")
def played(tiny_hospitals: SimulatedHospitals) -> tuple[Any, ...]:
    return play(tiny_hospitals, METHOD, 2)


def ridge_by_numpy(
    features: NDArray[Any], rows: NDArray[Any], classes: int, method: Analytic
) -> NDArray[Any]:
    """Plain least squares on stacked equations, one more for each shrunk feature."""
    features = np.concatenate([features, np.ones((len(features), 1))], 1)
    shrink = method.ridge * np.mean((features[:, :-1] ** 2).sum(0))
    penalty = np.sqrt(shrink) * np.eye(features.shape[1])[:-1]  # the constant is not shrunk
    equations = np.concatenate([features, penalty])
    targets = np.concatenate([np.eye(classes)[rows], np.zeros((len(penalty), classes))])
    return method.logit_scale * np.linalg.lstsq(equations, targets, rcond=None)[0]


def test_the_head_is_numpys_ridge_regression_on_the_pooled_images_of_all_twins(
    tiny_hospitals: SimulatedHospitals, played: tuple[Any, ...]
) -> None:
    server, _, engine = played
    positions = np.concatenate([state.current for state in engine.states.values()])
    names = [
        tiny_hospitals.archive.vocabulary[label]
        for label in tiny_hospitals.archive.labels[positions]
    ]
    rows = np.array([server.class_names.index(name) for name in names])
    network = build_network(server.network, server.weights)
    features = (
        features_of(network, to_tensor(tiny_hospitals.archive.images[positions])).double().numpy()
    )
    expected = ridge_by_numpy(features, rows, len(server.class_names), METHOD)
    ours = (
        torch.cat([server.weights["head.weight"], server.weights["head.bias"][:, None]], 1)
        .numpy()
        .T
    )
    np.testing.assert_allclose(ours, expected, atol=2e-4 * np.abs(expected).max())


def test_sums_of_a_split_add_up_to_those_of_the_whole(
    tiny_batch: Batch, tiny_network: NetworkConfig, played: tuple[Any, ...]
) -> None:
    network = build_network(played[0].network, played[0].weights)
    images, rows = to_tensor(tiny_batch.images).float() / 255, torch.from_numpy(tiny_batch.labels)
    whole, *parts = (
        sums_of(network, images[part], rows[part], 9)
        for part in (slice(None), slice(0, 77), slice(77, None))
    )
    torch.testing.assert_close(parts[0].gram + parts[1].gram, whole.gram)
    torch.testing.assert_close(parts[0].class_sums + parts[1].class_sums, whole.class_sums)
    assert whole.class_sums[:, -1].tolist() == [20] * 9


def test_every_image_counts_once_however_many_rounds_there_are(
    tiny_hospitals: SimulatedHospitals,
) -> None:
    server, records, _ = play(
        tiny_hospitals, METHOD, 7
    )  # three tasks of two rounds; a twin that detects late learns in the next round
    assert len(server.class_names) == 9
    assert (
        server.kept["class_sums"][:, -1].tolist() == [20] * 9
    )  # each hospital's share of each class, once
    assert float(server.kept["gram"][-1, -1]) == 180
    assert not any(update.upload for update in records[-1].accepted)


def test_after_the_warm_up_the_backbone_stays_bit_for_bit(
    tiny_hospitals: SimulatedHospitals,
) -> None:
    before, after = (play(tiny_hospitals, METHOD, rounds)[0].weights for rounds in (1, 4))
    assert all(
        torch.equal(before[name], after[name]) for name in before if not name.startswith("head.")
    )


def test_the_warm_up_is_fedavg_bit_for_bit(tiny_hospitals: SimulatedHospitals) -> None:
    ours, fedavg = (
        play(tiny_hospitals, method, 2)[0].weights
        for method in (Analytic(warm_up_rounds=3), FedAvg())
    )
    assert all(torch.equal(ours[name], fedavg[name]) for name in fedavg)


def test_old_classes_are_not_forgotten_when_new_ones_come(
    tiny_hospitals: SimulatedHospitals,
) -> None:
    def recall_of_first_task(rounds: int) -> float:
        server, _, _ = play(tiny_hospitals, Analytic(warm_up_rounds=1, ridge=1e-3), rounds)
        labels = tiny_hospitals.archive.labels
        of_first = np.isin(
            labels,
            [tiny_hospitals.archive.vocabulary.index(name) for name in server.class_names[:3]],
        )
        network = build_network(server.network, server.weights).eval()
        with torch.no_grad():
            said = network(
                to_tensor(tiny_hospitals.archive.images[of_first]).float() / 255
            ).logits.argmax(1)
        named = np.array([server.class_names[row] for row in said])
        return float(
            (named == np.array(tiny_hospitals.archive.vocabulary)[labels[of_first]]).mean()
        )

    assert recall_of_first_task(4) > recall_of_first_task(2) - 0.35


def test_what_is_uploaded_is_declared_and_holds_no_image(played: tuple[Any, ...]) -> None:
    _, records, _ = played
    uploads = [update.upload for update in records[1].accepted]
    assert (
        all(set(upload) == {"gram", "class_sums"} for upload in uploads)
        and len(Analytic.uploads) == 2
    )
    width = 1 + build_network(played[0].network, played[0].weights).head.in_features
    assert {tuple(upload["gram"].shape) for upload in uploads} == {(width, width)}


def test_an_upload_of_the_wrong_shape_is_left_out(played: tuple[Any, ...]) -> None:
    server, records, _ = played
    update = records[1].accepted[0]
    server = replace(server, round=1)
    wrong = replace(
        update, upload={"gram": torch.eye(3), "class_sums": update.upload["class_sums"]}
    )
    kept = METHOD.aggregate(replace(server, kept={}), [wrong]).kept
    assert "gram" not in kept
    alone = METHOD.aggregate(replace(server, kept={}), [wrong, update]).kept
    torch.testing.assert_close(alone["gram"], update.upload["gram"])


def test_the_scale_of_the_logits_changes_no_decision() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    features = torch.cat([features, torch.ones(40, 1, dtype=torch.float64)], 1)
    sums = FeatureSums(
        features.T @ features, torch.eye(3, dtype=torch.float64).repeat(14, 1)[:40].T @ features
    )
    one, ten = (
        features @ replace(METHOD, logit_scale=scale).scaled_solution(sums) for scale in (1.0, 10.0)
    )
    assert torch.equal(one.argmax(1), ten.argmax(1))


@pytest.mark.parametrize(
    ("field", "value"), [("warm_up_rounds", 0), ("ridge", 0.0), ("logit_scale", -1.0)]
)
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} is .*; allowed"):
        Analytic(**cast(Any, {field: value}))


def test_an_update_without_sums_changes_nothing(played: tuple[Any, ...]) -> None:
    server, records, _ = played
    silent: TwinUpdate = replace(records[1].accepted[0], upload={})
    assert METHOD.aggregate(replace(server, kept={}, round=1), [silent]).weights is server.weights
