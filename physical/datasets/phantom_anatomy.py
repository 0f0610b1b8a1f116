"""Anatomy of the phantom's synthetic patients: position, size and density of every organ.

A patient is a list of solid shapes in painting order; a later one covers an earlier one.
Coordinates are in millimetres: x from the patient's right (negative) to left (positive), y from
front (negative) to back, z from the pelvis upwards. Densities are Hounsfield units [HU].

Only sums, products and quotients are used, because every processor rounds them in the same way.
Sine, exponential and normal deviates would change the phantom's digest between machines.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASS_NAMES = (
    "bladder",
    "femur-left",
    "femur-right",
    "heart",
    "kidney-left",
    "kidney-right",
    "liver",
    "lung-left",
    "lung-right",
    "pancreas",
    "spleen",
)
"""The organs, in the order of OrganMNIST's labels."""

FAT_HU, MUSCLE_HU, BONE_HU, MARROW_HU, GAS_HU, LUNG_HU = -100.0, 55.0, 650.0, 240.0, -900.0, -830.0
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Shape:
    """One solid: a superellipsoid with a rough surface and a texture.

    Args:
        centre: Its middle [mm].
        radii: Half of its length along x, y and z before turning [mm].
        density: Mean density inside [HU].
        turn: Tangent of half the angle by which it is turned about the z axis; 0 does not turn it.
        power: 2 is an ellipsoid, 4 a box with round edges.
        roughness: How far the surface wanders, as a fraction of the radius.
        texture: How far the density wanders inside [HU].
        shell: Thickness of a denser shell as a fraction of the radius; 0 is none.
        shell_density: Density of that shell [HU].
    """

    centre: Point
    radii: Point
    density: float
    turn: float = 0.0
    power: int = 2
    roughness: float = 0.06
    texture: float = 12.0
    shell: float = 0.0
    shell_density: float = BONE_HU

    def cosine_and_sine(self) -> tuple[float, float]:
        """Return cosine and sine of the turn without a transcendental function."""
        square = self.turn * self.turn
        return (1 - square) / (1 + square), 2 * self.turn / (1 + square)

    def reach(self) -> NDArray[np.float64]:
        """Return half of the sides of the box that holds the turned shape, [3], [mm]."""
        cosine, sine = (abs(part) for part in self.cosine_and_sine())
        x, y, z = self.radii
        return np.array([cosine * x + sine * y, sine * x + cosine * y, z]) * (1 + self.roughness)


@dataclass(frozen=True)
class Patient:
    """One synthetic patient.

    Args:
        shapes: What is inside, in painting order.
        organs: Class name -> the shapes that make the organ's box.
        half_width: Half of the body's width [mm].
        half_depth: Half of the body's depth [mm].
        fat_fraction: Thickness of the fat under the skin as a fraction of the body's half width.
        rib_phase: Height of the first rib [mm].
        noise: Standard deviation of one pixel of the scan [HU].
        coarse: Random lattice of [-1, 1) from which surfaces get their roughness.
        fine: Random lattice of [-1, 1) from which organs get their texture.
        lows: Lower corners of the shapes' boxes, [S, 3] [mm].
        highs: Upper corners.
    """

    shapes: tuple[Shape, ...]
    organs: dict[str, tuple[Shape, ...]]
    half_width: float
    half_depth: float
    fat_fraction: float
    rib_phase: float
    noise: float
    coarse: NDArray[np.float64]
    fine: NDArray[np.float64]
    lows: NDArray[np.float64]
    highs: NDArray[np.float64]


