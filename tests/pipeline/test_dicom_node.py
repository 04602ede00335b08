"""`segtl dicom-node` with a real Orthanc: a series goes out, its segmentation comes back."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from made_certificates import make_certificate
from made_dicom import write_series
from made_work import exported_balls
from served import left_folder

from seg_transfer.data.dicom import find_series, read_series
from seg_transfer.errors import UserError
from seg_transfer.options.serving_options import DicomNodeOptions
from seg_transfer.serving import dicom_node as dicom_node_module
from seg_transfer.serving.dicom_node import Node, Peer, dicom_node, read_peer
from seg_transfer.workflow.segmenter import Segmenter

httpx = pytest.importorskip("httpx")
pydicom = pytest.importorskip("pydicom")
pynetdicom = pytest.importorskip("pynetdicom")
pytest.importorskip("highdicom")
ORTHANC = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(ORTHANC is None, reason="needs Orthanc (Debian's package orthanc)"),
]
AFFINE = np.diag([1.0, 1.0, 2.5, 1.0])
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait(found: Callable[[], Any]) -> Any:
    end = time.monotonic() + 300
    while not (result := found()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_balls(tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="module")
def ports() -> tuple[int, int, int]:
    """HTTP and DICOM of Orthanc, and DICOM of the node."""
    return free_port(), free_port(), free_port()


@pytest.fixture(scope="module")
def orthanc(ports: tuple[int, int, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with orthanc_runs(tmp_path_factory.mktemp("orthanc"), ports, {}) as client:
        yield client


@contextmanager
def orthanc_runs(folder: Path, ports: tuple[int, int, int], more: dict[str, Any]) -> Iterator[Any]:
    """Orthanc with further settings, and a client of it."""
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [],
        "HttpPort": ports[0],
        "DicomPort": ports[1],
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomModalities": {"segtl": ["SEGTL", "127.0.0.1", ports[2]]},
    } | more
    (folder / "orthanc.json").write_text(json.dumps(settings))
    assert ORTHANC is not None
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([ORTHANC, str(folder / "orthanc.json")], stdout=log, stderr=log)
    with httpx.Client(base_url=f"http://127.0.0.1:{ports[0]}", timeout=120) as client:
        wait(lambda: process.poll() is not None or _answers(client))
        assert process.poll() is None, (folder / "log").read_text()
        yield client
    process.terminate()
    assert process.wait(timeout=60) == 0


def _answers(client: Any) -> bool:
    try:
        return client.get("/system").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def node(model: Path, ports: tuple[int, int, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("temporary"))
    peers = (f"ORTHANC@127.0.0.1:{ports[1]}",)
    options = DicomNodeOptions(model=model, peers=peers, port=ports[2], device="cpu", wait=0.5, modality="CT")
    killed = left_folder(Path(tempfile.tempdir), "segtl-node-left")
    with dicom_node(options) as running:
        assert not killed.exists()
        yield running
    left = list(Path(tempfile.tempdir).glob("segtl-node-*"))
    tempfile.tempdir = before
    assert left == []


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[str], bool]:
    caplog.set_level(logging.INFO, "seg_transfer")
    return lambda text: text in caplog.text


def image(model: Path) -> np.ndarray:
    file = next((model.parent / "balls" / "imagesTr").iterdir())
    return np.asarray(nibabel.load(file).dataobj).astype(np.int16)


def send(folder: Path, node: Node, *, title: str = "ORTHANC", abort: bool = False, skip: int = 0) -> list[int]:
    """Send the files of a folder as a scanner does; the answers."""
    entity = pynetdicom.AE(ae_title=title)
    entity.add_requested_context(CT)
    association = entity.associate("127.0.0.1", int(node.address.rpartition(":")[2]), ae_title="SEGTL")
    assert association.is_established
    images = sorted((pydicom.dcmread(path) for path in folder.iterdir()), key=lambda one: one.InstanceNumber)
    answers = [association.send_c_store(one).Status for one in images if one.InstanceNumber != skip]
    (association.abort if abort else association.release)()
    return answers


def segmentations(orthanc: Any) -> list[str]:
    found = orthanc.post("/tools/find", json={"Level": "Instance", "Query": {"Modality": "SEG"}})
    return found.json()


def test_a_series_goes_out_and_its_segmentation_comes_back(
    orthanc: Any, node: Node, model: Path, tmp_path: Path, said: Callable[[str], bool]
) -> None:
    assert orthanc.post("/modalities/segtl/echo", json={}).status_code == 200
    uid = write_series(tmp_path / "series", image(model), AFFINE)
    for path in (tmp_path / "series").iterdir():
        assert orthanc.post("/instances", content=path.read_bytes()).status_code == 200
    (series,) = orthanc.post("/tools/find", json={"Level": "Series", "Query": {"SeriesInstanceUID": uid}}).json()
    assert orthanc.post("/modalities/segtl/store", json=[series]).json()["FailedInstancesCount"] == 0
    (identifier,) = wait(lambda: segmentations(orthanc))
    assert wait(lambda: said("segmented and sent"))
    made = pydicom.dcmread(BytesIO(orthanc.get(f"/instances/{identifier}/file").content))
    assert made.PatientID == "12345" and made.ReferencedSeriesSequence[0].SeriesInstanceUID == uid
    (source,) = find_series(tmp_path / "series")
    array, grid = read_series(source)
    expected = Segmenter.load(model, device="cpu")(array, affine=grid.affine)
    shared = made.SharedFunctionalGroupsSequence[0]
    one = pydicom.dcmread(source.slices[0].path, stop_before_pixels=True)
    assert shared.PixelMeasuresSequence[0].PixelSpacing == one.PixelSpacing
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == one.ImageOrientationPatient
    places = [pydicom.dcmread(each.path).ImagePositionPatient for each in source.slices]
    bits = np.unpackbits(np.frombuffer(made.PixelData, np.uint8), bitorder="little")
    masks = bits[: int(made.NumberOfFrames) * made.Rows * made.Columns].reshape(-1, made.Rows, made.Columns)
    found = np.zeros_like(expected)
    for frame, mask in zip(made.PerFrameFunctionalGroupsSequence, masks, strict=True):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        index = places.index(frame.PlanePositionSequence[0].ImagePositionPatient)
        found[..., index][mask.T > 0] = (0, 1, 4)[number]
    np.testing.assert_array_equal(found, expected)


def test_who_and_what_is_refused(orthanc: Any, node: Node, tmp_path: Path, said: Callable[[str], bool]) -> None:
    port = int(node.address.rpartition(":")[2])
    for title, called in (("STRANGER", "SEGTL"), ("ORTHANC", "ANOTHER")):
        entity = pynetdicom.AE(ae_title=title)
        entity.add_requested_context(CT)
        assert entity.associate("127.0.0.1", port, ae_title=called).is_rejected
    assert wait(lambda: said("an association of STRANGER was refused"))
    entity = pynetdicom.AE(ae_title="ORTHANC")
    entity.add_requested_context(MR)
    assert not entity.associate("127.0.0.1", port, ae_title="SEGTL").accepted_contexts

    def as_mr(one: Any, _: int) -> None:
        one.Modality = "MR"

    write_series(tmp_path / "mr", np.zeros((8, 8, 3)), AFFINE, change=as_mr)
    assert set(send(tmp_path / "mr", node)) == {0xA900}
    assert said("its modality is 'MR', not CT")


def test_nothing_is_sent_for_what_is_no_whole_series(
    orthanc: Any, node: Node, tmp_path: Path, said: Callable[[str], bool]
) -> None:
    before = segmentations(orthanc)
    gap = write_series(tmp_path / "gap", np.zeros((16, 16, 6)), AFFINE)
    assert set(send(tmp_path / "gap", node, skip=3)) == {0}
    assert wait(lambda: said(f"series {gap} of ORTHANC: nothing was sent: the series is no volume: about 1 slice(s)"))

    def two_patients(one: Any, index: int) -> None:
        one.PatientID = str(index % 2)

    mixed = write_series(tmp_path / "mixed", np.zeros((16, 16, 6)), AFFINE, change=two_patients)
    send(tmp_path / "mixed", node)
    assert wait(lambda: said(f"series {mixed} of ORTHANC: nothing was sent: its files are of several patients"))
    broken = write_series(tmp_path / "broken", np.zeros((16, 16, 6)), AFFINE)
    send(tmp_path / "broken", node, abort=True)
    assert wait(lambda: said(f"series {broken} of ORTHANC: nothing was sent: the association was broken off"))
    assert segmentations(orthanc) == before


def test_with_tls_only_peers_that_show_their_certificate_are_heard(
    node: Node, model: Path, tmp_path: Path, said: Callable[[str], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orthanc sends over TLS and gets the segmentation over TLS; callers that say nothing keep nobody waiting."""
    ports = free_port(), free_port(), free_port()
    own, peer = (make_certificate(tmp_path, name) for name in ("segtl", "orthanc"))
    settings = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(peer),
        "DicomTlsPrivateKey": str(peer.with_suffix(".key")),
        "DicomTlsTrustedCertificates": str(own),
        "DicomModalities": {"segtl": {"AET": "SEGTL", "Host": "127.0.0.1", "Port": ports[2], "UseDicomTls": True}},
    }
    tls = {"tls_cert": own, "tls_key": own.with_suffix(".key"), "tls_ca": peer}
    peers = (f"ORTHANC@127.0.0.1:{ports[1]}",)
    about = {"model": model, "peers": peers, "port": ports[2], "device": "cpu", "wait": 0.5, "modality": "CT"}
    # The process that segments is that of the other node, which is not used any more: starting one takes seconds.
    monkeypatch.setattr(dicom_node_module, "started_worker", lambda *_, **__: nullcontext(node._worker))
    write_series(tmp_path / "series", image(model), AFFINE)
    with socket.socket() as silent, dicom_node(DicomNodeOptions(**about, **tls)):
        silent.connect(("127.0.0.1", ports[2]))
        silent.send(b"\x16\x03\x01")  # the beginning of a handshake
        for context in (None, stranger(own)):
            entity = pynetdicom.AE(ae_title="ORTHANC")
            entity.add_requested_context(CT)
            encrypted = None if context is None else (context, "127.0.0.1")
            called = entity.associate("127.0.0.1", ports[2], ae_title="SEGTL", tls_args=encrypted)
            assert not called.is_established
        with orthanc_runs(tmp_path, ports, settings) as orthanc:
            for path in (tmp_path / "series").iterdir():
                assert orthanc.post("/instances", content=path.read_bytes()).status_code == 200
            series = orthanc.get("/series").json()
            assert orthanc.post("/modalities/segtl/store", json=series).json()["FailedInstancesCount"] == 0
            assert len(wait(lambda: segmentations(orthanc))) == 1
            assert wait(lambda: said("segmented and sent"))


def stranger(server: Path) -> ssl.SSLContext:
    """A client that trusts the server and shows no certificate."""
    context = ssl.create_default_context(cafile=server)
    context.check_hostname = False
    return context


def test_options(model: Path) -> None:
    assert read_peer("PACS@10.0.0.5:104") == Peer("PACS", "10.0.0.5", 104)
    assert read_peer("A B@[::1]:11112") == Peer("A B", "::1", 11112)
    for text in ("PACS", "@host:1", "PACS@host", "PACS@host:0", "PACS@host:70000", "A" * 17 + "@host:1"):
        with pytest.raises(UserError, match="cannot read"):
            read_peer(text)
    made = dicom_node(DicomNodeOptions(model=model, peers=("A@b:1",)))  # its channel is called MRI
    assert made.modality == "MR"
    with pytest.raises(UserError, match="--ae-title"):
        dicom_node(DicomNodeOptions(model=model, peers=("A@b:1",), ae_title="x" * 17))
