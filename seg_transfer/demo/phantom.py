"""A synthetic abdomen, whose organs differ in position, shape and texture but not in intensity.

All functions take world coordinates in mm (x to the right, y to the front, z up; the origin in the middle of the body),
so that one abdomen can be sampled on any grid. Liver, spleen and kidneys overlap in intensity with each other and with
stomach, bowel, spine and muscle. Each is surrounded by dark fat, as in fat-suppressed MR.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LABELS = {"liver": 1, "spleen": 2, "kidneys": 3}

FAT, MUSCLE, RIM = 0.22, 0.45, 0.85
NOISE = 0.07
BIAS = 0.3
PARTIAL_VOLUME_MM = 5.0

Vector = tuple[float, float, float]


@dataclass
class _Canvas:
    """Intensity and labels at every point, painted structure by structure.

    Args:
        points: ``(3, ...)`` in mm, after the deformation of the body.
        intensity: ``(...)``, about 0.6 in organs.
        labels: ``(...)``, values of :data:`LABELS`.
    """

    points: np.ndarray
    intensity: np.ndarray
    labels: np.ndarray

    def paint(self, distance: np.ndarray, intensity: float | np.ndarray, value: int = 0) -> None:
        """Paint where ``distance`` is negative, with a partial volume effect on the intensity but not on the labels."""
        share = np.clip(0.5 - distance / PARTIAL_VOLUME_MM, 0, 1)
        self.intensity += share * (intensity - self.intensity)
        self.labels[distance < 0] = value

    def ellipsoid(self, centre: Vector, radii: Vector, tilt: float = 0.0) -> np.ndarray:
        """Approximate signed distance in mm to an ellipsoid, tilted about the z axis by ``tilt`` degrees."""
        x, y, z = self.points - np.reshape(centre, (3,) + (1,) * (self.points.ndim - 1))
        cosine, sine = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
        scaled = ((cosine * x + sine * y) / radii[0], (cosine * y - sine * x) / radii[1], z / radii[2])
        return (np.sqrt(sum(part**2 for part in scaled)) - 1) * min(radii)


def sample_abdomen(points: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a random abdomen at given points.

    Args:
        points: World coordinates ``(3, ...)`` in mm.
        random: Random generator of shapes, positions and intensities.

    Returns:
        Intensities ``(...)`` float32, positive, on a random scale; labels ``(...)``.
    """
    warped = points + np.stack([_waves(points, random, length=150, size=4) for _ in range(3)])
    shape = points.shape[1:]
    canvas = _Canvas(warped, np.zeros(shape), np.zeros(shape, np.uint8))
    _paint_body(canvas, random)
    _paint_distractors(canvas, random)
    _paint_organs(canvas, random)
    x, y, z = (points[axis] / scale for axis, scale in enumerate((150, 100, 70)))
    slope = random.normal(size=4) * BIAS / 2
    bias = np.exp(slope[0] * x + slope[1] * y + slope[2] * z + slope[3] * (x * x + y * y - 1))
    noisy = canvas.intensity * bias + random.normal(size=shape) * NOISE
    # Magnitude images have Rician noise, with an imaginary component that keeps air above zero.
    magnitude = np.hypot(noisy, random.normal(size=shape) * NOISE)
    return (magnitude * 10 ** random.uniform(2.3, 3.3)).astype(np.float32), canvas.labels


def _paint_body(canvas: _Canvas, random: np.random.Generator) -> None:
    girth = random.uniform(0.94, 1.04)
    rim = random.uniform(8, 16)
    for inset, intensity in ((0.0, RIM), (rim, MUSCLE), (rim + 11, FAT)):
        canvas.paint(canvas.ellipsoid((0, 0, 0), (148 * girth - inset, 106 * girth - inset, 2000)), intensity)


def _paint_distractors(canvas: _Canvas, random: np.random.Generator) -> None:
    """Paint spine, vessel, stomach and bowel, which are not labelled but have the organs' intensity."""
    jitter = random.normal(size=(3, 3)) * 4
    canvas.paint(canvas.ellipsoid((jitter[0, 0], -62, 0), (21, 19, 2000)), random.uniform(0.45, 0.65))
    canvas.paint(canvas.ellipsoid((-4, -34 + jitter[0, 1], 0), (9, 9, 2000)), random.uniform(0.6, 0.8))
    stomach = canvas.ellipsoid((-42 + jitter[1, 0], 38 + jitter[1, 1], 34), (44, 26, 32), tilt=random.uniform(-25, 5))
    canvas.paint(stomach, random.uniform(0.5, 0.7))
    for _ in range(9):
        centre = (random.uniform(-85, 85), random.uniform(-5, 62), random.uniform(-75, -25))
        radii = (random.uniform(14, 24), random.uniform(11, 18), random.uniform(14, 26))
        canvas.paint(canvas.ellipsoid(centre, radii, tilt=random.uniform(0, 180)), random.uniform(0.45, 0.75))


def _paint_organs(canvas: _Canvas, random: np.random.Generator) -> None:
    def centre(x: float, y: float, z: float) -> Vector:
        dx, dy, dz = random.normal(size=3) * (4, 4, 6)
        return (x + dx, y + dy, z + dz)

    def radii(*sizes: float) -> Vector:
        x, y, z = np.array(sizes) * random.uniform(0.9, 1.1, size=3)
        return (x, y, z)

    liver = np.minimum(
        canvas.ellipsoid(centre(68, 4, 26), radii(50, 66, 50), tilt=random.uniform(-10, 10)),
        canvas.ellipsoid(centre(18, 36, 34), radii(56, 30, 30), tilt=random.uniform(-5, 20)),
    )
    vessels = _waves(canvas.points, random, length=45, size=0.12)
    canvas.paint(liver, random.uniform(0.54, 0.62) + np.clip(vessels, 0, None), LABELS["liver"])

    outer = canvas.ellipsoid(centre(-94, -26, 30), radii(32, 48, 42), tilt=random.uniform(-25, -5))
    hilum = canvas.ellipsoid(centre(-56, -8, 30), radii(24, 34, 40))
    canvas.paint(np.maximum(outer, -hilum), random.uniform(0.56, 0.64), LABELS["spleen"])

    for side in (-1, 1):
        x, y, z = centre(side * 62, -54, -24)
        size = radii(27, 30, 48)
        kidney = canvas.ellipsoid((x, y, z), size, tilt=side * random.uniform(15, 45))
        pelvis = canvas.ellipsoid((x - side * 20, y + 6, z), (15, 12, 17))
        medulla = 0.12 * np.clip(-kidney / 8 - 0.5, 0, 1)
        canvas.paint(np.maximum(kidney, -pelvis), random.uniform(0.6, 0.68) - medulla, LABELS["kidneys"])


def _waves(points: np.ndarray, random: np.random.Generator, *, length: float, size: float) -> np.ndarray:
    """A smooth random field: a few plane waves of about the given wavelength (mm) and amplitude."""
    count = 4
    directions = random.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    turns = 2 * np.pi / (length * random.uniform(0.7, 1.4, size=count))
    phases = random.uniform(0, 2 * np.pi, size=count)
    angles = np.tensordot(directions * turns[:, None], points, axes=1)
    return size * np.sin(angles + phases.reshape((count,) + (1,) * (points.ndim - 1))).sum(axis=0) / np.sqrt(count / 2)
