"""Addresses and the paths that stand for them: they lead back, stay below the cache, and show no secret."""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seg_transfer.cli.app import main
from seg_transfer.errors import UserError
from seg_transfer.options.model_options import PredictOptions
from seg_transfer.options.other_options import EvaluateOptions
from seg_transfer.options.plan_options import PlanOptions
from seg_transfer.options.train_options import TrainOptions
from seg_transfer.util import remote
from seg_transfer.util.addresses import CACHE, address_of, cache_folder, is_address, path_of, with_addresses
from seg_transfer.util.files import file_digest, whole_file, write_text

SECRET = "wJalrXUtnFEMI"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    yield cache_folder()
    if (tmp_path / "cache").is_dir():
        fsspec = pytest.importorskip("fsspec")
        fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize(
    "address",
    ["s3://bucket", "s3://bucket/a/b.nii.gz", "s3://bucket/ü b%20[1]*#+&.nii", "memory://a/b", f"s3://b/{'x' * 255}"],
)
def test_an_address_and_its_path_lead_to_each_other(address: str, cache: Path) -> None:
    path = path_of(address)
    assert path.is_relative_to(cache)
    assert address_of(path) == address
    assert not path.exists()


@pytest.mark.parametrize("path", ["/", "/data/s3/bucket", "relative", "-", ""])
def test_other_paths_have_no_address(path: str, cache: Path) -> None:
    assert address_of(path) is None
    assert address_of(cache) is None
    assert address_of(f"{cache}/ftp/a") is None
    assert address_of(f"{cache}x/s3/a") is None


def test_the_address_of_a_file_is_its_path() -> None:
    assert path_of("file:///data/a%20b") == Path("/data/a%20b")
    with pytest.raises(UserError, match="not absolute"):
        path_of("file://data")


@pytest.mark.parametrize(
    "address",
    [
        "s3://",
        "s3:///a",
        "s3://b/../c",
        "s3://b/./c",
        "s3://b//c",
        "s3://b/a\0b",
        f"s3://b/{'ü' * 200}",
        "s3://b/a?v=1",
    ],
)
def test_keys_that_no_file_can_have_are_refused(address: str) -> None:
    with pytest.raises(UserError):
        path_of(address)


@pytest.mark.parametrize("address", ["https://host/a", "gs://b/a", "s3a://b/a", "simplecache::s3://b/a"])
def test_other_schemes_are_refused(address: str) -> None:
    if is_address(address):
        with pytest.raises(UserError, match="of this kind"):
            path_of(address)


@pytest.mark.parametrize("scheme", ["s3", "S3", "https", "memory"])
@pytest.mark.parametrize("kind", ["dataset", "weights", "images", "output", "reference"])
def test_credentials_in_an_address_are_refused_and_not_shown(scheme: str, kind: str) -> None:
    address = f"{scheme}://AKIA:{SECRET}@bucket/key"
    with pytest.raises(UserError, match="holds credentials") as caught:
        if kind in ("dataset", "weights"):
            PlanOptions(**{"dataset": "data", kind: address})
        elif kind == "reference":
            EvaluateOptions(predictions="a", reference=address)
        else:
            PredictOptions(**{"images": ["a"], "output": "b", kind: [address] if kind == "images" else address})
    assert SECRET not in str(caught.value)
    assert "AKIA" not in str(caught.value)


def test_options_take_addresses_where_something_is_read_or_written() -> None:
    options = PredictOptions(images=["s3://b/images", Path("local")], output="s3://b/out", model="memory://m.segtl")
    assert list(map(address_of, options.images)) == ["s3://b/images", None]
    assert (address_of(options.output), address_of(options.model or "")) == ("s3://b/out", "memory://m.segtl")
    assert PlanOptions(dataset="file:///data").dataset == Path("/data")


def test_options_refuse_addresses_elsewhere() -> None:
    with pytest.raises(UserError, match="--work: an address cannot be given here"):
        PlanOptions(dataset="data", work="s3://b/work")
    with pytest.raises(UserError, match="--scratch: an address"):
        TrainOptions(fold="0", scratch="s3://b/scratch")
    with pytest.raises(UserError, match="as text"):
        PlanOptions(dataset=Path("s3://b/data"))


def test_messages_show_addresses_and_no_password(cache: Path) -> None:
    assert with_addresses(f"{cache}/s3/b/a.nii: damaged") == "s3://b/a.nii: damaged"
    assert with_addresses(f"http://user:{SECRET}@host/a") == "http://host/a"
    assert with_addresses("a@b: /data/s3/b") == "a@b: /data/s3/b"


def test_a_missing_package_is_one_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert main(["check", "s3://bucket/data"]) == 2
    told = capsys.readouterr().err
    assert "s3://bucket/data: s3:// needs the package s3fs, which is not installed" in told
    assert "pip install 'segtl[remote]'" in told