class _RandomDraws:
    """Random draws that all use ``Generator.random``, which is the same in every NumPy version."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.rng.random())

    def about(self, centre: float, spread: float) -> float:
        """Return a value within ``spread`` of the centre, from a triangular distribution."""
        return centre + spread * (float(self.rng.random()) + float(self.rng.random()) - 1)

    def lattice(self, points: int) -> NDArray[np.float64]:
        return np.asarray(2 * self.rng.random((points, points, points)) - 1)


class _Builder:
    """Adds shapes to one patient: nominal anatomy, randomly moved and scaled."""

    def __init__(self, draws: _RandomDraws) -> None:
        self.draws = draws
        self.scale = np.array([draws.about(1, 0.14), draws.about(1, 0.14), draws.about(1, 0.12)])
        self.shapes: list[Shape] = []
        self.organs: dict[str, tuple[Shape, ...]] = {}

    def place(
        self,
        centre: Point,
        radii: Point,
        density: float,
        *,
        wander: float = 6.0,
        vary: float = 0.18,
        **surface: Any,
    ) -> Shape:
        """Add a shape near a nominal place: ``wander`` in millimetres, ``vary`` in radii."""
        draws = self.draws
        moved = [
            draws.about(value * scale, wander)
            for value, scale in zip(centre, self.scale, strict=True)
        ]
        sized = [
            value * scale * draws.about(1, vary)
            for value, scale in zip(radii, self.scale, strict=True)
        ]
        return self.add(Shape(_point(moved), _point(sized), draws.about(density, 8), **surface))

    def inside(
        self, host: Shape, offset: Point, fraction: Point, density: float, **surface: Any
    ) -> Shape:
        """Add a shape whose offset and size are fractions of the host's radii."""
        centre = [c + o * r for c, o, r in zip(host.centre, offset, host.radii, strict=True)]
        radii = [f * r for f, r in zip(fraction, host.radii, strict=True)]
        surface = {"turn": host.turn, **surface}
        return self.add(Shape(_point(centre), _point(radii), density, **surface))

    def add(self, shape: Shape) -> Shape:
        self.shapes.append(shape)
        return shape


def make_patient(seed: int, number: int) -> Patient:
    """Return a patient; the same seed and number give the same one, bit for bit.

    Args:
        seed: Seed of the whole phantom.
        number: Which patient, from 0.
    """
    draws = _RandomDraws(np.random.default_rng([seed, number]))
    builder = _Builder(draws)
    enhancement = draws.between(0.25, 1.0)  # amount of contrast agent: 0 is a native scan
    _pelvis(builder)
    _spine(builder)
    _bowel(builder)
    _vessels_and_muscles(builder, enhancement)
    _chest(builder, enhancement)
    _upper_abdomen(builder, enhancement)
    centres = np.array([shape.centre for shape in builder.shapes])
    reaches = np.array([shape.reach() for shape in builder.shapes])
    return Patient(
        shapes=tuple(builder.shapes),
        organs=builder.organs,
        half_width=float(165 * builder.scale[0] * draws.about(1.0, 0.08)),
        half_depth=float(118 * builder.scale[1] * draws.about(1.0, 0.08)),
        fat_fraction=draws.between(0.05, 0.16),
        rib_phase=draws.between(0, 32),
        noise=draws.between(12, 36),
        coarse=draws.lattice(32),
        fine=draws.lattice(64),
        lows=centres - reaches,
        highs=centres + reaches,
    )


def _pelvis(builder: _Builder) -> None:
    """Add femurs, hip bones, sacrum, bladder, rectum."""
    draws = builder.draws
    for side, name in ((1, "femur-left"), (-1, "femur-right")):
        builder.place((side * 98, -8, 20), (34, 40, 60), MUSCLE_HU, roughness=0.15)  # thigh
        # buttock
        builder.place((side * 92, 62, 30), (42, 34, 60), MUSCLE_HU, roughness=0.12, texture=25)
        # hip socket
        builder.place((side * 66, 6, 56), (13, 30, 26), MARROW_HU, shell=0.25, texture=50)
        # iliac wing
        builder.place(
            (side * 76, 30, 128), (30, 9, 52), MARROW_HU, turn=side * 0.35, shell=0.3, texture=60
        )
        # pubic bone
        builder.place(
            (side * 34, -42, 38), (30, 8, 10), MARROW_HU, turn=side * 0.15, shell=0.3, texture=60
        )
        head = builder.place(
            (side * 88, 4, 50),
            (24, 24, 23),
            draws.between(160, 330),
            wander=4,
            shell=0.13,
            roughness=0.03,
            texture=70,
        )
        builder.add(
            Shape(
                (head.centre[0] + side * 20, head.centre[1] + 8, head.centre[2] - 42),
                (17, 16, 52),
                draws.about(160, 60),
                shell=0.35,
                roughness=0.03,
                texture=50,
            )
        )
        # femoral vessels
        builder.inside(head, (-side * 0.1, -2.0, 0), (0.25, 0.25, 2.0), draws.between(60, 190))
        builder.organs[name] = (replace(head, roughness=0.3),)  # the head and what is close to it
    builder.place((0, 78, 88), (42, 12, 42), MARROW_HU, shell=0.25, texture=60)  # sacrum
    bladder = builder.place(
        (0, -22, 72),
        (40, 32, 30),
        8,
        vary=0.4,
        roughness=0.14,
        texture=4,
        shell=0.08,
        shell_density=30,
    )
    builder.organs["bladder"] = (bladder,)
    rectum = builder.place((0, 42, 66), (20, 18, 34), 40, roughness=0.12)
    if draws.between(0, 1) < 0.5:
        builder.inside(rectum, (0, -0.2, 0), (0.6, 0.5, 0.7), GAS_HU)


