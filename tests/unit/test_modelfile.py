"""Model files of strangers: what is refused, and that refusing allocates nothing."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from made_plans import data_plan, model_plan, plan

from seg_transfer.cli.app import main
from seg_transfer.errors import UserError
from seg_transfer.exporting.card import write_card
from seg_transfer.exporting.load import load_model_file
from seg_transfer.exporting.save import make_header, save_model_file
from seg_transfer.exporting.weights import CHANGED, read_weights, write_weights
from seg_transfer.network.build import build_network
from seg_transfer.planning.model_file import NOTHING, Member, read_model_file
from seg_transfer.planning.plan import Plan
from seg_transfer.training.checkpoint import save_state
from seg_transfer.training.run_folder import PlanFolder, TrainedRuns

pytestmark = pytest.mark.usefixtures("one_thread")

Header = dict[str, Any]


@pytest.fixture(scope="module")
def made() -> Plan:
    return plan(data_plan(), model_plan("2d", (1, 16, 16)))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, made: Plan) -> Path:
    folder = tmp_path_factory.mktemp("model")
    network, _ = build_network(made.model, channels=1, classes=3, seed=0, pretrained_stages=0)
    trained = TrainedRuns(PlanFolder(folder, made), (0,))
    save_state(trained.models[0], "model", network.state_dict(), {"plan": made.model_dump(mode="json")})
    save_model_file(folder / "model.segtl", make_header([trained]), [trained])
    return folder / "model.segtl"


def taken_apart(file: Path) -> tuple[Header, Header, bytes]:
    """Tensors' entries, what segtl says, and the bytes after the header."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + length])
    return entries, json.loads(entries.pop("__metadata__")["segtl"]), content[8 + length :]


def put_together(file: Path, entries: Header, segtl: Header | None, payload: bytes) -> Path:
    metadata = {} if segtl is None else {"segtl": json.dumps(segtl)}
    header = json.dumps({"__metadata__": metadata, **entries}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + payload)
    return file


def test_a_model_file_comes_back(good: Path, made: Plan) -> None:
    found = read_model_file(good)
    assert found.header.plan.model == made.model
    assert found.header.members[0].folds == ("0",)
    network, _ = build_network(made.model, channels=1, classes=3, seed=0, pretrained_stages=0)
    predictor = load_model_file(good)
    state = predictor.networks[0].state_dict()  # type: ignore[attr-defined]
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())


def test_other_weights_are_written_with_their_checksum_and_the_card_tells(good: Path, tmp_path: Path) -> None:
    weights = read_weights(good)
    other = {name: (values * 2).astype(np.float64) for name, values in weights.items()}
    path = tmp_path / "other.segtl"
    for _ in range(2):
        write_weights(path, other, like=good if not path.exists() else path)
        state = load_model_file(path).networks[0].state_dict()  # type: ignore[attr-defined]
        assert all(np.array_equal(state[name.removeprefix("0/0/")].numpy(), 2 * weights[name]) for name in weights)
        card = read_model_file(path).header.card
        assert card.count(CHANGED) == 1 and card.startswith("---\n") == read_model_file(good).header.card.startswith(
            "---"
        )
        assert card.replace(CHANGED, "").split() == read_model_file(good).header.card.split()
    name = next(iter(other))
    for wrong in ({name: other[name]}, other | {name: other[name][:1]}, other | {"0/0/x": other[name]}):
        with pytest.raises(UserError, match="other names or shapes"):
            write_weights(tmp_path / "wrong.segtl", wrong, like=good)
    assert not (tmp_path / "wrong.segtl").exists()


def test_putting_together_what_was_taken_apart_is_read(good: Path, tmp_path: Path) -> None:
    assert read_model_file(put_together(tmp_path / "same", *taken_apart(good))).header == read_model_file(good).header


@pytest.mark.parametrize("kept", [0, 5, 8, 100, -1])
def test_what_is_cut_off_is_refused(good: Path, tmp_path: Path, kept: int) -> None:
    (tmp_path / "cut").write_bytes(good.read_bytes()[:kept])
    with pytest.raises(UserError, match="cut off or damaged"):
        load_model_file(tmp_path / "cut")


def test_bytes_after_the_last_tensor_are_refused(good: Path, tmp_path: Path) -> None:
    (tmp_path / "longer").write_bytes(good.read_bytes() + b"x")
    with pytest.raises(UserError, match="cut off or damaged"):
        load_model_file(tmp_path / "longer")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04" + bytes(1000), "at most 8388608 are read"),
        (b"\x80\x02}q\x00." + bytes(1000), "at most 8388608 are read"),
        ((2**62).to_bytes(8, "little") + b"{}", "has 4611686018427387904 bytes, at most"),
        ((9 * 2**20).to_bytes(8, "little") + bytes(10 * 2**20), "at most 8388608 are read"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "no model file of segtl, or cut off or damaged"),
        ((4).to_bytes(8, "little") + b"null", "no model file of segtl, or cut off or damaged"),
    ],
    ids=["zip", "pickle", "absurd header", "large header", "deep header", "null"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "other.segtl").write_bytes(content)
    with pytest.raises(UserError, match=said):
        load_model_file(tmp_path / "other.segtl")


