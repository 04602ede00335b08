"""Resampling, store layouts and checksums, measured on one thread: ``python bench/preprocessing.py``.

The resampling table compares with scipy.ndimage.zoom (what skimage and nnU-Net call) and with torch's interpolation;
the store table reads random patches of the three configurations from a noisy volume, opening the file each time. The
table of checksums reads patches of a stored case, opening the case each time, without checks, with chunks that were
checked before (as training does after the first read of a chunk), and checking every chunk at every read.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import blosc2
import numpy as np
import torch
from scipy import ndimage

from seg_transfer.data.image import image_from_array
from seg_transfer.planning.data_plan import Channel, DataPlan, Label, Normalization
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.resample import resample
from seg_transfer.preprocessing.store import Store
from seg_transfer.preprocessing.stored_case import CaseRecord

BEFORE, AFTER = (40, 256, 256), (60, 320, 320)
VOLUME, PATCHES = (72, 512, 512), {"2D": (1, 160, 160), "2.5D": (5, 160, 160), "3D": (32, 128, 128)}


def milliseconds(function: Callable[[], object], repeats: int = 3) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def resampling() -> None:
    volume = np.random.default_rng(0).normal(size=BEFORE).astype(np.float32)
    zoom = [after / before for after, before in zip(AFTER, BEFORE, strict=True)]
    print(f"resampling {BEFORE} -> {AFTER}, CPU milliseconds")
    for order in (1, 3):
        expected = ndimage.zoom(volume, zoom, order=order, mode="nearest", grid_mode=True)
        expected = expected.clip(volume.min(), volume.max())
        ours = resample(volume, AFTER, (order,) * 3)
        theirs = milliseconds(partial(ndimage.zoom, volume, zoom, order=order, mode="nearest", grid_mode=True), 1)
        mine = milliseconds(partial(resample, volume, AFTER, (order,) * 3))
        off = np.abs(ours - expected).max()
        print(f"  order {order}: scipy {theirs:7.1f}   ours {mine:6.1f}   differ by {off:.0e}")
    tensor = torch.from_numpy(volume)[None, None]
    torch_time = milliseconds(lambda: torch.nn.functional.interpolate(tensor, size=AFTER, mode="trilinear"))
    print(f"  order 1: torch {torch_time:7.1f}")


def store(folder: Path) -> None:
    random = np.random.default_rng(0)
    smooth = ndimage.zoom(random.normal(size=(9, 32, 32)), (8, 16, 16), order=1)
    volume = (smooth + 0.05 * random.normal(size=VOLUME)).astype(np.float16).astype(np.float32)[None]
    path = folder / "volume.b2nd"
    codecs = {"lz4 bitshuffle": (blosc2.Codec.LZ4, 5, blosc2.Filter.BITSHUFFLE)}
    codecs["zstd shuffle"] = (blosc2.Codec.ZSTD, 1, blosc2.Filter.SHUFFLE)
    layouts = [((1, 16, 128, 128), (1, 4, 32, 32)), ((1, 16, 128, 128), (1, 1, 64, 64))]
    layouts.append(((1, 32, 256, 256), (1, 4, 64, 64)))
    print(f"store of a {VOLUME} volume: share of its size, CPU milliseconds to write and to read one patch")
    for (name, (codec, level, kind)), (chunks, blocks) in itertools.product(codecs.items(), layouts):
        parameters = {"codec": codec, "clevel": level, "filters": [kind], "nthreads": 1}
        start = time.process_time()
        blosc2.asarray(volume, chunks=chunks, blocks=blocks, cparams=parameters, urlpath=str(path), mode="w")
        written = 1000 * (time.process_time() - start)
        share = path.stat().st_size / volume.nbytes
        cells = []
        for label, patch in PATCHES.items():
            corners = random.integers(0, np.array(VOLUME) - patch + 1, size=(20, 3))

            def read(corners: np.ndarray = corners, patch: tuple[int, ...] = patch) -> None:
                for corner in corners:
                    box = tuple(map(slice, corner, corner + np.array(patch)))
                    blosc2.open(str(path), mode="r", mmap_mode="r")[(slice(None), *box)]

            cells.append(f"{label} {milliseconds(read) / len(corners):5.2f}")
        head = f"  {name:15} chunks {chunks[1:]} blocks {blocks[1:]}"
        print(f"{head}: {share:.2f}  write {written:5.0f}  {'  '.join(cells)}")
        path.unlink()


def checks(folder: Path) -> None:
    random = np.random.default_rng(0)
    shape = VOLUME[1:] + VOLUME[:1]
    smooth = ndimage.zoom(random.normal(size=(32, 32, 9)), (16, 16, 8), order=1)
    noisy = (smooth + 0.05 * random.normal(size=shape)).astype(np.float16).astype(np.float32)
    image = image_from_array(noisy, (1.0, 1.0, 1.0))
    data = DataPlan(
        dataset="noise",
        dimension=3,
        unit="mm",
        channels=(Channel(name="CT", normalization=Normalization(kind="minmax", lower=0, upper=1)),),
        labels=(Label(name="background", value=0), Label(name="mass", value=1)),
        cases=("case",),
        axes=(2, 0, 1),
        spacing=(1.0, 1.0, 1.0),
        crop_nonzero=False,
        slice_order=1,
    )
    store = Store.create(folder, data)
    transform = CaseTransform.fit(image, data)
    label = (transform.image(image)[0] > 0.5).astype(np.uint8)
    store.add("case", transform.slabs(image), label, transform)
    unchecked = Store.create(folder / "unchecked", data)
    shutil.copytree(folder / "case", unchecked.folder / "case")
    record = CaseRecord.load(folder / "case" / "case.json")
    record.model_copy(update={"digests": None}).save(unchecked.folder / "case" / "case.json")
    checked = Store.open(folder, data)
    checked.case("case").check()
    whole = milliseconds(lambda: Store.open(folder, data).case("case").check())
    size = sum(path.stat().st_size for path in (folder / "case").iterdir())
    print(f"checksums of the {VOLUME} case: {whole:.0f} ms for all of it, {size / whole / 1000:.0f} MB/s")
    print("  CPU milliseconds to open it and read a patch of image and label")
    for name, patch in PATCHES.items():
        corners = random.integers(0, np.array(VOLUME) - patch + 1, size=(20, 3))
        boxes = [tuple(map(slice, corner, corner + np.array(patch))) for corner in corners]

        def read(store: Callable[[], Store], boxes: list[tuple[slice, ...]] = boxes) -> None:
            for box in boxes:
                case = store().case("case")
                _ = case.image[(slice(None), *box)], case.label[box]

        ways: dict[str, Callable[[], Store]] = {
            "unchecked": lambda: unchecked,
            "checked before": lambda: checked,
            "at every read": lambda: Store(folder, data),
        }
        cells = [f"{way} {milliseconds(partial(read, store), 7) / len(boxes):5.2f}" for way, store in ways.items()]
        print(f"  {name:5} {'  '.join(cells)}")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
    resampling()
    with tempfile.TemporaryDirectory() as place:
        store(Path(place))
        checks(Path(place))


if __name__ == "__main__":
    main()