class TestCopies:
    """With ``memory://``: objects of this process."""

    @pytest.fixture
    def store(self) -> dict[str, object]:
        fsspec = pytest.importorskip("fsspec")
        system = fsspec.filesystem("memory")
        for name in ("a.txt", "sub/b.txt", "image.zarr/0/0", "image.zarr/.zattrs"):
            system.pipe_file(f"/data/{name}", name.encode())
        return system

    def test_a_look_lists_and_reading_fetches(self, store: object) -> None:
        folder = path_of("memory://data")
        remote.look(folder)
        files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*")}
        assert {name for name in files if "." in name} == {"a.txt", "sub/b.txt", "image.zarr"}
        assert files["a.txt"] == files["sub/b.txt"] == 0
        assert list((folder / "image.zarr").iterdir()) == []
        listed = (folder / "a.txt").stat().st_mtime_ns
        file_digest(folder / "a.txt")
        assert (folder / "a.txt").read_text() == "a.txt"
        assert (folder / "a.txt").stat().st_mtime_ns == listed
        remote.fetch([folder / "sub" / "b.txt", folder / "missing.txt", Path("/etc/hostname")])
        assert (folder / "sub" / "b.txt").read_text() == "sub/b.txt"

    def test_a_store_of_chunks_is_an_empty_folder(self, store: object, tmp_path: Path) -> None:
        image = path_of("memory://data/image.zarr")
        for see in (remote.look, remote.fetched, lambda path: remote.look_at_files([path])):
            see(image)  # type: ignore[operator]
            assert image.is_dir() and not list(image.iterdir())
            image.rmdir()
        with pytest.raises(UserError, match="nothing is at this address"):
            remote.look(path_of("memory://data/none.zarr"))

    def test_what_is_the_same_is_kept_and_what_changed_or_is_gone_is_not(  # type: ignore[no-untyped-def]
        self, store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forget = remote._forget

        def later(*arguments: Any, **options: Any) -> None:
            time.sleep(0.02)  # a slow listing: file systems stamp changes in steps of some milliseconds
            forget(*arguments, **options)

        monkeypatch.setattr(remote, "_forget", later)
        folder = path_of("memory://data")
        remote.look(folder)
        remote.fetch([folder / "a.txt", folder / "sub" / "b.txt"])
        remote.look(folder)
        assert (folder / "a.txt").read_text() == "a.txt"
        store.pipe_file("/data/a.txt", b"other")
        store.rm_file("/data/sub/b.txt")
        remote.look(folder)
        assert (folder / "a.txt").stat().st_size == 0
        assert not (folder / "sub").exists()
        remote.fetched(folder / "a.txt")
        assert (folder / "a.txt").read_text() == "other"

    def test_keys_that_lead_elsewhere_are_left_out(
        self, store: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for key in ("../out.txt", "x//y", "./z", "n" * 300, "a.txt/below"):
            store.store[f"/data/{key}"] = store.store["/data/a.txt"]  # type: ignore[attr-defined]
        remote.look(path_of("memory://data"))
        assert "5 object(s) are left out" in caplog.text
        names = {path.name for path in cache_folder().rglob("*") if path.is_file()}
        assert names == {"a.txt", "b.txt"}

    def test_nothing_there_is_an_error_unless_it_is_to_be_written(self, store: object) -> None:
        with pytest.raises(UserError, match="memory://data/no: nothing is at this address"):
            remote.look(path_of("memory://data/no"))
        remote.look(path_of("memory://data/no"), required=False)
        remote.fetched(path_of("memory://data/no"))

    def test_a_file_is_sent_when_it_is_whole(self, store) -> None:  # type: ignore[no-untyped-def]
        path = path_of("memory://out/x.txt")
        write_text(path, "first")
        assert store.cat_file("/out/x.txt") == b"first"
        with pytest.raises(RuntimeError), whole_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError
        assert (store.cat_file("/out/x.txt"), path.read_text()) == (b"first", "first")
        remote.look(path.parent)
        assert path.read_text() == "first", "what was sent need not be fetched"
        remote.remove(path)
        assert not store.exists("/out/x.txt")
        assert not path.exists()
        remote.remove(path)

    def test_a_failed_transfer_leaves_both_as_they_were(self, store, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
        path = path_of("memory://out/x.txt")
        write_text(path, "first")

        def cut(*_: object) -> None:
            raise TimeoutError(f"http://AKIA:{SECRET}@host is silent")

        monkeypatch.setattr(type(store), "put_file", cut)
        with pytest.raises(UserError, match=r"memory://out/x\.txt: cannot be reached: http://host is silent") as caught:
            write_text(path, "second")
        assert (store.cat_file("/out/x.txt"), path.read_text()) == (b"first", "first")
        assert SECRET not in str(caught.value)
        assert [file.name for file in path.parent.iterdir()] == ["x.txt"]
        assert pickle.loads(pickle.dumps(caught.value)).where == "memory://out/x.txt"