def _set(*path: str | int, to: object) -> Callable[[Header], None]:
    def change(content: Header) -> None:
        inner: Any = content
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = to

    return change


MODEL = ("members", 0, "plan", "model")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("version", to=1), "version 1; this segtl reads version 2\n.*export it again"),
        (_set("version", to=3), "version 3; this segtl reads version 2\n.*update segtl"),
        (_set("version", to="1"), "version '1'"),
        (_set("kind", to="model"), "instead of an exported model"),
        (_set("members", to=[]), "members"),
        (_set("code", to="import os"), "code"),
        (_set(*MODEL, "decoder_channels", to=[10**9, 10**9]), "decoder_channels.0"),
        (_set(*MODEL, "decoder_channels", to=[4096, 4096]), "do not fit its plan.s network"),
        (_set(*MODEL, "decoder_channels", to=[16, 8]), "do not fit its plan's network"),
        (_set(*MODEL, "patch", to=[1, 10**6, 10**6]), r"patch .* has 1000000000000 voxels"),
        (_set(*MODEL, "patch", to=[1, 8192, 8192]), r"patch .* has 67108864 voxels, the limit is 16777216"),
        (_set(*MODEL, "decoder_channels", to=[10**30, 8]), "decoder_channels.0"),
        (_set("members", 0, "folds", to=["0"] * 10**4), "more folds than it has tensors"),
        (_set("members", 0, "plan", "data", "cases", to=["../../one"]), "cannot be the name of a file"),
        (_set(*MODEL, "encoder", to="resnet50"), "do not fit its plan's network"),
        (_set("members", 0, "folds", to=["0", "1"]), "do not fit its plan's network"),
        (
            _set("members", 0, "plan", "data", "channels", to=[{"name": "x", "normalization": {"kind": "none"}}] * 9),
            r"64 x 1 x 7 x 7, the plan needs 64 x 9 x 7 x 7",
        ),
    ],
)
def test_headers_that_ask_for_too_much_are_refused(
    good: Path, tmp_path: Path, change: Callable[[Header], None], said: str
) -> None:
    entries, segtl, payload = taken_apart(good)
    change(segtl)
    file = put_together(tmp_path / "changed.segtl", entries, segtl, payload)
    load_model_file(good)  # whatever this process allocates at first
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=said):
        load_model_file(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


BYTES = 40


WHOLE: Header = {"dtype": "F32", "shape": [10], "data_offsets": [0, BYTES]}
DAMAGED = "cut off or damaged"


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"x": WHOLE | {"shape": [10**12], "data_offsets": [0, 4 * 10**12]}}, DAMAGED),
        ({"x": WHOLE | {"shape": [10**12]}}, DAMAGED),
        ({"x": WHOLE | {"shape": [2**33, 2**33]}}, DAMAGED),
        ({"x": WHOLE | {"shape": [-5, -2]}}, DAMAGED),
        ({"x": WHOLE | {"shape": [10.0]}}, DAMAGED),
        ({"x": WHOLE | {"data_offsets": [4, BYTES + 4]}}, DAMAGED),
        ({"x": WHOLE | {"data_offsets": [0, BYTES, 9]}}, DAMAGED),
        ({"x": WHOLE | {"dtype": "Q8"}}, DAMAGED),
        ({"x": WHOLE | {"shape": [9], "data_offsets": [0, 36]}}, DAMAGED),
        ({"x": WHOLE, "y": WHOLE | {"shape": [5], "data_offsets": [20, BYTES]}}, DAMAGED),
        ({"x": [1]}, DAMAGED),
        ({}, DAMAGED),
        ({"x": WHOLE | {"dtype": "F64", "shape": [5]}}, "tensor x has the unsupported type F64"),
        ({"x": WHOLE}, "do not fit its plan's network"),
        ({"x": WHOLE | {"shape": [1] * 600_000}}, "tensor x has 600000 axes, at most 8 are read"),
        ({"x": WHOLE | {"shape": [0, 5], "data_offsets": [0, 0]}, "y": WHOLE}, "tensor x is empty"),
        ({"x" * 300: WHOLE}, "the name of a tensor has 300 characters"),
        ({"\x1b[2J": WHOLE | {"dtype": "F64", "shape": [5]}}, r"tensor \\u001b\[2J has the unsupported type"),
    ],
)
def test_tensors_that_are_not_there_are_refused(good: Path, tmp_path: Path, entries: Header, said: str) -> None:
    _, segtl, _ = taken_apart(good)
    file = put_together(tmp_path / "bad.segtl", entries, segtl, bytes(BYTES))
    load_model_file(good)  # whatever this process allocates at first
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=said):
        load_model_file(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_a_message_about_a_damaged_file_quotes_little_of_it(good: Path, tmp_path: Path) -> None:
    _, segtl, _ = taken_apart(good)
    entries = {"x" * 200: WHOLE | {"data_offsets": [4, BYTES + 4], "shape": ["y" * 10**6]}}
    with pytest.raises(UserError, match=DAMAGED) as raised:
        read_model_file(put_together(tmp_path / "bad.segtl", entries, segtl, bytes(BYTES)))
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("place", [0, -1])
def test_weights_that_a_copy_changed_are_refused(good: Path, tmp_path: Path, place: int) -> None:
    entries, segtl, payload = taken_apart(good)
    changed = bytearray(payload)
    changed[place] ^= 1
    with pytest.raises(UserError, match="the checksum differs"):
        load_model_file(put_together(tmp_path / "flipped.segtl", entries, segtl, bytes(changed)))
    del segtl["weights"]
    with pytest.raises(UserError, match="the checksum differs"):
        load_model_file(put_together(tmp_path / "without.segtl", entries, segtl, payload))


def test_tensors_beside_those_of_the_networks_are_refused(good: Path, tmp_path: Path) -> None:
    entries, segtl, payload = taken_apart(good)
    more = {"dtype": "F32", "shape": [1], "data_offsets": [len(payload), len(payload) + 4]}
    with pytest.raises(UserError, match="tensors of no network"):
        load_model_file(put_together(tmp_path / "more.segtl", entries | {"y": more}, segtl, payload + bytes(4)))


def test_what_its_card_holds_does_not_control_the_terminal(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries, segtl, payload = taken_apart(good)
    segtl["card"] = "# title\x1b[2J\x9b31m\u202e\nnext\n"
    file = put_together(tmp_path / "card.segtl", entries, segtl, payload)
    assert main(["card", str(file)]) == 0
    assert capsys.readouterr().out == "# title\\u001b[2J\\u009b31m\\u202e\nnext\n"


def test_a_card_is_written_with_escapes(made: Plan) -> None:
    channel = made.data.channels[0].model_copy(update={"name": "T1\x1b[2J\n  hint: fine"})
    labels = (*made.data.labels[:2], made.data.labels[2].model_copy(update={"name": "b\u202e"}))
    data = made.data.model_copy(update={"channels": (channel,), "labels": labels})
    member = Member(plan=made.model_copy(update={"data": data}), folds=("0",))
    card = write_card([member], name="x\x07", dice=None, validated=0, chosen=False, postprocessing=NOTHING)
    assert "# x\\u0007: a model" in card and "T1\\u001b[2J\\u000a  hint" in card and "b\\u202e" in card


def images(folder: Path, size: int = 20) -> Path:
    folder.mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((size, size, 5), np.int16), np.eye(4)), folder / "one.nii.gz")
    return folder


