"""Messages of every kind.

A comparison that sees every bit, runs over wires within this process, and a deployment's manifests.
"""

import struct
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from math import isnan, prod
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args, get_origin

import pytest
import torch
import yaml
from hypothesis import strategies as st
from torch import Tensor

from federation.experiment.config import ExperimentConfig, load_experiment
from federation.experiment.loop import run_experiment
from federation.experiment.run_folder import RunFolder
from federation.experiment.setup import ExperimentSetup, prepare_experiment
from federation.flare.engine import LinkConfig, RemoteEngine
from federation.flare.hospital_site import HospitalSite
from federation.flare.link_messages import Assignment
from federation.flare.manifests import write_manifests
from federation.flare.record_fields import hints_of
from federation.flare.tensor_block import DTYPES
from incremental.head import Weights
from physical.archive_file import save_archive
from physical.batch import Batch
from tests.federation.flare.hospital_names import NAMES
from twin.messages import Broadcast, GlobalModel, TwinUpdate

ROOT = Path(__file__).parents[3]
UNSEEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
TEXTS = st.text(st.characters(exclude_categories=cast(Any, UNSEEN)), max_size=12)
IDS = TEXTS.map(
    lambda text: "a" + "".join(each for each in text if each not in "/\\:" and not each.isspace())
)
SHAPES = st.lists(st.integers(0, 4), max_size=4)
LAYOUTS = st.sampled_from(["contiguous", "channels last", "turned", "every second"])


class Unmade(NamedTuple):
    """A dataclass that is made once all is drawn.

    The check of its types draws by itself, which nothing may while Hypothesis draws.
    """

    kind: Any
    values: dict[str, Any]


def made(drawn: Any) -> Any:
    if isinstance(drawn, Unmade):
        return drawn.kind(**{name: made(each) for name, each in drawn.values.items()})
    if isinstance(drawn, tuple):
        return tuple(map(made, drawn))
    return {name: made(each) for name, each in drawn.items()} if isinstance(drawn, dict) else drawn


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """A tensor of any type, shape, layout and bits.

    Payloads of NaN and negative zeros among them.
    """
    dtype, shape, layout = (
        draw(st.sampled_from(sorted(DTYPES.values(), key=str))),
        draw(SHAPES),
        draw(LAYOUTS),
    )
    size = prod(shape) * dtype.itemsize
    raw = draw(st.binary(min_size=size, max_size=size))
    if dtype is torch.bool:
        raw = bytes(each % 2 for each in raw)
    flat = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    tensor = flat.reshape(shape)
    if layout == "channels last" and tensor.dim() == 4:
        return tensor.to(memory_format=torch.channels_last)
    if layout == "turned":
        return tensor.permute(tuple(reversed(range(tensor.dim()))))
    return tensor[..., ::2] if layout == "every second" and tensor.dim() else tensor


def values(hint: Any, name: str = "") -> st.SearchStrategy[Any]:
    """Whatever a field of this type may hold."""
    origin, inner = get_origin(hint), get_args(hint)
    named = st.dictionaries(TEXTS, tensors(), max_size=3)
    if hint == Weights or hint == Mapping[str, Tensor]:
        return named
    if type(None) in inner:
        return st.none() | values(next(each for each in inner if each is not type(None)), name)
    if origin is tuple and inner[1:] == (...,):
        return st.lists(values(inner[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, inner))
    if origin is Literal:
        return st.sampled_from(inner)
    if origin in (dict, Mapping):
        return st.dictionaries(TEXTS, values(inner[1]), max_size=3)
    if is_dataclass(hint):
        return st.fixed_dictionaries(
            {each: values(of, each) for each, of in hints_of(cast(Any, hint)).items()}
        ).map(lambda drawn: Unmade(hint, drawn))
    simple: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(-(2**63), 2**64 - 1),
        float: st.floats(),
        bool: st.booleans(),
        str: IDS if name.endswith("_id") else TEXTS,
        bytes: st.binary(max_size=40),
        Tensor: tensors(),
    }
    return simple[hint]


def is_same(one: Any, other: Any) -> bool:
    """Return whether two values are the same to the last bit; a NaN of Python's is any NaN."""
    if isinstance(one, Tensor):
        return (one.dtype, one.shape, bits(one)) == (other.dtype, other.shape, bits(other))
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(
            is_same(each, other[name]) for name, each in one.items()
        )
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    if is_dataclass(one):
        return type(one) is type(other) and all(
            is_same(getattr(one, each.name), getattr(other, each.name)) for each in fields(one)
        )
    if isinstance(one, float):
        return isinstance(other, float) and (
            (isnan(one) and isnan(other)) or struct.pack("d", one) == struct.pack("d", other)
        )
    return type(one) is type(other) and one == other


def bits(tensor: Tensor) -> bytes:
    return (
        tensor.clone(memory_format=torch.contiguous_format)
        .reshape(-1)
        .view(torch.uint8)
        .numpy()
        .tobytes()
    )


@pytest.fixture(scope="session")
def draw_message() -> Callable[[st.DataObject, Any], Any]:
    return lambda data, kind: made(data.draw(values(kind)))


@pytest.fixture(scope="session")
def same() -> Callable[[Any, Any], bool]:
    return is_same


@pytest.fixture(scope="session")
def any_tensor() -> st.SearchStrategy[Tensor]:
    return tensors()


SMALL = (
    "scenario.rounds_per_task=2",
    "federation.settle_rounds=1",
    "training.epochs=1",
    "method=fedavg",
    "network={backbone: lenet, width: 4, image_size: 28, channels: 1}",
    "evaluation.round_images=40",
    "evaluation.task_images=40",
    "tracking.enabled=false",
)


