import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray

from incremental.head import grow_head
from incremental.model_file import save_model
from incremental.network import NetworkConfig, initial_weights
from twin.review.image_model import ImageModel
from twin.review.model_worker import ModelWorker, WorkerError

CLASSES = ("heart", "liver", "spleen")
PATIENCE_SECONDS = 300.0


def saved_model(folder: Path, seed: int = 1) -> Path:
    config = NetworkConfig(backbone="lenet", width=4, image_size=16)
    save_model(
        folder,
        grow_head(initial_weights(config, seed), 3, torch.Generator().manual_seed(seed)),
        config,
        CLASSES,
        {},
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(tmp_path_factory.mktemp("model") / "one")


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[ModelWorker]:
    with ModelWorker(timeout_seconds=PATIENCE_SECONDS) as worker:
        worker.load(folder)
        yield worker


@pytest.fixture
def worker(shared: ModelWorker, folder: Path) -> ModelWorker:
    shared.load(folder)
    return shared


def images_of(count: int = 5) -> NDArray[Any]:
    return np.random.default_rng(3).integers(0, 256, (count, 16, 16)).astype(np.uint8)


def test_the_worker_sees_what_a_model_in_this_process_sees(
    worker: ModelWorker, folder: Path
) -> None:
    looker, images = ImageModel(folder), images_of(1100)
    seen, here = worker.look(images), looker.look(images)
    np.testing.assert_allclose(seen.logits, here.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen.features, here.features, rtol=1e-5, atol=1e-6)
    assert worker.facts is not None
    assert seen.model == here.model == worker.facts.digest
    assert worker.facts is not None
    assert worker.facts.class_names == CLASSES
    assert len(worker.look(images[:0])) == 0


def test_overlays_come_over_the_pipe(worker: ModelWorker) -> None:
    heats = worker.overlay(images_of(), ["heart", "liver", "spleen", "liver", "heart"])
    shown = [heat for heat in heats if heat is not None]
    assert len(heats) == 5
    assert shown
    assert all(heat.shape == (16, 16) and 0 <= heat.min() <= heat.max() <= 1 for heat in shown)


def test_a_worker_that_was_killed_between_two_questions_starts_again_with_its_model(
    worker: ModelWorker,
) -> None:
    before, pid = worker.look(images_of()).logits, worker.pid
    os.kill(cast(Any, pid), signal.SIGKILL)
    assert worker._process is not None
    worker._process.join(PATIENCE_SECONDS)
    assert np.array_equal(worker.look(images_of()).logits, before)
    assert worker.pid not in (None, pid)


def test_a_worker_that_is_killed_while_it_is_asked_is_one_clear_error(worker: ModelWorker) -> None:
    child = psutil.Process(worker.pid)
    child.suspend()  # so that the question certainly waits when the child is killed
    errors = []

    def ask() -> None:
        try:
            worker.look(images_of())
        except WorkerError as error:
            errors.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    child.kill()
    thread.join(PATIENCE_SECONDS)
    assert not errors or (
        "signal SIGKILL while it was asked to look" in errors[0] and "starts it again" in errors[0]
    )
    assert len(worker.look(images_of())) == 5


def test_a_child_that_hangs_is_killed_after_its_time(
    worker: ModelWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = worker.pid
    psutil.Process(pid).suspend()
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_timeout", 0.5)
        with pytest.raises(
            WorkerError, match=r"took longer than 0\.5 s while it was asked to look"
        ):
            worker.look(
                np.zeros((512, 64, 64), np.uint8)
            )  # more than a pipe holds: the parent is stuck in sending
    assert not psutil.pid_exists(cast(Any, pid))
    assert len(worker.look(images_of())) == 5


def test_a_folder_without_a_model_is_a_clear_error_and_the_model_before_stays(
    worker: ModelWorker, tmp_path: Path
) -> None:
    with pytest.raises(WorkerError, match="give a model's folder"):
        worker.load(tmp_path)
    assert worker.facts is not None
    assert worker.facts.class_names == CLASSES
    assert len(worker.look(images_of())) == 5


def test_another_model_takes_the_place_of_the_first(worker: ModelWorker, tmp_path: Path) -> None:
    before = worker.look(images_of())
    worker.load(saved_model(tmp_path / "two", seed=2))
    after = worker.look(images_of())
    assert before.model != after.model
    assert not np.array_equal(before.logits, after.logits)


def test_a_bad_question_is_a_clear_error_and_costs_no_process(worker: ModelWorker) -> None:
    pid = worker.pid
    with pytest.raises(WorkerError, match="a class that this model knows"):
        worker.overlay(images_of(1), ["pancreas"])
    with pytest.raises(WorkerError, match="convert them first"):
        worker.look(np.zeros((1, 4), np.uint8))
    assert worker.pid == pid


def test_many_threads_share_one_worker(worker: ModelWorker) -> None:
    images = [images_of(count) for count in range(1, 9)]
    expected = [worker.look(each).logits for each in images]
    found = {}
    threads = [
        threading.Thread(
            target=lambda index=index: found.update({index: worker.look(images[index]).logits})
        )
        for index in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert all(np.array_equal(found[index], expected[index]) for index in range(8))


def test_a_worker_has_a_process_from_its_first_model_until_it_is_closed(folder: Path) -> None:
    worker = ModelWorker(timeout_seconds=PATIENCE_SECONDS)
    assert worker.pid is None
    assert worker.facts is None
    with pytest.raises(WorkerError, match="load a model first"):
        worker.look(images_of())
    assert worker.pid is None
    worker.load(folder)
    pid = worker.pid
    worker.close()
    worker.close()
    assert not psutil.pid_exists(cast(Any, pid))
    with pytest.raises(WorkerError, match="was closed"):
        worker.look(images_of())


PARENT = """
import os, sys
from pathlib import Path
from twin.review.model_worker import ModelWorker
if __name__ == "__main__":
    worker = ModelWorker()
    worker.load(Path(sys.argv[1]))
    names = {"torch", "mlflow", "pytorch_grad_cam", "incremental.network"}
    heavy = sorted(names & set(sys.modules))
    print(worker.pid, heavy, flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that cannot be caught")
def test_the_parent_never_loads_torch_and_its_death_ends_the_child(
    folder: Path, tmp_path: Path
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as parent:
        assert parent.stdout is not None
        pid, heavy = parent.stdout.readline().split(maxsplit=1)
        child = psutil.Process(int(pid))
        parent.kill()
        parent.wait(PATIENCE_SECONDS)
    assert heavy.strip() == "[]"
    assert not psutil.wait_procs([child], timeout=PATIENCE_SECONDS)[1]
