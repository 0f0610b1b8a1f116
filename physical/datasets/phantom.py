"""PhantomMNIST: slices of synthetic abdominal CT scans with OrganMNIST's form and classes.

Needs no download. Each synthetic patient (``phantom_anatomy``) is scanned analytically: slices
around the middle of an organ's bounding box are sampled, windowed like an abdominal CT, and
resized to 28 x 28. Left and right organs have nearly mirrored shapes, so that only their
surroundings tell them apart, as in real data. Orientation is radiological: axial images show
the front at the top, and axial and coronal ones the patient's left on the right.

Use it for tests, for machines without a network, and for the coronal and sagittal views. An
accuracy reached on it is no claim about real images.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from physical.datasets.dataset import DataFile, DataSheet
from physical.datasets.organ_mnist import write_npz
from physical.datasets.phantom_anatomy import (
    BONE_HU,
    CLASS_NAMES,
    FAT_HU,
    MARROW_HU,
    MUSCLE_HU,
    Patient,
    Shape,
    make_patient,
)
from physical.datasets.sources import Generated

Plane = Literal["axial", "coronal", "sagittal"]
Floats = NDArray[np.float64]

SEED = 20240219
"""Seed of the three data sets whose digests are in the sheets."""
PATIENTS = {"train": 28, "val": 6, "test": 9}
"""Number of synthetic patients in each split; none is in two."""
SLICES_PER_ORGAN = 5
SIZE_PIXELS = 28
WINDOW_HU = (-160.0, 240.0)
"""What becomes black and white: the usual abdominal window, level 40 and width 400."""

_AXES: dict[Plane, tuple[int, int, int, bool]] = {
    # axis across the slice, down, and along the image (0 x, 1 y, 2 z); whether down is flipped
    "axial": (2, 1, 0, False),
    "coronal": (1, 2, 0, True),
    "sagittal": (0, 2, 1, True),
}
_DIGESTS: dict[Plane, str] = {
    "axial": "87acbd01ac3f4a4e72f95dc9c9f9226f",
    "coronal": "4344fec2409171a8cb7c3828e138737d",
    "sagittal": "87bc09abce17e148167ad1ab28d24620",
}
_NUM_BYTES = 1_857_951


def make_phantom(
    plane: Plane,
    seed: int = SEED,
    patients: dict[str, int] | None = None,
    slices_per_organ: int = SLICES_PER_ORGAN,
) -> dict[str, NDArray[np.uint8]]:
    """Return images and labels of all splits with OrganMNIST's keys; deterministic.

    Args:
        plane: Direction of the slices.
        seed: Seed of the patients; it gives the same patients in all three planes.
        patients: Number of patients in "train", "val" and "test"; default: those of the sheet.
        slices_per_organ: Slices of each organ of each patient.

    Returns:
        ``train_images`` [N, 28, 28] and ``train_labels`` [N, 1], and the same for ``val`` and
        ``test``, all uint8.
    """
    arrays: dict[str, NDArray[np.uint8]] = {}
    first = 0
    for split, count in (patients or PATIENTS).items():
        images, labels = _scan(range(first, first + count), plane, seed, slices_per_organ)
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, labels[:, None]
        first += count
    return arrays


def _scan(
    numbers: range, plane: Plane, seed: int, slices_per_organ: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images, labels = [], []
    plane_number = list(_AXES).index(plane)
    for number in numbers:
        patient = make_patient(seed, number)
        rng = np.random.default_rng([seed, number, 1 + plane_number])
        for label, name in enumerate(CLASS_NAMES):
            for depth in range(slices_per_organ):
                low, high = crop_box(
                    patient.organs[name], plane, (depth + 0.5) / slices_per_organ, rng
                )
                images.append(_scan_slice(patient, plane, low, high, rng))
                labels.append(label)
    order = np.argsort(
        np.random.default_rng([seed, numbers.start, 99]).random(len(images)), kind="stable"
    )
    return np.stack(images)[order], np.array(labels, dtype=np.uint8)[order]


def crop_box(
    shapes: tuple[Shape, ...], plane: Plane, depth: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return the two corners of a flat box around an organ, [3] and [3], equal across the slice."""
    low = np.min([np.array(shape.centre) - shape.reach() for shape in shapes], axis=0)
    high = np.max([np.array(shape.centre) + shape.reach() for shape in shapes], axis=0)
    centre, half = (low + high) / 2, (high - low) / 2
    moved, scaled = 0.3 * (2 * rng.random(3) - 1), 0.82 + 0.36 * rng.random(3)
    across = _AXES[plane][0]
    moved[across], scaled[across] = 0, 1  # across the slice the box must not miss the organ
    centre, half = centre + half * moved, half * scaled
    # the middle 70 % of the organ: the real slices also lie around the middle of bounding boxes
    centre[across] += half[across] * 1.4 * (depth - 0.5)
    half[across] = 0
    return centre - half, centre + half


