"""Prototypes by which the proxy server scores models: encode, reconstruct, score.

Source: FedKA section 2.1 and GLFC (Dong et al., CVPR 2022, section 3.4); what was read from public
code stands in the notes on methods, 2.9.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from federation.aggregation.means import Arrived
from federation.seeding import seed_for
from federation.server import ServerState
from incremental.cores import all_cores
from incremental.head import num_rows
from incremental.inference import features_of, logits_of
from incremental.network import IncrementalNetwork, build_network
from incremental.proxy import Score
from incremental.reconstruction import (
    GradientEncoder,
    ReconstructionConfig,
    encoding_length,
    invert,
    perturb,
)
from physical.transforms import AugmentationConfig, augment
from twin.objective import LocalContext
from twin.privacy.upload_policy import UploadKind

UPLOADS = (
    "gradients of a public random network at one perturbed prototype image per new class, once per "
    "task; the proxy server can reconstruct a likeness of the prototype from them",
)
UPLOAD_KINDS: Mapping[str, tuple[UploadKind, ...]] = {
    "prototype_gradients": ("prototype_gradients",),
    "prototype_shape": ("prototype_gradients",),
}
_VARIED = AugmentationConfig(crop_padding_pixels=2, brightness=0.1)
_SIDES = (8, 256)  # smallest and largest side of an image that the proxy server reconstructs [px]
_VARIANTS = 4  # augmented copies of each reconstruction in the test


def encode_prototypes(
    network: IncrementalNetwork, context: LocalContext, config: ReconstructionConfig
) -> Mapping[str, Tensor]:
    """Return gradients [P, G] and the prototypes' shape where a task has just begun."""
    if not context.fresh_task or context.prototypes is None:
        return {}
    images, rows = context.prototypes(network)
    images = perturb(network, images, rows, config)
    encoder = GradientEncoder(
        (images.shape[1], images.shape[2], images.shape[3]), context.num_rows, config.public_seed
    )
    return {
        "prototype_gradients": encoder.encode(images.cpu(), rows.cpu()),
        "prototype_shape": torch.tensor(images.shape[1:]),
    }


def collect_prototypes(
    server: ServerState, arrived: Sequence[Arrived], config: ReconstructionConfig
) -> ServerState:
    """Reconstruct what arrived and add it to the open task's test; a new task starts an empty one.

    Uploads that do not have the public network's size are left out: they cannot be inverted.
    """
    task = server.task
    kept = dict(server.kept)
    if int(kept.get("prototype_task", torch.tensor(-1))) != task:
        kept = {name: value for name, value in kept.items() if not name.startswith("prototype_")}
        kept["prototype_task"] = torch.tensor(task)
    uploads = [each.update.upload for each in arrived]
    sent = [each for each in uploads if {"prototype_gradients", "prototype_shape"} <= each.keys()]
    classes = num_rows(server.weights)
    shapes = [shape for shape in (_shape_of(each, classes) for each in sent) if shape is not None]
    if shapes:
        before = kept.get("prototype_images")
        shape = max(sorted(set(shapes)), key=shapes.count)
        if before is not None:
            shape = (before.shape[1], before.shape[2], before.shape[3])
        fitting = [
            each["prototype_gradients"] for each in sent if _shape_of(each, classes) == shape
        ]
        kept |= _reconstruct(server, fitting, shape, kept, config)
    return replace(server, kept=kept)


def _shape_of(upload: Mapping[str, Tensor], classes: int) -> tuple[int, int, int] | None:
    """Return the image shape that an upload claims; none where it cannot be or the size differs."""
    claimed, gradients = upload["prototype_shape"], upload["prototype_gradients"]
    if claimed.shape != (3,) or claimed.is_floating_point() or gradients.ndim != 2:
        return None
    channels, height, width = (int(side) for side in claimed)
    if channels not in (1, 3) or min(height, width) < _SIDES[0] or max(height, width) > _SIDES[1]:
        return None
    shape = (channels, height, width)
    return shape if gradients.shape[1] == encoding_length(shape, classes) else None


