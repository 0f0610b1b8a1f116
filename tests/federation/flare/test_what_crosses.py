"""What crosses a hospital's wall: no pixel.

With secure aggregation no single update; on the wire nothing that can be read.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, dtype

from federation.aggregation.secure_sum import unmasked_sum
from federation.experiment.config import load_experiment
from federation.flare.engine import LinkConfig
from federation.flare.link_messages import Fault
from federation.flare.local_processes import isolated
from federation.flare.provisioning import DeployError, init_deployment
from federation.flare.records import MAGIC, decode, encode, kind_of
from federation.flare.server import ServerConfig
from incremental.model_file import load_model
from physical.archive_file import load_hospital
from twin.messages import Broadcast, TwinUpdate
from twin.secure_sum.fixed_point import RESOLUTION, change_of
from twin.secure_sum.fixed_point import decode as from_integers
from twin.secure_sum.fixed_point import encode as to_integers
from twin.secure_sum.mask_messages import Masked, OpenReply, Sealed

ROOT = Path(__file__).parents[3]
FEDKA = "method={name: fedka, head_loss: ce, reconstruction: {perturb_steps: 2, invert_steps: 5}}"
SECURE = "federation.secure_aggregation={}"
FOUR = (
    "hospitals=[{name: east}, {name: north}, {name: south}, {name: west}]",
    "federation.twins_per_round=4",
)
MOST_SECONDS = 400.0
PIXELS = 12  # that stand in a row, and differ: so many do not come together by chance


# Pixels


def needles(images: np.ndarray) -> list[bytes]:
    """Return pieces of rows of images [N, H, W, C].

    For whoever sent an image might have written it.
    """
    rows = [
        row
        for image in images[..., 0]
        for row in image[:, 8 : 8 + PIXELS]
        if len(set(row.tolist())) >= PIXELS - 2
    ][:150]
    assert len(rows) >= 50
    mean, spread = float(images.mean()), float(images.std())
    found = []
    for row in torch.from_numpy(np.stack(rows)):
        unit = row.float() / 255
        normalised = ((row.float() - mean) / spread, (unit - 0.5) / 0.5, 1 - unit)
        kinds = (
            row,
            unit,
            unit.double(),
            unit.half(),
            unit.bfloat16(),
            row.float(),
            *normalised,
            *(each.bfloat16() for each in normalised),
        )
        found += [each.contiguous().view(torch.uint8).numpy().tobytes() for each in kinds]
    return found


def holds(content: bytes, pieces: Iterable[bytes]) -> bool:
    return any(each in content for each in pieces)


def images_of(places: dict[str, Path]) -> dict[str, np.ndarray]:
    loaded = {
        twin_id: load_hospital(twin_id, place / "archive.safetensors")
        for twin_id, place in places.items()
    }
    return {
        twin_id: each.images(each.new_images(-1, 99)).images for twin_id, each in loaded.items()
    }


@pytest.mark.parametrize(
    "changes",
    [(), (FEDKA,), (SECURE,), ("outgoing.compression={kind: float16}",)],
    ids=["fedavg", "fedka", "secure", "float16"],
)
def test_no_row_of_any_image_is_in_any_record_in_either_direction(
    over: Any, changes: tuple[Any, ...]
) -> None:
    config = over.config(*FOUR, *changes)
    places = over.hospitals(config)
    outcome = over.run(config, places=places)
    crossed = b"\0\0".join(
        content for _, _, content in (*outcome.wires.asked, *outcome.wires.answered)
    )
    assert len(crossed) > 100_000 and MAGIC in crossed
    for images in images_of(places).values():
        assert not holds(crossed, needles(images))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.float16])
def test_an_image_in_an_update_would_be_found(over: Any, dtype: dtype) -> None:
    config = over.config(*FOUR)
    images = images_of(over.hospitals(config))["north"]
    image = torch.from_numpy(images[:20])
    leak = image if dtype is torch.uint8 else (image / 255).to(dtype)
    record = encode(TwinUpdate("north", 0, {}, 1, class_names=(), upload={"leak": leak}))
    assert holds(record, needles(images))


# Single updates


def tensors_of(message: Any) -> list[torch.Tensor]:
    """Return every tensor of a message, wherever it stands."""
    if isinstance(message, torch.Tensor):
        return [message]
    parts = (
        message.values()
        if isinstance(message, dict)
        else message
        if isinstance(message, tuple)
        else ()
    )
    if is_dataclass(message):
        parts = [getattr(message, field.name) for field in fields(message)]  # type: ignore[assignment]  # changes its type
    return [tensor for part in parts for tensor in tensors_of(part)]


def pieces_of(update: TwinUpdate, broadcast: Broadcast, count: int, total: int) -> list[bytes]:
    """Return what tells an update.

    Pieces of its weights, its change and its share of the sum, in every type that might carry them.
    """
    pieces = []
    for name, value in update.weights.items():
        if value.numel() < 8:
            continue
        for each in (
            value,
            value - broadcast.weights[name],
            (value - broadcast.weights[name]) * (count / total),
        ):
            flat = each.flatten()[: 4 * 8]
            for number in (flat.float(), flat.double(), flat.half(), flat.bfloat16()):
                pieces += [
                    number[at : at + 8].contiguous().view(torch.uint8).numpy().tobytes()
                    for at in (0, 8, 16)
                    if at + 8 <= len(flat)
                ]
    share = to_integers(change_of(update.weights, broadcast.weights), count, total)
    whole = to_integers(change_of(update.weights, broadcast.weights), 1, 1)
    pieces += [
        each[at : at + 4].tobytes() for each in (share, whole) for at in range(0, len(each) - 4, 64)
    ]
    return [
        each for each in pieces if len(set(each)) > 6
    ]  # a row of zeros, of a filter that did not learn, tells nothing


class AskedAgain:
    """Learns what a hospital has sealed by asking it once more, in the open.

    ``only_in_sum`` is off here, so it answers.
    """

    def __init__(self) -> None:
        self.truth: dict[tuple[int, str], tuple[TwinUpdate, Broadcast]] = {}

    def __call__(self, wires: Any, verb: Any, twin_id: str, content: bytes) -> bytes:
        if verb in ("seal", "train") and kind_of(content) is not Fault:
            broadcast = wires.engine.broadcasts[-1][twin_id]
            update = decode(TwinUpdate, wires.sites[twin_id].answer("train", wires.asked[-1][2]))
            self.truth[broadcast.round, twin_id] = update, broadcast
        return content


@pytest.fixture(scope="module")
def summed(over: Any) -> tuple[Any, ...]:
    asked = AskedAgain()
    return over.run(over.config(*FOUR, SECURE), asked), asked.truth


def messages(outcome: Any, kind: type[Any]) -> dict[Any, Any]:
    found = [
        decode(kind, content)
        for _, _, content in outcome.wires.answered
        if kind_of(content) is kind
    ]
    return {(each.round, each.twin_id): each for each in found}


def all_of(round_number: int, found: dict[Any, Any]) -> list[str]:
    return [twin_id for number, twin_id in found if number == round_number]


def counts(truth: dict[tuple[Any, ...], tuple[Any, ...]], round_number: int) -> dict[str, int]:
    return {
        twin_id: update.num_images
        for (number, twin_id), (update, _) in truth.items()
        if number == round_number
    }


def test_with_secure_aggregation_no_record_of_a_hospital_holds_its_update(
    summed: tuple[Any, ...],
) -> None:
    outcome, truth = summed
    assert (
        len(truth) == 16
        and len(messages(outcome, Masked)) == 16
        and not messages(outcome, TwinUpdate)
    )
    sent = {
        twin_id: b"\0\0".join(
            content for _, who, content in outcome.wires.answered if who == twin_id
        )
        for twin_id in outcome.wires.sites
    }
    for (number, twin_id), (update, broadcast) in truth.items():
        images = counts(truth, number)
        pieces = pieces_of(update, broadcast, images[twin_id], sum(images.values()))
        assert len(pieces) > 20 and not any(holds(each, pieces) for each in sent.values())


def test_without_it_the_same_look_finds_the_update(over: Any) -> None:
    asked = AskedAgain()
    outcome = over.run(over.config(*FOUR), asked)
    for (number, twin_id), (update, broadcast) in asked.truth.items():
        record = encode(messages(outcome, TwinUpdate)[number, twin_id])
        assert holds(record, pieces_of(update, broadcast, 1, 1))


def test_a_masked_vector_says_nothing_of_the_update_behind_it(summed: tuple[Any, ...]) -> None:
    outcome, truth = summed
    for (number, twin_id), masked in messages(outcome, Masked).items():
        update, broadcast = truth[number, twin_id]
        share = (
            to_integers(change_of(update.weights, broadcast.weights), 1, 1)
            .view(np.int64)
            .astype(np.float64)
        )
        vector = masked.vector.numpy().astype(np.float64)
        assert abs(np.corrcoef(share, vector)[0, 1]) < 6 / len(share) ** 0.5
        ones = np.unpackbits(masked.vector.numpy().view(np.uint8)).mean()
        assert abs(ones - 0.5) < 6 * 0.5 / (64 * len(share)) ** 0.5


def test_what_the_server_received_gives_the_mean_together_and_noise_otherwise(
    summed: tuple[Any, ...],
) -> None:
    outcome, truth = summed
    masked, opened = messages(outcome, Masked), messages(outcome, OpenReply)
    for number, updates in enumerate(outcome.engine.updates):
        (sent,) = updates
        images = counts(truth, number)
        names, total = list(images), sum(images.values())
        like = truth[number, names[0]][1].weights

        def added(
            some: Sequence[str],
            number: Any = number,
            like: dict[str, Tensor] = like,
            total: int = total,
        ) -> dict[str, Tensor]:
            return from_integers(
                unmasked_sum(
                    [masked[number, each] for each in some], [opened[number, each] for each in some]
                ),
                like,
                total,
            )

        together, fewer, alone = added(names), added(names[:-1]), added(names[:1])
        for name, value in like.items():
            mean = (
                sum(truth[number, each][0].weights[name].double() * images[each] for each in names)
                / total
            )
            most = len(names) * RESOLUTION if value.is_floating_point() else 0.5
            assert torch.allclose(together[name].double(), mean, rtol=1e-6, atol=most)
            assert torch.equal(together[name], sent.weights[name])
            assert (
                value.numel() < 8
                or min(float((each[name] - value).abs().median()) for each in (fewer, alone)) > 1000
            )


def test_a_sealed_record_holds_no_tensor_and_an_opened_one_a_seed_alone(
    summed: tuple[Any, ...],
) -> None:
    outcome, _ = summed
    assert not any(
        tensors_of(each)
        for each in (*messages(outcome, Sealed).values(), *messages(outcome, OpenReply).values())
    )
    assert all(len(each.seed) == 32 for each in messages(outcome, OpenReply).values())


def test_a_hospital_that_leaves_in_a_sum_only_does_not_answer_a_server_that_asks_in_the_open(
    over: Any,
) -> None:
    config = over.config(*FOUR, SECURE)
    refused = []

    def ask_again(wires: Any, verb: Any, twin_id: str, content: bytes) -> bytes:
        if verb == "seal":
            refused.append(
                kind_of(wires.sites[twin_id].answer("train", wires.asked[-1][2])) is Fault
            )
        return content

    own = {twin_id: {"only_in_sum": True} for twin_id in ("east", "north", "south", "west")}
    outcome = over.run(config, ask_again, over.hospitals(config, own))
    assert refused == [True] * 16 and all(len(each) == 1 for each in outcome.engine.updates)


# The wire


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """What a hospital's connections carried in a run of real processes.

    (deployment, up, down), one entry for each connection.
    """
    pytest.importorskip("nvflare")
    try:
        isolated(["true"])
    except DeployError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("wire")
    small = (
        "method=fedavg",
        SECURE,
        "scenario.rounds_per_task=1",
        "federation.settle_rounds=0",
        "evaluation.round_images=20",
        "evaluation.task_images=20",
        "tracking.enabled=false",
    )
    config = load_experiment(ROOT / "hospital_configs" / "phantom_tiny", small)
    link = LinkConfig(deadline_seconds=120, minimum_hospitals=4)
    made = init_deployment(
        config, folder / "deployment", ServerConfig((), link), host="localhost", port=8102
    )
    (folder / "kept").mkdir()
    child = [
        sys.executable,
        str(Path(__file__).with_name("wire_child.py")),
        str(made.folder),
        "south",
        str(folder / "kept"),
    ]
    with (folder / "child.log").open(
        "wb"
    ) as log:  # whatever happens, nothing of its process namespace outlives it
        done = subprocess.run(
            isolated(child),
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            timeout=MOST_SECONDS,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    assert done.returncode == 0, (folder / "child.log").read_text()[-3000:]
    kept = {
        way: [path.read_bytes() for path in sorted((folder / "kept").glob(f"*.{way}"))]
        for way in ("up", "down")
    }
    return made, kept["up"], kept["down"]


def tls_records(stream: bytes) -> list[tuple[int, bytes]]:
    """Return the type and the content of each TLS record (RFC 8446, 5.1).

    Nothing may lie between them.
    """
    records, at = [], 0
    while at + 5 <= len(stream):
        kind, version, length = (
            stream[at],
            stream[at + 1 : at + 3],
            int.from_bytes(stream[at + 3 : at + 5], "big"),
        )
        assert kind in (20, 21, 22, 23) and version in (b"\3\1", b"\3\3") and length <= 2**14 + 256
        records.append((kind, stream[at + 5 : at + 5 + length]))
        at += 5 + length
    return records


READABLE = (
    MAGIC[:5],
    b"head.weight",
    b"liver",
    b"lung-left",
    b"heart",
    b"bladder",
    b"safetensors",
    b"twin_id",
    b"north",
    b"__nvfl",
    b"nvflare",
)


@pytest.mark.slow
def test_on_the_wire_everything_is_tls_and_nothing_of_ours_can_be_read(
    wire: tuple[Any, ...],
) -> None:
    made, up, down = wire
    model = load_model(sorted((made.place.run / "models").iterdir())[-1])[0].state_dict()
    size = sum(value.numel() * value.element_size() for value in model.values())
    assert sum(map(len, up)) > size and sum(map(len, down)) > 2 * size  # the model did pass here
    for stream in (*up, *down):
        assert not holds(stream, READABLE)
        assert all(
            kind == 23 for kind, _ in tls_records(stream)[8:]
        )  # application data, after the handshake
    images = images_of({"south": made.hospital("south") / "fedka"})["south"]
    weights = [
        value.flatten()[:8].numpy().tobytes()
        for value in model.values()
        if value.numel() >= 8 and value.is_floating_point()
    ]
    everything = b"\0\0".join((*up, *down))
    assert not holds(everything, needles(images)) and not holds(everything, weights)
    counted = np.bincount(np.frombuffer(everything, np.uint8), minlength=256) / len(everything)
    assert -(counted * np.log2(counted)).sum() > 7.9  # bits a byte: no pattern left


def test_in_the_records_themselves_the_same_look_finds_what_is_ours(over: Any) -> None:
    outcome = over.run(over.config(*FOUR))
    crossed = b"".join(content for _, _, content in outcome.wires.answered)
    assert all(
        each in crossed for each in (MAGIC[:5], b"head.weight", b"liver", b"twin_id", b"north")
    )
