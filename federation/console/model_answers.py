"""Where the model looked, drawn over an image, and what it says about images. Asks a worker process; loads no model itself.

The worker starts at the first question and takes over the model that serves whenever another one does. Overlays are kept on disk inside the
hospital's own folder, one folder per version of the model.
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

from federation.console.registry_view import RegistryView
from federation.console.settings import ConsoleSettings, write_private
from physical.mirror import Mirror
from twin.review.model_worker import ModelWorker, WorkerError

NO_EVIDENCE = Path(__file__).parent / "static" / "no-evidence.png"
_KEPT_VERSIONS = 3
_MOST_WAITING = 12  # requests; more would take the threads that serve pages
_SIDE = 256  # pixels of a drawn image
_OPACITY = 0.75
# A scale from dark violet over red to light yellow: its lightness rises evenly, so that it reads without colours too.
_SCALE = np.array(
    [(0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)],
    np.float64,
)


class LooksUnavailable(OSError):  # noqa: N818 -- a state of the service
    """No model can be asked now; says why."""


@dataclass(frozen=True)
class Prediction:
    """What the model says about an image.

    Args:
        image_id: Which image.
        class_name: The likeliest class.
        probability: Of that class.
        entropy: As a fraction of ln C.
        top: (class name, probability) of the three likeliest.
    """

    image_id: str
    class_name: str
    probability: float
    entropy: float
    top: tuple[tuple[str, float], ...]


class Looks:
    """Overlays and predictions of the model that serves.

    Args:
        settings: Of the console.
        registry: Says which model serves.
        mirrors: One per hospital.
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
        """Return a PNG with transparent ground that lies over the image.

        Raises:
            MirrorError: If there is no such image.
            KeyError: If the model knows no such class.
            LooksUnavailable: If no model can be asked.
        """
        pixels = self._mirrors[hospital].pixels([image_id])
        current = self._registry.current()
        if current is None:
            raise LooksUnavailable("no model serves yet")
        name = hashlib.sha256(f"{image_id}\0{class_name}".encode()).hexdigest()
        path = (
            self._settings.hospital(hospital).state / "overlays" / current.version / f"{name}.png"
        )
        with suppress(FileNotFoundError):  # not drawn yet, or dropped this very moment
            return path.read_bytes()
        with self._turn():
            worker = self._ready()
            if class_name not in self._class_names:
                raise KeyError(class_name)
            version = self._version
            try:
                heat = worker.overlay(pixels, [class_name])[0]
            except OSError as error:
                raise LooksUnavailable(str(error)) from error
            drawn = NO_EVIDENCE.read_bytes() if heat is None else draw_heat(heat)
            if version == current.version:
                self._keep(path, drawn)
        return drawn

    def predict(self, hospital: str, image_ids: Sequence[str]) -> tuple[str, list[Prediction]]:
        """Return the version of the model that serves and what it says about images.

        Raises:
            MirrorError: If there is no such image.
            LooksUnavailable: If no model can be asked.
        """
        pixels = self._mirrors[hospital].pixels(image_ids)
        with self._turn():
            worker = self._ready()
            version, class_names = self._version, self._class_names
            try:
                logits = worker.look(pixels).logits
            except OSError as error:
                raise LooksUnavailable(str(error)) from error
        chances = _softmax(np.asarray(logits, np.float64))
        return str(version), [
            _prediction(image_id, row, class_names)
            for image_id, row in zip(image_ids, chances, strict=True)
        ]

    def close(self) -> None:
        """End the worker process."""
        with self._lock:
            if self._worker is not None:
                self._worker.close()
                self._worker = None

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for one's turn, unless so many wait that pages would have to."""
        if not self._waiting.acquire(blocking=False):
            raise LooksUnavailable(
                "the model is busy with others' questions; ask again in a moment"
            )
        try:
            with self._lock:
                yield
        finally:
            self._waiting.release()

    def _ready(self) -> ModelWorker:
        current = self._registry.current()
        if current is None:
            raise LooksUnavailable("no model serves yet")
        if self._worker is None:
            self._worker = ModelWorker(timeout_seconds=self._settings.explain_seconds)
        if self._version != current.version:
            try:
                self._class_names = self._worker.load(current.folder).class_names
            except WorkerError as error:
                raise LooksUnavailable(str(error)) from error
            self._version = current.version
        return self._worker

    def _keep(self, path: Path, drawn: bytes) -> None:
        """Keep an overlay; in one's turn, since a version's first one makes its folder and drops an old one."""
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


def draw_image(pixels: NDArray[np.uint8]) -> bytes:
    """Return a grey image as PNG, as large as it is."""
    return _as_png(Image.fromarray(pixels))


def draw_heat(heat: NDArray[np.floating]) -> bytes:
    """Return a map in [0, 1] as a coloured PNG that is transparent where there is nothing."""
    smooth = Image.fromarray(np.asarray(np.clip(heat, 0, 1) * 255, np.uint8)).resize(
        (_SIDE, _SIDE), Image.Resampling.BICUBIC
    )
    values = np.asarray(smooth, np.float64) / 255
    places = np.linspace(0, 1, len(_SCALE))
    channels = [np.interp(values, places, _SCALE[:, channel]) for channel in range(3)]
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
    image_id: str, chances: NDArray[np.float64], class_names: Sequence[str]
) -> Prediction:
    top = tuple((class_names[row], float(chances[row])) for row in np.argsort(-chances)[:3])
    entropy = (
        -float(np.sum(chances * np.log(np.maximum(chances, 1e-12))))
        / max(math.log(len(class_names)), 1e-12)
        if len(class_names) > 1
        else 0.0
    )
    return Prediction(image_id, *top[0], min(1.0, max(0.0, entropy)), top)