class Wires:
    """Carries records within this process.

    ``faults`` is called with each answer, and may change it or raise ``TimeoutError``.
    """

    def __init__(self, places: Mapping[str, Path], faults: "Faults") -> None:
        self.sites = {twin_id: HospitalSite(place) for twin_id, place in places.items()}
        self.faults = faults
        self.engine: WatchedEngine | None = None
        self.asked: list[tuple[str, str, bytes]] = []
        self.answered: list[tuple[str, str, bytes]] = []

    @property
    def hospitals(self) -> tuple[str, ...]:
        return tuple(self.sites)

    def ask(
        self, verb: str, requests: Mapping[str, bytes], seconds: float
    ) -> Iterable[tuple[str, bytes | Exception]]:
        for twin_id, request in requests.items():
            self.asked.append((verb, twin_id, request))
            try:
                answer = self.faults(self, verb, twin_id, self.sites[twin_id].answer(verb, request))
                self.answered.append((verb, twin_id, answer))
                yield twin_id, answer
            except TimeoutError as error:
                yield twin_id, error


Faults = Callable[[Wires, str, str, bytes], bytes]


def faithfully(wires: Wires, verb: Any, twin_id: str, content: bytes) -> bytes:
    return content


class WatchedEngine(RemoteEngine):
    """The real engine; what passes through it is kept."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.models: list[GlobalModel] = []
        self.broadcasts: list[Mapping[str, Broadcast]] = []
        self.updates: list[Sequence[TwinUpdate]] = []

    def observe(self, model: Any, twin_ids: Any) -> Any:
        self.models.append(model)
        return super().observe(model, twin_ids)

    def train(self, method: Any, broadcasts: Any) -> Any:
        self.broadcasts.append(broadcasts)
        self.updates.append(super().train(method, broadcasts))
        return self.updates[-1]


@dataclass
class Outcome:
    """What became of a run over wires.

    Its last weights, its records, what was told, and all that crossed.
    """

    wires: Wires
    engine: WatchedEngine
    records: list[dict[str, Any]]
    told: list[dict[str, Any]]

    @property
    def weights(self) -> Weights:
        return self.engine.models[-1].weights

    @property
    def rounds(self) -> list[dict[str, Any]]:
        return [each for each in self.records if each["kind"] == "round"]

    def reasons(self, twin_id: str) -> list[str]:
        """Why nothing of this hospital was taken: from the records and from the feed."""
        rejected = [
            str(each["reason"])
            for record in self.rounds
            for each in record["rejected"]
            if each["twin"] == twin_id
        ]
        return [
            *rejected,
            *(
                each["reason"]
                for each in self.told
                if each["event"] == "absent" and each["hospital"] == twin_id
            ),
        ]


@dataclass
class Over:
    """Runs experiments of hospitals in folders of their own, over wires within this process."""

    folder: Path

    wires_kind = Wires

    def config(self, *changes: str) -> ExperimentConfig:
        return load_experiment(ROOT / "hospital_configs" / "phantom_tiny", (*SMALL, *changes))

    def hospitals(
        self, config: ExperimentConfig, own: Mapping[str, Mapping[str, Any]] = {}, flipped: str = ""
    ) -> dict[str, Path]:
        hospitals, places = prepare_experiment(config).hospitals(), {}
        names = hospitals.archive.vocabulary
        for twin_id, joins in hospitals.joins.items():
            places[twin_id] = Path(tempfile.mkdtemp(dir=self.folder)) / twin_id
            labels = (
                len(names) - 1 - hospitals.archive.labels
                if twin_id == flipped
                else hospitals.archive.labels
            )
            archive = Batch(hospitals.archive.images, labels, names)
            save_archive(
                places[twin_id] / "archive.safetensors", archive, hospitals.arrivals[twin_id], joins
            )
            (places[twin_id] / "hospital.yaml").write_text(
                yaml.safe_dump({"hospital": twin_id, **own.get(twin_id, {})})
            )
        return places

    def engine(
        self,
        config: ExperimentConfig,
        setup: ExperimentSetup,
        wires: Any,
        told: list[Any],
        **link: Any,
    ) -> WatchedEngine:
        joins = {
            name: plan.joins_at_task * setup.scenario.rounds_per_task
            for name, plan in setup.scenario.hospitals.items()
        }
        assignment = Assignment("run", config.setting(), config.engine.threads)
        return WatchedEngine(
            wires,
            joins,
            assignment,
            LinkConfig(**link),
            told.append,
            config.federation.secure_aggregation,
        )

    def run(
        self,
        config: ExperimentConfig,
        faults: Faults = faithfully,
        places: Mapping[str, Path] | None = None,
        wires_kind: type[Wires] = Wires,
        **link: Any,
    ) -> Outcome:
        wires = wires_kind(self.hospitals(config) if places is None else places, faults)
        told: list[dict[str, Any]] = []

        def engine_for(setup: ExperimentSetup) -> WatchedEngine:
            wires.engine = self.engine(config, setup, wires, told, **link)
            return wires.engine

        out = Path(tempfile.mkdtemp(dir=self.folder)) / "run"
        run_experiment(config, out, engine_for=engine_for)
        assert wires.engine is not None
        return Outcome(wires, wires.engine, RunFolder(out).read_records(), told)


@pytest.fixture(scope="module")
def over(tmp_path_factory: pytest.TempPathFactory) -> Over:
    return Over(tmp_path_factory.mktemp("over"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    made = tmp_path / "manifests"
    write_manifests(
        made, tmp_path / "deployment", NAMES, host="fedka.example", port=8102, metrics_port=9102
    )
    return made
