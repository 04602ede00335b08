"""`segtl-infer`: its sliding window and label maps are those of torch; what is wrong is said."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from made_plans import model_plan

from seg_transfer.errors import UserError
from seg_transfer.inference import label_map, sliding_window
from seg_transfer.portable import label_map as in_numpy
from seg_transfer.portable.__main__ import main
from seg_transfer.portable.model import OnnxModel
from seg_transfer.portable.sliding_window import predict_slabs
from seg_transfer.preprocessing.extent import Extent

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("configuration", "patch", "shape", "axis"),
    [
        ("2d", (1, 8, 10), (5, 21, 7), 0),
        ("2.5d", (3, 8, 8), (2, 9, 20), 2),
        ("3d", (4, 8, 8), (11, 8, 19), 2),
        ("3d", (6, 8, 8), (5, 30, 6), 1),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_slabs_are_those_of_torch(
    configuration: str, patch: tuple[int, int, int], shape: tuple[int, int, int], axis: int, known: bool
) -> None:
    depth = {"slice_strides": (1, 1)} if configuration == "3d" else {}
    model = model_plan(configuration, patch, **depth).model_copy(update={"position": True})
    array = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    extent = Extent.of(array) if known else None
    middle = slice(None) if configuration == "3d" else slice(patch[0] // 2, patch[0] // 2 + 1)
    factors = np.linspace(0.5, 2, patch[1] * patch[2], dtype=np.float32).reshape(patch[1:])

    def network(windows: torch.Tensor) -> torch.Tensor:
        """Three outputs of all six channels, unequal under mirroring."""
        seen = (windows[:, :, middle] + windows.mean(2, keepdim=True)) * torch.from_numpy(factors)
        return torch.stack([seen.sum(1), seen.prod(1), seen.amax(1)], 1)

    given = {"axis": axis, "tta_axes": (1, 2), "extent": extent}
    slabs = sliding_window.predict_slabs(network, torch.from_numpy(array), model, 3, **given)
    wanted = sliding_window.join_slabs(slabs, 3, shape, axis=axis).numpy()
    found = list(predict_slabs(lambda each: network(torch.from_numpy(each)).numpy(), array, model, 3, **given))
    assert [start for start, _ in found] == list(np.cumsum([0, *(slab.shape[axis + 1] for _, slab in found)])[:-1])
    np.testing.assert_allclose(np.concatenate([slab for _, slab in found], axis + 1), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_resampled_probabilities_are_those_of_torch(axis: int) -> None:
    shape, native = (6, 9, 8), (11, 9, 5)
    whole = np.random.default_rng(1).random((2, *shape)).astype(np.float32)
    parts = np.split(whole, [2, 3], axis + 1)
    starts = [0, 2, 3]
    kept: list[np.ndarray] = []
    for fill, slabs in (
        (label_map.fill_labels, [(start, torch.from_numpy(part)) for start, part in zip(starts, parts, strict=True)]),
        (in_numpy.fill_labels, list(zip(starts, parts, strict=True))),
    ):
        labels = np.zeros(native, np.float32)
        fill(labels, slabs, shape, (0, 1, 1), lambda values: values[1] - values[0], axis=axis)
        kept.append(labels)
    np.testing.assert_allclose(kept[1], kept[0], atol=1e-6)


def test_what_is_no_onnx_file_of_segtl_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
    with pytest.raises(UserError, match="there is no ONNX file here"):
        OnnxModel(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(UserError, match="no ONNX file, or damaged"):
        OnnxModel(tmp_path / "text.onnx")
    values = [onnx.helper.make_tensor_value_info(name, 1, ["batch", 1, 1, 8, 8]) for name in ("image", "same")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["image"], ["same"])], "g", *([v] for v in values)
    )
    foreign = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match="it holds no plan"):
        OnnxModel(tmp_path / "foreign.onnx")
    foreign.metadata_props.add(key="segtl", value="{}")
    onnx.save(foreign, tmp_path / "empty.onnx")
    with pytest.raises(UserError, match=r"empty\.onnx"):
        OnnxModel(tmp_path / "empty.onnx")


def test_its_errors_have_an_exit_code_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "one.nii.gz")
    line = ["-i", str(tmp_path), "-m", str(tmp_path / "no.onnx"), "-o"]
    assert main([*line, str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    for threads in ("-1", "many", "5000"):
        with pytest.raises(SystemExit) as ended:
            main([*line, "out", "--threads", threads])
        assert ended.value.code == 2
    assert "give a number from 0 to 1024" in capsys.readouterr().err
