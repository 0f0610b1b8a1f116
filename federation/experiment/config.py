"""Configuration of an experiment: a folder of YAML, validated by pydantic.

``experiment.yaml`` holds the experiment, ``hospital_*.yaml`` the hospitals that are named one by
one. Each floor defines the small configuration that it uses; here they are composed, and a key that
nobody defines is an error at every level.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import pydantic.dataclasses
import torch
from pydantic import ConfigDict, Field

from federation.aggregation.robust import RobustConfig
from federation.aggregation.screening import ScreeningConfig
from federation.aggregation.secure_sum import check_secure_aggregation
from federation.engines.choice import EngineConfig
from federation.experiment.config_file import (
    ConfigError,
    build,
    check_finite,
    explained,
    parse_yaml,
    read_yaml,
    suggestion,
)
from federation.method import Method, NeedsExactWeights
from federation.methods import METHODS
from federation.round import RoundConfig
from federation.tracking import TrackingConfig
from incremental.device import CPU, DeviceError, pick_device
from incremental.network import NetworkConfig
from incremental.proxy import ProxyConfig
from physical.protocol import HospitalConfig, ScenarioConfig, generate_hospitals
from twin.config import TwinConfig, TwinSetting
from twin.local_training import TrainingConfig
from twin.privacy.accounting import check_guarantee, check_noise_is_secret
from twin.privacy.differential_privacy import require_opacus
from twin.privacy.update_release import UpdateReleaseConfig

_STRICT = ConfigDict(extra="forbid")
_SEEDS = 2**63
_LEFT_AND_RIGHT = (
    "organamnist",
    "organcmnist",
    "organsmnist",
    "phantom_axial",
    "phantom_coronal",
    "phantom_sagittal",
)


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class GeneratedHospitals:
    """Hospitals that need no settings of their own.

    Args:
        initial: Hospitals of the first task.
        join_per_task: Hospitals that join at each later task.
    """

    initial: int
    join_per_task: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.initial < 1 or self.join_per_task < 0:
            raise ValueError(
                f"initial is {self.initial} and join_per_task {self.join_per_task}; allowed: 1 or "
                "more and 0 or more"
            )


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class EvaluationConfig:
    """What is measured on images that nobody trains on.

    Args:
        split: ``test``: the official test images (results); ``validation``: for choosing settings,
            so that test images never choose.
        round_images: Most images, evenly taken, on which the model is measured after each round; 0:
            only after each task.
        task_images: Most images, evenly taken, on which it is measured after each task, and each
            task's best model; none: all of them.
    """

    split: str = "test"
    round_images: int = 2000
    task_images: int | None = None

    def __post_init__(self) -> None:
        """Check the choice."""
        if self.split not in ("test", "validation"):
            raise ValueError(f"split is {self.split!r}; allowed: test, validation")
        if self.round_images < 0:
            raise ValueError(f"round_images is {self.round_images}; allowed: 0 or more")
        if self.task_images is not None and self.task_images < 1:
            raise ValueError(
                f"task_images is {self.task_images}; allowed: 1 or more, or none for all of them"
            )


@pydantic.dataclasses.dataclass(
    frozen=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True)
)
class ExperimentConfig:
    """A complete experiment.

    Args:
        name: Of the experiment.
        scenario: Who sees which class when.
        hospitals: Who takes part.
        network: What is trained.
        method: How it learns.
        description: For people.
        training: The local optimiser.
        twin: Memory and detection.
        outgoing: What is done to updates before they leave a twin.
        federation: Participation and screening.
        proxy: Choice of the old model.
        engine: Where twins run.
        evaluation: What is measured.
        tracking: Where runs and models are recorded.
        seed: Of everything random.
    """

    name: str
    scenario: ScenarioConfig
    hospitals: tuple[HospitalConfig, ...]
    network: NetworkConfig
    method: pydantic.SkipValidation[Method]
    description: str = ""
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    twin: TwinConfig = Field(default_factory=TwinConfig)
    outgoing: UpdateReleaseConfig = Field(default_factory=UpdateReleaseConfig)
    federation: RoundConfig = Field(default_factory=RoundConfig)
    proxy: ProxyConfig = Field(default_factory=ProxyConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    seed: int = 1

    def __post_init__(self) -> None:
        """Check what must fit together."""
        if not 0 <= self.seed < _SEEDS:
            raise ValueError(f"seed is {self.seed}; allowed: 0 to {_SEEDS - 1}")
        rounds, settle = self.scenario.rounds_per_task, self.federation.settle_rounds
        if self.scenario.num_tasks > 1 and rounds <= settle:
            raise ValueError(
                f"scenario.rounds_per_task is {rounds} and federation.settle_rounds {settle}: the "
                "classes of the next task would count as latecomers of this one; allowed: more "
                f"rounds than settle_rounds; set federation.settle_rounds to {rounds - 1} or less"
            )
        self.twin.detection.check_reachable(self.scenario.classes_per_task)
        if self.training.augmentation.horizontal_flip and self.scenario.dataset in _LEFT_AND_RIGHT:
            raise ValueError(
                f"training.augmentation.horizontal_flip is true and {self.scenario.dataset} has "
                "left and right organs as classes: a "
                "mirrored image would carry the wrong name; set it to false"
            )

        if self.outgoing.changes_weights and isinstance(self.method, NeedsExactWeights):
            raise ValueError(
                f"method is {method_name(self.method)} and outgoing changes the weights on their "
                "way up: this method's twins keep sums of "
                "their own weights, which the server's sums would no longer match; remove "
                "outgoing, or choose another method"
            )

        check_guarantee(self.network, self.training, self.outgoing.noise, self.method)

        if not self.federation.robust.is_off and isinstance(self.method, NeedsExactWeights):
            raise ValueError(
                f"method is {method_name(self.method)} and federation.robust changes what is "
                "aggregated: this method's twins keep sums "
                "of their own weights, which the server's sums would no longer match; remove "
                "federation.robust, or choose another method"
            )

        if self.federation.secure_aggregation is not None:
            robust, compressed = (
                not self.federation.robust.is_off,
                self.outgoing.compression.kind != "none",
            )
            check_secure_aggregation(
                self.federation.secure_aggregation,
                self.method,
                self.federation.twins_per_round,
                robust=robust,
                compressed=compressed,
            )

    def check_deployable(self) -> None:
        """Check what a simulation may do and a deployment may not.

        Raises:
            PrivacyError: If noise could be taken out again by whoever knows the seed.
        """
        check_noise_is_secret(self.training, self.outgoing.noise)

    def setting(self) -> TwinSetting:
        """Return what all twins share; stops here where what a twin needs is not installed."""
        if self.training.private is not None:
            require_opacus()
        return TwinSetting(
            self.twin, self.network, self.training, self.scenario.rounds_per_task, self.outgoing
        )

    @property
    def device(self) -> torch.device:
        """Where networks run.

        Raises:
            DeviceError: If that is a GPU and there is none, or training is private.
        """
        if self.training.private is None:
            return pick_device(self.engine.device)
        if self.engine.device == "cuda":
            raise DeviceError(
                "engine.device is 'cuda', but training is private, which is on the CPU alone; set "
                "engine.device to 'cpu'"
            )
        return CPU

    def as_plain(self) -> dict[str, Any]:
        """Return the resolved configuration as plain data, with its digest."""
        plain: dict[str, Any] = {
            field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)
        }
        plain["method"] = {"name": method_name(self.method), **plain["method"]}
        plain["config_digest"] = self.digest()
        return plain

    def digest(self) -> str:
        """Return the digest of all settings that can change a result."""
        parts = {
            field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)
        }
        parts["method"] = {"name": method_name(self.method), **parts["method"]}
        parts["engine"] = {"threads": self.engine.threads}
        device = self.device
        if device != CPU:
            parts["engine"]["device"] = device.type
        if (
            self.federation.observers_per_round is None
        ):  # as it was before there was a choice: older runs keep their digest
            del parts["federation"]["observers_per_round"]
        if self.federation.secure_aggregation is None:
            del parts["federation"]["secure_aggregation"]
        if self.training.private is None:
            del parts["training"]["private"]
        if self.outgoing == UpdateReleaseConfig():
            del parts["outgoing"]
        if self.federation.robust == RobustConfig():
            del parts["federation"]["robust"]
        for limit in ("max_images", "max_relative_upload"):
            if getattr(self.federation.screening, limit) == getattr(ScreeningConfig(), limit):
                del parts["federation"]["screening"][limit]
        for name in ("name", "description", "tracking", "seed"):
            del parts[name]
        return "sha256:" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def method_name(method: Method) -> str:
    """Return the name under which ``METHODS`` knows a method."""
    return next(name for name, kind in METHODS.items() if kind is type(method))


def load_experiment(folder: Path, changes: Sequence[str] = ()) -> ExperimentConfig:
    """Read and check an experiment.

    Args:
        folder: Holds ``experiment.yaml`` and, if hospitals are named one by one,
            ``hospital_*.yaml``.
        changes: ``path.to.key=value`` settings that replace or add to the file's, value as YAML.

    Raises:
        ConfigError: Anything that cannot be run; every finding in one message.
    """
    path = folder / "experiment.yaml"
    if not path.is_file():
        known = (
            sorted(each.parent.name for each in folder.parent.glob("*/experiment.yaml"))
            if folder.parent.is_dir()
            else []
        )
        raise ConfigError(
            f"{path} does not exist; "
            f"{suggestion(folder.name, known) or 'give a folder that holds experiment.yaml'}"
        )
    raw = read_yaml(path)
    for change in changes:
        _apply(raw, change)
    raw["hospitals"] = _hospitals(raw, folder)
    raw["method"] = _method(raw.get("method"), path.name)
    unnamed = [repr(key) for key in raw if not isinstance(key, str)]
    if unnamed:
        raise ConfigError(f"{path.name} has the keys {', '.join(unnamed)}; allowed: names")
    try:
        config = ExperimentConfig(**raw)
    except pydantic.ValidationError as error:
        raise ConfigError(explained(error, path.name, ExperimentConfig)) from None
    except (ValueError, ArithmeticError, TypeError) as error:
        raise ConfigError(f"{path.name}: {error}") from None
    check_finite(config.as_plain(), path.name)
    return config


def from_plain(plain: Mapping[str, Any]) -> ExperimentConfig:
    """Return the experiment that ``as_plain`` wrote."""
    raw = {name: value for name, value in plain.items() if name != "config_digest"}
    try:
        return ExperimentConfig(**{**raw, "method": _method(raw.get("method"), "config.json")})
    except pydantic.ValidationError as error:
        raise ConfigError(explained(error, "config.json", ExperimentConfig)) from None
    except (ValueError, ArithmeticError, TypeError) as error:
        raise ConfigError(f"config.json: {error}") from None


def _apply(raw: dict[str, Any], change: str) -> None:
    key, separator, value = change.partition("=")
    if not separator:
        raise ConfigError(
            f"--set {change!r} has no '='; write it as path.to.key=value, e.g. training.epochs=2"
        )
    *parents, last = key.split(".")
    for parent in parents:
        raw = raw.setdefault(parent, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"--set {change!r}: {parent} is a value and has no keys below it")
    raw[last] = parse_yaml(value, f"--set {key}")


def _hospitals(raw: Mapping[str, Any], folder: Path) -> tuple[HospitalConfig, ...]:
    files = sorted(folder.glob("hospital_*.yaml"))
    generated = raw.get("hospitals")
    if isinstance(generated, list | tuple):
        return tuple(
            build(HospitalConfig, each, f"hospitals.{index}")
            for index, each in enumerate(generated)
        )
    if (generated is None) == (not files):
        raise ConfigError(
            f"{folder.name} has {len(files)} hospital_*.yaml and "
            f"{'no ' if generated is None else ''}'hospitals' in experiment.yaml; "
            "allowed: exactly one of the two; name hospitals in files, or generate them with "
            "hospitals: {initial: 6, join_per_task: 1}"
        )
    if files:
        return tuple(build(HospitalConfig, read_yaml(path), path.name) for path in files)
    made: GeneratedHospitals = build(GeneratedHospitals, generated, "experiment.yaml: hospitals")
    tasks = (
        raw.get("scenario", {}).get("num_tasks", 1) if isinstance(raw.get("scenario"), dict) else 1
    )
    return generate_hospitals(
        made.initial, made.join_per_task, tasks if isinstance(tasks, int) else 1
    )


def _method(raw: Any, where: str) -> Method:
    settings = {"name": raw} if isinstance(raw, str) else raw
    if not isinstance(settings, Mapping) or not isinstance(settings.get("name"), str):
        raise ConfigError(
            f"{where}: method is {raw!r}; expected a name or name and hyper-parameters; known: "
            f"{', '.join(METHODS)}"
        )
    name = settings["name"]
    if name not in METHODS:
        raise ConfigError(
            f"{where}: method.name is {name!r}; known: {', '.join(METHODS)}. "
            f"{suggestion(name, METHODS)}".strip()
        )
    built: Method = build(
        METHODS[name],
        {key: value for key, value in settings.items() if key != "name"},
        f"{where}: method",
    )
    return built


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value
