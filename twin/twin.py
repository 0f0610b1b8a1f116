"""The digital twin of one hospital: mirrors its stream, looks at it with the global model, trains locally.

Knows no other twin and no method.

A twin's life is a sequence of ``TwinState`` values; this class turns one into the next. It is told no task number: a task begins for a twin
when it detects new classes, or when it learns from the federation's class list that others did.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor

from incremental.detection import USUAL_LEVELS, Detection, Evidence, detect, entropy
from incremental.network import IncrementalNetwork, build_network, freeze, weights_of
from physical.hospital import Hospital
from physical.transforms import to_unit
from twin.config import TwinSetting
from twin.hold_out import hold_out
from twin.local_training import learning_rate, train_locally
from twin.memory import ExemplarMemory, herd
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate
from twin.objective import LocalContext, LocalObjective
from twin.outgoing import kept_by_method, kept_by_twin, outgoing
from twin.privacy import affords, check_fits, check_upload_is_covered, pay, released_metrics, statement
from twin.report import report_of
from twin.state import NOTHING, Positions, TwinState
from twin.upload_policy import UploadPolicy, check_method
from twin.view import HospitalView


class DigitalTwin:
    """One hospital's software counterpart.

    Args:
        hospital: Its hospital; nobody else may hold it.
        setting: What it shares with the other twins.
        state: Where it stands; none: at its beginning.
        policy: What its hospital forbids to leave.
    """

    def __init__(
        self, hospital: Hospital, setting: TwinSetting, state: TwinState | None = None, policy: UploadPolicy | None = None
    ) -> None:
        self._hospital = hospital
        self._view = HospitalView(hospital, setting.training.precision == "bfloat16")
        self._setting = setting
        self._policy = policy or UploadPolicy()
        self.state = state or TwinState(ExemplarMemory(setting.twin.memory_capacity))

    @property
    def twin_id(self) -> str:
        """The hospital's id."""
        return self._hospital.hospital_id

    def observe(self, model: GlobalModel, network: IncrementalNetwork) -> Observation:
        """Mirror what arrived, look at it with the global model, and say whether it looks new.

        A twin that detects new classes archives its present task and begins the next one; so does one that finds its arrivals' classes on
        the federation's list. Arrivals that neither explains wait in the inbox.

        Args:
            model: The message from the server.
            network: A network that holds its weights.
        """
        arrived = self._hospital.new_images(self.state.observed_until, model.round)
        if len(arrived) and self.state.observed_until < 0:
            self._note(model.round, "joined the federation")
        inbox = np.concatenate([self.state.inbox, arrived])
        # What is held back of an open task stays; a task's own arrivals are judged before any of them is trained on.
        self.state = replace(self.state, observed_until=model.round, inbox=inbox)
        held_back = self._view.logits(network, self.state.held_back)
        detection, watched = self._detect(model, network, inbox, entropy(held_back))
        unknown = tuple(name for name in self._view.names(inbox) if name not in model.class_names)
        announced = unknown if detection.signal else ()
        usual = self._usual(held_back)
        rows = self._view.rows(self.state.held_back, model.class_names)
        num_correct = int((held_back.argmax(1) == rows).sum()) if held_back.size else 0
        num_held_back = len(held_back)
        self._take_in(model, network, announced)
        return Observation(
            twin_id=self.twin_id,
            round=model.round,
            num_new_images=len(arrived),
            signal=detection.signal,
            new_class_names=announced,
            entropy=_fraction(detection.mean_nats, len(model.class_names)),
            statistic=detection.statistic,
            threshold=detection.threshold,
            num_trainable=len(self.state.current) if self._affords_a_round(model.round) else 0,
            num_held_back=num_held_back,
            num_correct=num_correct,
            usual_entropy=usual,
            watched=tuple(each.signal for each in watched),
        )

    def train(self, broadcast: Broadcast, objective: LocalObjective) -> TwinUpdate:
        """Train a copy of the global model on the current task and the exemplars.

        Args:
            broadcast: Weights, class list, teacher and seed.
            objective: The method's local half.

        Returns:
            The local model and what the method uploads.

        Raises:
            ValueError: If the twin has no image of a class that the broadcast knows.
            UploadForbidden: If the method uploads what the hospital forbids.
            PrivacyError: If its images would be less protected than the setting says, or what is left of the budget does not allow it.
        """
        check_method(objective, self._policy)
        check_fits(self._setting.network, self._setting.training, self._setting.outgoing.noise, objective)
        positions = self._trainable(broadcast, objective.replays)
        if not len(positions):
            raise ValueError(f"twin {self.twin_id} was asked to train in round {broadcast.round} and has no image of a known class")
        fraction = objective.held_out_fraction if broadcast.old_model is not None else 0.0
        kept_out = hold_out(positions, self._hospital.labels(positions), fraction)
        held_out, positions = positions[kept_out], positions[~kept_out]
        privacy = pay(self._setting, self.state.privacy, len(positions))
        generator = torch.Generator().manual_seed(broadcast.seed)
        training = self._setting.training
        rates = tuple(
            learning_rate(training, broadcast.rounds_since_growth, epoch, self._setting.rounds_per_task) for epoch in range(training.epochs)
        )
        context = self._context(broadcast, generator, rates, positions, held_out)
        network = build_network(self._setting.network, broadcast.weights)
        result = train_locally(
            network,
            self._view.pixels(positions),
            torch.from_numpy(self._view.rows(positions, broadcast.class_names)),
            objective,
            context,
            training,
            rates,
            generator,
        )
        upload, kept = objective.finish_local(network, context)
        check_upload_is_covered(self._setting, upload)
        self.state = replace(self.state, kept={**kept_by_twin(self.state.kept), **kept}, fresh_task=False, privacy=privacy)
        self._receive(broadcast.round, broadcast.class_names)
        self._note(broadcast.round, f"trained on {len(positions)} images")
        update = TwinUpdate(
            self.twin_id,
            broadcast.round,
            weights_of(network),
            len(positions),
            upload,
            released_metrics(self._setting, privacy, result.metrics),
            class_names=broadcast.class_names,
        )
        update, self.state = outgoing(update, broadcast, self._setting.outgoing, self.state, self._policy, objective)
        return update

    def report(self) -> dict[str, Any]:
        """Return the twin's reported and desired state, as plain data without pixels."""
        return report_of(self.state, self._view, self._setting.twin)

    def _affords_a_round(self, round_number: int) -> bool:
        """Whether its privacy budget allows one more round, with the exemplars or without them; once it does not, its history says so."""
        state = self.state
        sizes = {len(state.current), len(state.current) + len(state.memory)}
        if all(affords(self._setting, state.privacy, size) for size in sizes):
            return True
        what = f"trains no more: {statement(self._setting, state.privacy)}, and a round would cost more than is left"
        if what not in {event["what"] for event in state.events}:
            self._note(round_number, what)
        return False

    def _detect(
        self, model: GlobalModel, network: IncrementalNetwork, inbox: Positions, held_back: Any
    ) -> tuple[Detection, list[Detection]]:
        config = self._setting.twin
        # Entropies of unchanged data under the calibrated rule decide nothing: they are not computed.
        look_at_current = not len(inbox) and any(each.rule == "entropy_jump" for each in (config.detection, *config.watched))
        current = self._sample(self.state.current) if look_at_current else NOTHING
        evidence = Evidence(
            classes=len(model.class_names),
            arrivals=entropy(self._view.logits(network, self._sample(inbox))),
            current=entropy(self._view.logits(network, current)),
            held_back=held_back,
            previous_mean=self.state.previous_mean,
            usual_elsewhere=None if model.usual_entropy is None else np.array(model.usual_entropy, np.float32),
            images_elsewhere=model.usual_images,
        )
        detection = detect(evidence, config.detection)
        if detection.mean_nats is not None:
            fraction = _fraction(detection.mean_nats, len(model.class_names))
            look = (model.round, 1.0 if fraction is None else fraction, detection.signal)
            self.state = replace(
                self.state,
                previous_mean=detection.mean_nats,
                entropy_history=(*self.state.entropy_history, look),
            )
        return detection, [detect(evidence, each) for each in config.watched]

    def _take_in(self, model: GlobalModel, network: IncrementalNetwork, announced: tuple[str, ...]) -> None:
        """Move from the inbox what the federation knows or is being told about; begin a new task where its classes are new to the twin."""
        accepted = self._view.known(self.state.inbox, (*model.class_names, *announced))
        taken, waiting = self.state.inbox[accepted], self.state.inbox[~accepted]
        if not len(taken):
            return
        if not set(self._view.names(taken)) <= set(self.state.current_names):
            self._begin_task(model.round, network, self._view.names(taken), announced)
        taken = taken[np.argsort(self._hospital.labels(taken), kind="stable")]  # so that each class is held back alike
        steps = np.floor(np.arange(len(taken) + 1) * self._setting.twin.held_back_fraction + 1e-9)
        held = np.diff(steps) > 0
        self.state = replace(
            self.state,
            inbox=waiting,
            current=np.concatenate([self.state.current, taken[~held]]),
            held_back=np.concatenate([self.state.held_back, taken[held]]),
        )

    def _begin_task(self, round_number: int, network: IncrementalNetwork, names: tuple[str, ...], announced: tuple[str, ...]) -> None:
        """Archive the present task and begin one with these classes; a task that has only just begun takes them in instead.

        Classes of one task may be noticed a round or two apart: archiving between would leave exemplars of images hardly learned from.
        """
        state = self.state
        young = bool(state.current_names) and round_number - state.began_round <= self._setting.twin.settle_rounds
        if not young:
            self._archive(round_number, network)
        together = tuple(dict.fromkeys((*self.state.current_names, *names)))
        how = f"detected {', '.join(announced)}" if announced else "learned from the class list of others' detection"
        self._note(round_number, f"{'task grows' if young else 'new task'}: {', '.join(names)} ({how})")
        self.state = replace(
            self.state,
            current_names=together,
            began_round=state.began_round if young else round_number,
            fresh_task=bool(announced) or (young and state.fresh_task),
        )

    def _archive(self, round_number: int, network: IncrementalNetwork) -> None:
        """End the present task: its best exemplars go into the memory, its other images leave the mirror."""
        state = self.state
        if not state.current_names:
            return
        room = state.memory.per_class(len({*state.memory.positions, *state.current_names}))
        ranked = {}
        for name in state.current_names:
            own = self._view.of_class(state.current, name)
            ranked[name] = own[herd(self._view.features(network, own), room)]
        memory = state.memory.with_classes(ranked)
        self.state = replace(
            state,
            memory=memory,
            current=NOTHING,
            held_back=NOTHING,
            finished=(*state.finished, state.current_names),
            current_names=(),
        )
        self._note(round_number, f"archived {', '.join(state.current_names)}: {len(memory)} exemplars in memory")

    def _trainable(self, broadcast: Broadcast, replays: bool) -> Positions:
        positions = np.concatenate([self.state.current, self.state.memory.all_positions()]) if replays else self.state.current
        trainable: Positions = positions[self._view.known(positions, broadcast.class_names)]
        return trainable

    def _context(
        self, broadcast: Broadcast, generator: torch.Generator, rates: tuple[float, ...], positions: Positions, held_out: Positions
    ) -> LocalContext:
        old_network = None
        if broadcast.old_model is not None:
            old_network = freeze(build_network(self._setting.network, broadcast.old_model.weights))
            old_network = old_network.to(memory_format=torch.channels_last)
        training = self._setting.training
        return LocalContext(
            num_rows=len(broadcast.class_names),
            groups=self._groups(broadcast.class_names),
            global_weights=broadcast.weights,
            old_network=old_network,
            old_rows=0 if broadcast.old_model is None else len(broadcast.old_model.class_names),
            extras=broadcast.extras,
            kept=kept_by_method(self.state.kept),
            fresh_task=self.state.fresh_task,
            generator=generator,
            prototypes=lambda network: self._prototypes(network, broadcast.class_names),
            num_steps=training.steps_per_epoch(len(positions)) * training.epochs,
            learning_rates=rates,
            momentum=training.momentum,
            images=lambda: self._look(positions, broadcast.class_names),
            held_out=lambda: self._look(held_out, broadcast.class_names),
        )

    def _look(self, positions: Positions, class_names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        return to_unit(self._view.pixels(positions)), torch.from_numpy(self._view.rows(positions, class_names))

    def _groups(self, class_names: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        row = {name: index for index, name in enumerate(class_names)}
        current = set(self.state.current_names)
        groups = [[name for name in names if name not in current] for names in self.state.finished]
        groups.append(list(self.state.current_names))
        return tuple(tuple(row[name] for name in names if name in row) for names in groups)

    def _prototypes(self, network: IncrementalNetwork, class_names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """Return the image nearest to the mean feature of each current class, in [0, 1], and its row."""
        owned = {name: self._view.of_class(self.state.current, name) for name in self.state.current_names if name in class_names}
        owned = {name: positions for name, positions in owned.items() if len(positions)}
        images = torch.stack([self._view.prototype(network, positions) for positions in owned.values()])
        return to_unit(images), torch.tensor([class_names.index(name) for name in owned])

    def _sample(self, positions: Positions) -> Positions:
        most = self._setting.twin.detection.sample
        if most is None or len(positions) <= most:
            return positions
        return positions[np.linspace(0, len(positions) - 1, most).astype(np.int64)]

    def _usual(self, held_back_logits: Any) -> tuple[float, ...] | None:
        if len(held_back_logits) < len(USUAL_LEVELS) or not held_back_logits.shape[1]:
            return None  # quantiles of a handful would be the images' own entropies
        return tuple(float(value) for value in np.quantile(entropy(held_back_logits), USUAL_LEVELS))

    def _receive(self, round_number: int, class_names: tuple[str, ...]) -> None:
        self.state = replace(self.state, model_round=round_number, model_names=class_names)

    def _note(self, round_number: int, what: str) -> None:
        event: Mapping[str, Any] = {"round": round_number, "what": what}
        self.state = replace(self.state, events=(*self.state.events, event))


def _fraction(mean_nats: float | None, classes: int) -> float | None:
    """Return an entropy as a fraction of ln C; none where C < 2 has no entropy."""
    return None if mean_nats is None or classes < 2 else min(mean_nats / log(classes), 1.0)
