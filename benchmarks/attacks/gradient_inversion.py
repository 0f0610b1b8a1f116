"""Gradient inversion of uploaded prototypes: the proxy's reconstruction and a stronger attack.

Hospitals train on OrganAMNIST images and upload the gradients of their prototypes as in FedKA, GLFC
and LGA. A prototype is a patient's image: the one nearest to the mean feature of its class. The
attacker is the server, which has these gradients, the public network, and the local model uploaded
with them. Both attacks are run with and without defences.

    python -m benchmarks.attacks.gradient_inversion --sheet docs/images/gradient_inversion.png

takes about seven minutes on one core.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

import torch
from torch import Tensor

from benchmarks.attacks import defences
from benchmarks.attacks.contact_sheet import draw
from benchmarks.attacks.inversion import AttackConfig, reconstructions, undo_perturbation
from benchmarks.attacks.similarity import Likeness, ssim
from benchmarks.attacks.uploaded_prototypes import Material, baselines, experiment, gather
from benchmarks.machine import describe
from benchmarks.measuring import parser, print_progress, table, use_threads
from federation.aggregation.means import Arrived
from federation.method import Method
from federation.methods.prototypes import collect_prototypes, score_on_prototypes
from incremental.network import IncrementalNetwork
from incremental.proxy import Score
from incremental.reconstruction import GradientEncoder, ReconstructionConfig, perturb
from physical.datasets import load_dataset
from physical.transforms import to_unit
from twin.messages import TwinUpdate

Alter = Callable[[Tensor, torch.Generator], Tensor]
DEFAULT = ReconstructionConfig()
EXACT = AttackConfig()
NOISY = AttackConfig(  # a weak and a strong assumption that neighbouring pixels are alike
    restarts=1, smoothness=(1e-3, 1e-1), polish_steps=0
)


@dataclass(frozen=True)
class Defence:
    """A change to prototypes or gradients before the upload.

    Args:
        name: Name in the table.
        perturbation: Perturbation of the prototypes.
        alter: Function that changes the gradients.
        attack: How the attacker adapts to it.
    """

    name: str
    perturbation: ReconstructionConfig = DEFAULT
    alter: Alter = lambda gradients, generator: gradients
    attack: AttackConfig = EXACT


DEFENCES = (
    Defence("none: perturb_steps 0", ReconstructionConfig(perturb_steps=0)),
    Defence("perturbation, default: 50 steps at 0.2"),
    Defence("perturbation 10 times: perturb_rate 2", ReconstructionConfig(perturb_rate=2.0)),
    Defence("perturbation 100 times: perturb_rate 20", ReconstructionConfig(perturb_rate=20.0)),
    Defence("default, norm clipped to 1", alter=lambda gradients, _: defences.clip(gradients, 1.0)),
    Defence("default, float16", alter=lambda gradients, _: defences.half(gradients)),
    Defence(
        "default, int8", alter=lambda gradients, _: defences.eight_bits(gradients), attack=NOISY
    ),
    Defence("default, largest 10 %", alter=lambda gradients, _: defences.largest(gradients, 0.1)),
    Defence("default, largest 1 %", alter=lambda gradients, _: defences.largest(gradients, 0.01)),
    *(
        Defence(
            f"default, noise multiplier {each:g}",
            alter=partial(
                lambda gradients, generator, each: defences.noisy(gradients, each, generator),
                each=each,
            ),
            attack=NOISY,
        )
        for each in (0.0001, 0.001, 0.01)
    ),
)


@dataclass(frozen=True)
class Outcome:
    """Result of the attacks against one defence.

    Args:
        labels: Share of the classes that the gradients reveal.
        proxy: Similarity of the proxy server's reconstruction.
        strong: Similarity of the stronger attack's reconstruction.
        undone: The same with the perturbation undone.
        accuracy: Test accuracy of the model that the proxy server chooses with its reconstruction.
        pictures: The three reconstructions, shape [P, 1, H, W] each.
    """

    labels: float
    proxy: Likeness
    strong: Likeness
    undone: Likeness
    accuracy: float
    pictures: tuple[Tensor, Tensor, Tensor]


def judge(material: Material, defence: Defence, seed: int) -> Outcome:
    """Encode the prototypes behind a defence, attack them, and let the proxy choose a model."""
    generator = torch.Generator().manual_seed(seed)
    sent_images = material.by_twin(partial(_perturb, defence.perturbation), material.real)
    channels, height, width = material.real.shape[1:]
    shape, server = (channels, height, width), material.run.servers[0]
    encoder = GradientEncoder(shape, len(material.class_names), defence.perturbation.public_seed)
    sent = defence.alter(encoder.encode(sent_images, material.rows), generator)
    upload = {"prototype_gradients": sent, "prototype_shape": torch.tensor(shape)}
    update = TwinUpdate("all", 0, {}, 1, upload, class_names=material.class_names)
    kept = collect_prototypes(
        replace(server, kept={}), [Arrived(update)], defence.perturbation
    ).kept
    by_proxy = to_unit(kept["prototype_images"][: len(sent)])
    strong = _best(
        [by_proxy, *reconstructions(encoder, sent, shape, defence.attack, generator)], material
    )
    undone = material.by_twin(partial(_undo, defence.perturbation), strong)
    return Outcome(
        float((encoder.rows_of(sent) == material.rows).float().mean()),
        material.likeness(by_proxy),
        material.likeness(strong),
        material.likeness(undone),
        _chosen_accuracy(
            material,
            [score_on_prototypes(replace(each, kept=kept)) for each in material.run.servers],
        ),
        (by_proxy, strong, undone),
    )


def _perturb(
    config: ReconstructionConfig, network: IncrementalNetwork, images: Tensor, rows: Tensor
) -> Tensor:
    return perturb(network, images, rows, config)


def _undo(
    config: ReconstructionConfig, network: IncrementalNetwork, images: Tensor, rows: Tensor
) -> Tensor:
    return undo_perturbation(network, images, rows, config)


def _best(answers: list[Tensor], material: Material) -> Tensor:
    """Return the reconstruction most similar to the truth: the attacker's best choice."""
    return max(answers, key=lambda answer: float(ssim(answer, material.real).mean()))


