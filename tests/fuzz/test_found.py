"""What damaged files brought to light; each was a traceback, a crash or a hang."""

from __future__ import annotations

import json
import pickle
import re
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from made_scores import scores
from PIL import Image as Pillow
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from seg_transfer.data.dataset import find_dataset
from seg_transfer.data.description import label_scheme
from seg_transfer.data.formats import read_array, write_volume
from seg_transfer.data.geometry import Grid
from seg_transfer.data.image import read_image
from seg_transfer.data.splits import groups_by_regex, splits_from_file
from seg_transfer.errors import UserError
from seg_transfer.evaluation.scores import Scores
from seg_transfer.network.build import blank_network
from seg_transfer.options.plan_options import PlanOptions
from seg_transfer.planning.plan import Plan, Weights, edited_parts
from seg_transfer.training.checkpoint import load_state
from seg_transfer.transfer.carry import carry_over
from seg_transfer.transfer.fetch import RECORD, check_beside
from seg_transfer.transfer.weight_files import read_state_dicts
from seg_transfer.util.files import file_digest

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "work"


class TestNrrd:
    """A wrong field of more than 1,024 bytes ended the process."""

    @pytest.mark.parametrize("line", [b"sizes: %s", b"sizes: 7 8 %s:=1", b"kinds: %s", b"%s", b"%s: x", b"NRRD000%s"])
    def test_long_fields_are_refused(self, tmp_path: Path, line: bytes) -> None:
        path = self.written(tmp_path, line % (b"[" * 5000))
        with pytest.raises(UserError, match=r"its header has a line of 50\d\d bytes"):
            read_image([path])

    @pytest.mark.parametrize("line", [b"# %s", b"Tags_of_a_segment:=%s", b"a:=%s: b", b"sizes:=%s"])
    def test_long_comments_and_keys_are_read(self, tmp_path: Path, line: bytes) -> None:
        assert read_image([self.written(tmp_path, line % (b"[ " * 5000))]).array.shape == (1, 4, 3, 2)

    def written(self, folder: Path, line: bytes) -> Path:
        path = folder / "a.nrrd"
        write_volume(path, np.zeros((4, 3, 2), np.uint8), Grid((4, 3, 2), np.eye(4)))
        head, gap, body = path.read_bytes().partition(b"\n\n")
        path.write_bytes(head + b"\n" + line + gap + body)
        return path


class TestImages:
    @pytest.mark.parametrize("kind", [".bmp", ".png", ".tif", ".jpg"])
    def test_a_small_file_cannot_claim_many_pixels(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / f"a{kind}"
        Pillow.fromarray(np.zeros((40, 30), np.uint8)).save(path)
        content = bytearray(path.read_bytes())
        if kind == ".bmp":
            content[18:26] = struct.pack("<ii", 12_000, 12_000)
        elif kind == ".png":
            content[16:24] = struct.pack(">II", 12_000, 12_000)
            content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        elif kind == ".jpg":
            start = content.index(b"\xff\xc0")
            content[start + 5 : start + 9] = struct.pack(">HH", 12_000, 12_000)
        else:
            for tag in (b"\x00\x01", b"\x01\x01", b"\x16\x01"):  # columns, rows, rows in a strip
                entry = re.search(re.escape(tag) + rb"[\x03\x04]\x00\x01\x00\x00\x00", content).start()
                content[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, 12_000)
        path.write_bytes(content)
        with pytest.raises(UserError, match="claims 12000 x 12000 pixels, more than its file can hold"):
            read_array(path, label=False)

    def test_a_large_blank_page_is_read(self, tmp_path: Path) -> None:
        Pillow.new("1", (5000, 7000)).save(tmp_path / "a.tif", compression="group4")
        assert read_array(tmp_path / "a.tif", label=True)[0].shape == (1, 5000, 7000, 1)

    def test_an_impossible_name_is_no_file(self, tmp_path: Path) -> None:
        for name in ("a" * 300 + ".png", "a/" * 3000 + ".png", "a\0b.png"):
            with pytest.raises(UserError, match=r"cannot be read|no such file"):
                read_image([tmp_path / name])


class TestDescriptions:
    @pytest.mark.parametrize("name", ["a" * 300 + ".nii.gz", "x/" * 3000 + "a.nii.gz", "a\0b.nii.gz"])
    @pytest.mark.parametrize("layout", ["training", "dataset"])
    def test_names_that_no_file_can_have(self, tmp_path: Path, name: str, layout: str) -> None:
        files = {"image": "a.nii.gz", "label": name}
        content: dict = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "a"}}
        content[layout] = [files] if layout == "training" else {"a": {"images": ["a.nii.gz"], "label": name}}
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        (tmp_path / "a.nii.gz").touch()
        with pytest.raises(UserError, match="cannot be the name of a file"):
            find_dataset(tmp_path)

    @pytest.mark.parametrize("case", ["..", ".", "", "a" * 300, "a/b"])
    def test_names_that_no_case_can_have(self, tmp_path: Path, case: str) -> None:
        content = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "a"}}
        content |= {"dataset": {case: {"images": ["a.nii.gz"], "label": "b.nii.gz"}}}
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="cannot be the name of a file"):
            find_dataset(tmp_path)

    @pytest.mark.parametrize("value", ["9" * 5000, 10**30, ["1", "9" * 5000], -(2**40), 1.5, None, [[1]], {}])
    def test_values_that_no_label_can_have(self, value: object) -> None:
        with pytest.raises(UserError, match="label a has the value"):
            label_scheme({"labels": {"background": 0, "a": value}}, Path("dataset.json"))


