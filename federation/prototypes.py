"""Prototypes on their way from twin to proxy server: encode, reconstruct, score. Shared by the methods that choose the old model this way.

Source: FedKA section 2.1 and GLFC (Dong et al., CVPR 2022, section 3.4); what was read from public code stands in the notes on methods,
2.9.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from federation.seeding import seed_for
from federation.server import ServerState
from incremental.head import num_rows
from incremental.inference import logits_of
from incremental.network import IncrementalNetwork, build_network
from incremental.proxy import Score
from incremental.reconstruction import GradientEncoder, ReconstructionConfig, invert, perturb
from physical.transforms import AugmentationConfig, augment
from twin.messages import TwinUpdate
from twin.objective import LocalContext

_VARIED = AugmentationConfig(crop_padding_pixels=2, brightness=0.1)
_VARIANTS = 4  # augmented copies of each reconstruction in the test


def encode_prototypes(network: IncrementalNetwork, context: LocalContext, config: ReconstructionConfig) -> Mapping[str, Tensor]:
    """Return the upload of a twin whose task has just begun: gradients [P, G] and the prototypes' shape; else nothing."""
    if not context.fresh_task or context.prototypes is None:
        return {}
    images, rows = context.prototypes(network)
    images = perturb(network, images, rows, config)
    encoder = GradientEncoder((images.shape[1], images.shape[2], images.shape[3]), context.num_rows, config.public_seed)
    return {"prototype_gradients": encoder.encode(images, rows), "prototype_shape": torch.tensor(images.shape[1:])}


def collect_prototypes(server: ServerState, updates: Sequence[TwinUpdate], config: ReconstructionConfig) -> ServerState:
    """Reconstruct what arrived, in one batch, and add it to the present task's test; a new task starts with an empty one.

    Uploads that do not have the public network's size are left out: they cannot be inverted.
    """
    task = len(server.growth_rounds)
    kept = dict(server.kept)
    if int(kept.get("prototype_task", torch.tensor(-1))) != task:
        kept = {name: value for name, value in kept.items() if not name.startswith("prototype_")}
        kept["prototype_task"] = torch.tensor(task)
    sent = [each.upload for each in updates if "prototype_gradients" in each.upload and "prototype_shape" in each.upload]
    shapes = {tuple(int(side) for side in each["prototype_shape"]) for each in sent}
    if len(shapes) == 1:
        (shape,) = shapes
        if len(shape) == 3 and shape[0] in (1, 3) and max(shape) <= 256:
            kept |= _reconstruct(server, [each["prototype_gradients"] for each in sent], shape, kept, config)
    return replace(server, kept=kept)


def _reconstruct(
    server: ServerState,
    gradients: Sequence[Tensor],
    shape: tuple[int, int, int],
    kept: Mapping[str, Tensor],
    config: ReconstructionConfig,
) -> dict[str, Tensor]:
    encoder = GradientEncoder(shape, num_rows(server.weights), config.public_seed)
    length = sum(each.numel() for each in encoder.parameters())
    fitting = [each for each in gradients if each.ndim == 2 and each.shape[1] == length]
    if not fitting:
        return {}
    generator = torch.Generator().manual_seed(seed_for(server.seed, "invert", server.round))
    found = invert(encoder, torch.cat(fitting), shape, config, generator)
    varied = [found.images, *(augment(found.images, _VARIED, generator) for _ in range(_VARIANTS))]
    pixels = (torch.cat(varied) * 255).round().to(torch.uint8)
    rows = found.rows.repeat(_VARIANTS + 1)
    if "prototype_images" in kept:
        pixels = torch.cat([kept["prototype_images"], pixels])
        rows = torch.cat([kept["prototype_rows"], rows])
    return {"prototype_images": pixels, "prototype_rows": rows}


def score_on_prototypes(server: ServerState) -> Score | None:
    """Return the global model's accuracy on the reconstructions of the present task; none before the first arrives."""
    images, rows = server.kept.get("prototype_images"), server.kept.get("prototype_rows")
    if images is None or rows is None:
        return None
    logits = logits_of(build_network(server.network, server.weights), images)
    accuracy = float((logits.argmax(1) == rows).float().mean())
    return Score(accuracy, f"task {int(server.kept['prototype_task'])}: {len(rows)} reconstructed prototypes")