def _chosen_accuracy(material: Material, scores: Sequence[Score | None]) -> float:
    """Return the test accuracy of the model with the best score."""
    values = [0.0 if score is None else score.value for score in scores]
    return material.accuracies[values.index(max(values))]


def accuracy_without_upload(material: Material) -> float:
    """Return the test accuracy of the model chosen by held-back images (reconstruction: null)."""
    # Observations at the start of a round score the model of the round before, so the last model
    # has no score here.
    run = material.run
    return _chosen_accuracy(
        material,
        [
            Method.score(run.setup.config.method, run.servers[0], each.observations)
            for each in run.records[1:]
        ],
    )


def report(material: Material, found: Mapping[str, Outcome], shown: Mapping[str, Tensor]) -> str:
    """Return the tables as Markdown."""
    lines = [(name, *_cells(material.likeness(images))) for name, images in shown.items()]
    first = table(
        ("instead of a reconstruction", "SSIM", "PSNR [dB]", "largest SSIM", "identified"), lines
    )
    heads = (
        "what is sent",
        "class",
        "proxy: SSIM",
        "PSNR",
        "identified",
        "strong: SSIM",
        "PSNR",
        "largest SSIM",
        "identified",
    )
    undone = ("undone: SSIM", "PSNR", "identified", "test accuracy of the chosen model")
    rows = []
    for name, each in found.items():
        proxy, strong, back = _cells(each.proxy), _cells(each.strong), _cells(each.undone)
        worth = f"{each.accuracy:.3f}"
        rows.append(
            (
                name,
                f"{each.labels:.0%}",
                proxy[0],
                proxy[1],
                proxy[3],
                *strong,
                back[0],
                back[1],
                back[3],
                worth,
            )
        )
    nothing = (
        "nothing: reconstruction: null",
        *["-"] * (len(heads) + len(undone) - 2),
        f"{accuracy_without_upload(material):.3f}",
    )
    second = table((*heads, *undone), [*rows, nothing])
    best = max(material.accuracies)
    return (
        f"{first}\n\n{second}\n\n"
        f"The best of the models that the proxy server chooses from: {best:.3f}."
    )