class TestOptions:
    @pytest.mark.parametrize("regex", ["(" * 500 + ")" * 500, "a{99999999999}", "(?P<a>", "\\"])
    def test_expressions_that_cannot_be_compiled(self, regex: str) -> None:
        with pytest.raises(UserError, match="is no regular expression"):
            groups_by_regex(["case"], regex)

    @pytest.mark.parametrize("budget", [{"epochs": 2_000_000}, {"time_budget": "5000d"}, {"time_budget": 1e300}])
    def test_budgets_that_no_plan_may_have(self, budget: dict) -> None:
        with pytest.raises(UserError, match="is out of range"):
            PlanOptions(dataset=Path("data"), **budget)

    @pytest.mark.parametrize("name", ["train", "val"])
    def test_splits_that_name_a_case_twice(self, tmp_path: Path, name: str) -> None:
        fold = {"train": ["a\u0308", "b"], "val": ["c"]}
        fold[name] += ["\u00e4", "a\u0308"] if name == "train" else ["c"]
        (tmp_path / "splits.json").write_text(json.dumps([fold]))
        with pytest.raises(UserError, match=rf"fold 0 names . [23] times in {name}"):
            splits_from_file(tmp_path / "splits.json")


class TestRecords:
    def test_scores_whose_cases_lack_a_label(self, tmp_path: Path) -> None:
        content = json.loads(scores({"one": 0.9}).to_json())
        for change in ({"labels": {}}, {"labels": {"liver": 1, "spleen": 2}}, {"cases": {"one": {}}}):
            (tmp_path / "scores.json").write_text(json.dumps(content | change))
            with pytest.raises(UserError, match=r"cases\.one: its labels are not those of the field labels"):
                Scores.load(tmp_path / "scores.json")

    @pytest.mark.parametrize("checksums", [[], "x", None, 1])
    def test_checksums_of_another_type_count_as_edited(self, tmp_path: Path, checksums: object) -> None:
        content = json.loads((GOLDEN / "trained" / "plan.json").read_text())
        (tmp_path / "plan.json").write_text(json.dumps(content | {"checksums": checksums}))
        assert edited_parts(tmp_path / "plan.json") == ["data", "model", "recipe"]

    @pytest.mark.parametrize("header", [{}, {"version": 2}, {"kind": "model"}, {"version": None, "kind": []}])
    def test_a_checkpoint_without_version_or_kind(self, tmp_path: Path, header: dict) -> None:
        path = tmp_path / "model.safetensors"
        save_file({"a": torch.ones(1)}, path, metadata={"segtl": json.dumps(header)})
        with pytest.raises(UserError, match=r"of version None|holds a None state"):
            load_state(path, "model")


