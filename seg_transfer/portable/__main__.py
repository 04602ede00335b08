"""The command ``segtl-infer``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from seg_transfer.data.dataset import Case, find_cases
from seg_transfer.data.formats import write_volume
from seg_transfer.data.image import read_image
from seg_transfer.errors import INTERRUPTED, SOME_FAILED, USER_ERROR, SomeCasesFailed, UserError
from seg_transfer.inference.outputs import label_file
from seg_transfer.portable.model import OnnxModel
from seg_transfer.util.local_files import check_folder, make_folder
from seg_transfer.util.parallel import report_failure

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done; 2 user error, or every case failed; 3 some cases failed.

    Args:
        arguments: Arguments without the program's name; None for those of this process.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    try:
        infer(options.input, options.output, OnnxModel(options.model, threads=options.threads))
    except (UserError, SomeCasesFailed) as error:
        logger.error(str(error))
        return SOME_FAILED if isinstance(error, SomeCasesFailed) and error.others_done else USER_ERROR
    except KeyboardInterrupt:
        logger.error("interrupted; the label maps that are written are whole")
        return INTERRUPTED
    return 0


def infer(images: Sequence[Path], output: Path, model: OnnxModel) -> None:
    """Segment images into a folder of label maps, which replace those that are there.

    Args:
        images: Folders of images, or single files.
        output: The folder.
        model: The model.

    Raises:
        SomeCasesFailed: If some cases could not be segmented; all others are.
        UserError: If there is no image, two are the same case, or a label map would replace an image.
    """
    cases = _cases(images, output, len(model.data.channels))
    make_folder(output)
    failures = {}
    for number, case in enumerate(cases, start=1):
        try:
            image = read_image(case.images)
            for warning in model.unlike_training(image):
                logger.warning(f"{case.id} is unlike the training images: {warning}")
            labels, transform = model.labels(image)
            for warning in model.unlike_volumes(labels, transform):
                logger.warning(f"{case.id} is unlike the training images: {warning}")
            write_volume(label_file(case, output), labels, transform.native, model.data.written_names)
            print(f"{number}/{len(cases)} {label_file(case, output)}", flush=True)
        except Exception as error:
            failures[case.id] = report_failure(case.id, error, title="predicting").cause
    if failures:
        raise SomeCasesFailed(failures, of=len(cases))


def _cases(paths: Sequence[Path], output: Path, channels: int) -> list[Case]:
    check_folder(output)
    cases = find_cases(paths, channels)
    files = {image.resolve() for case in cases for image in case.images}
    if output.resolve() in {file.parent for file in files}:
        hint = "name another output folder"
        raise UserError("the images are in this folder: label maps would replace them", where=output, hint=hint)
    return cases


def _threads(text: str) -> int:
    if not text.isdecimal() or int(text) > 1024:
        raise argparse.ArgumentTypeError("give a number from 0 to 1024")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "segtl-infer",
        description="Segment images with an ONNX file of `segtl export --onnx`, without PyTorch.",
        allow_abbrev=False,
    )
    need = partial(parser.add_argument, type=Path, required=True, metavar="PATH")
    need("-i", "--input", action="append", help="folder of images, or one file; repeatable")
    need("-o", "--output", help="folder for label maps")
    need("-m", "--model", help="ONNX file")
    parser.add_argument("--threads", type=_threads, default=0, metavar="N", help="threads; 0: one per core")
    return parser


if __name__ == "__main__":
    sys.exit(main())
