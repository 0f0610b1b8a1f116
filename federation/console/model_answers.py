"""Overlays and predictions of the serving model, computed by a worker process.

The worker starts with the first request and loads a new model whenever another version serves.
Overlays are cached in the hospital's own folder, one subfolder per version of the model.
"""

import hashlib
import io
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from federation.console.files import write_private
from federation.console.registry_view import RegistryView
from federation.console.settings import ConsoleSettings
from physical.mirror import Mirror
from twin.review.model_worker import ModelWorker, WorkerError

NO_EVIDENCE = Path(__file__).parent / "static" / "no-evidence.png"
_KEPT_VERSIONS = 3
_MOST_WAITING = 12  # requests; more would take the threads that serve pages
_SIDE = 256  # pixels of a heat map
_OPACITY = 0.75
# RGB from dark violet over red to light yellow; lightness rises evenly, for greyscale readers.
_COLOURS = np.array(
    [(0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)],
    np.float64,
)


class ModelUnavailable(OSError):  # noqa: N818 -- a state of the service
    """No model can answer now; the message says why."""


@dataclass(frozen=True)
class Prediction:
    """The prediction of the model for one image.

    Args:
        image_id: Id of the image.
        class_name: The likeliest class.
        probability: Probability of that class.
        entropy: Entropy of the probabilities as a fraction of ln C.
        top: (class name, probability) of the three likeliest classes.
    """

    image_id: str
    class_name: str
    probability: float
    entropy: float
    top: tuple[tuple[str, float], ...]


class ModelAnswers:
    """Overlays and predictions of the serving model.

    Args:
        settings: Settings of the console.
        registry: Says which model serves.
        mirrors: Hospital -> its mirrored images.
    """

    def __init__(
        self, settings: ConsoleSettings, registry: RegistryView, mirrors: Mapping[str, Mirror]
    ) -> None:
        self._settings, self._registry, self._mirrors = settings, registry, mirrors
        self._lock, self._waiting = threading.Lock(), threading.BoundedSemaphore(_MOST_WAITING)
        self._worker: ModelWorker | None = None
        self._version: str | None = None
        self._class_names: tuple[str, ...] = ()

    def overlay(self, hospital: str, image_id: str, class_name: str) -> bytes:
        """Return the evidence for a class as a transparent PNG to lay over the image.

        Raises:
            MirrorError: If there is no such image.
            KeyError: If the model knows no such class.
            ModelUnavailable: If no model can answer now.
        """
        pixels = self._mirrors[hospital].pixels([image_id])
        current = self._registry.serving_model()
        if current is None:
            raise ModelUnavailable("no model serves yet")
        name = hashlib.sha256(f"{image_id}\0{class_name}".encode()).hexdigest()
        overlays = self._settings.hospital(hospital).state / "overlays"
        path = overlays / current.version / f"{name}.png"
        with suppress(FileNotFoundError):  # not drawn yet, or deleted this very moment
            return path.read_bytes()
        with self._exclusive_worker() as worker:
            if class_name not in self._class_names:
                raise KeyError(class_name)
            version = self._version
            with _unavailable_on(OSError):
                heat = worker.overlay(pixels, [class_name])[0]
            drawn = NO_EVIDENCE.read_bytes() if heat is None else draw_heat(heat)
            if version == current.version:
                self._cache(path, drawn)
        return drawn

    def predict(self, hospital: str, image_ids: Sequence[str]) -> tuple[str, list[Prediction]]:
        """Return the version of the serving model and its predictions for images.

        Raises:
            MirrorError: If there is no such image.
            ModelUnavailable: If no model can answer now.
        """
        pixels = self._mirrors[hospital].pixels(image_ids)
        with self._exclusive_worker() as worker:
            version, class_names = self._version, self._class_names
            with _unavailable_on(OSError):
                logits = worker.look(pixels).logits
        probabilities = _softmax(np.asarray(logits, np.float64))
        return str(version), [
            _prediction(image_id, row, class_names)
            for image_id, row in zip(image_ids, probabilities, strict=True)
        ]

    def close(self) -> None:
        """End the worker process."""
        with self._lock:
            if self._worker is not None:
                self._worker.close()
                self._worker = None

    @contextmanager
    def _exclusive_worker(self) -> Iterator[ModelWorker]:
        """Wait for other requests, then yield the worker with the serving model loaded.

        Raises:
            ModelUnavailable: If too many requests wait already, or no model can be loaded.
        """
        if not self._waiting.acquire(blocking=False):
            raise ModelUnavailable("the model is busy with other requests; ask again in a moment")
        try:
            with self._lock:
                yield self._ready_worker()
        finally:
            self._waiting.release()

    def _ready_worker(self) -> ModelWorker:
        current = self._registry.serving_model()
        if current is None:
            raise ModelUnavailable("no model serves yet")
        if self._worker is None:
            self._worker = ModelWorker(timeout_seconds=self._settings.explain_seconds)
        if self._version != current.version:
            with _unavailable_on(WorkerError):
                self._class_names = self._worker.load(current.folder).class_names
            self._version = current.version
        return self._worker

    def _cache(self, path: Path, drawn: bytes) -> None:
        """Save an overlay; the first one of a version also deletes old versions' overlays."""
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, parents=True)
            others = sorted(
                path.parent.parent.iterdir(),
                key=lambda folder: folder.stat().st_mtime,
                reverse=True,
            )
            for old in others[_KEPT_VERSIONS:]:
                for file in old.iterdir():
                    file.unlink(missing_ok=True)
                old.rmdir()
        write_private(path, drawn)


@contextmanager
def _unavailable_on(kind: type[OSError]) -> Iterator[None]:
    """Raise ``ModelUnavailable`` instead of errors of the worker process."""
    try:
        yield
    except kind as error:
        raise ModelUnavailable(str(error)) from error


def draw_image(pixels: NDArray[np.uint8]) -> bytes:
    """Return a grey image as PNG of the same size."""
    return _as_png(Image.fromarray(pixels))


def draw_heat(heat: NDArray[np.floating]) -> bytes:
    """Return a heat map in [0, 1] as a coloured PNG, transparent where the map is 0."""
    smooth = Image.fromarray(np.asarray(np.clip(heat, 0, 1) * 255, np.uint8)).resize(
        (_SIDE, _SIDE), Image.Resampling.BICUBIC
    )
    values = np.asarray(smooth, np.float64) / 255
    places = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(values, places, _COLOURS[:, channel]) for channel in range(3)]
    return _as_png(
        Image.fromarray(np.stack([*channels, values * _OPACITY * 255], axis=-1).astype(np.uint8))
    )


def _as_png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _prediction(
    image_id: str, probabilities: NDArray[np.float64], class_names: Sequence[str]
) -> Prediction:
    top = tuple(
        (class_names[row], float(probabilities[row])) for row in np.argsort(-probabilities)[:3]
    )
    entropy = -float(np.sum(probabilities * np.log(np.maximum(probabilities, 1e-12))))
    fraction = entropy / math.log(len(class_names)) if len(class_names) > 1 else 0.0
    return Prediction(image_id, *top[0], min(1.0, max(0.0, fraction)), top)
