"""Digital twin of one hospital: observes its image stream and trains locally.

Each call turns one ``TwinState`` into the next. New classes are detected in ``twin.novelty_check``,
tasks begin and end in ``twin.task_changes``.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from incremental.detection import entropy
from incremental.device import CPU, default_device, generator_on, to_device
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
from twin.novelty_check import check_novelty, entropy_fraction, entropy_quantiles
from twin.objective import HoldsOut, LocalContext, LocalObjective
from twin.privacy.accounting import (
    budget_statement,
    can_afford,
    charge_round,
    check_guarantee,
    check_upload_is_protected,
    released_metrics,
)
from twin.privacy.update_release import kept_by_method, kept_by_twin, release_update
from twin.privacy.upload_policy import UploadPolicy, check_method
from twin.report import report_of
from twin.state import Positions, TwinState
from twin.task_changes import accept_arrivals, rows_by_task


class DigitalTwin:
    """Software counterpart of one hospital.

    Args:
        hospital: Its hospital, used by this twin alone.
        setting: Settings of all twins of the federation.
        state: State to continue from; none: a new twin.
        policy: What its hospital forbids to upload.
        device: Device of networks; updates and state are on the CPU.
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
        """Identifier of the hospital."""
        return self._hospital.hospital_id

    def observe(self, model: GlobalModel, network: IncrementalNetwork) -> Observation:
        """Take over arrivals, check with the global model whether they are new, and report.

        Arrivals of classes that are neither known nor announced wait in the inbox.

        Args:
            model: The server's message.
            network: A network with the message's weights.
        """
        state, config = self.state, self._setting.twin
        arrived = self._hospital.new_images(state.observed_until, model.round)
        if len(arrived) and state.observed_until < 0:
            state = state.with_event(model.round, "joined the federation")
        state = replace(
            state, observed_until=model.round, inbox=np.concatenate([state.inbox, arrived])
        )
        held_back = self._view.logits(network, state.held_back)
        state, detection, watched = check_novelty(
            state, self._view, config, model, network, entropy(held_back)
        )
        unknown = tuple(
            name for name in self._view.names(state.inbox) if name not in model.class_names
        )
        announced = unknown if detection.signal else ()
        rows = self._view.rows(state.held_back, model.class_names)
        num_correct = int((held_back.argmax(1) == rows).sum()) if held_back.size else 0
        self.state = accept_arrivals(state, self._view, config, network, model, announced)
        return Observation(
            twin_id=self.twin_id,
            round=model.round,
            num_new_images=len(arrived),
            signal=detection.signal,
            new_class_names=announced,
            entropy=entropy_fraction(detection.mean_nats, len(model.class_names)),
            statistic=detection.statistic,
            threshold=detection.threshold,
            num_trainable=len(self.state.current) if self._can_afford_round(model.round) else 0,
            num_held_back=len(held_back),
            num_correct=num_correct,
            usual_entropy=entropy_quantiles(held_back),
            watched=tuple(each.signal for each in watched),
        )

    def train(self, broadcast: Broadcast, objective: LocalObjective) -> TwinUpdate:
        """Train a copy of the global model on the current task and the exemplars.

        Args:
            broadcast: Weights, class names, teacher and seed.
            objective: The method's local half.

        Returns:
            The local model and what the method uploads, as they leave the hospital.

        Raises:
            ValueError: If the twin has no image of the broadcast's classes.
            UploadForbidden: If the method uploads what the hospital forbids.
            PrivacyError: If images would be less protected than the settings promise, or the
                privacy budget does not suffice.
        """
        check_method(objective, self._policy)
        check_guarantee(
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
        is_held_out = hold_out(positions, self._hospital.labels(positions), share)
        held_out, positions = positions[is_held_out], positions[~is_held_out]
        privacy = charge_round(self._setting, self.state.privacy, len(positions))
        with default_device(self._device):
            weights, upload, kept, result = self._train(broadcast, objective, positions, held_out)
        check_upload_is_protected(self._setting, upload)
        self.state = replace(
            self.state,
            kept={**kept_by_twin(self.state.kept), **kept},
            fresh_task=False,
            privacy=privacy,
            model_round=broadcast.round,
            model_names=broadcast.class_names,
        ).with_event(broadcast.round, f"trained on {len(positions)} images")
        update = TwinUpdate(
            self.twin_id,
            broadcast.round,
            weights,
            len(positions),
            upload,
            released_metrics(self._setting, privacy, result.metrics),
            class_names=broadcast.class_names,
        )
        update, self.state = release_update(
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
        """Return the local model, what to upload and to keep (on the CPU), and measurements."""
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
        images = self._view.pixels(positions)
        rows = self._view.row_tensor(positions, broadcast.class_names)
        result = train_locally(
            network, images, rows, objective, context, training, rates, generator
        )
        upload, kept = objective.finish_local(network, context)
        weights, upload, kept = (
            to_device(each, CPU) for each in (weights_of(network), upload, kept)
        )
        return weights, upload, kept, result

    def report(self) -> dict[str, Any]:
        """Return the twin's reported and desired state, as plain data without pixels."""
        return report_of(self.state, self._view, self._setting.twin)

    def _can_afford_round(self, round_number: int) -> bool:
        """Return whether the privacy budget allows a round, with exemplars and without them.

        The first refusal becomes an event.
        """
        state = self.state
        sizes = {len(state.current), len(state.current) + len(state.memory)}
        if all(can_afford(self._setting, state.privacy, size) for size in sizes):
            return True
        what = (
            f"trains no more: {budget_statement(self._setting, state.privacy)}, and a round would "
            "cost more than is left"
        )
        if what not in {event["what"] for event in state.events}:
            self.state = self.state.with_event(round_number, what)
        return False

    def _trainable(self, broadcast: Broadcast, replays: bool) -> Positions:
        positions = self.state.current
        if replays:
            positions = np.concatenate([positions, self.state.memory.all_positions()])
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
            groups=rows_by_task(self.state, broadcast.class_names),
            global_weights=to_device(broadcast.weights, self._device),
            old_network=old_network,
            old_rows=0 if broadcast.old_model is None else len(broadcast.old_model.class_names),
            extras=to_device(broadcast.extras, self._device),
            kept=to_device(kept_by_method(self.state.kept), self._device),
            fresh_task=self.state.fresh_task,
            generator=generator,
            prototypes=lambda network: self._prototypes(network, broadcast.class_names),
            num_steps=training.steps_per_epoch(len(positions)) * training.epochs,
            learning_rates=rates,
            momentum=training.momentum,
            images=lambda: self._images_and_rows(positions, broadcast.class_names),
            held_out=lambda: self._images_and_rows(held_out, broadcast.class_names),
        )

    def _images_and_rows(
        self, positions: Positions, class_names: tuple[str, ...]
    ) -> tuple[Tensor, Tensor]:
        return to_unit(self._view.pixels(positions)), self._view.row_tensor(positions, class_names)

    def _prototypes(
        self, network: IncrementalNetwork, class_names: tuple[str, ...]
    ) -> tuple[Tensor, Tensor]:
        """Return the image nearest to the mean feature of each current class, and its row."""
        by_name = {
            name: self._view.of_class(self.state.current, name)
            for name in self.state.current_names
            if name in class_names
        }
        by_name = {name: positions for name, positions in by_name.items() if len(positions)}
        frozen = freeze(build_network(network.config, weights_of(network)))
        images = torch.stack(
            [self._view.prototype(frozen, positions) for positions in by_name.values()]
        )
        return to_unit(images), torch.tensor([class_names.index(name) for name in by_name])
