"""Time and memory of a series from C-STORE to its segmentation, by ``segtl dicom-node``.

A made CT (512 x 512 x 400 voxels unless ``--shape`` says otherwise) is sent to the node as a scanner does, one image
after the other on one association, and its DICOM segmentation is received. The network is a light one, as in
``bench/growth.py``, since its own time per voxel is constant; ``bench/vs_nnunet.py`` has that of a planned one. Memory
is the peak of the resident memory of all processes of the node, before and after the series came.

    python bench/clinic.py
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from growth import light_model
from made_dicom import write_series
from memory import SPACING, make_volume
from vs_nnunet import POLL, SEGTL, resident

from seg_transfer.util.environment import machine_text

TITLE = "BENCH"
WAIT = 1.0
"""Seconds without a new image after which the node takes a series for whole; counted in its time."""
LABELS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 400), metavar=("X", "Y", "Z"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = light_model(work)
        volume, _ = make_volume(tuple(options.shape), LABELS)
        write_series(work / "series", volume, np.diag([*SPACING, 1.0]))
        del volume
        figures = exchange(model, work / "series", work / "log.txt")
    print("| " + " | ".join(figures) + " |")
    print("|" + "---|" * len(figures))
    print("| " + " | ".join(f"{value:.4g}" for value in figures.values()) + " |")
    print(f"\n{' x '.join(map(str, options.shape))} voxels; {machine_text()}")


def exchange(model: Path, series: Path, log: Path) -> dict[str, float]:
    """Send a series to a node and wait for its segmentation; seconds and megabytes.

    Raises:
        RuntimeError: If the node ends before.
    """
    import pydicom
    from pynetdicom import AE, evt
    from pynetdicom.sop_class import CTImageStorage, SegmentationStorage

    received, came = threading.Event(), {}

    def take(event: Any) -> int:
        came["seconds"], came["mb"] = time.perf_counter(), len(event.encoded_dataset()) / 1e6
        received.set()
        return 0x0000

    receiver = AE(ae_title=TITLE)
    receiver.add_supported_context(SegmentationStorage)
    server = receiver.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
    sender = AE(ae_title=TITLE)
    sender.add_requested_context(CTImageStorage)
    own = f"{TITLE}@127.0.0.1:{server.server_address[1]}"
    peer = ["--peer", own, "--port", 0, "--modality", "CT", "--wait", WAIT]
    command = [*SEGTL, "dicom-node", "-m", model, *peer, "--device", "cpu"]
    with log.open("w") as said:
        node = psutil.Popen(list(map(str, command)), stdout=said, stderr=said)
    while not (listens := re.search(r"^SEGTL@127\.0\.0\.1:([0-9]+)$", log.read_text(), re.MULTILINE)):
        if node.poll() is not None:
            raise RuntimeError(log.read_text())
        time.sleep(POLL)
    association = sender.associate("127.0.0.1", int(listens[1]), ae_title="SEGTL")
    idle = most = resident(node)
    begun = time.perf_counter()
    for path in sorted(series.iterdir()):
        status = association.send_c_store(pydicom.dcmread(path)).Status
        if status != 0x0000:
            raise RuntimeError(f"the node answered {status:#06x}:\n{log.read_text()}")
        most = max(most, resident(node))
    association.release()
    sent = time.perf_counter()
    while not received.wait(POLL):
        most = max(most, resident(node))
        if node.poll() is not None:
            raise RuntimeError(log.read_text())
    node.send_signal(signal.SIGTERM)
    _, _, usage = os.wait4(node.pid, 0)
    server.shutdown()
    return {
        "sending, s": sent - begun,
        "from the last image to the segmentation, s": came["seconds"] - sent,
        "CPU, s": usage.ru_utime + usage.ru_stime,
        "memory idle, MB": idle / 1e6,
        "memory at most, MB": most / 1e6,
        "segmentation, MB": came["mb"],
    }


if __name__ == "__main__":
    main()