def _spine(builder: _Builder) -> None:
    """Add vertebrae with arches and discs between them, and the spinal canal."""
    for level in range(13):
        height = 112 + 32 * level
        builder.place(
            (0, 56, height),
            (23, 17, 13),
            MARROW_HU,
            wander=1.5,
            vary=0.06,
            power=4,
            shell=0.16,
            texture=60,
        )
        builder.place((0, 56, height + 16), (22, 16, 4.5), 80, wander=1.5, vary=0.06)
        builder.place((0, 88, height), (36, 6, 8), MARROW_HU, wander=2, shell=0.35, texture=60)
        builder.place((0, 102, height), (5, 18, 8), MARROW_HU, wander=2, shell=0.35, texture=60)
    builder.place((0, 80, 310), (9, 8, 230), 30, wander=1, vary=0.05, power=4)


def _bowel(builder: _Builder) -> None:
    """Add bowel loops at random: muscle-like, filled with fluid, contrast agent or gas."""
    draws = builder.draws
    for _ in range(46):
        place = (draws.between(-100, 100), draws.between(-82, 30), draws.between(78, 310))
        size = draws.between(10, 22)
        radii = (size * draws.between(0.8, 2), size, size * draws.between(0.8, 2))
        loop = builder.add(
            Shape(place, radii, 45, turn=draws.between(-0.8, 0.8), roughness=0.15, texture=20)
        )
        filling = draws.between(0, 1)
        if filling < 0.7:
            density = (
                GAS_HU
                if filling < 0.2
                else draws.between(0, 30)
                if filling < 0.5
                else draws.between(100, 320)
            )
            builder.inside(loop, (0, 0, 0), (0.72, 0.72, 0.72), density, texture=15)


def _vessels_and_muscles(builder: _Builder, enhancement: float) -> None:
    """Add psoas and back muscles, aorta and vena cava."""
    for side in (1, -1):
        builder.place((side * 42, 52, 175), (19, 20, 85), MUSCLE_HU, turn=side * 0.1)  # psoas
        # along the back
        builder.place((side * 42, 98, 270), (32, 18, 190), MUSCLE_HU, texture=30, roughness=0.1)
        builder.place((side * 80, 80, 190), (30, 14, 70), MUSCLE_HU, turn=-side * 0.2, texture=25)
    # aorta
    builder.place(
        (10, 26, 320), (11, 11, 200), 45 + 190 * enhancement, wander=3, roughness=0.03, texture=4
    )
    # vena cava
    builder.place((-20, 24, 260), (13, 10, 150), 45 + 110 * enhancement, wander=3, texture=4)


def _chest(builder: _Builder, enhancement: float) -> None:
    """Add the lungs with their vessels, then the heart between them."""
    draws = builder.draws
    for side, name, width in ((1, "lung-left", 56), (-1, "lung-right", 64)):
        lung = builder.place(
            (side * 78, 6, 452), (width, 84, 108), LUNG_HU, texture=18, roughness=0.05, power=2
        )
        builder.organs[name] = (lung,)
        for _ in range(70):
            spot = (draws.about(-side * 0.2, 0.75), draws.about(0.1, 0.75), draws.about(0, 0.8))
            size = (draws.between(0.04, 0.11), draws.between(0.03, 0.09), draws.between(0.03, 0.09))
            builder.inside(
                lung, spot, size, draws.between(-100, 120), turn=draws.between(-0.9, 0.9), texture=0
            )
    builder.place((0, -5, 470), (26, 34, 80), 40, roughness=0.15, texture=40)  # between the lungs
    heart = builder.place(
        (22, -26, 415),
        (56, 46, 52),
        70 + 40 * enhancement,
        wander=8,
        turn=draws.between(-0.45, -0.15),
        roughness=0.05,
    )
    blood = 45 + 190 * enhancement
    builder.inside(heart, (0.38, 0.12, -0.05), (0.42, 0.66, 0.7), blood)
    builder.inside(heart, (-0.42, -0.1, -0.05), (0.42, 0.7, 0.72), blood - 30 * draws.between(0, 1))
    builder.inside(heart, (-0.05, 0.7, 0.5), (0.5, 0.28, 0.35), blood)
    builder.organs["heart"] = (heart,)
    # aorta in the chest
    builder.place((10, 30, 460), (11, 11, 75), blood, wander=3, roughness=0.03, texture=4)


