from typing import Any, cast

import pytest
import torch

from incremental.proxy import ProxyConfig, ProxyServer, Score, StoredModel


def model(
    round_number: int,
    value: float | None = None,
    test: str = "task 1",
    names: tuple[str, ...] = ("liver",),
) -> StoredModel:
    score = None if value is None else Score(value, test)
    return StoredModel(
        {"head.bias": torch.tensor([float(round_number)])}, names, round_number, score
    )


def best_round(proxy: ProxyServer, *models: StoredModel) -> int:
    for each in models:
        proxy.consider(each)
    return cast(Any, None if proxy.best is None else proxy.best.round)


@pytest.fixture
def proxy() -> ProxyServer:
    return ProxyServer(ProxyConfig())


def test_the_best_score_wins(proxy: ProxyServer) -> None:
    assert best_round(proxy, model(1, 0.5), model(2, 0.8), model(3, 0.7)) == 2


def test_ties_go_to_the_latest(proxy: ProxyServer) -> None:
    assert best_round(proxy, model(1, 0.5), model(2, 0.5)) == 2


def test_a_score_of_another_test_is_not_compared(proxy: ProxyServer) -> None:
    assert best_round(proxy, model(1, 0.9), model(2, 0.1, "task 1, more prototypes")) == 2


@pytest.mark.parametrize("values", [(None, 0.1), (0.9, None), (None, None)])
def test_without_a_score_the_latest_is_kept(
    proxy: ProxyServer, values: tuple[float | None, float | None]
) -> None:
    assert best_round(proxy, model(1, values[0]), model(2, values[1])) == 2


def test_a_model_without_classes_is_no_candidate(proxy: ProxyServer) -> None:
    assert best_round(proxy, model(0, names=())) is None


def test_the_last_global_model_can_be_the_teacher() -> None:
    assert (
        best_round(ProxyServer(ProxyConfig(teacher="last_global")), model(1, 0.9), model(2, 0.1))
        == 2
    )


def test_a_closed_tasks_best_model_becomes_the_old_one_and_its_score_is_forgotten(
    proxy: ProxyServer,
) -> None:
    assert proxy.close_task() is None
    assert best_round(proxy, model(8, 0.9), model(9, 0.4)) == 8
    closed = proxy.close_task()
    assert closed is proxy.old_model
    assert closed is not None
    assert closed.round == 8
    assert proxy.best is None
    assert best_round(proxy, model(11, 0.2)) == 11


def test_a_late_class_forgets_the_best_model_and_keeps_the_old_one(proxy: ProxyServer) -> None:
    proxy.consider(model(9, 0.9))
    old = proxy.close_task()
    proxy.consider(model(11, 0.8))
    proxy.forget_best()
    assert proxy.best is None and proxy.old_model is old


def test_a_task_without_a_best_model_leaves_the_old_model(proxy: ProxyServer) -> None:
    proxy.consider(model(3, 0.5))
    proxy.close_task()
    assert proxy.close_task() is None
    assert proxy.old_model is not None
    assert proxy.old_model.round == 3
