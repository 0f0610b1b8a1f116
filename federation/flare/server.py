"""Server of a deployment: runs its experiment over a link, from the beginning or resumed.

A session ends when the run is finished, when too few hospitals answer, or when it is asked to pause
so that hospitals which came back take part again. The run folder is the journal: the next session
goes on where this one ended and repeats a round that was not finished.
"""

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from uuid import uuid4

import pydantic
import pydantic.dataclasses
import yaml
from pydantic import ConfigDict, Field, TypeAdapter

from federation.experiment.checkpoint import go_back_before
from federation.experiment.config import ExperimentConfig, from_plain
from federation.experiment.loop import RunCallbacks, run_experiment
from federation.experiment.run_folder import RunFolder
from federation.experiment.setup import ExperimentSetup
from federation.flare.engine import Link, LinkConfig, Paused, RemoteEngine, TooFewHospitals
from federation.flare.event_feed import Activity, aggregated, write_atomically
from federation.flare.link_messages import Assignment
from federation.flare.record_limits import Limits

SERVER_FILE, PLAN_FILE, PAUSE_FILE, RUN_ID = "server.yaml", "experiment.json", "pause", "run_id"
GONE_BACK = "gone_back.json"


class ServingError(ValueError):
    """A server's folder that cannot be served from: what, got, what to do."""


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ServerConfig:
    """The server's own file.

    Args:
        hospitals: Who belongs to the federation, in the order of the twins.
        link: Deadlines and the minimum.
        limits: Of what hospitals send.
        data: Folder with the data files that the server measures on; none: the user's cache.
        own_images: Hospitals bring mirrors of their own; kits hold no images.
        expected_seconds: How long a session waits for hospitals beyond the minimum before it begins
            without them.
        metrics_port: Where health and metrics are served on this machine; none: nowhere.
    """

    hospitals: tuple[str, ...]
    link: LinkConfig = Field(default_factory=LinkConfig)
    limits: Limits = Field(default_factory=Limits)
    data: str | None = None
    own_images: bool = False
    expected_seconds: float = 30.0
    metrics_port: int | None = None


@dataclass(frozen=True)
class ServerPlace:
    """A server's folder.

    Args:
        folder: Holds its file, the experiment, the run, the feed and the status.
    """

    folder: Path

    @property
    def run(self) -> Path:
        """The run folder: the journal."""
        return self.folder / "run"

    @property
    def pause(self) -> Path:
        """While this file is there, a session ends before its next round."""
        return self.folder / PAUSE_FILE

    @cached_property
    def config(self) -> ServerConfig:
        """The server's own file.

        Raises:
            ServingError: If it is missing or says what nobody knows.
        """
        path = self.folder / SERVER_FILE
        try:
            config: ServerConfig = TypeAdapter(ServerConfig).validate_python(
                yaml.safe_load(path.read_text(encoding="utf-8"))
            )
        except (OSError, yaml.YAMLError, pydantic.ValidationError) as error:
            raise ServingError(
                f"{path} is not a server's file: {error}; make it with fedka deploy init"
            ) from error
        return config

    @cached_property
    def experiment(self) -> ExperimentConfig:
        """What is run.

        Raises:
            ServingError: If it cannot be read.
        """
        path = self.folder / PLAN_FILE
        try:
            return from_plain(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ServingError(
                f"{path} is not an experiment: {error}; make it with fedka deploy init"
            ) from error

    def run_id(self) -> str:
        """Return the name of the run, under which hospitals keep their twins' states.

        Made when first asked for.
        """
        path = self.folder / RUN_ID
        if not path.exists():
            write_atomically(path, uuid4().hex)
        return path.read_text(encoding="utf-8").strip()

    def go_back(self, twin_id: str, round_number: int) -> bool:
        """Make the next session repeat the last finished round, once for each hospital and round.

        Nobody makes it stand still for ever.

        Args:
            twin_id: For whom.
            round_number: Of the round.

        Returns:
            Whether it will; not if that round is not the last one, or there is no whole checkpoint
            before it.
        """
        path = self.folder / GONE_BACK
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        if [twin_id, round_number] in before or not go_back_before(
            RunFolder(self.run).checkpoints, round_number
        ):
            return False
        write_atomically(path, json.dumps([*before, [twin_id, round_number]]))
        return True

    def has_begun(self) -> bool:
        """Return whether there is a journal to go on with.

        What a first round left that was never finished is cleared away.
        """
        folder = RunFolder(self.run)
        finished = sum(each.startswith('{"kind": "round"') for each in _lines(folder.records))
        if folder.config.exists() and finished <= 1 and not any(folder.checkpoints.glob("round-*")):
            shutil.rmtree(self.run)
        return folder.config.exists()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def serve(place: ServerPlace, link: Link) -> str:
    """Run one session.

    Args:
        place: Of the server.
        link: To the hospitals of this session.

    Returns:
        How it ended: ``finished``, ``waiting`` (too few hospitals) or ``paused``; it stands in the
        status as well.
    """
    config, experiment = place.config, place.experiment
    activity = Activity(place.folder)
    numbers = {
        "num_rounds": experiment.scenario.num_tasks * experiment.scenario.rounds_per_task,
        "run_id": place.run_id(),
    }
    names = {
        "experiment": experiment.name,
        "hospitals": list(config.hospitals),
        "minimum_hospitals": config.link.minimum_hospitals,
    }
    activity.tell({"event": "state", "state": "running", **numbers, **names})

    def engine_for(setup: ExperimentSetup) -> RemoteEngine:
        plans = setup.scenario.hospitals
        joins = {name: plans[name].joins_at_task * setup.scenario.rounds_per_task for name in plans}
        assignment = Assignment(place.run_id(), experiment.setting(), experiment.engine.threads)
        secure = experiment.federation.secure_aggregation
        return RemoteEngine(
            link,
            joins,
            assignment,
            config.link,
            activity.tell,
            secure,
            config.limits,
            place.pause.exists,
            place.go_back,
        )

    def record(plain: object) -> None:
        event = aggregated(plain)  # type: ignore[arg-type]  # checked at run time
        if event is not None:
            activity.tell(event)

    state, reason = "finished", ""
    try:
        begun = place.has_begun()
        data = None if config.data is None else Path(config.data)
        run_experiment(
            experiment,
            place.run,
            resume=begun,
            data_dir=data,
            callbacks=RunCallbacks(record=record),
            engine_for=engine_for,
        )
    except TooFewHospitals as error:
        state, reason = "waiting", str(error)
    except Paused as error:
        state, reason = "paused", str(error)
    except Exception as error:
        activity.tell(
            {"event": "state", "state": "failed", "reason": f"{type(error).__name__}: {error}"}
        )
        raise
    activity.tell({"event": "state", "state": state, "reason": reason})
    return state
