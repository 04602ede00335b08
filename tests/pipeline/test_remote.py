"""Data sets, images, models and outputs at addresses, on a real S3 server on loopback."""

from __future__ import annotations

import json
import os
import secrets
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_balls import LOCAL, QUICK, make_dataset
from made_bucket import KEY, SECRET, Bucket
from made_clusters import in_this_process
from made_work import exported_balls

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.util.addresses import path_of
from seg_transfer.workflow.work_folder import WorkFolder

s3fs = pytest.importorskip("s3fs", reason="the extra remote is not installed")
boto3 = pytest.importorskip("boto3", reason="moto is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model of random weights, beside its data set ``balls``."""
    return exported_balls(tmp_path_factory.mktemp("model"))


def change(bucket: Bucket, key: str, tmp_path: Path) -> None:
    """Replace an image by one with other values."""
    (tmp_path / "change.nii.gz").write_bytes(bucket.read(key))
    image = nibabel.load(tmp_path / "change.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), image.affine), tmp_path / "new.nii.gz")
    bucket.client.upload_file(str(tmp_path / "new.nii.gz"), bucket.name, key)


def shows_no_secret(*texts: str) -> None:
    for text in texts:
        assert SECRET not in text
        assert KEY not in text


def test_a_data_set_is_planned_and_preprocessed_as_a_local_one(
    bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = make_dataset(tmp_path / "balls", cases=4)
    address = bucket.put(local, "sets/balls")
    options = ["--config", "2d", "--encoder", "resnet18", "--weights", "none", "--folds", "2", "--epochs", "1"]
    options += ["--memory", "1GB", "--device", "cpu", "--workers", "0"]
    assert main(["plan", address, "-w", str(tmp_path / "work"), *options]) == 0
    printed = capsys.readouterr()
    assert f"{address}: 4 cases" in printed.err
    work, there = WorkFolder(tmp_path / "work"), WorkFolder(tmp_path / "local")
    of_local = seg_transfer.plan(local, work=there.path, **{**QUICK, "time_budget": None}, epochs=1, **LOCAL)
    assert work.load_plan().hash == of_local.hash
    folders = [seg_transfer.preprocess(work=each.path, workers=0) for each in (work, there)]
    stored = [sorted(path.relative_to(folder) for path in folder.rglob("*.b2nd")) for folder in folders]
    assert stored[0] == stored[1] != []
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in stored[0])
    made = [file.read_text() for file in work.path.rglob("*") if file.suffix in (".json", ".log", ".stamp")]
    shows_no_secret(printed.out, printed.err, *made)
    assert str(path_of(address)) not in printed.err + printed.out + work.log.read_text()
    assert address in work.log.read_text()


def test_planning_again_reads_only_what_has_changed(bucket: Bucket, tmp_path: Path) -> None:
    address = bucket.put(make_dataset(tmp_path / "balls", cases=4), "balls")
    work = WorkFolder(tmp_path / "work")
    planned = {**QUICK, **LOCAL, "work": work.path}
    seg_transfer.plan(address, **planned)
    stamp = work.stamp.read_text()
    images = path_of(address) / "imagesTr"
    fetched = {file.name: file.stat().st_ctime_ns for file in images.iterdir()}
    seg_transfer.plan(address, **planned)
    assert work.stamp.read_text() == stamp
    change(bucket, "balls/imagesTr/case_1_0000.nii.gz", tmp_path)
    bucket.client.delete_object(Bucket=bucket.name, Key="balls/imagesTr/case_3_0000.nii.gz")
    bucket.client.delete_object(Bucket=bucket.name, Key="balls/labelsTr/case_3.nii.gz")
    seg_transfer.plan(address, **planned)
    assert work.stamp.read_text() != stamp
    assert [case.id for case in Dataset.load(work.dataset).cases] == ["case_0", "case_1", "case_2"]
    again = {file.name for file in images.iterdir() if file.stat().st_ctime_ns != fetched[file.name]}
    assert again == {"case_1_0000.nii.gz"}
    assert not list(work.path.rglob("*.nii.gz"))


def test_copies_that_were_deleted_are_fetched_again(bucket: Bucket, tmp_path: Path) -> None:
    address = bucket.put(make_dataset(tmp_path / "balls", cases=2), "balls")
    seg_transfer.plan(address, work=tmp_path / "work", **QUICK, **LOCAL)
    for file in path_of(address).rglob("*.nii.gz"):
        file.unlink()
    folder = seg_transfer.preprocess(work=tmp_path / "work", workers=0)
    stored = {file: file.stat().st_mtime_ns for file in folder.rglob("*.b2nd")}
    assert len(stored) > 1
    seg_transfer.preprocess(work=tmp_path / "work", workers=0)
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.b2nd")} == stored


def test_a_list_of_cases_names_addresses(bucket: Bucket, tmp_path: Path) -> None:
    address = bucket.put(make_dataset(tmp_path / "balls", cases=2), "balls")
    rows = [
        f"{case},{address}/imagesTr/{case}_0000.nii.gz,balls/labelsTr/{case}.nii.gz" for case in ("case_0", "case_1")
    ]
    bucket.client.put_object(Bucket=bucket.name, Key="list.csv", Body="\n".join(["case,image,label", *rows]).encode())
    report = seg_transfer.check(bucket.address("list.csv"), workers=0)
    assert (report.cases, report.count("problem")) == (2, 0)
    missing = f"case,image,label\na,{address}/none.nii.gz,{address}/labelsTr/case_0.nii.gz"
    (tmp_path / "list.csv").write_text(missing)
    with pytest.raises(UserError, match="no case has all of its files"):
        seg_transfer.check(tmp_path / "list.csv", workers=0)


def test_predictions_equal_local_ones_and_are_made_once(
    bucket: Bucket, model: Path, tmp_path: Path, predicted: Callable[[], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    images = model.parent / "balls" / "imagesTr"
    address, output = bucket.put(images, "new images"), bucket.address("out/ü 1")
    bucket.client.upload_file(str(model), bucket.name, "model.segtl")
    seg_transfer.predict(images, tmp_path / "local", model=model, device="cpu", uncertainty=True, pictures=True)
    command = ["predict", "-m", bucket.address("model.segtl"), "-i", address, "-o", output, "--device", "cpu"]
    command += ["--uncertainty", "--pictures", "--volumes", f"{output}/volumes.csv"]
    assert predicted() == ["case_0", "case_0", "case_1", "case_1"]
    assert main(command) == 0
    assert predicted() == ["case_0", "case_0", "case_1", "case_1"]
    written = {path.relative_to(tmp_path / "local").as_posix() for path in (tmp_path / "local").rglob("*.*")}
    written = {name for name in written if not name.startswith(".")}
    assert bucket.keys("out/ü 1") == {*written, "volumes.csv"}
    for name in written:
        assert bucket.read(f"out/ü 1/{name}") == (tmp_path / "local" / name).read_bytes(), name
    printed = capsys.readouterr()
    assert output in printed.out
    shows_no_secret(printed.out, printed.err, bucket.read("out/ü 1/predictions.json").decode())

    assert main(command) == 0
    assert predicted() == []
    elsewhere = path_of(output)
    for file in sorted(elsewhere.rglob("*.*")):  # another machine, whose cache is empty
        file.unlink()
    assert main(command) == 0
    assert predicted() == []

    change(bucket, "new images/case_1_0000.nii.gz", tmp_path)
    assert main(command) == 0
    assert predicted() == ["case_1", "case_1"]
    record = json.loads(bucket.read("out/ü 1/predictions.json"))
    assert sorted(record["label_maps"]) == ["case_0.nii.gz", "case_1.nii.gz"]


def test_label_maps_that_were_changed_there_are_not_replaced(
    bucket: Bucket, model: Path, predicted: Callable[[], list[str]]
) -> None:
    images, output = model.parent / "balls" / "imagesTr", bucket.address("out")
    seg_transfer.predict(images, output, model=model, device="cpu", workers=0)
    bucket.client.put_object(Bucket=bucket.name, Key="out/case_0.nii.gz", Body=b"corrected by hand")
    with pytest.raises(UserError, match=r"changed since it was predicted: case_0\.nii\.gz"):
        seg_transfer.predict(images, output, model=model, device="cpu", workers=0)
    assert bucket.read("out/case_0.nii.gz") == b"corrected by hand"


def test_a_part_fetches_its_own_images_only(bucket: Bucket, model: Path, predicted: Callable[[], list[str]]) -> None:
    address, output = bucket.put(model.parent / "balls" / "imagesTr", "images"), bucket.address("out")
    seg_transfer.predict(address, output, model=model, device="cpu", part="2/2")
    assert predicted() == ["case_1"]
    assert {file.name: file.stat().st_size > 0 for file in path_of(address).iterdir()} == {
        "case_0_0000.nii.gz": False,
        "case_1_0000.nii.gz": True,
    }
    seg_transfer.predict(address, output, model=model, device="cpu", part="1/2")
    record = json.loads(bucket.read("out/predictions.json"))
    assert sorted(record["label_maps"]) == ["case_0.nii.gz", "case_1.nii.gz"]


def test_scores_and_exports(bucket: Bucket, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = model.parent / "balls" / "labelsTr"
    address = bucket.put(labels, "labels")
    scores = bucket.address("scores.csv")
    assert main(["evaluate", address, str(labels), "--csv", scores, "--workers", "0"]) == 0
    assert bucket.read("scores.csv").startswith(b"case,")
    work = str(model.parent / "work")
    assert main(["export", "-w", work, "-o", bucket.address("models/m.segtl")]) == 0
    (tmp_path / "back.segtl").write_bytes(bucket.read("models/m.segtl"))
    capsys.readouterr()
    assert main(["card", str(tmp_path / "back.segtl")]) == 0
    shown = capsys.readouterr().out
    assert main(["card", bucket.address("models/m.segtl")]) == 0
    assert capsys.readouterr().out == shown


def check_rights_after(server: str, requests: str) -> None:
    """Let the server check keys and rights after so many requests."""
    header = {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{server}/moto-api/reset-auth", data=requests.encode(), headers=header)
    urllib.request.urlopen(request).close()


@contextmanager
def rights(server: str, *statements: dict[str, object]) -> Iterator[None]:
    """Work as a user who has these rights and no others."""
    name = f"user{secrets.token_hex(4)}"
    users = boto3.client("iam")
    users.create_user(UserName=name)
    policy = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    users.put_user_policy(UserName=name, PolicyName="rights", PolicyDocument=policy)
    key = users.create_access_key(UserName=name)["AccessKey"]
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        check_rights_after(server, "0")
        try:
            yield
        finally:
            check_rights_after(server, "inf")
    s3fs.S3FileSystem.clear_instance_cache()


def allow(effect: str, *actions: str, on: str = "*") -> dict[str, object]:
    return {"Effect": effect, "Action": list(actions), "Resource": on}


def test_a_failed_upload_is_a_failed_case_and_leaves_the_object(bucket: Bucket, server: str, model: Path) -> None:
    images = model.parent / "balls" / "imagesTr"
    bucket.client.put_object(Bucket=bucket.name, Key="out/case_0.nii.gz", Body=b"earlier")
    kept = f"arn:aws:s3:::{bucket.name}/out/case_0.nii.gz"
    with (
        rights(server, allow("Allow", "s3:*"), allow("Deny", "s3:PutObject", on=kept)),
        pytest.raises(SomeCasesFailed, match=r"case_0: s3://.*/out/case_0\.nii\.gz: access is denied"),
    ):
        seg_transfer.predict(images, bucket.address("out"), model=model, device="cpu", workers=0)
    assert bucket.read("out/case_0.nii.gz") == b"earlier"
    assert bucket.keys("out") == {"case_0.nii.gz", "case_1.nii.gz", "predictions.json"}
    record = json.loads(bucket.read("out/predictions.json"))
    assert list(record["label_maps"]) == ["case_1.nii.gz"]
    assert path_of(bucket.address("out/case_0.nii.gz")).stat().st_size == 0, "the copy is not what could not be sent"


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says that ends with a user's error."""
    capsys.readouterr()
    assert main(arguments) == 2
    printed = capsys.readouterr()
    shows_no_secret(printed.out, printed.err)
    assert "Traceback" not in printed.err
    assert printed.out == ""
    return printed.err


def test_what_is_not_there_and_who_may_not(
    bucket: Bucket, server: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "s3://no-such-bucket/a: nothing is at this address" in refused(["check", "s3://no-such-bucket/a"], capsys)
    key = bucket.address("none")
    assert f"{key}: nothing is at this address" in refused(["check", key], capsys)
    images = str(model.parent / "balls" / "imagesTr")
    predict = ["predict", "-m", str(model), "-i", images, "-o"]
    assert "s3://no-such-bucket/out: nothing is at" in refused([*predict, "s3://no-such-bucket/out"], capsys)
    try:
        check_rights_after(server, "0")
        assert f"{key}: access is denied" in refused(["check", key], capsys)
    finally:
        check_rights_after(server, "inf")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    s3fs.S3FileSystem.clear_instance_cache()
    assert "Unable to locate credentials" in refused(["check", key], capsys)


def test_who_may_only_read_is_told_before_anything_is_predicted(
    bucket: Bucket, server: str, model: Path, predicted: Callable[[], list[str]]
) -> None:
    address = bucket.put(model.parent / "balls" / "imagesTr", "images")
    with (
        rights(server, allow("Allow", "s3:Get*", "s3:List*")),
        pytest.raises(UserError, match=r"out/predictions\.json: access is denied"),
    ):
        seg_transfer.predict(address, bucket.address("out"), model=model, device="cpu")
    assert predicted() == []
    assert bucket.keys("out") == set()


def test_workers_of_a_cluster_fetch_and_send(bucket: Bucket, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra cluster is not installed")
    images = model.parent / "balls" / "imagesTr"
    seg_transfer.predict(images, tmp_path / "local", model=model, device="cpu")
    address, output = bucket.put(images, "images"), bucket.address("out")
    bucket.client.upload_file(str(model), bucket.name, "model.segtl")
    options = {"model": bucket.address("model.segtl"), "device": "cpu"}
    with in_this_process(workers=1, threads=1) as started:
        seg_transfer.predict(address, output, cluster=started.scheduler_address, **options)
    for name in ("case_0.nii.gz", "case_1.nii.gz", "predictions.json"):
        assert bucket.read(f"out/{name}") == (tmp_path / "local" / name).read_bytes()


def test_a_server_that_does_not_answer(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{KEY}:{SECRET}@127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    key = bucket.address("images")
    assert f"{key}: cannot be reached" in refused(["check", key], capsys)
