"""Remote engine: twins behind a network that carries records.

A stage asks all hospitals at once and goes on with those that answered before the deadline. Who did
not is suspect: it is left out, so that a dead hospital costs one deadline and not one in each
round, and is greeted again at the beginning of each round, without waiting; who answers takes part
again. With fewer answers than the minimum the round is given up (``TooFewHospitals``) for whoever
runs the server to repeat: nothing of it was aggregated. A hospital whose twin's state is damaged
asks for the round before as well; where the journal still reaches back, all of them repeat it.
"""

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import pydantic.dataclasses
from pydantic import ConfigDict

from federation.aggregation.secure_sum import SecureAggregationConfig, Verb, secure_sum
from federation.experiment.run_folder import code_version
from federation.flare.link_messages import Assignment, Fault, Hello, Lacking, StateLost
from federation.flare.observation_checks import objection_to_observation
from federation.flare.records import (
    RECORD_VERSION,
    Limits,
    RecordError,
    decode,
    digests,
    encode,
    kind_of,
)
from federation.flare.weight_cache import Acknowledged, KnownDigests
from federation.method import Method
from twin.compression import CompressionError
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate
from twin.privacy.update_release import unpack_update
from twin.secure_sum.mask_messages import Masked, OpenReply, Sealed
from twin.state import TwinState

Answer = TypeVar("Answer")
Tell = Callable[
    [Mapping[str, Any]], None
]  # is told what happens, as plain data without anything of a patient


class TooFewHospitals(RuntimeError):  # noqa: N818  # a state that the supervisor reads
    """A round that cannot be finished with those who answered; nothing of it was aggregated."""


class Paused(RuntimeError):  # noqa: N818 -- likewise
    """A session that was asked to end before its next round."""


@runtime_checkable
class Link(Protocol):
    """Carries records. Asks many at once; gives each answer, or what went wrong, as it comes."""

    @property
    def hospitals(self) -> Sequence[str]:
        """Who can be asked in this session."""
        ...

    def ask(
        self, verb: str, requests: Mapping[str, bytes], seconds: float
    ) -> Iterable[tuple[str, bytes | Exception]]:
        """Send each hospital its record.

        Every hospital comes back once, at the latest when the time is over.
        """
        ...


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LinkConfig:
    """How long the server waits, and for how many.

    Args:
        deadline_seconds: For one stage of a round: the slowest hospital that shall be waited for.
        minimum_hospitals: A stage with fewer answers gives the round up; a stage that asks fewer
            needs all of them.
        hello_seconds: For a greeting.
    """

    deadline_seconds: float = 600.0
    minimum_hospitals: int = 1
    hello_seconds: float = 20.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.deadline_seconds > 0 or not self.hello_seconds > 0:
            raise ValueError(
                f"deadlines are {self.deadline_seconds} and {self.hello_seconds} s; allowed: above "
                "0"
            )
        if self.minimum_hospitals < 1:
            raise ValueError(f"minimum_hospitals is {self.minimum_hospitals}; allowed: 1 or more")


@dataclass
class Traffic:
    """Bytes that really crossed the link, records with their headers, since the last look."""

    up: int = 0
    down: int = 0

    def take(self) -> tuple[int, int]:
        """Return (up, down) and begin at 0 again."""
        taken, self.up, self.down = (self.up, self.down), 0, 0
        return taken


@dataclass
class _Peer:
    """What the server knows of one hospital in this session."""

    suspect: bool = False
    told_method: Method | None = None


