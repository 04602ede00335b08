"""Surfaces of label maps as triangles, by marching cubes of scikit-image, in STL and PLY."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seg_transfer.util.files import whole_file

SPACE = "SPACE=LPS"
"""In the header of a file: its coordinates, as 3D Slicer reads and writes them."""


def surface(mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The surface half-way between the voxels of a mask and others; closed, also at the edges of the volume.

    Args:
        mask: ``(i, j, k)`` with some voxel.
        affine: Voxel -> world (RAS+).

    Returns:
        Vertices ``(vertex, 3)`` in LPS+, in the affine's unit; triangles ``(triangle, 3)`` of vertices,
        counter-clockwise as seen from outside.
    """
    from skimage.measure import marching_cubes

    box = [np.flatnonzero(mask.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    start = np.array([found[0] for found in box])
    part = mask[tuple(slice(found[0], found[-1] + 1) for found in box)]
    vertices, faces, _, _ = marching_cubes(np.pad(part, 1).astype(np.float32), 0.5, allow_degenerate=False)
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    points = (vertices.astype(np.float64) + start - 1) @ to_lps[:3, :3].T + to_lps[:3, 3]
    corners = points[faces]
    if np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() < 0:  # six times the volume
        faces = faces[:, ::-1]
    return points, faces


def save_mesh(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    """Write a surface of :func:`surface` as binary ``.stl`` or ``.ply``, by the ending."""
    with whole_file(path, needed=50 * len(faces) + 12 * len(vertices)) as temporary:
        temporary.write_bytes(_stl(vertices, faces) if path.suffix == ".stl" else _ply(vertices, faces))


def _stl(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    corners = vertices[faces].astype("<f4")
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    rows = np.zeros(len(faces), np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")]))
    rows["normal"] = normals / np.where(lengths > 0, lengths, 1)
    rows["corners"] = corners
    return f"segtl {SPACE}".encode().ljust(80) + np.uint32(len(faces)).astype("<u4").tobytes() + rows.tobytes()


def _ply(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    head = (
        f"ply\nformat binary_little_endian 1.0\ncomment {SPACE}\nelement vertex {len(vertices)}\nproperty float x\n"
        f"property float y\nproperty float z\nelement face {len(faces)}\n"
        "property list uchar int vertex_indices\nend_header\n"
    )
    rows = np.zeros(len(faces), np.dtype([("count", "u1"), ("corners", "<i4", 3)]))
    rows["count"], rows["corners"] = 3, faces
    return head.encode() + vertices.astype("<f4").tobytes() + rows.tobytes()