def _reconstruct(
    server: ServerState,
    gradients: Sequence[Tensor],
    shape: tuple[int, int, int],
    kept: Mapping[str, Tensor],
    config: ReconstructionConfig,
) -> dict[str, Tensor]:
    if not gradients:
        return {}
    encoder = GradientEncoder(shape, num_rows(server.weights), config.public_seed)
    generator = torch.Generator().manual_seed(seed_for(server.seed, "invert", server.round))
    with all_cores():  # no twin trains meanwhile
        found = invert(encoder, torch.cat(list(gradients)), shape, config, generator)
    varied = [found.images, *(augment(found.images, _VARIED, generator) for _ in range(_VARIANTS))]
    pixels = (torch.cat(varied) * 255).round().to(torch.uint8)
    rows = found.rows.repeat(_VARIANTS + 1)
    if "prototype_images" in kept:
        pixels = torch.cat([kept["prototype_images"], pixels])
        rows = torch.cat([kept["prototype_rows"], rows])
    return {"prototype_images": pixels, "prototype_rows": rows}


def score_on_prototypes(server: ServerState) -> Score | None:
    """Return the global model's accuracy on the reconstructions of the open task, or none."""
    answers = _asked(server, logits_of)
    if answers is None:
        return None
    logits, rows = answers
    accuracy = float((logits.argmax(1) == rows).float().mean())
    return Score(
        accuracy, f"task {int(server.kept['prototype_task'])}: {len(rows)} reconstructed prototypes"
    )


def score_on_perturbed_prototypes(server: ServerState, radius: float, copies: int) -> Score | None:
    """Return the head's accuracy on perturbed features of the open task's reconstructions, or none.

    Source: LGA (Dong et al., TPAMI 2023), as read from its public code: each feature is copied, and
    each copy moved by ``radius * N(0, v^2)``, v the variance of each dimension within the class
    (the code takes the squared variance for a standard deviation), inside the ball of squared
    radius ``0.1 sum v^2``. The code draws again while a move ends outside, perhaps for ever; here
    it is shortened to the ball's surface. The draws of a task are the same for each of its models.

    Args:
        server: Holds the reconstructions.
        radius: Scale of the moves; 0 is the accuracy on the features as they are.
        copies: Perturbed copies of each feature.
    """
    answers = _asked(server, features_of)
    if answers is None:
        return None
    features, rows = answers
    task = int(server.kept["prototype_task"])
    generator = torch.Generator().manual_seed(seed_for(server.seed, "perturb", task))
    variance = torch.stack([features[rows == row].var(0, correction=0) for row in rows])
    moved = [
        features + _shorten(radius * variance.square() * _normal(features, generator), variance)
        for _ in range(copies)
    ]
    logits = torch.nn.functional.linear(
        torch.cat(moved), server.weights["head.weight"], server.weights["head.bias"]
    )
    accuracy = float((logits.argmax(1) == rows.repeat(copies)).float().mean())
    return Score(
        accuracy, f"task {task}: perturbed features of {len(rows)} reconstructed prototypes"
    )


def _asked(
    server: ServerState, ask: Callable[[IncrementalNetwork, Tensor], Tensor]
) -> tuple[Tensor, Tensor] | None:
    """Return the model's outputs for the open task's reconstructions and their rows; or none."""
    images, rows = server.kept.get("prototype_images"), server.kept.get("prototype_rows")
    if images is None or rows is None:
        return None
    with all_cores():  # while a model is scored no twin trains
        return ask(build_network(server.network, server.weights), images), rows


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator)


def _shorten(moves: Tensor, variance: Tensor) -> Tensor:
    limit = (0.1 * variance.square().sum(1, keepdim=True)).sqrt()
    length = moves.square().sum(1, keepdim=True).sqrt()
    return moves * (limit / length.clamp_min(1e-12)).clamp_max(1)