class RemoteEngine:
    """Twins at their hospitals.

    Args:
        link: Carries records.
        joins: First round of each hospital, in the order of the twins.
        assignment: The run.
        config: Deadlines and the minimum.
        tell: Is told who answered, who is suspect, and why.
        secure: Sum updates under masks; none: each is seen.
        limits: Of what is read.
        pause: Whether the session shall end before the next round.
        go_back: Makes the next session repeat a round because of a hospital; false where it cannot
            or will not.

    Raises:
        TooFewHospitals: If fewer than the minimum can be greeted.
    """

    def __init__(
        self,
        link: Link,
        joins: Mapping[str, int],
        assignment: Assignment,
        config: LinkConfig,
        tell: Tell = lambda event: None,
        secure: SecureAggregationConfig | None = None,
        limits: Limits | None = None,
        pause: Callable[[], bool] = lambda: False,
        go_back: Callable[[str, int], bool] = lambda twin_id, round_number: False,
    ) -> None:
        self._link, self._config, self._tell, self._secure = link, config, tell, secure
        self._assignment, self._pause, self._go_back = assignment, pause, go_back
        self._lost: dict[str, int] = {}  # hospital -> round whose state is damaged there
        self._limits = limits or Limits()
        self._joins = joins
        self._peers = {twin_id: _Peer() for twin_id in joins if twin_id in link.hospitals}
        self._held = Acknowledged()
        self._digest = KnownDigests()
        self.states: MutableMapping[str, TwinState] = {}  # they lie at the hospitals
        self.traffic = Traffic()
        self._background = ThreadPoolExecutor(1, "greeting")
        self._greeting: Future[list[tuple[str, bytes | Exception]]] | None = None
        for twin_id in joins:
            if twin_id not in self._peers:
                self._tell(_absence(twin_id, "begin", -1, "is not in this session", suspect=True))
        greeted = self._welcome(self._greet(tuple(self._peers)))
        if len(greeted) < config.minimum_hospitals:
            raise TooFewHospitals(
                f"{len(greeted)} hospitals answered the greeting; the minimum is "
                f"{config.minimum_hospitals}"
            )

    @property
    def suspects(self) -> tuple[str, ...]:
        """Who did not answer when last asked."""
        return tuple(twin_id for twin_id, peer in self._peers.items() if peer.suspect)

    def present(self, round_number: int) -> Sequence[str]:
        """Return who takes part in a round.

        Who has joined, and is not suspect after having been greeted again.

        Raises:
            Paused: If the session shall end here.
        """
        if self._pause():
            raise Paused(f"asked to pause before round {round_number}")
        self._look_for_suspects()
        present = [
            twin_id
            for twin_id, peer in self._peers.items()
            if self._joins[twin_id] <= round_number and not peer.suspect
        ]
        up, down = (
            self.traffic.take()
        )  # of the round before, as it really was: records with their headers
        event = {
            "event": "round",
            "round": round_number,
            "present": present,
            "suspects": list(self.suspects),
        }
        self._tell({**event, "bytes_up": up, "bytes_down": down})
        return present

    def observe(self, model: GlobalModel, twin_ids: Sequence[str]) -> Sequence[Observation]:
        """Let these twins look at their data; those that answer in time, in this order."""
        answers = self._exchange("observe", dict.fromkeys(twin_ids, model), Observation)
        self._repeat_what_is_lost()
        observations = self._plausible(self._fitting("observe", answers, model.round), model)
        self._check_enough("observe", model.round, observations, twin_ids)
        return [observations[twin_id] for twin_id in twin_ids if twin_id in observations]

    def train(self, method: Method, broadcasts: Mapping[str, Broadcast]) -> Sequence[TwinUpdate]:
        """Let these twins train; those that answer in time, in the order of the broadcasts."""
        if not broadcasts:
            return []
        self._teach(method, broadcasts)
        number = next(iter(broadcasts.values())).round
        if self._secure is not None:
            assert method.sums is not None  # the configuration was checked
            summed = secure_sum(broadcasts, method.sums, self._secure, self._ask_for_sum)
            for each in summed.dropped:
                self._note(each.twin_id, each.verb, number, each.reason, suspect=False)
            if summed.update is None:
                raise TooFewHospitals(f"round {number} has no sum: {summed.reason}")
            return [summed.update]
        answers = self._fitting("train", self._exchange("train", broadcasts, TwinUpdate), number)
        updates = {}
        for twin_id, update in answers.items():
            try:
                updates[twin_id] = unpack_update(update, broadcasts[twin_id].weights)
            except CompressionError as error:
                self._note(twin_id, "train", number, str(error), suspect=False)
        self._check_enough("train", number, updates, broadcasts)
        return [updates[twin_id] for twin_id in broadcasts if twin_id in updates]

    def _repeat_what_is_lost(self) -> None:
        lost, self._lost = self._lost, {}
        for twin_id, number in lost.items():
            if self._go_back(twin_id, number):
                raise TooFewHospitals(
                    f"the state of round {number} is damaged at {twin_id}; that round is repeated"
                )

    def close(self) -> None:
        """Let the last greeting go."""
        self._background.shutdown(wait=False, cancel_futures=True)

    def _greet(self, twin_ids: Sequence[str]) -> list[tuple[str, bytes | Exception]]:
        """Give hospitals their assignment and return what came back."""
        request = encode(self._assignment, limits=self._limits)
        return list(
            self._link.ask("begin", dict.fromkeys(twin_ids, request), self._config.hello_seconds)
        )

    def _look_for_suspects(self) -> None:
        """Welcome suspects that have answered the last greeting, and greet the others again.

        A dead one is never waited for.
        """
        if self._greeting is not None and self._greeting.done():
            self._welcome(self._greeting.result())
            self._greeting = None
        if self._greeting is None and self.suspects:
            self._greeting = self._background.submit(self._greet, self.suspects)

    def _welcome(self, answers: Iterable[tuple[str, bytes | Exception]]) -> list[str]:
        """Return who answered a greeting.

        No suspect any more, who holds nothing that was sent before.
        """
        greeted = []
        for twin_id, content in answers:
            self._held.forget(twin_id)
            self._peers[twin_id] = _Peer(suspect=True)
            hello = self._opened("begin", twin_id, self._assignment, content, Hello)
            if not isinstance(hello, Hello):
                continue
            if hello.hospital_id != twin_id:
                self._note(twin_id, "begin", -1, f"answers as {hello.hospital_id}", suspect=True)
                continue
            if hello.record_version != RECORD_VERSION or hello.code_version != code_version():
                self._tell(
                    {
                        "event": "version",
                        "hospital": twin_id,
                        "code_version": hello.code_version,
                        "torch": hello.torch_version,
                    }
                )
            self._peers[twin_id].suspect = False
            greeted.append(twin_id)
            self._tell({"event": "hello", "hospital": twin_id, "last_round": hello.last_round})
        return greeted

    def _teach(self, method: Method, twin_ids: Iterable[str]) -> None:
        """Tell those the method who do not know it yet."""
        untold = [twin_id for twin_id in twin_ids if self._peers[twin_id].told_method != method]
        for twin_id in self._exchange(
            "method", dict.fromkeys(untold, method), Hello, self._config.hello_seconds
        ):
            self._peers[twin_id].told_method = method

    def _ask_for_sum(self, verb: Verb, messages: Mapping[str, Any]) -> Mapping[str, Any]:
        kinds: dict[str, type[Any]] = {"seal": Sealed, "mask": Masked, "open": OpenReply}
        return self._exchange(verb, messages, kinds[verb])

    def _exchange(
        self,
        verb: str,
        messages: Mapping[str, Any],
        kind: type[Answer],
        seconds: float | None = None,
    ) -> dict[str, Answer]:
        """Ask, once more with what was left out wrongly.

        Return the answers that are what they should be.
        """
        answers: dict[str, Answer] = {}
        deadline = self._config.deadline_seconds if seconds is None else seconds
        asked = dict(messages)
        for _ in range(2):
            requests = {
                twin_id: encode(message, self._held.by(twin_id), self._digest, self._limits)
                for twin_id, message in asked.items()
            }
            self.traffic.down += sum(map(len, requests.values()))
            lacking = {}
            for twin_id, content in self._link.ask(verb, requests, deadline) if requests else ():
                answer = self._opened(verb, twin_id, asked[twin_id], content, kind)
                if isinstance(answer, Lacking):
                    self._held.forget(twin_id, answer.digests)
                    lacking[twin_id] = asked[twin_id]
                elif answer is not None:
                    self._held.note(twin_id, digests(asked[twin_id], self._digest))
                    answers[twin_id] = answer
            asked = lacking
        return answers

    def _opened(
        self, verb: str, twin_id: str, message: Any, content: bytes | Exception, kind: type[Answer]
    ) -> Answer | Lacking | None:
        """Return an answer, or nothing where there is none that may be used.

        What was wrong is told.
        """
        number = getattr(message, "round", -1)
        if isinstance(content, Exception):
            self._note(
                twin_id, verb, number, f"did not answer ({type(content).__name__})", suspect=True
            )
            return None
        self.traffic.up += len(content)
        try:
            found = kind_of(content, self._limits)
            if found is Fault:
                fault = decode(Fault, content, limits=self._limits)
                self._note(twin_id, verb, number, f"raised {fault.text}", suspect=False)
                return None
            if found is StateLost:
                lost = decode(StateLost, content, limits=self._limits)
                self._note(
                    twin_id,
                    verb,
                    number,
                    f"its twin's state of round {lost.round} is damaged",
                    suspect=False,
                )
                self._lost[twin_id] = lost.round
                return None
            if found is Lacking:
                return decode(Lacking, content, limits=self._limits)
            return decode(kind, content, limits=self._limits)
        except RecordError as error:
            self._note(twin_id, verb, number, f"sent no usable record: {error}", suspect=False)
            return None

    def _fitting(self, verb: str, answers: Mapping[str, Answer], number: int) -> dict[str, Answer]:
        """Return the answers that name their own twin and this round.

        Nobody speaks for another, and nothing old is taken.
        """
        fitting = {}
        for twin_id, answer in answers.items():
            said = getattr(answer, "twin_id", None), getattr(answer, "round", None)
            if said == (twin_id, number):
                fitting[twin_id] = answer
            else:
                self._note(
                    twin_id,
                    verb,
                    number,
                    f"answered as {said[0]} for round {said[1]}",
                    suspect=False,
                )
        return fitting

    def _plausible(
        self, observations: Mapping[str, Observation], model: GlobalModel
    ) -> dict[str, Observation]:
        """Return the observations that can be."""
        plausible = {}
        for twin_id, said in observations.items():
            objection = objection_to_observation(said, len(model.class_names))
            if objection is None:
                plausible[twin_id] = said
            else:
                self._note(twin_id, "observe", model.round, objection, suspect=False)
        return plausible

    def _check_enough(
        self, verb: str, number: int, answered: Mapping[str, Any], asked: Iterable[str]
    ) -> None:
        names = list(asked)
        needed = min(self._config.minimum_hospitals, len(names))
        self._tell(
            {
                "event": verb,
                "round": number,
                "asked": names,
                "answered": [each for each in names if each in answered],
            }
        )
        if len(answered) < needed or not names:
            raise TooFewHospitals(
                f"round {number}, {verb}: {len(answered)} of {len(names)} hospitals answered; the "
                f"minimum is {needed}; the round is "
                "repeated when they are back"
            )

    def _note(self, twin_id: str, verb: str, number: int, reason: str, *, suspect: bool) -> None:
        self._peers[twin_id].suspect |= suspect
        self._tell(_absence(twin_id, verb, number, reason, suspect=suspect))


def _absence(
    twin_id: str, stage: str, number: int, reason: str, *, suspect: bool
) -> dict[str, Any]:
    return {
        "event": "absent",
        "hospital": twin_id,
        "stage": stage,
        "round": number,
        "reason": reason,
        "suspect": suspect,
    }