def _upper_abdomen(builder: _Builder, enhancement: float) -> None:
    """Add liver, spleen, stomach, kidneys, pancreas; each covers the ones painted before it."""
    draws = builder.draws
    liver_density = 58 + 60 * enhancement
    right = builder.place(
        (-66, -2, 318), (74, 82, 76), liver_density, wander=9, roughness=0.1, texture=9
    )
    left = builder.place(
        (0, -52, 338), (70, 32, 42), liver_density, wander=9, roughness=0.12, texture=9
    )
    for _ in range(9):
        spot = (draws.about(0.1, 0.6), draws.about(0, 0.6), draws.about(0, 0.6))
        builder.inside(
            right,
            spot,
            (draws.between(0.06, 0.3), 0.045, draws.between(0.05, 0.2)),
            liver_density + 45 * enhancement,
        )
    builder.inside(right, (0.35, -0.55, -0.55), (0.22, 0.25, 0.3), 12, texture=4)  # gall bladder
    builder.organs["liver"] = (right, left)
    spleen = builder.place(
        (100, 36, 328),
        (32, 50, 54),
        55 + 80 * enhancement,
        wander=14,
        vary=0.35,
        turn=draws.between(0.1, 0.4),
        roughness=0.12,
        texture=7,
    )
    builder.organs["spleen"] = (spleen,)
    stomach = builder.place((62, -18, 335), (42, 44, 48), 50, wander=9, vary=0.25, roughness=0.08)
    builder.inside(stomach, (0, 0, 0), (0.86, 0.86, 0.86), draws.between(0, 90), texture=25)
    if draws.between(0, 1) < 0.6:
        builder.inside(stomach, (0, -0.45, 0), (0.6, 0.36, 0.6), GAS_HU)
    _kidneys(builder, enhancement)
    tone = 42 + 65 * enhancement
    slope = draws.between(-0.3, 0.02)
    body = builder.place(
        (14, -8, 288),
        (52, 14, 16),
        tone,
        wander=6,
        vary=0.25,
        turn=slope,
        roughness=0.28,
        texture=30,
    )
    head = builder.inside(
        body, (-0.8, 0.5, -0.6), (0.42, 1.3, 1.3), tone, roughness=0.28, texture=30
    )
    # splenic vein
    builder.inside(
        body, (0.0, 1.2, -0.2), (0.8, 0.34, 0.3), tone + 70 * enhancement, roughness=0.15
    )
    builder.organs["pancreas"] = (body, head)


def _kidneys(builder: _Builder, enhancement: float) -> None:
    """Add kidneys: bright cortex, darker middle, fat where the vessels enter near the spine."""
    draws = builder.draws
    for side, name, height in ((1, "kidney-left", 262), (-1, "kidney-right", 246)):
        builder.place((side * 70, 46, height), (34, 32, 62), FAT_HU, wander=10, vary=0.25)
        cortex = 35 + 190 * enhancement
        kidney = builder.place(
            (side * 68, 46, height),
            (28, 26, 54),
            cortex,
            wander=10,
            vary=0.28,
            turn=side * draws.between(0.1, 0.35),
            roughness=0.05,
        )
        builder.inside(
            kidney,
            (-side * 0.1, 0, 0),
            (0.66, 0.66, 0.74),
            cortex - 70 * enhancement,
            roughness=0.2,
            texture=45,
        )
        builder.inside(
            kidney,
            (-side * 0.62, -0.1, 0),
            (0.6, 0.3, 0.42),
            FAT_HU + 60,
            texture=70,
            roughness=0.2,
        )
        if draws.between(0, 1) < 0.15:
            # cyst
            builder.inside(
                kidney, (side * 0.5, 0.3, draws.between(-0.5, 0.5)), (0.7, 0.7, 0.5), 6, texture=3
            )
        builder.organs[name] = (kidney,)


def _point(values: list[float]) -> Point:
    return float(values[0]), float(values[1]), float(values[2])
