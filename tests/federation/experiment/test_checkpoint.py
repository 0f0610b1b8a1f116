import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import federation.experiment.checkpoint as room
from federation.experiment.checkpoint import (
    Checkpoint,
    CheckpointError,
    go_back_before,
    load_checkpoint,
    save_checkpoint,
)
from federation.server import new_server
from incremental.network import NetworkConfig
from incremental.proxy import ProxyConfig, ProxyServer, Score, StoredModel


@pytest.fixture
def checkpoint() -> Checkpoint:
    server = new_server(
        NetworkConfig(backbone="lenet", width=4, image_size=16), seed=1, settle_rounds=0
    )
    server = replace(
        server,
        round=7,
        task_begins=(0, 4),
        kept={"prototype_rows": torch.arange(3)},
        usual_entropy=(0.1, 0.2),
        usual_images=40,
    )
    old = StoredModel(server.weights, (), 4, Score(0.5, "prototypes"))
    return Checkpoint(server, None, old, 6, {"seconds": 1.5, "records": 9})


def test_what_was_saved_comes_back_equal(tmp_path: Path, checkpoint: Checkpoint) -> None:
    save_checkpoint(tmp_path, checkpoint)
    back = load_checkpoint(tmp_path)
    assert (
        back.server.round == 7
        and back.server.task_begins == (0, 4)
        and back.server.usual_images == 40
    )
    assert all(
        torch.equal(back.server.weights[name], value)
        for name, value in checkpoint.server.weights.items()
    )
    assert torch.equal(back.server.kept["prototype_rows"], torch.arange(3))
    assert back.old_model is not None
    assert back.best is None and back.old_model.score == Score(0.5, "prototypes")
    assert back.states_until == 6 and back.progress == checkpoint.progress
    proxy = ProxyServer(ProxyConfig())
    back.restore(proxy)
    assert proxy.old_model is back.old_model


def test_only_the_last_two_are_kept(tmp_path: Path, checkpoint: Checkpoint) -> None:
    for number in range(5):
        save_checkpoint(
            tmp_path, replace(checkpoint, server=replace(checkpoint.server, round=number))
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-00003", "round-00004"]


def test_a_full_disk_is_one_clear_error_and_leaves_the_checkpoint_before_whole(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, checkpoint)

    def full(*arguments: Any, **keywords: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(room, "save_file", full)
    with pytest.raises(CheckpointError, match=r"No space left.*go on with --resume"):
        save_checkpoint(tmp_path, replace(checkpoint, server=replace(checkpoint.server, round=8)))
    assert [path.name for path in tmp_path.iterdir()] == ["round-00007"]
    assert load_checkpoint(tmp_path).server.round == 7


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    save_checkpoint(tmp_path, checkpoint)
    later = save_checkpoint(
        tmp_path, replace(checkpoint, server=replace(checkpoint.server, round=8))
    )
    (later / "tensors.safetensors").write_bytes(b"half")
    assert load_checkpoint(tmp_path).server.round == 7


def test_nothing_to_resume_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no finished round was saved"):
        load_checkpoint(tmp_path)


def test_going_back_before_the_last_round_forgets_its_checkpoint_and_nothing_else(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    save_checkpoint(tmp_path, checkpoint)
    assert not go_back_before(tmp_path, 6)  # nothing is before it
    later = save_checkpoint(
        tmp_path, replace(checkpoint, server=replace(checkpoint.server, round=8))
    )
    assert not go_back_before(tmp_path, 6) and not go_back_before(tmp_path, 8) and later.exists()
    assert go_back_before(tmp_path, 7)
    assert load_checkpoint(tmp_path).server.round == 7 and not go_back_before(tmp_path, 6)


def test_there_is_no_going_back_to_a_damaged_checkpoint(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    before = save_checkpoint(tmp_path, checkpoint)
    save_checkpoint(tmp_path, replace(checkpoint, server=replace(checkpoint.server, round=8)))
    (before / "tensors.safetensors").write_bytes(b"half")
    assert not go_back_before(tmp_path, 7) and load_checkpoint(tmp_path).server.round == 8
    assert not go_back_before(tmp_path / "none", 7)