@pytest.mark.parametrize(
    ("change", "memory", "code", "said"),
    [
        (
            _set(*MODEL, "patch", to=[1, 4096, 4096]),
            "2GB",
            2,
            "for one patch, of 1 x 4096 x 4096 voxels; 2.0 GB are al",
        ),
        (
            _set("members", 0, "plan", "data", "spacing", to=[0.05, 0.01, 0.01]),
            "1GB",
            2,
            "100 x 2000 x 2000 voxels, wh",
        ),
        (_set("members", 0, "plan", "data", "spacing", to=[1e-4, 1e-4, 1e-4]), None, 2, "voxels, which need .* GB are"),
        (_set("members", 0, "plan", "recipe", "batch_size", to=4096), "100MB", 0, ""),
    ],
    ids=["patch", "spacing", "absurd spacing", "batch"],
)
def test_a_prediction_that_needs_more_memory_than_allowed_is_refused_before(
    good: Path,
    tmp_path: Path,
    change: Callable[[Header], None],
    memory: str | None,
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    entries, segtl, payload = taken_apart(good)
    folder, option = images(tmp_path / "images"), [] if memory is None else ["--memory", memory]
    assert main(["predict", "-m", str(good), "-i", str(folder), "-o", str(tmp_path / "first")]) == 0
    change(segtl)
    file = put_together(tmp_path / "changed.segtl", entries, segtl, payload)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out = tmp_path / "out"
    assert main(["predict", "-m", str(file), "-i", str(folder), "-o", str(out), *option]) == code
    assert re.search(said, capsys.readouterr().err)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    assert (out / "one.nii.gz").exists() == (code == 0)


def test_safetensors_of_others_and_checkpoints_are_refused(good: Path, tmp_path: Path, made: Plan) -> None:
    entries, _, payload = taken_apart(good)
    with pytest.raises(UserError, match="does not say what it is"):
        read_model_file(put_together(tmp_path / "foreign.segtl", entries, None, payload))
    save_state(tmp_path / "fold.segtl", "model", {"x": torch.zeros(1)}, {"plan": made.model_dump(mode="json")})
    with pytest.raises(UserError, match="instead of an exported model"):
        read_model_file(tmp_path / "fold.segtl")
    with pytest.raises(UserError, match="there is no model file here"):
        read_model_file(tmp_path / "absent.segtl")


def test_the_command_line_says_it_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "model.npy", np.zeros(9))
    code = main(["predict", "-m", str(tmp_path / "model.npy"), "-i", str(tmp_path), "-o", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert "no model file of segtl" in err and "hint:" in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()
