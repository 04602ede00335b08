"""The viewer's server: what it answers to whom, and what a browser shows of it."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from browser import browser, console_errors, distinct_colours, needs_chromium, requested
from PIL import Image as Raster

from seg_transfer.data.formats import write_volume
from seg_transfer.data.geometry import Grid
from seg_transfer.errors import UserError
from seg_transfer.options.other_options import ViewOptions
from seg_transfer.reporting.server import PageServer
from seg_transfer.workflow.view import view

AFFINE = np.diag([-1.0, -1.0, 3.0, 1.0])


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """An MHA image, and two label maps with the same name."""
    image = np.random.default_rng(0).integers(-1000, 1000, (24, 20, 12)).astype(np.int16)
    labels = np.zeros(image.shape, np.uint16)
    labels[4:12, 4:12, 3:9], labels[12:18, 6:14, 3:9] = 7, 300
    paths = [tmp_path / "<b>ct.mha", tmp_path / "one" / "seg.nii.gz", tmp_path / "two" / "seg.nii.gz"]
    write_volume(paths[0], image, Grid(image.shape, AFFINE))
    for path in paths[1:]:
        path.parent.mkdir()
        nibabel.save(nibabel.Nifti1Image(labels, AFFINE), path)
    return paths


@pytest.fixture
def server(files: list[Path]) -> Iterator[PageServer]:
    with view(ViewOptions(image=files[0], labels=tuple(files[1:]))) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()


def ask(server: PageServer, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_the_page_and_its_volumes(server: PageServer) -> None:
    status, page = ask(server, f"/{server.token}/")
    assert status == 200 and b"&lt;b&gt;ct.mha" in page and b"<b>ct" not in page
    status, content = ask(server, f"/{server.token}/0.nii")
    image = nibabel.Nifti1Image.from_bytes(content)
    assert status == 200 and image.get_data_dtype() == np.int16 and image.shape == (24, 20, 12)
    np.testing.assert_allclose(image.header.get_zooms(), (1, 1, 3))
    assert [ask(server, f"/{server.token}/{name}")[0] for name in ("1.nii.gz", "2.nii.gz", "3.nii.gz")] == [
        200,
        200,
        404,
    ]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/TOKEN",
        "/wrong/",
        "/TOKEN/../TOKEN/x",
        "/TOKEN/../../etc/passwd",
        "/TOKEN//",
        "/TOKEN/x/",
        "/%00/",
    ],
)
def test_nothing_else_is_answered(server: PageServer, path: str) -> None:
    assert ask(server, path.replace("TOKEN", server.token))[0] == 404


def test_other_names_of_loopback_are_refused(server: PageServer) -> None:
    """A web site whose name leads to 127.0.0.1 sends its own name."""
    assert ask(server, f"/{server.token}/", Host="evil.example")[0] == 404
    assert ask(server, f"/{server.token}/", Host=f"evil.example:{server.server_port}")[0] == 404
    assert ask(server, f"/{server.token}/", method="POST")[0] == 501
    assert server.server_address[0] == "127.0.0.1"


def test_tokens_differ(files: list[Path]) -> None:
    with view(ViewOptions(image=files[0])) as one, view(ViewOptions(image=files[0])) as other:
        assert one.token != other.token and len(one.token) >= 32


def test_what_cannot_be_shown(files: list[Path], tmp_path: Path) -> None:
    elsewhere, many = tmp_path / "elsewhere.nii.gz", tmp_path / "many.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((24, 20, 12), np.uint8), np.eye(4)), elsewhere)
    nibabel.save(nibabel.Nifti1Image(np.arange(24 * 20 * 12, dtype=np.int32).reshape(24, 20, 12), AFFINE), many)
    for labels, message in ((elsewhere, "grid"), (many, "255"), (tmp_path / "none.nii.gz", "no such file")):
        with pytest.raises(UserError, match=message):
            view(ViewOptions(image=files[0], labels=(labels,)))
    with pytest.raises(UserError, match="no such file"):
        view(ViewOptions(image=tmp_path / "none.mha"))


def test_ctrl_c_ends_it(files: list[Path]) -> None:
    command = [sys.executable, "-m", "seg_transfer", "view", str(files[0]), str(files[1]), "--no-browser"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever runs the tests may ignore it
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address.startswith("http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in said


@needs_chromium
@pytest.mark.parametrize("flat", [False, True], ids=["volume", "colour image"])
def test_in_a_browser(server: PageServer, tmp_path: Path, flat: bool) -> None:
    if flat:
        pixels = np.random.default_rng(0).integers(0, 90, (60, 60, 3), np.uint8)
        for column, channel in ((0, 0), (40, 1)):  # red in the upper left corner, green in the upper right one
            pixels[:20, column : column + 20] = 0
            pixels[:20, column : column + 20, channel] = 250
        Raster.fromarray(pixels).save(tmp_path / "image.png")
        Raster.fromarray((np.arange(3600).reshape(60, 60) > 3500).astype(np.uint8)).save(tmp_path / "label.png")
        server = view(ViewOptions(image=tmp_path / "image.png", labels=(tmp_path / "label.png",)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
    with browser() as driver:
        driver.get(server.address)
        canvas = driver.find_element("id", "viewer-canvas")
        wait(lambda: canvas.get_attribute("data-shown") is not None)
        assert distinct_colours(driver, canvas) > 50
        shape = driver.find_element("id", "viewer-view")
        assert shape.is_displayed() != flat, "a 2D image has no other planes"
        if flat:
            shown = np.asarray(Raster.open(BytesIO(canvas.screenshot_as_png)).convert("RGB")).astype(int)
            middle, side = shown.shape[1] // 2, min(shown.shape[:2])
            top = shown[side // 8, [middle - 3 * side // 8, middle + 3 * side // 8]]
            assert top.argmax(axis=1).tolist() == [0, 1] and (top.max(axis=1) > 200).all(), top
        labels = driver.find_elements("css selector", "#viewer-labels option")
        assert len(labels) == (2 if flat else 3)
        shown = [entry.text for entry in driver.find_elements("css selector", "#viewer-legend li")]
        assert shown == (["label 1"] if flat else ["label 7", "label 300"])
        assert console_errors(driver) == []
        assert all(address.startswith(server.address) for address in requested(driver))
    if flat:
        server.shutdown()
        server.server_close()


def wait(found: Any) -> None:
    end = time.monotonic() + 60
    while not found():
        assert time.monotonic() < end
        time.sleep(0.2)