class TestWeights:
    @pytest.mark.parametrize("sha256", [None, 1, "", "0" * 63, "[" * 5000, ["0" * 64]])
    def test_a_record_of_fetched_files_has_digests(self, tmp_path: Path, sha256: object) -> None:
        (tmp_path / RECORD).write_text(json.dumps({"w.safetensors": {"sha256": sha256}}))
        (tmp_path / "w.safetensors").touch()
        with pytest.raises(UserError, match="not a record of fetched files"):
            check_beside(tmp_path / "w.safetensors")

    def test_a_dictionary_in_itself_and_in_many_places(self, tmp_path: Path) -> None:
        inner: dict = {"a": torch.ones(2)}
        for _ in range(60):  # 2**60 ways lead to the tensor
            inner = {"left": inner, "right": inner}
        inner["again"] = inner
        torch.save(inner, tmp_path / "w.pt")
        (key,) = read_state_dicts(tmp_path / "w.pt")
        assert key == ".".join(["left"] * 60)

    def test_deep_dictionaries(self, tmp_path: Path) -> None:
        content = b"\x80\x02" + b"}X\x01\x00\x00\x00a" * 100_000 + b"}" + b"s" * 100_000 + b"."
        path = self.legacy(tmp_path, content)
        with pytest.raises(UserError, match="holds no dictionary of tensors"):
            read_state_dicts(path)

    def test_tensors_without_dense_values_and_odd_names_are_left_out(self, tmp_path: Path) -> None:
        odd = {"sparse": torch.eye(3).to_sparse(), "meta": torch.ones(2, device="meta"), 7: torch.ones(2)}
        odd |= {"." * 1000: torch.ones(2), "none": torch.ones(()), "whole": torch.ones(2, dtype=torch.int64)}
        torch.save({"a": torch.ones(2), **odd}, tmp_path / "w.pt")
        assert {key: set(state) for key, state in read_state_dicts(tmp_path / "w.pt").items()} == {"": {"a"}}

    def test_a_long_name_of_a_class_takes_no_time(self, tmp_path: Path) -> None:
        path = self.legacy(tmp_path, b"\x80\x02c" + b"x" * 200_000 + b"\ny\n.")
        start = time.process_time()
        with pytest.raises(UserError, match="it holds x"):
            read_state_dicts(path)
        assert time.process_time() - start < 3

    def test_a_text_longer_than_the_file_takes_no_memory(self, tmp_path: Path) -> None:
        path = self.legacy(tmp_path, b"\x80\x02X\xff\xff\xff\xfeabc")
        with pytest.raises(UserError, match="not readable as weights"):
            read_state_dicts(path)

    def test_files_of_torch_before_archives_are_read(self, tmp_path: Path) -> None:
        state = {"a": torch.arange(5.0), "b": torch.ones(2, 3).half()}
        torch.save({"state_dict": state}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
        (found,) = read_state_dicts(tmp_path / "w.pth").values()
        assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)

    def test_compressed_archives_and_programs_are_refused(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(10**7))
        with pytest.raises(UserError, match="this archive is compressed"):
            read_state_dicts(tmp_path / "bomb.pt")
        torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "program.pt")
        with pytest.raises(UserError, match="a program of TorchScript") as error:
            read_state_dicts(tmp_path / "program.pt")
        assert "weights_only" not in str(error.value)

    @pytest.mark.parametrize("protocol", range(6))
    def test_no_pickle_brings_the_advice_to_drop_the_safeguard(self, tmp_path: Path, protocol: int) -> None:
        for content in ({"a": [1.0]}, Path, {"a": Grid}, "weights_only=False"):
            (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol))
            with pytest.raises(UserError) as error:
                read_state_dicts(tmp_path / "w.pkl")
            assert "weights_only" not in str(error.value)

    @pytest.mark.parametrize("name", ["folder.pt", "missing.pt", "empty.pt", "empty.safetensors"])
    def test_what_is_no_file_of_weights(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "folder.pt").mkdir()
        (tmp_path / "empty.pt").touch()
        (tmp_path / "empty.safetensors").touch()
        with pytest.raises(UserError, match="not readable as weights"):
            read_state_dicts(tmp_path / name)

    def legacy(self, folder: Path, content: bytes) -> Path:
        """A file as torch wrote them before 1.6, with this pickle."""
        path = folder / "w.pt"
        torch.save({}, path, _use_new_zipfile_serialization=False)
        start = path.read_bytes()
        path.write_bytes(start[: start.rindex(b"\x80\x02}q\x00.")] + content + pickle.dumps([], 2))
        return path


@pytest.mark.parametrize("shape", [[], [64 * 3], [1, 64 * 147], [64, 1, 7, 7, 1, 1], [0, 1, 7, 7], [64, 7, 7]])
def test_a_carried_model_whose_tensors_have_another_shape(tmp_path: Path, shape: list[int]) -> None:
    state, path = load_file(GOLDEN / "model.segtl"), tmp_path / "model.segtl"
    with safe_open(GOLDEN / "model.segtl", framework="pt") as file:
        metadata = file.metadata()
    for name in ("0/0/encoder.stages.0.conv1.weight", "0/0/encoder.stages.0.bn1.weight"):
        save_file(state | {name: torch.ones(shape)}, path, metadata=metadata)
        weights = Weights(source="model", path=str(path), sha256=file_digest(path), carry="all")
        model = Plan.load(GOLDEN / "trained" / "plan.json").model.model_copy(update={"weights": weights})
        with pytest.raises(UserError, match=r"does not fit the planned network|is empty"):
            carry_over(blank_network(model, channels=2, classes=2), model)
