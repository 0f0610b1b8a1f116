"""Model that shows images' features, logits and Grad-CAM overlays.

Runs inside the worker process (``twin.review.model_worker``); whoever serves pages must not import
it, as it loads torch.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from incremental.explanation import explain
from incremental.inference import features_of
from incremental.model_file import ModelError, load_model
from incremental.prediction import as_tensor
from twin.review.novelty_scores import Looks, ModelFacts

_BATCH = 256  # images that go through the network together; bounds memory


class ImageModel:
    """One model, ready to look.

    Args:
        model_folder: What ``incremental.model_file.save_model`` wrote.

    Raises:
        ModelError: If the folder holds no whole model, or one that knows no class.
    """

    def __init__(self, model_folder: Path) -> None:
        self._network, manifest = load_model(model_folder)
        self.facts = ModelFacts(
            str(model_folder), str(manifest["digest"]), tuple(manifest["class_names"])
        )
        if not self.facts.class_names:
            raise ModelError(
                f"{model_folder} has 0 classes; allowed: 1 or more; take a model that was trained"
            )

    def look(self, images: NDArray[np.uint8]) -> Looks:
        """Look at images, in float32.

        Args:
            images: 8-bit pixels, shape [N, S, S] or [N, S, S, C].

        Raises:
            ModelError: If these are no such images.
        """
        pixels = as_tensor(images, self._network.config.channels)
        features = features_of(self._network, pixels, _BATCH)
        with torch.inference_mode():
            parts = [
                self._network.head(part) for part in torch.split(features, _BATCH)
            ]  # in the batches of logits_of: the same bits
        logits = torch.cat(parts) if parts else torch.empty(0, len(self.facts.class_names))
        return Looks(features.numpy(), logits.numpy(), self.facts.digest)

    def overlay(
        self, images: NDArray[np.uint8], class_names: Sequence[str]
    ) -> list[NDArray[np.float32] | None]:
        """Return where the evidence for a class lies on each image (Grad-CAM of the last maps).

        Args:
            images: Shape [N, S, S] or [N, S, S, C].
            class_names: The class asked of each image.

        Returns:
            For each image a map in [0, 1] of shape [S, S], or none where nothing speaks for the
            class.

        Raises:
            ModelError: If a class is unknown to the model or the numbers differ.
        """
        unknown = sorted(set(class_names) - set(self.facts.class_names))
        if unknown or len(images) != len(class_names):
            raise ModelError(
                f"{len(class_names)} classes for {len(images)} images, unknown to the model: "
                f"{', '.join(unknown) or 'none'}; allowed: one "
                f"for each image, of {', '.join(self.facts.class_names)}; ask for a class that "
                "this model knows"
            )
        rows = [self.facts.class_names.index(name) for name in class_names]
        pixels = as_tensor(images, self._network.config.channels).to(torch.float32).div_(255)
        heats: list[NDArray[np.float32] | None] = []
        for start in range(0, len(rows), _BATCH):
            maps = explain(
                self._network, pixels[start : start + _BATCH], rows[start : start + _BATCH]
            )
            heats += [each if each.any() else None for each in maps]
        return heats
