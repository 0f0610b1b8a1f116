"""True prototypes behind the uploads of a federation, and baselines to compare guesses with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.attacks.observed_run import ObservedRun, run_observed
from benchmarks.attacks.similarity import Likeness, identified, nearest, psnr, ssim
from federation.experiment.config import ExperimentConfig
from federation.methods.fedka import FedKA
from incremental.detection import DetectionConfig
from incremental.network import IncrementalNetwork, NetworkConfig
from incremental.reconstruction import ReconstructionConfig
from physical.datasets.dataset import ImageDataset
from physical.protocol import ScenarioConfig, generate_hospitals
from physical.transforms import to_tensor, to_unit
from twin.config import TwinConfig
from twin.local_training import TrainingConfig
from twin.objective import LocalContext

_NOT_HERE = ReconstructionConfig(invert_steps=1)  # the benchmark runs its own inversion


@dataclass(frozen=True)
class Material:
    """Prototypes of all hospitals with the data to judge guesses.

    Args:
        real: The patients' images, shape [P, 1, H, W].
        rows: Their classes, shape [P].
        networks: Local model of each prototype's twin.
        class_names: Class names of the rows.
        candidates: All training images of each class, by row.
        run: The federation of the prototypes.
        accuracies: Test accuracy of the model after each round.
    """

    real: Tensor
    rows: Tensor
    networks: tuple[IncrementalNetwork, ...]
    class_names: tuple[str, ...]
    candidates: Mapping[int, Tensor]
    run: ObservedRun
    accuracies: tuple[float, ...]

    def by_twin(
        self, work: Callable[[IncrementalNetwork, Tensor, Tensor], Tensor], images: Tensor
    ) -> Tensor:
        """Apply a function of (network, images, rows) to each twin's images; return all results."""
        done = images.clone()
        for network in dict.fromkeys(self.networks):
            own = torch.tensor([each is network for each in self.networks])
            done[own] = work(network, images[own], self.rows[own])
        return done

    def likeness(self, guesses: Tensor) -> Likeness:
        """Return the similarity of guesses to the true images."""
        similar = ssim(guesses, self.real)
        found = torch.cat(
            [self._identified(index, guess[None]) for index, guess in enumerate(guesses)]
        )
        noise = psnr(guesses, self.real).clamp_max(99.0)
        return Likeness(
            float(similar.mean()),
            float(noise.mean()),
            float(similar.max()),
            float(found.float().mean()),
        )

    def _identified(self, index: int, guess: Tensor) -> Tensor:
        return identified(
            guess, self.real[index : index + 1], self.candidates[int(self.rows[index])]
        )


def experiment(hospitals: int, rounds: int, images_per_class: int, seed: int) -> ExperimentConfig:
    """Return the configuration of a federation with one task of all eleven organs."""
    return ExperimentConfig(
        name="prototypes",
        scenario=ScenarioConfig(
            "organamnist",
            1,
            11,
            rounds,
            heterogeneity=1.0,
            images="disjoint",
            images_per_class=images_per_class,
        ),
        hospitals=generate_hospitals(hospitals, 0, 1),
        network=NetworkConfig(backbone="resnet10", width=8, image_size=28),
        method=FedKA(head_loss="ce", mean="by_images", reconstruction=_NOT_HERE),
        training=TrainingConfig(
            epochs=2, batch_size=32, learning_rate=0.05, momentum=0.9, precision="bfloat16"
        ),
        twin=TwinConfig(
            memory_capacity=100, held_back_fraction=0.1, detection=DetectionConfig(rule="by_name")
        ),
        seed=seed,
    )


def gather(config: ExperimentConfig, data: ImageDataset) -> Material:
    """Run the federation and return its twins' encoded prototypes with the true images."""
    encoded: list[tuple[IncrementalNetwork, Tensor, Tensor]] = []

    class FedKAWithTruth(FedKA):
        """FedKA that also gives the benchmark, not the server, the encoded images."""

        def finish_local(
            self, network: IncrementalNetwork, context: LocalContext
        ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
            """Record the prototypes and upload as FedKA does."""
            if context.fresh_task and context.prototypes is not None:
                encoded.append((network, *context.prototypes(network)))
            return super().finish_local(network, context)

    run = run_observed(
        config, data, FedKAWithTruth(head_loss="ce", mean="by_images", reconstruction=_NOT_HERE)
    )
    networks = tuple(network for network, _, rows in encoded for _ in rows)
    names, vocabulary = run.servers[-1].class_names, data.train.vocabulary
    pixels = to_unit(to_tensor(data.train.images))
    labels = torch.from_numpy(data.train.labels)
    candidates = {row: pixels[labels == vocabulary.index(name)] for row, name in enumerate(names)}
    real, rows = torch.cat([each[1] for each in encoded]), torch.cat([each[2] for each in encoded])
    accuracies = tuple(run.accuracy(server) for server in run.servers)
    return Material(real, rows, networks, names, candidates, run, accuracies)


def baselines(material: Material, seed: int) -> dict[str, Tensor]:
    """Return guesses of an attacker without any upload, and other patients' images."""
    others, means, any_ones = [], [], []
    generator = torch.Generator().manual_seed(seed)
    for index, image in enumerate(material.real):
        pool = material.candidates[int(material.rows[index])]
        pool = pool[(pool != image).flatten(1).any(1)]
        others.append(pool[nearest(image[None], pool)[0]])
        means.append(pool.mean(0))
        any_ones.append(pool[int(torch.randint(len(pool), (1,), generator=generator))])
    return {
        "nearest other image of its class": torch.stack(others),
        "any other image of its class": torch.stack(any_ones),
        "mean image of its class": torch.stack(means),
        "noise": torch.rand(material.real.shape, generator=generator),
    }