def _scan_slice(
    patient: Patient, plane: Plane, low: Floats, high: Floats, rng: np.random.Generator
) -> NDArray[np.uint8]:
    across, down, along, upside_down = _AXES[plane]
    # two samples a pixel in each direction give soft edges
    steps = (np.arange(2 * SIZE_PIXELS) + 0.5) / (2 * SIZE_PIXELS)
    rows = low[down] + (high[down] - low[down]) * steps
    columns = low[along] + (high[along] - low[along]) * steps
    if upside_down:
        rows = rows[::-1]
    axes: list[Floats] = [np.empty(0)] * 3
    axes[across] = np.full((1, 1), low[across])
    axes[down], axes[along] = rows[:, None], columns[None, :]
    density = density_on_grid(patient, (axes[0], axes[1], axes[2]), low, high)
    pooled = (
        density[0::2, 0::2] + density[1::2, 0::2] + density[0::2, 1::2] + density[1::2, 1::2]
    ) / 4
    draws = rng.random((4, SIZE_PIXELS, SIZE_PIXELS))
    # the sum of four uniform draws has a variance of a third, and is close to a normal deviate
    noisy = pooled + patient.noise * 1.732 * (draws[0] + draws[1] + draws[2] + draws[3] - 2)
    grey = (noisy - WINDOW_HU[0]) / (WINDOW_HU[1] - WINDOW_HU[0]) * 255
    return np.asarray(np.floor(np.clip(grey, 0, 255)).astype(np.uint8))


def density_on_grid(
    patient: Patient, axes: tuple[Floats, Floats, Floats], low: Floats, high: Floats
) -> Floats:
    """Return Hounsfield units at all points of a flat grid, [56, 56]."""
    x, y, z = axes
    rough = _noise(patient.coarse, axes, 24.0)
    grain = _noise(patient.fine, axes, 5.0)
    density = _body(patient, x, y, z, rough)
    near = np.all((patient.highs >= low) & (patient.lows <= high), axis=1)
    for position in np.flatnonzero(near):
        shape = patient.shapes[position]
        distance = _squared_distance(shape, x, y, z)
        edge = 1 + shape.roughness * rough
        inside = distance < edge * edge
        filled = shape.density + shape.texture * grain
        if shape.shell:
            inner = (1 - shape.shell) * edge
            filled = np.where(
                distance < inner * inner, filled, shape.shell_density + shape.texture * grain
            )
        density = np.where(inside, filled, density)
    return density


def _squared_distance(shape: Shape, x: Floats, y: Floats, z: Floats) -> Floats:
    """Return the squared distance from the centre in radii: 1 on the surface."""
    cosine, sine = shape.cosine_and_sine()
    dx, dy, dz = x - shape.centre[0], y - shape.centre[1], z - shape.centre[2]
    u = (cosine * dx + sine * dy) / shape.radii[0]
    v = (cosine * dy - sine * dx) / shape.radii[1]
    w = dz / shape.radii[2]
    u, v, w = u * u, v * v, w * w
    return np.asarray(np.sqrt(u * u + v * v + w * w) if shape.power == 4 else u + v + w)


