"""Hospital site: a twin that answers the server's records, with its state on its own disk.

What leaves is decided here, by the hospital's own file, whatever the server asks: which uploads are
forbidden, whether an update may leave other than in a sum, with whom it is summed. Knows no
transport: it is handed bytes and returns bytes, and never raises.

A round that is repeated (a hospital, the server or the network failed) begins with ``observe``,
which goes back to where the twin stood before it; so a repeated round equals one that went through
at once. Where the twin's newest state is damaged, it does not go on from the one before as if
nothing were missing: it asks for that round to be repeated as well.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic.dataclasses
import torch
import yaml
from pydantic import ConfigDict, Field, TypeAdapter

from federation.engines.twin_states import StateError, StateFolder
from federation.experiment.run_folder import code_version
from federation.flare.link_messages import Assignment, Fault, Hello, Lacking, StateLost, describe
from federation.flare.records import (
    RECORD_VERSION,
    Limits,
    MissingGroups,
    decode,
    decode_method,
    encode,
)
from federation.flare.site_status import note_answer
from federation.flare.weight_cache import GroupCache
from federation.method import Method
from incremental.device import DeviceName, pick_device
from incremental.network import frozen_network
from physical.archive_file import load_hospital
from physical.hospital import Hospital
from physical.mirror import Mirror
from physical.mirror_hospital import MirrorHospital
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate
from twin.privacy.upload_policy import UploadPolicy
from twin.secure_sum.mask_messages import Masked, OpenReply, OpenRequest, Roster, Sealed
from twin.secure_sum.masking import Masker, MaskingConfig
from twin.state import TwinState
from twin.twin import DigitalTwin

OWN_FOLDER = "fedka"  # beside startup/ and local/ of a start-up kit: what is ours
SITE_FILE = "hospital.yaml"
CHECKPOINTS = 2  # rounds that a twin can go back; the server never repeats more than the last one
_CACHE_BYTES = 1 << 30  # of models that the server need not send again


class SiteError(ValueError):
    """A request that this hospital does not answer, or its own file that cannot be read.

    What, got, what to do.
    """


class DamagedStateError(SiteError):
    """What the twin wrote in a round that counts cannot be read any more."""

    def __init__(self, round_number: int) -> None:
        super().__init__(
            f"the twin's state of round {round_number} is damaged and was put aside; the server "
            "must repeat that round"
        )
        self.round = round_number


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SiteConfig:
    """A hospital's own file.

    Nothing of the other hospitals stands in it, and the server cannot change it.

    Args:
        hospital: Its name in the federation.
        archive: Its images and when they arrive, beside this file; where there is no mirror.
        mirror: Folder of its mirror (``fedka console intake`` fills it): images with a name take
            part when people have named them.
        state: Folder of its twin's state, beside this file.
        policy: Uploads that it forbids.
        only_in_sum: Its update leaves under masks only, for the server to see the sum.
        masking: With whom it lets itself be summed.
        long_term_key: File with its 32-byte Ed25519 private key, beside this file; needed where
            keys are pinned.
        device: Where its twin looks and trains: ``cpu``, ``cuda``, or ``auto``: on the GPU where
            there is one.
    """

    hospital: str
    archive: str = "archive.safetensors"
    mirror: str | None = None
    state: str = "state"
    policy: UploadPolicy = Field(default_factory=UploadPolicy)
    only_in_sum: bool = False
    masking: MaskingConfig = Field(default_factory=MaskingConfig)
    long_term_key: str | None = None
    device: DeviceName = "cpu"


def load_site(folder: Path) -> SiteConfig:
    """Read a hospital's own file.

    Raises:
        SiteError: If it is missing or says what nobody knows.
    """
    path = folder / SITE_FILE
    try:
        config: SiteConfig = TypeAdapter(SiteConfig).validate_python(
            yaml.safe_load(path.read_text(encoding="utf-8"))
        )
    except (OSError, yaml.YAMLError, pydantic.ValidationError) as error:
        raise SiteError(
            f"{path} is not a hospital's file: {error}; make it with fedka deploy init"
        ) from error
    return config


@dataclass
class _Session:
    """The run under way.

    Args:
        assignment: From the server.
        states: Where its twin's state lies.
        method: How its twin learns; none until it is told.
        answered: The last update and whom it answered: a request that comes twice is answered
            twice, and trained once.
    """

    assignment: Assignment
    states: StateFolder
    method: Method | None = None
    answered: tuple[int, TwinUpdate] | None = None


class HospitalSite:
    """One hospital, ready to answer.

    One request at a time: a late one waits, so that no two trainings share a twin.

    Args:
        folder: Holds its file, its archive and its twin's state.
        limits: Of what is read.
    """

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder = folder
        self.config = load_site(folder)
        self._limits = limits or Limits()
        self._hospital: Hospital | None = None
        self._groups = GroupCache(_CACHE_BYTES)
        self._session: _Session | None = None
        identity = (
            None
            if self.config.long_term_key is None
            else (folder / self.config.long_term_key).read_bytes()
        )
        self._masker = Masker(self.config.hospital, self.config.masking, identity)
        self._turn = threading.Lock()
        self._verbs: dict[str, Callable[[bytes], Any]] = {
            "hello": self._hello,
            "begin": self._begin,
            "method": self._learn_method,
            "observe": self._observe,
            "train": self._train,
            "seal": self._seal,
            "mask": self._mask,
            "open": self._open,
        }

    @property
    def hospital_id(self) -> str:
        """Its name in the federation."""
        return self.config.hospital

    def answer(self, verb: str, content: bytes) -> bytes:
        """Answer one request with a record: what was asked for, ``Lacking`` or ``Fault``."""
        with self._turn:
            fault = ""
            try:
                if verb not in self._verbs:
                    raise SiteError(f"asked to {verb[:40]!r}; known: {', '.join(self._verbs)}")
                return encode(self._verbs[verb](content), limits=self._limits)
            except MissingGroups as missing:
                return encode(Lacking(self.hospital_id, missing.digests))
            except DamagedStateError as damaged:
                fault = describe(damaged)
                return encode(StateLost(self.hospital_id, damaged.round))
            # Whatever happens in here reaches the server as where and what kind, never as data.
            except Exception as error:
                fault = describe(error)
                return encode(Fault(self.hospital_id, verb[:40], self._round(), fault))
            finally:
                note_answer(self.folder, self.hospital_id, verb[:40], self._round, fault)

    def _round(self) -> int:
        """Return the last round of its twin.

        -1 before the first, and where the disk does not say.
        """
        try:
            state = None if self._session is None else self._state(self._session)
        except StateError:
            return -1
        return -1 if state is None else state.last_round

    def _state(self, session: _Session) -> TwinState | None:
        """Return the newest state that can be read."""
        session.states.set_aside_damaged(self.hospital_id)
        return session.states.get(self.hospital_id)

    def _hello(self, content: bytes = b"") -> Hello:
        state = None if self._session is None else self._state(self._session)
        versions = RECORD_VERSION, code_version(), str(torch.__version__)
        where = (-1, ()) if state is None else (state.last_round, state.model_names)
        return Hello(self.hospital_id, *versions, *where, tuple(self._groups))

    def _begin(self, content: bytes) -> Hello:
        assignment = decode(Assignment, content, limits=self._limits)
        self._hospital = self._open_hospital(assignment.run_id)
        torch.set_num_threads(assignment.threads)
        states = StateFolder(self.folder / self.config.state / assignment.run_id, CHECKPOINTS)
        self._session = _Session(assignment, states)
        return self._hello()

    def _open_hospital(self, run_id: str) -> Hospital:
        if self.config.mirror is None:
            return self._hospital or load_hospital(
                self.hospital_id, self.folder / self.config.archive
            )
        stream = (
            self.folder / self.config.state / f"{run_id}.stream.jsonl"
        )  # a run has positions of its own
        return MirrorHospital(
            self.hospital_id, Mirror.open_existing(self.folder / self.config.mirror), stream
        )

    def _learn_method(self, content: bytes) -> Hello:
        self._under_way().method = decode_method(content, limits=self._limits)
        return self._hello()

    def _observe(self, content: bytes) -> Observation:
        session = self._under_way()
        model = decode(GlobalModel, content, self._groups, self._limits)
        if model.round <= self._round() - CHECKPOINTS:
            raise SiteError(
                f"round {model.round} is over; the twin's last is {self._round()}, and it goes "
                f"back {CHECKPOINTS - 1} at most"
            )
        session.states.go_back(model.round - 1)
        session.answered = None
        twin = self._twin(session)
        lost = session.states.set_aside_damaged(
            self.hospital_id
        )  # asked after reading: what was put aside meanwhile counts too
        if lost is not None:
            raise DamagedStateError(lost)
        network = frozen_network(
            session.assignment.setting.network, model.weights, pick_device(self.config.device)
        )
        observation = twin.observe(model, network)
        self._keep(session, twin)
        return observation

    def _train(self, content: bytes) -> TwinUpdate:
        if self.config.only_in_sum:
            raise SiteError(
                "this hospital's update leaves in a sum only; set federation.secure_aggregation, "
                "or ask the hospital"
            )
        return self._trained(decode(Broadcast, content, self._groups, self._limits))

    def _trained(self, broadcast: Broadcast) -> TwinUpdate:
        session = self._under_way()
        if session.method is None:
            raise SiteError("asked to train before it was told the method; begin the session anew")
        if session.answered is not None and session.answered[0] == broadcast.seed:
            return session.answered[1]
        twin = self._twin(session)
        if (twin.state.observed_until, twin.state.model_round == broadcast.round) != (
            broadcast.round,
            False,
        ):
            raise SiteError(
                f"asked to train in round {broadcast.round}, which it has not looked at or has "
                "trained in; repeat the round"
            )
        update = twin.train(broadcast, session.method)
        self._keep(session, twin)
        session.answered = broadcast.seed, update
        return update

    def _seal(self, content: bytes) -> Sealed:
        broadcast = decode(Broadcast, content, self._groups, self._limits)
        return self._masker.seal(self._trained(broadcast), broadcast.weights)

    def _mask(self, content: bytes) -> Masked:
        return self._masker.mask(decode(Roster, content, limits=self._limits))

    def _open(self, content: bytes) -> OpenReply:
        return self._masker.open(decode(OpenRequest, content, limits=self._limits))

    def _under_way(self) -> _Session:
        if self._session is None:
            raise SiteError("no session is under way; begin one")
        return self._session

    def _twin(self, session: _Session) -> DigitalTwin:
        assert self._hospital is not None
        device = pick_device(self.config.device)
        return DigitalTwin(
            self._hospital,
            session.assignment.setting,
            self._state(session),
            self.config.policy,
            device,
        )

    def _keep(self, session: _Session, twin: DigitalTwin) -> None:
        """Write where the twin stands before anything of it leaves.

        What the server counts on is on this disk.
        """
        session.states[self.hospital_id] = twin.state
        session.states.flush()
