"""Images that are predicted in blocks: their labels are those of the whole image."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from made_plans import data_plan, model_plan, plan
from scipy import ndimage

from seg_transfer.data.chunked_image import ChunkedImage, boxes
from seg_transfer.data.dataset import Case
from seg_transfer.data.formats import ome_zarr_writer, read_array, write_volume
from seg_transfer.data.formats.ome_zarr_writer import NativeArray
from seg_transfer.data.geometry import Grid
from seg_transfer.data.image import read_image
from seg_transfer.errors import UserError
from seg_transfer.inference import blocks, largest_of_chunks
from seg_transfer.inference.ensemble import Ensemble
from seg_transfer.inference.one_case import CaseSteps
from seg_transfer.inference.outputs import Outputs
from seg_transfer.inference.postprocess import postprocess
from seg_transfer.inference.predictor import Predictor
from seg_transfer.network.build import build_network
from seg_transfer.planning.data_plan import Channel, DataPlan, Normalization
from seg_transfer.planning.model_file import NOTHING, Postprocessing
from seg_transfer.planning.plan import ModelPlan, Plan
from seg_transfer.planning.training_images import ChannelSpread, Spread, TrainingImages
from seg_transfer.planning.unlike_training import measure_image
from seg_transfer.preprocessing import chunked_case
from seg_transfer.preprocessing.chunked_case import ChunkedCase
from seg_transfer.preprocessing.extent import Extent

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE, SPACING = (22, 30, 14), (1.3, 1.0, 2.0)
PATCHES = {"2d": (1, 16, 16), "2.5d": (3, 16, 16), "3d": (8, 16, 16)}


def made_image(folder: Path, *, channels: int = 1, kind: type = np.int16) -> tuple[Path, np.ndarray]:
    """A smooth image with a border of zeros."""
    noise = np.random.default_rng(0).normal(size=(channels, *SHAPE))
    array = 400 * ndimage.gaussian_filter(noise, (0, 2, 2, 2)) + 100
    array[:, :3], array[:, :, -4:], array[..., 0] = 0, 0, 0
    path, affine = folder / "case.ome.zarr", np.diag([*SPACING, 1.0])
    write_volume(path, array.astype(kind), Grid(SHAPE, affine))
    return path, array.astype(kind)


def whole_plan(data: DataPlan, model: ModelPlan) -> Plan:
    """A plan whose training images had the size of the made one, so that its positions hold."""
    figures = (Spread(mean=0, std=1, lowest=0, highest=0),) * 5
    log = [math.log(size * step) for size, step in zip(SHAPE, SPACING, strict=True)]
    training = TrainingImages(
        cases=3,
        degrees=3,
        channels=(ChannelSpread(scale=1.0, figures=figures),) * len(data.channels),
        spacing=tuple(Spread(mean=math.log(step), std=0.1, lowest=0, highest=1) for step in SPACING),
        size=tuple(Spread(mean=each, std=0.1, lowest=each, highest=each) for each in log),
        orientations=("RAS",),
    )
    return plan(data, model).model_copy(update={"training_images": training})


def predictor_of(made: Plan, seed: int = 1) -> Predictor:
    channels, classes = len(made.data.channels), len(made.data.outputs)
    network, _ = build_network(made.model, channels=channels, classes=classes, seed=seed, pretrained_stages=0)
    return Predictor(made, [network.eval()], torch.device("cpu"))


def in_blocks(predictor: Predictor, case: ChunkedCase, chunks: tuple[int, int, int]) -> tuple[np.ndarray, int]:
    """The label map, and the number of blocks."""
    found = np.full(case.image.native.shape, 99, np.uint8)
    made = blocks.blocks_of(predictor, case, chunks)
    for box in made:
        assert (found[box] == 99).all(), "blocks do not overlap"
        found[box] = blocks.predict_block(predictor, case, box)
    return found, len(made)


OWN = {"spacing": (2.0, 1.3, 1.0), "slice_order": 0}
"""The grid of the made image: nothing is resampled."""
CROPPED = {"spacing": (1.1, 2.4, 2.0), "crop_nonzero": True, "axes": (1, 2, 0), "slice_order": 3}


@pytest.mark.parametrize(
    ("configuration", "data", "channels"),
    [("2d", CROPPED, 1), ("2.5d", {"spacing": (3.0, 1.0, 1.0)}, 1), ("3d", OWN, 1), ("3d", CROPPED, 2)],
)
def test_labels_are_those_of_the_whole_image(
    configuration: str, data: dict, channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = made_image(tmp_path, channels=channels)
    rule = Normalization(kind="zscore", mask="crop_nonzero" in data)
    planned = data_plan(channels=tuple(Channel(name=f"c{n}", normalization=rule) for n in range(channels)), **data)
    made = whole_plan(planned, model_plan(configuration, PATCHES[configuration], position=True))
    predictor = Ensemble([predictor_of(made), predictor_of(made, seed=2)]) if data is OWN else predictor_of(made)
    transform, array = predictor.prepare(read_image([path]))
    expected = predictor.labels(transform, array)
    assert len(np.unique(expected)) > 1, "there is something to compare"
    case = ChunkedCase(ChunkedImage([path]), planned)
    assert case.transform.model_copy(update={"scalings": ()}) == transform.model_copy(update={"scalings": ()})
    s, u, v = (slice(size // 3, size) for size in transform.shape)
    np.testing.assert_allclose(case.part((s, u, v)), array[:, s, u, v], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        np.ravel(list(dict(case.extent).values())), np.ravel(list(dict(Extent.of(array)).values())), rtol=1e-4
    )
    monkeypatch.setattr(chunked_case, "PIECE_VOXELS", 1000)
    np.testing.assert_allclose(case.part((s, u, v)), array[:, s, u, v], rtol=1e-4, atol=1e-5)
    for share, chunks, count in ((0.5, (8, 8, 8), 1), (0, (8, 16, 8), 3 * 2 * 2)):
        monkeypatch.setattr(blocks, "BLOCK_SHARE", share)
        found, made_blocks = in_blocks(predictor, case, chunks)
        assert made_blocks == count
        assert (found != expected).mean() < 1e-3


def test_an_image_without_memory_for_one_block_is_refused(tmp_path: Path) -> None:
    path, _ = made_image(tmp_path)
    predictor = predictor_of(plan(data_plan(), model_plan("2d", PATCHES["2d"])))
    predictor.memory = 2**16
    case = ChunkedCase(ChunkedImage([path]), predictor.data)
    with pytest.raises(UserError, match=r"a block of 8 x 8 x 8 voxels needs .*; 65\.5 KB are allowed"):
        blocks.blocks_of(predictor, case, (8, 8, 8))


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_an_image_is_measured_as_it_would_be_as_a_whole(kind: type, tmp_path: Path) -> None:
    path, _ = made_image(tmp_path, channels=2, kind=kind)
    rule = Normalization(kind="zscore", mask=True)
    planned = data_plan(channels=tuple(Channel(name=name, normalization=rule) for name in "ab"), crop_nonzero=True)
    case, whole = ChunkedCase(ChunkedImage([path]), planned), read_image([path])
    expected = measure_image(whole)
    for found, wanted in zip(case.measures.channels, expected.channels, strict=True):
        np.testing.assert_allclose(list(vars(found).values()), list(vars(wanted).values()), rtol=1e-6)
    assert (case.measures.shape, case.measures.orientation) == (expected.shape, expected.orientation)


def test_values_that_are_not_finite_are_filled_or_refused(tmp_path: Path) -> None:
    path, array = made_image(tmp_path, kind=np.float32)
    array[0, 5, 5, 5] = np.nan
    write_volume(path, array, Grid(SHAPE, np.diag([*SPACING, 1.0])))
    with pytest.raises(UserError, match="not finite"):
        ChunkedCase(ChunkedImage([path]), data_plan())
    filling = data_plan(fill_nan=True)
    case = ChunkedCase(ChunkedImage([path]), filling)
    x = slice(5, 6)
    assert case.image.read((x, x, x)).item() == np.nanmin(array)
    predictor = predictor_of(plan(filling, model_plan("2d", PATCHES["2d"])))
    transform, _ = predictor.prepare(read_image([path]))
    assert case.transform.scalings[0].shift == pytest.approx(transform.scalings[0].shift, rel=1e-6)


@pytest.mark.parametrize("shape", [(22, 30, 14), (1, 9, 200)])
def test_boxes_cover_a_volume_once_and_end_between_chunks(shape: tuple[int, int, int]) -> None:
    covered = np.zeros(shape, int)
    for box in boxes(shape, (4, 8, 3), lambda size: math.prod(size) <= 500):
        covered[box] += 1
        assert math.prod(part.stop - part.start for part in box) <= 500
        assert all(part.start % chunk == 0 for part, chunk in zip(box, (4, 8, 3), strict=True))
    assert (covered == 1).all()
    assert len(boxes(shape, (4, 8, 3), lambda _: True)) == 1


@pytest.mark.parametrize("shape", [(20, 18, 12), (40, 30, 1)])
@pytest.mark.parametrize(
    "chosen", [Postprocessing(foreground=True, labels=(2,)), Postprocessing(labels=(1, 2)), NOTHING]
)
def test_the_largest_component_of_chunks_is_that_of_the_whole(
    shape: tuple[int, int, int], chosen: Postprocessing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CHUNK", "SMALLEST"):
        monkeypatch.setattr(ome_zarr_writer, name, 8)
    monkeypatch.setattr(largest_of_chunks, "VOXELS", 600)
    grid = Grid(shape, np.eye(4), flat=shape[2] == 1)
    for seed in range(2):
        noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), (1.2, 1.2, 0.6))
        values = np.digitize(noise, np.quantile(noise, [0.8, 0.9])).astype(np.uint8)
        folder = tmp_path / str(seed)
        array = NativeArray(ome_zarr_writer.created(folder, grid, values.dtype), flat=grid.flat)
        whole = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
        array[whole] = values
        largest_of_chunks.keep_largest_of_chunks(array, grid, chosen, beside=folder)
        expected = postprocess(values.copy(), chosen)
        np.testing.assert_array_equal(array[whole], expected)
        assert (expected != values).any() == (chosen != NOTHING)
        assert [each.name for each in folder.iterdir()] == ["0"]


def test_a_2d_image_in_colours_is_written_chunk_by_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(60, 70, 3)), (3, 3, 0))
    group = zarr.open_group(tmp_path / "in.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=(1000 * noise).astype(np.int16), chunks=(32, 32, 3))
    transform = {"type": "scale", "scale": [1, 1, 1]}
    dataset = {"path": "0", "coordinateTransformations": [transform]}
    group.attrs["multiscales"] = [{"axes": [{"name": name} for name in "yxc"], "datasets": [dataset]}]
    colours = tuple(Channel(name=name, normalization=Normalization(kind="zscore")) for name in "rgb")
    planned = data_plan(dimension=2, unit="pixel", channels=colours, spacing=(1.0, 1.0, 1.0))
    predictor = predictor_of(plan(planned, model_plan("2d", (1, 32, 32))))
    fitted, array = predictor.prepare(read_image([tmp_path / "in.zarr"]))
    expected = predictor.labels(fitted, array)
    monkeypatch.setattr(ome_zarr_writer, "CHUNK", 16)
    monkeypatch.setattr(blocks, "BLOCK_SHARE", 0)
    CaseSteps(predictor, Outputs(tmp_path / "out"), True, None)(Case("in", (tmp_path / "in.zarr",)))
    found, header = read_array(tmp_path / "out/in.zarr", label=True)
    assert header.grid.flat and header.grid.unit == "pixel" and len(np.unique(found)) > 1
    np.testing.assert_array_equal(found[0], expected)
