"""Grad-CAM pictures of a report: attention of old and new model over their images.

For small PNGs inside the page.

Knows arrays and pixels; what the examples mean for a method stands on the page.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.report.folder import Examples

MOST_EXAMPLES = 12
_SIDE = 168  # px of the longer side on the page
# Dark blue, magenta, yellow: rising brightness, so the order is seen without telling hues apart.
_RAMP = np.array([(13, 8, 135), (156, 23, 158), (237, 121, 83), (240, 249, 33)], dtype=np.float64)


@dataclass(frozen=True)
class Picture:
    """One example as it stands on the page; images are ``data:`` addresses."""

    class_name: str
    image: str
    teacher: str
    student: str
    agreement: float | None  # cosine of the two maps, 0 to 1; None where a map is empty
    width: int  # px
    height: int  # px


def pictures(examples: Examples) -> list[Picture]:
    """Overlay the attention maps of the first examples.

    Args:
        examples: Images [N, H, W, C] and maps [N, h, w]; maps of any scale, since each is scaled to
            its own maximum.

    Returns:
        At most ``MOST_EXAMPLES`` pictures in the order given.
    """
    found = []
    everything = zip(
        examples.images, examples.teacher, examples.student, examples.class_names, strict=True
    )
    for image, teacher, student, name in list(everything)[:MOST_EXAMPLES]:
        enlarge = max(1, round(_SIDE / max(image.shape[:2])))
        base = np.repeat(np.repeat(image, enlarge, axis=0), enlarge, axis=1)
        base = np.repeat(base, 3, axis=2) if base.shape[2] == 1 else base
        found.append(
            Picture(
                class_name=name,
                image=_png(base),
                teacher=_png(overlay(base, teacher)),
                student=_png(overlay(base, student)),
                agreement=agreement(teacher, student),
                width=base.shape[1],
                height=base.shape[0],
            )
        )
    return found


def overlay(image: NDArray[np.uint8], attention: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Lay an attention map over an image.

    Args:
        image: [H, W, 3].
        attention: [h, w], scaled to its maximum here; negative and non-finite values count as no
            attention.

    Returns:
        [H, W, 3]: the image, tinted the more the stronger the attention.
    """
    strength = _scaled(attention)
    strength = _stretched(_stretched(strength, image.shape[0], 0), image.shape[1], 1)[
        ..., np.newaxis
    ]
    place = strength[..., 0] * (len(_RAMP) - 1)
    colour = np.stack(
        [np.interp(place, np.arange(len(_RAMP)), _RAMP[:, channel]) for channel in range(3)],
        axis=-1,
    )
    share = 0.15 + 0.5 * strength  # a trace of colour everywhere says that there is a map at all
    return np.clip(np.rint((1 - share) * image + share * colour), 0, 255).astype(np.uint8)


def agreement(teacher: NDArray[np.float64], student: NDArray[np.float64]) -> float | None:
    """Cosine of two attention maps [h, w] of one shape, or ``None``.

    Where one is empty or the shapes differ.
    """
    first, second = _scaled(teacher), _scaled(student)
    if first.shape != second.shape or not first.any() or not second.any():
        return None
    return float((first * second).sum() / (np.linalg.norm(first) * np.linalg.norm(second)))


def _scaled(attention: NDArray[np.float64]) -> NDArray[np.float64]:
    clean = np.clip(np.nan_to_num(attention, nan=0.0, posinf=0.0, neginf=0.0), 0, None)
    peak = clean.max(initial=0.0)
    return clean / peak if peak > 0 else clean


def _stretched(values: NDArray[np.float64], size: int, axis: int) -> NDArray[np.float64]:
    """Enlarge along one axis linearly, with the outermost cells' centres where they belong."""
    centres = (np.arange(values.shape[axis]) + 0.5) / values.shape[axis]
    wanted = (np.arange(size) + 0.5) / size
    stretched: NDArray[np.float64] = np.apply_along_axis(
        lambda line: np.interp(wanted, centres, line), axis, values
    )
    return stretched


def _png(image: NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
