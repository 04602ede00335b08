"""Meshes of label maps: trimesh finds the volume and the centre of the voxels, for any orientation."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import trimesh
from test_dicom_seg import LABELS, work  # noqa: F401
from test_image import oblique

from seg_transfer.cli.app import main

LPS = np.array([-1, -1, 1])
TURNED = oblique()
FLIPPED = TURNED @ np.array([[0, -1, 0, 30], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]) @ np.diag([1, -1, 1, 1.0])


@pytest.fixture
def labels() -> np.ndarray:
    """A ball that reaches the edge of the volume, and a box."""
    array = np.zeros((40, 36, 32), np.uint8)
    grid = np.indices(array.shape)
    array[((grid - np.array([14, 16, 12]).reshape(3, 1, 1, 1)) ** 2).sum(0) <= 144] = 1
    array[34:39, 30:36, 20:30] = 7
    return array


@pytest.mark.parametrize("kind", ["stl", "ply"])
@pytest.mark.parametrize("affine", [TURNED, FLIPPED], ids=["oblique", "negated"])
def test_volume_and_centre(tmp_path: Path, work: Path, labels, affine: np.ndarray, kind: str) -> None:  # noqa: F811
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "a.nii.gz")
    arguments = ["mesh", str(tmp_path / "a.nii.gz"), "-o", str(tmp_path / "out"), "--format", kind, "-w", str(work)]
    assert main(arguments) == 0
    voxel = abs(np.linalg.det(affine[:3, :3]))
    assert {path.name for path in (tmp_path / "out/a").iterdir()} == {f"liver.{kind}", f"odd _name_ ü_7.{kind}"}
    for name, value in (("liver", 1), ("odd _name_ ü_7", 7)):
        found = trimesh.load_mesh(tmp_path / f"out/a/{name}.{kind}")
        assert found.is_watertight and found.is_winding_consistent
        voxels = np.argwhere(labels == value)
        centre = (affine[:3, :3] @ voxels.mean(axis=0) + affine[:3, 3]) * LPS
        assert 0.85 < found.volume / (voxel * len(voxels)) < 1  # edges and corners are cut, and normals point outwards
        np.testing.assert_allclose(found.center_mass, centre, atol=0.05)
        corners = np.array([voxels.min(0) - 0.5, voxels.max(0) + 0.5])
        reached = (np.linalg.inv(affine) @ np.column_stack([found.vertices * LPS, np.ones(len(found.vertices))]).T)[:3]
        np.testing.assert_allclose([reached.min(1), reached.max(1)], corners, atol=1e-3)
    assert b"SPACE=LPS" in (tmp_path / f"out/a/liver.{kind}").read_bytes()[:200]


def test_what_has_no_surface_is_refused(tmp_path: Path, work: Path, labels: np.ndarray, capsys) -> None:  # noqa: F811
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(labels, TURNED), tmp_path / "in/whole.nii.gz")
    nib.save(nib.Nifti1Image(labels[..., :1], TURNED), tmp_path / "in/flat.nii.gz")
    nib.save(nib.Nifti1Image(labels + 1, TURNED), tmp_path / "in/strange.nii.gz")
    assert main(["mesh", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-w", str(work)]) == 3
    said = capsys.readouterr().err
    assert "one slice, and so no surface" in said and "values that the model does not know" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]
    assert LABELS["absent"] == 9 and not (tmp_path / "out/whole/absent.stl").exists()
