"""Digital twin of one hospital: observes its image stream and trains locally.

Knows no other twin and no method.

A twin's life is a sequence of ``TwinState`` values; this class turns one into the next. How new
images look to it is ``twin.novelty_check``, how its life falls into tasks ``twin.task_changes``.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from incremental.detection import entropy
from incremental.device import CPU, born_on, generator_on, moved
from incremental.head import Weights
from incremental.network import IncrementalNetwork, build_network, freeze, weights_of
from physical.hospital import Hospital
from physical.transforms import to_unit
from twin.config import TwinSetting
from twin.hold_out import hold_out
from twin.hospital_view import HospitalView
from twin.local_training import LocalResult, learning_rate, train_locally
from twin.memory import ExemplarMemory
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate
from twin.novelty_check import fraction, look, usual_quantiles
from twin.objective import HoldsOut, LocalContext, LocalObjective
from twin.privacy.accounting import (
    affords,
    check_fits,
    check_upload_is_covered,
    pay,
    released_metrics,
    statement,
)
from twin.privacy.update_release import kept_by_method, kept_by_twin, outgoing
from twin.privacy.upload_policy import UploadPolicy, check_method
from twin.report import report_of
from twin.state import Positions, TwinState
from twin.task_changes import groups_of_rows, take_in


class DigitalTwin:
    """One hospital's software counterpart.

    Args:
        hospital: Its hospital; nobody else may hold it.
        setting: What it shares with the other twins.
        state: Where it stands; none: at its beginning.
        policy: What its hospital forbids to leave.
        device: Where it looks and trains; what leaves it and what it keeps is on the CPU.
    """

    def __init__(
        self,
        hospital: Hospital,
        setting: TwinSetting,
        state: TwinState | None = None,
        policy: UploadPolicy | None = None,
        device: torch.device = CPU,
    ) -> None:
        self._hospital = hospital
        self._device = device
        self._view = HospitalView(hospital, setting.training.precision == "bfloat16", device)
        self._setting = setting
        self._policy = policy or UploadPolicy()
        self.state = state or TwinState(ExemplarMemory(setting.twin.memory_capacity))

    @property
    def twin_id(self) -> str:
        """The hospital's id."""
        return self._hospital.hospital_id

    def observe(self, model: GlobalModel, network: IncrementalNetwork) -> Observation:
        """Mirror what arrived, look at it with the global model, and say whether it looks new.

        A twin that detects new classes archives its present task and begins the next one; so does
        one that finds its arrivals' classes on the federation's list. Arrivals that neither
        explains wait in the inbox.

        Args:
            model: The message from the server.
            network: A network that holds its weights.
        """
        state, config = self.state, self._setting.twin
        arrived = self._hospital.new_images(state.observed_until, model.round)
        if len(arrived) and state.observed_until < 0:
            state = state.noted(model.round, "joined the federation")
        # What is held back of an open task stays; a task's own arrivals are judged before any of
        # them is trained on.
        state = replace(
            state, observed_until=model.round, inbox=np.concatenate([state.inbox, arrived])
        )
        held_back = self._view.logits(network, state.held_back)
        state, detection, watched = look(
            state, self._view, config, model, network, entropy(held_back)
        )
        unknown = tuple(
            name for name in self._view.names(state.inbox) if name not in model.class_names
        )
        announced = unknown if detection.signal else ()
        rows = self._view.rows(state.held_back, model.class_names)
        num_correct = int((held_back.argmax(1) == rows).sum()) if held_back.size else 0
        self.state = take_in(state, self._view, config, network, model, announced)
        return Observation(
            twin_id=self.twin_id,
            round=model.round,
            num_new_images=len(arrived),
            signal=detection.signal,
            new_class_names=announced,
            entropy=fraction(detection.mean_nats, len(model.class_names)),
            statistic=detection.statistic,
            threshold=detection.threshold,
            num_trainable=len(self.state.current) if self._affords_a_round(model.round) else 0,
            num_held_back=len(held_back),
            num_correct=num_correct,
            usual_entropy=usual_quantiles(held_back),
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
            PrivacyError: If its images would be less protected than the setting says, or what is
                left of the budget does not allow it.
        """
        check_method(objective, self._policy)
        check_fits(
            self._setting.network, self._setting.training, self._setting.outgoing.noise, objective
        )
        positions = self._trainable(broadcast, objective.replays)
        if not len(positions):
            raise ValueError(
                f"twin {self.twin_id} was asked to train in round {broadcast.round} and has no "
                "image of a known class"
            )
        share = 0.0
        if isinstance(objective, HoldsOut) and broadcast.old_model is not None:
            share = objective.held_out_fraction
        kept_out = hold_out(positions, self._hospital.labels(positions), share)
        held_out, positions = positions[kept_out], positions[~kept_out]
        privacy = pay(self._setting, self.state.privacy, len(positions))
        with born_on(self._device):
            weights, upload, kept, result = self._train(broadcast, objective, positions, held_out)
        check_upload_is_covered(self._setting, upload)
        self.state = replace(
            self.state,
            kept={**kept_by_twin(self.state.kept), **kept},
            fresh_task=False,
            privacy=privacy,
        )
        received = replace(
            self.state, model_round=broadcast.round, model_names=broadcast.class_names
        )
        self.state = received.noted(broadcast.round, f"trained on {len(positions)} images")
        update = TwinUpdate(
            self.twin_id,
            broadcast.round,
            weights,
            len(positions),
            upload,
            released_metrics(self._setting, privacy, result.metrics),
            class_names=broadcast.class_names,
        )
        update, self.state = outgoing(
            update, broadcast, self._setting.outgoing, self.state, self._policy, objective
        )
        return update

    def _train(
        self,
        broadcast: Broadcast,
        objective: LocalObjective,
        positions: Positions,
        held_out: Positions,
    ) -> tuple[Weights, dict[str, Tensor], dict[str, Tensor], LocalResult]:
        """Train, and return the local model.

        What to upload besides, what to keep, all of it on the CPU, and what was measured.
        """
        generator = generator_on(self._device, broadcast.seed)
        training = self._setting.training
        rates = tuple(
            learning_rate(
                training, broadcast.rounds_since_task_began, epoch, self._setting.rounds_per_task
            )
            for epoch in range(training.epochs)
        )
        context = self._context(broadcast, generator, rates, positions, held_out)
        network = build_network(self._setting.network, context.global_weights)
        images, rows = (
            self._view.pixels(positions),
            self._view.labels(positions, broadcast.class_names),
        )
        result = train_locally(
            network, images, rows, objective, context, training, rates, generator
        )
        upload, kept = objective.finish_local(network, context)
        return moved(weights_of(network), CPU), moved(upload, CPU), moved(kept, CPU), result

    def report(self) -> dict[str, Any]:
        """Return the twin's reported and desired state, as plain data without pixels."""
        return report_of(self.state, self._view, self._setting.twin)

    def _affords_a_round(self, round_number: int) -> bool:
        """Whether its privacy budget allows one more round, with the exemplars or without them.

        Once it does not, its history says so.
        """
        state = self.state
        sizes = {len(state.current), len(state.current) + len(state.memory)}
        if all(affords(self._setting, state.privacy, size) for size in sizes):
            return True
        what = (
            f"trains no more: {statement(self._setting, state.privacy)}, and a round would cost "
            "more than is left"
        )
        if what not in {event["what"] for event in state.events}:
            self.state = self.state.noted(round_number, what)
        return False

    def _trainable(self, broadcast: Broadcast, replays: bool) -> Positions:
        positions = (
            np.concatenate([self.state.current, self.state.memory.all_positions()])
            if replays
            else self.state.current
        )
        trainable: Positions = positions[self._view.known(positions, broadcast.class_names)]
        return trainable

    def _context(
        self,
        broadcast: Broadcast,
        generator: torch.Generator,
        rates: tuple[float, ...],
        positions: Positions,
        held_out: Positions,
    ) -> LocalContext:
        old_network = None
        if broadcast.old_model is not None:
            old_network = freeze(build_network(self._setting.network, broadcast.old_model.weights))
        training = self._setting.training
        return LocalContext(
            num_rows=len(broadcast.class_names),
            groups=groups_of_rows(self.state, broadcast.class_names),
            global_weights=moved(broadcast.weights, self._device),
            old_network=old_network,
            old_rows=0 if broadcast.old_model is None else len(broadcast.old_model.class_names),
            extras=moved(broadcast.extras, self._device),
            kept=moved(kept_by_method(self.state.kept), self._device),
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
        return to_unit(self._view.pixels(positions)), self._view.labels(positions, class_names)

    def _prototypes(
        self, network: IncrementalNetwork, class_names: tuple[str, ...]
    ) -> tuple[Tensor, Tensor]:
        """Return the image nearest to the mean feature of each current class, in [0, 1].

        Its row.
        """
        owned = {
            name: self._view.of_class(self.state.current, name)
            for name in self.state.current_names
            if name in class_names
        }
        owned = {name: positions for name, positions in owned.items() if len(positions)}
        looker = freeze(build_network(network.config, weights_of(network)))
        images = torch.stack(
            [self._view.prototype(looker, positions) for positions in owned.values()]
        )
        return to_unit(images), torch.tensor([class_names.index(name) for name in owned])