def _body(patient: Patient, x: Floats, y: Floats, z: Floats, rough: Floats) -> Floats:
    """Return air, skin, fat, the muscle wall with its ribs, and the fat inside."""
    u, v = x / patient.half_width, (y - 10) / patient.half_depth
    u, v = u * u, v * v
    # half an ellipse, half a rounded box; the square root makes it a radius
    radius = np.sqrt(0.5 * (u + v) + 0.5 * np.sqrt(u * u + v * v)) + 0 * z
    wall = 1 - patient.fat_fraction * (1 + 0.3 * rough)
    density = np.where(radius < 1, FAT_HU + 12 * rough, -1000.0)
    density = np.where((radius < 1) & (radius > 0.985), 20.0, density)
    density = np.where(radius < wall, MUSCLE_HU + 15 * rough, density)
    density = np.where(radius < wall - 0.1, FAT_HU + 12 * rough, density)
    # ribs: bands of the wall that fall from the spine to the front, above the navel only
    height = z - patient.rib_phase - 0.45 * y
    band = height / 28.0 + 0.08 * rough
    band = band - np.floor(band)
    rib = (radius < wall - 0.02) & (radius > wall - 0.09) & (band < 0.42) & (z > 285)
    marrow = (radius < wall - 0.035) & (radius > wall - 0.075) & (band > 0.1) & (band < 0.32)
    return np.asarray(np.where(rib, np.where(marrow, MARROW_HU, BONE_HU), density))


def _noise(lattice: Floats, axes: tuple[Floats, Floats, Floats], cell: float) -> Floats:
    """Return smooth, periodic noise in [-1, 1): trilinear between the points of a lattice.

    Args:
        lattice: Random values, [P, P, P].
        axes: Coordinates along x, y, z that broadcast to a flat grid [mm].
        cell: Distance of two lattice points [mm].
    """
    size = len(lattice)
    starts, parts = [], []
    for axis in axes:
        place = axis / cell
        whole = np.floor(place)
        part = place - whole
        starts.append(whole.astype(np.int64))
        parts.append(part * part * (3 - 2 * part))  # smooth at the lattice points
    total: Floats = np.zeros((1, 1))
    for corner in np.ndindex(2, 2, 2):
        index = tuple((start + step) % size for start, step in zip(starts, corner, strict=True))
        weights = [part if step else 1 - part for part, step in zip(parts, corner, strict=True)]
        total = total + weights[0] * weights[1] * weights[2] * lattice[index]
    return total


def _write(plane: Plane, path: Path) -> None:
    write_npz(path, make_phantom(plane))


def _sheet(plane: Plane) -> DataSheet:
    file_name = f"phantom_{plane}.npz"
    write: Callable[[Path], None] = partial(_write, plane)
    return DataSheet(
        name=f"phantom_{plane}",
        title=f"CT phantom, {plane} slices",
        source="physical/datasets/phantom.py (made, not measured)",
        licence="Apache-2.0, as this program",
        citation="none: made by this program; cite the program",
        description=(
            f"Procedural abdominal CT phantom in Hounsfield units: {sum(PATIENTS.values())} made "
            f"patients, 11 organs, {plane} slices near each organ's middle, window "
            f"{WINDOW_HU[0]:.0f} to {WINDOW_HU[1]:.0f} HU, 28 x 28. For tests and offline use."
        ),
        class_names=CLASS_NAMES,
        counts={
            "train": PATIENTS["train"] * len(CLASS_NAMES) * SLICES_PER_ORGAN,
            "validation": PATIENTS["val"] * len(CLASS_NAMES) * SLICES_PER_ORGAN,
            "test": PATIENTS["test"] * len(CLASS_NAMES) * SLICES_PER_ORGAN,
        },
        image_size=(SIZE_PIXELS, SIZE_PIXELS, 1),
        has_left_and_right=True,
        files=(DataFile(file_name, _DIGESTS[plane], _NUM_BYTES),),
        sources=(Generated(file_name, write),),
    )


SHEETS = {f"phantom_{plane}": _sheet(plane) for plane in _AXES}
"""Data sheets by name."""
