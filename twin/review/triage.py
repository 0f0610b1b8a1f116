"""Triage of unnamed images: which look new, and the cases to decide on.

Each image is looked at once under a model. Those that look no newer than the hospital's own named
images are remembered as familiar; the others join a case that they resemble, open a new one
together, or wait for others like them. Calling it again changes nothing until an image, a decision
or a model is new, and a process that is killed half way is finished by the next call. Knows no web
and no network: a model that looks arrives as an argument.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Protocol, runtime_checkable

import numpy as np
import pydantic.dataclasses
from numpy.typing import NDArray
from pydantic import ConfigDict

from physical.mirror import ImageFacts, Mirror
from twin.review.cases import CaseImage, CaseRow, all_pages
from twin.review.database import MOST_PER_PAGE
from twin.review.evidence import Sighted, case_images, summarise
from twin.review.grouping import LEFTOVER, assign, centre_of, evenly, group
from twin.review.novelty_scores import Looks, ModelFacts, NoveltyError, Score, joined
from twin.review.reference_images import ReferenceImages, check_history, make_reference_images
from twin.review.seen_images import SeenImages, Verdict, alone
from twin.review.store import ReviewStore
from twin.review.workflow import SELECTABLE, CaseState, WorkflowError

_FORMAT = 1  # of what is remembered
_IMAGES_AT_ONCE = 512  # looked at before the verdicts are written down
_MOST_WAITING = (
    20_000  # images that look new and are compared in one call, the latest; bounds memory
)
_SAMPLE_OF_CASE = 200  # most typical images of a case by which later ones are compared with it
# What looks like one of these has been decided on; after a release the next model knows it, after a
# roll-back it is a question again.
_DECIDED = frozenset(CaseState) - SELECTABLE - {CaseState.RELEASED, CaseState.ROLLED_BACK}
_COMPARED = SELECTABLE | _DECIDED


class TriageError(ValueError):
    """A triage that cannot begin: what, got, allowed, what to do."""


@runtime_checkable
class SeesImages(Protocol):
    """A model that looks at images: a ``ModelWorker``, or a ``ImageModel`` in this process."""

    @property
    def facts(self) -> ModelFacts | None:
        """Which model it is."""
        ...

    def look(self, images: NDArray[np.uint8]) -> Looks:
        """Return what it sees in images of shape [N, S, S]."""
        ...


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TriageConfig:
    """What looks new, and what belongs together.

    Args:
        score: ``entropy``, ``max_softmax``, ``energy`` or ``distance``
            (``twin.review.novelty_scores``).
        quantile: Share of the hospital's own named images that shall look familiar.
        minimum_history: Named images of known classes below which nothing is decided.
        most_history: Named images that are compared with, evenly taken; bounds time and memory.
        minimum_group: Images of a case; fewer wait.
        tightness: How alike a case's images must be: 0: as two neighbouring known classes are to
            each other, 1: as one known class.
        most_new_cases: Opened by one call, the largest first; the others wait.
    """

    score: Score = "entropy"
    quantile: float = 0.95
    minimum_history: int = 50
    most_history: int = 2000
    minimum_group: int = 8
    tightness: float = 0.25
    most_new_cases: int = 40

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0.5 <= self.quantile < 1:
            raise ValueError(
                f"quantile is {self.quantile}; allowed: 0.5 to below 1; 0.95 lets one of twenty "
                "known images look new"
            )
        if not 0 <= self.tightness <= 1:
            raise ValueError(f"tightness is {self.tightness}; allowed: 0 to 1")
        for name, least in (("minimum_history", 2), ("minimum_group", 2), ("most_new_cases", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: {least} or more")
        if not self.minimum_history <= self.most_history <= 100_000:
            raise ValueError(
                f"most_history is {self.most_history}; allowed: minimum_history "
                f"({self.minimum_history}) to 100000"
            )


@dataclass(frozen=True)
class TriageReport:
    """What one call did.

    Args:
        model: Digest of the model.
        num_history: Named images of known classes that were compared with.
        threshold: Above it an image looks new; none if nothing was decided.
        num_judged: Images that were judged for the first time under this model.
        num_new: Of these, images that look new.
        opened: Cases opened.
        grown: Cases to which images were added.
        num_waiting: Images that look new and wait for others like them.
        num_decided: Images like those of a case that people decided on; they wait for the next
            model.
        undecided: Why nothing could be decided; none if it could.
    """

    model: str
    num_history: int
    threshold: float | None = None
    num_judged: int = 0
    num_new: int = 0
    opened: tuple[int, ...] = ()
    grown: tuple[int, ...] = ()
    num_waiting: int = 0
    num_decided: int = 0
    undecided: str | None = None


def triage(
    mirror: Mirror,
    looker: SeesImages,
    store: ReviewStore,
    hospital: str,
    config: TriageConfig | None = None,
    *,
    held_back: Collection[str] = (),
    model_version: str = "",
) -> TriageReport:
    """Judge a hospital's unnamed images and open or extend cases.

    Args:
        mirror: The hospital's images.
        looker: The champion.
        store: Where cases live.
        hospital: Whose they are.
        config: What looks new.
        held_back: Ids of named images that the model was not trained on, if that is known; where
            they are enough, the threshold is theirs alone: a network is surer of what it was
            trained on.
        model_version: The champion's, as people shall read it; empty: its digest.

    Raises:
        TriageError: If no model is loaded, another one is loaded meanwhile, or another triage of
            this mirror runs.
    """
    config = config or TriageConfig()
    if (model := looker.facts) is None:
        raise TriageError(
            "triage has no model; allowed: one that is loaded; load the champion first"
        )
    frame = json.dumps(
        [_FORMAT, model.digest, config.score, config.quantile]
    )  # all that a verdict hangs on
    with alone(mirror.folder) as is_alone:
        if not is_alone:
            raise TriageError(
                f"another triage of the mirror {mirror.folder} runs; allowed: one at a time; wait "
                "for it"
            )
        with closing(SeenImages(mirror.folder, frame)) as judged:
            return _Triage(
                mirror,
                looker,
                store,
                hospital,
                config,
                model,
                judged,
                model_version or model.digest,
            ).run(held_back)


@dataclass(frozen=True)
class _Triage:
    """One call: what all its steps need."""

    mirror: Mirror
    looker: SeesImages
    store: ReviewStore
    hospital: str
    config: TriageConfig
    model: ModelFacts
    judged: SeenImages
    model_version: str

    def run(self, held_back: Collection[str]) -> TriageReport:
        history = self._history()
        try:
            standard = self._standard(history, held_back)
        except NoveltyError as error:
            return TriageReport(self.model.digest, len(history), undecided=str(error))
        in_cases = self.store.image_ids(self.hospital)
        unnamed = [each for each in self.mirror.ids(named=False) if each not in in_cases]
        num_judged, num_new = self._judge(unnamed, standard)
        waiting = self._waiting(unnamed)
        grown: tuple[int, ...] = ()
        opened: tuple[int, ...] = ()
        if waiting and self.judged.settled != self._state(waiting, standard):
            grown, opened = self._put_into_cases(waiting, standard)
            in_cases = self.store.image_ids(self.hospital)
            decided = self.judged.decided()
            waiting = [each for each in waiting if each not in in_cases and each not in decided]
            self.judged.settle(
                self._state(waiting, standard) if len(opened) < self.config.most_new_cases else None
            )
        num_decided = len(self.judged.decided())
        return TriageReport(
            self.model.digest,
            len(history),
            standard.threshold,
            num_judged,
            num_new,
            opened,
            grown,
            len(waiting),
            num_decided,
        )

    def _state(self, waiting: Sequence[str], standard: ReferenceImages) -> str:
        """Return all on which it hangs what becomes of the images that wait.

        While it stays the same, so do they.
        """
        cases = [
            (row.case_id, row.revision) for state in sorted(_COMPARED) for row in self._cases(state)
        ]
        return sha256(
            json.dumps([asdict(self.config), len(standard.facts), cases, list(waiting)]).encode()
        ).hexdigest()

    def _history(self) -> list[ImageFacts]:
        """Return named images of known classes, evenly taken."""
        known = set(self.model.class_names)
        facts = [
            each
            for each in self.mirror.facts(self.mirror.ids(named=True))
            if each.class_name in known
        ]
        return [facts[index] for index in evenly(len(facts), self.config.most_history)]

    def _standard(
        self, history: Sequence[ImageFacts], held_back: Collection[str]
    ) -> ReferenceImages:
        config = self.config
        check_history(len(history), config.minimum_history)  # before anything is looked at in vain
        looks = self._looks([each.image_id for each in history])
        return make_reference_images(
            history,
            looks,
            config.score,
            config.quantile,
            config.minimum_history,
            config.tightness,
            held_back,
        )

    def _judge(self, unnamed: Sequence[str], standard: ReferenceImages) -> tuple[int, int]:
        """Look at images without a verdict and write it down.

        Return how many there were and how many of them look new.
        """
        done = self.judged.judged_ids()
        fresh = [each for each in unnamed if each not in done]
        num_new = 0
        for start in range(0, len(fresh), _IMAGES_AT_ONCE):
            part = fresh[start : start + _IMAGES_AT_ONCE]
            looks = self._see(part)
            is_new = standard.are_new(looks)
            self.judged.keep(
                [each for each, new in zip(part, is_new, strict=True) if not new], Verdict.FAMILIAR
            )
            self.judged.keep(
                [each for each, new in zip(part, is_new, strict=True) if new],
                Verdict.NEW,
                looks.take(is_new),
            )
            num_new += int(is_new.sum())
        return len(fresh), num_new

    def _waiting(self, unnamed: Sequence[str]) -> list[str]:
        """Return the images that look new and are in no case, in order of arrival.

        So are those whose decided case was taken up again.
        """
        decided = set(self._case_ids(_DECIDED))
        self.judged.change(
            [each for each, case_id in self.judged.decided().items() if case_id not in decided],
            Verdict.NEW,
        )
        new = set(self.judged.ids(Verdict.NEW))
        return [each for each in unnamed if each in new][-_MOST_WAITING:]

    def _put_into_cases(
        self, image_ids: Sequence[str], standard: ReferenceImages
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Add images to the cases they resemble, open cases for groups of others; return both."""
        looks = self._looks(image_ids)
        waiting = Sighted(
            tuple(self.mirror.facts(image_ids)), looks, standard.known.places(looks.features)
        )
        resembled = np.full(len(waiting), LEFTOVER)
        grown = []
        samples = {
            case_id: sample
            for case_id in self._case_ids(_COMPARED)
            if (sample := self._sample(case_id))
        }
        if samples:
            seen = [self._looks(sample) for sample in samples.values()]
            centres = np.stack([centre_of(standard.known.places(each.features)) for each in seen])
            resembled = assign(waiting.places, centres, standard.similarity)
            for index, case_id in enumerate(samples):
                own = waiting.take(resembled == index)
                if len(own) and self._grow(case_id, own, centres[index], seen[index], standard):
                    grown.append(case_id)
        return tuple(grown), tuple(self._open_cases(waiting.take(resembled == LEFTOVER), standard))

    def _grow(
        self,
        case_id: int,
        own: Sighted,
        centre: NDArray[np.float64],
        sample: Looks,
        standard: ReferenceImages,
    ) -> bool:
        """Add images to a case, or have them wait where people decided on it.

        Return whether it grew.
        """
        if self.store.case(self.hospital, case_id).state in SELECTABLE:
            images = case_images(own, centre, self.model.class_names)
            summary = summarise(
                [*self._all_images(case_id), *images],
                joined([sample, own.looks]),
                standard,
                self.model_version,
            )
            try:
                self.store.add_images(case_id, images, summary, hospital=self.hospital)
            except WorkflowError:  # somebody decided in this very moment
                pass
            else:
                return True
        self.judged.change(own.ids, Verdict.DECIDED, case_id)
        return False

    def _open_cases(self, waiting: Sighted, standard: ReferenceImages) -> Iterator[int]:
        labels = group(
            waiting.places,
            standard.similarity,
            self.config.minimum_group,
            self.config.most_new_cases,
        )
        for label in range(int(labels.max(initial=LEFTOVER)) + 1):
            own = waiting.take(labels == label)
            images = case_images(own, centre_of(own.places), self.model.class_names)
            yield self.store.open_case(
                self.hospital, images, summarise(images, own.looks, standard, self.model_version)
            )

    def _looks(self, image_ids: Sequence[str]) -> Looks:
        """Return what the model sees, from memory where it is kept."""
        return self.judged.looks(image_ids, self._see)

    def _see(self, image_ids: Sequence[str]) -> Looks:
        looks = self.looker.look(self.mirror.pixels(image_ids))
        if looks.model != self.model.digest:
            raise TriageError(
                f"the model became {looks.model} during a triage; allowed: {self.model.digest}; "
                "triage again"
            )
        return looks

    def _case_ids(self, states: Iterable[CaseState]) -> list[int]:
        return [row.case_id for state in sorted(states) for row in self._cases(state)]

    def _cases(self, state: CaseState) -> Iterator[CaseRow]:
        return all_pages(lambda page: self.store.cases(self.hospital, state, page, MOST_PER_PAGE))

    def _sample(self, case_id: int) -> list[str]:
        """Return the most typical images of a case that count."""
        page = self.store.images(case_id, 1, _SAMPLE_OF_CASE, "distance", hospital=self.hospital)
        return [image.image_id for image in page.items if image.selected]

    def _all_images(self, case_id: int) -> list[CaseImage]:
        return list(
            all_pages(
                lambda page: self.store.images(case_id, page, MOST_PER_PAGE, hospital=self.hospital)
            )
        )