def _cells(likeness: Likeness) -> tuple[str, str, str, str]:
    return (
        f"{likeness.ssim:.3f}",
        f"{likeness.psnr:.1f}",
        f"{likeness.worst:.3f}",
        f"{likeness.identified:.0%}",
    )


def show(
    material: Material, found: Mapping[str, Outcome], shown: Mapping[str, Tensor], path: Path
) -> None:
    """Write the contact sheet: the first hospital's prototypes, one of each organ."""
    names = [each.name for each in DEFENCES]
    bare = found[names[0]].pictures
    default = found[names[1]].pictures
    noise = found[names[-1]].pictures
    rows = {
        "real image of a patient": material.real,
        "proxy server,\nnot perturbed": bare[0],
        "proxy server,\nperturbed (default)": default[0],
        "stronger attack,\nnot perturbed": bare[1],
        "stronger attack,\nperturbed (default)": default[1],
        "stronger attack,\nperturbation undone": default[2],
        "stronger attack,\nnoise multiplier 0.01": noise[1],
        "no upload: mean image\nof the class": shown["mean image of its class"],
    }
    draw(
        rows,
        [_short(material.class_names[row]) for row in material.rows[: len(material.class_names)]],
        _CREDIT,
        path,
    )


_CREDIT = (
    "Images: OrganAMNIST of MedMNIST v2 (Yang et al. 2023; from LiTS, Bilic et al. 2023), "
    "CC BY 4.0; reconstructions made from them."
)


def _short(name: str) -> str:
    return name.replace("-", " ").replace("_", " ")


def main() -> None:
    """Run what the command line asks for."""
    options = parser(__doc__)
    options.set_defaults(threads=1)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--hospitals", type=int, default=2, help="eleven prototypes each")
    options.add_argument(
        "--rounds", type=int, default=6, help="after each there is a model to choose from"
    )
    options.add_argument("--images-per-class", type=int, default=300)
    options.add_argument("--steps", type=int, default=400, help="of the stronger attack")
    options.add_argument("--sheet", type=Path, help="contact sheet, a PNG file")
    settings = options.parse_args()
    use_threads(settings.threads)
    started = perf_counter()
    material = gather(
        experiment(settings.hospitals, settings.rounds, settings.images_per_class, settings.seed),
        load_dataset("organamnist"),
    )
    found = {}
    for defence in DEFENCES:
        began = perf_counter()
        harder = replace(
            defence.attack,
            steps=settings.steps,
            polish_steps=min(defence.attack.polish_steps, settings.steps),
        )
        found[defence.name] = judge(material, replace(defence, attack=harder), settings.seed)
        print_progress(
            f"  {defence.name}: {perf_counter() - began:.0f} s, "
            f"SSIM {found[defence.name].strong.ssim:.3f}"
        )
    shown = baselines(material, settings.seed)
    if settings.sheet:
        show(material, found, shown, settings.sheet)
    print(
        f"{len(material.real)} prototypes of {settings.hospitals} hospitals and "
        f"{len(material.class_names)} organs at 28 px, OrganAMNIST, "
        f"seed {settings.seed}, {settings.threads} thread, {perf_counter() - started:.0f} s "
        f"({process_time():.0f} s of one core); "
        f"`python -m benchmarks.attacks.gradient_inversion --seed {settings.seed}`.\n"
    )
    print(f"{report(material, found, shown)}\n\n{describe()}")


if __name__ == "__main__":
    main()
