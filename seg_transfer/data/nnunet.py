"""Reads what nnU-Net v2 wrote about a data set: plans and folds. Its arrays are not read.

nnU-Net keeps images in ``nnUNet_raw/DatasetXXX_Name`` and plans in ``nnUNet_preprocessed/DatasetXXX_Name``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seg_transfer.data.layouts import DESCRIPTION
from seg_transfer.data.splits import Split, splits_from_file
from seg_transfer.errors import UserError
from seg_transfer.util.local_files import no_folder
from seg_transfer.util.names import is_file_name
from seg_transfer.util.records import parse_object, wrong_fields
from seg_transfer.util.text_files import read_bytes
from seg_transfer.util.units import SPACINGS

DEFAULT_CONFIGURATIONS = ("3d_fullres", "2d")
"""The one that is taken if none is named: the first that exists."""
SPLITS = "splits_final.json"
FOLDS, SEED = 5, 12345
"""nnU-Net's cross-validation where there is no file of folds yet (``crossval_split.py`` of nnU-Net 2.8)."""
IN_FILE_ORDER = {"SimpleITKIO", "NibabelIO", "NaturalImage2DIO"}
"""Readers of nnU-Net that leave the file's axes as they are, in the order (k, j, i)."""
REORIENTED = {"SimpleITKIOWithReorient", "NibabelIOWithReorient"}
"""Readers of nnU-Net that turn images to RAS first, so that their order is (z, y, x)."""
RESAMPLING = "resample_data_or_seg_to_shape"
"""nnU-Net's default function for it."""
_RAW, _PREPROCESSED = "nnUNet_raw", "nnUNet_preprocessed"
_HINT = "give what nnUNetv2_plan_and_preprocess of nnU-Net v2 wrote"


class _Foreign(BaseModel):
    """A part of nnU-Net's files: unknown fields are left out, since versions of nnU-Net differ in them."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


ForeignT = TypeVar("ForeignT", bound=_Foreign)


_Figure = Annotated[float, Field(ge=-1e15, le=1e15)]
_Length = Annotated[float, Field(ge=SPACINGS[0], le=SPACINGS[1])]


class Intensities(_Foreign):
    """nnU-Net's statistics of one channel's foreground."""

    mean: _Figure
    std: Annotated[float, Field(ge=0, le=1e15)]
    percentile_00_5: _Figure
    percentile_99_5: _Figure


class NnunetConfiguration(_Foreign):
    """One configuration; sizes are in the order of nnU-Net's transposed axes, in 2D without the first one."""

    name: str
    spacing: tuple[_Length, ...] = Field(min_length=2, max_length=3)
    patch_size: tuple[Annotated[int, Field(ge=1, le=2**24)], ...] = Field(min_length=2, max_length=3)
    normalization_schemes: tuple[str, ...] = Field(min_length=1)
    use_mask_for_norm: tuple[bool, ...] = Field(min_length=1)
    preprocessor_name: str = "DefaultPreprocessor"
    resampling_fn_data: str = RESAMPLING
    resampling_fn_data_kwargs: dict[str, Any] = {}
    resampling_fn_probabilities: str = RESAMPLING
    resampling_fn_probabilities_kwargs: dict[str, Any] = {}
    architecture: dict[str, Any] | None = None


class _Plans(_Foreign):
    """The fields of a plans file that are taken over."""

    image_reader_writer: str
    transpose_forward: tuple[int, int, int]
    original_median_spacing_after_transp: tuple[float, float, float] | None = None
    foreground_intensity_properties_per_channel: dict[str, Intensities] = {}
    configurations: dict[str, dict[str, Any]] = Field(min_length=1)


@dataclass(frozen=True)
class NnunetPlans:
    """nnU-Net's plans for one configuration.

    Attributes:
        path: The plans file.
        configuration: The chosen one, with what it inherits.
        transpose: nnU-Net's ``transpose_forward``: which axis of its (k, j, i) order comes first, second and third.
        reoriented: Whether nnU-Net turns images to RAS before, so that (k, j, i) is (z, y, x).
        median_spacing: In the transposed order; None in files without it.
        intensities: Per channel; None in files without them.
    """

    path: Path
    configuration: NnunetConfiguration
    transpose: tuple[int, int, int]
    reoriented: bool
    median_spacing: tuple[float, float, float] | None
    intensities: tuple[Intensities | None, ...]


def find_folders(folder: Path, raw: Path | None, plans: str) -> tuple[Path, Path]:
    """The folders of the images and of the plans.

    Args:
        folder: The data set's folder in ``nnUNet_preprocessed`` or in ``nnUNet_raw``; the other one is found beside it
            where both trees lie in one folder.
        raw: The folder with the images, where it lies elsewhere.
        plans: Name of the plans file, without ending.

    Returns:
        Folder of the images, folder of the plans.

    Raises:
        UserError: If one of them is missing, or the plans are those of nnU-Net v1.
    """
    if not is_file_name(plans):
        raise UserError(f"{plans[:60]!r} cannot be the name of a file", where="--plans", hint="such as nnUNetPlans")
    for given in (folder, *([raw] if raw is not None else [])):
        if not given.is_dir():
            raise no_folder(given, "give a data set's folder in nnUNet_preprocessed or nnUNet_raw")
    planned = [folder, *_beside(folder, _PREPROCESSED)]
    with_plans = [one for one in planned if (one / f"{plans}.json").is_file()]
    if not with_plans:
        raise _no_plans(folder, planned, plans)
    places = [folder, *_beside(folder, _RAW)] if raw is None else [raw]
    with_images = [one for one in places if _holds_images(one)]
    if not with_images:
        what = f"neither here nor in {places[-1]} are the images that nnU-Net's plans are for"
        if raw is not None:
            what = "there is no imagesTr, and no dataset.json that lists images"
        hint = f"give the data set's folder in {_RAW} with --raw: preprocessed arrays of nnU-Net are not read"
        raise UserError(what, where=folder if raw is None else raw, hint=hint)
    return with_images[0], with_plans[0]


def read_plans(folder: Path, plans: str, configuration: str | None, channels: Sequence[str]) -> NnunetPlans:
    """Read a plans file for one configuration.

    Args:
        folder: Folder of the plans.
        plans: Name of the plans file, without ending.
        configuration: Such as ``3d_fullres``; None: the first of :data:`DEFAULT_CONFIGURATIONS` that exists.
        channels: Names of the data set's channels.

    Raises:
        UserError: If the file is damaged or of another version, or the configuration cannot be taken over.
    """
    path = folder / f"{plans}.json"
    content = parse_object(read_bytes(path, _HINT), "plans file of nnU-Net v2", where=path, hint=_HINT)
    read = _read(_Plans, content, path, "")
    if sorted(read.transpose_forward) != [0, 1, 2]:
        what = f"transpose_forward is {list(read.transpose_forward)}, which is no order of three axes"
        raise UserError(what, where=path, hint=_HINT)
    if read.image_reader_writer not in IN_FILE_ORDER | REORIENTED:
        known = ", ".join(sorted(IN_FILE_ORDER | REORIENTED))
        what = f"nnU-Net read the images with {read.image_reader_writer[:60]!r}, whose order of axes is not known"
        raise UserError(what, where=path, hint=f"these are known: {known}")
    chosen = _configuration(read.configurations, configuration, path)
    if {len(chosen.normalization_schemes), len(chosen.use_mask_for_norm)} != {len(channels)}:
        what = f"the plans are for {len(chosen.normalization_schemes)} channel(s), the images have {len(channels)}"
        hint = "give the plans and the images of the same data set"
        raise UserError(f"{what}: {', '.join(channels)}", where=path, hint=hint)
    intensities = read.foreground_intensity_properties_per_channel
    return NnunetPlans(
        path=path,
        configuration=chosen,
        transpose=read.transpose_forward,
        reoriented=read.image_reader_writer in REORIENTED,
        median_spacing=read.original_median_spacing_after_transp,
        intensities=tuple(intensities.get(str(number)) for number in range(len(channels))),
    )


def read_folds(folder: Path, cases: Sequence[str]) -> tuple[list[Split], str]:
    """nnU-Net's folds, and where they are from.

    nnU-Net writes ``splits_final.json`` when it trains first. Without the file they are the ones that it would write.

    Args:
        folder: Folder of the plans.
        cases: All cases of the data set.

    Raises:
        UserError: If the file is wrong, or there is none and too few cases for nnU-Net's five folds.
    """
    path = folder / SPLITS
    if path.exists():
        return splits_from_file(path), f"from nnU-Net's {SPLITS}"
    if len(cases) < FOLDS:
        what = f"there is no {SPLITS}, and {len(cases)} cases are too few for nnU-Net's {FOLDS} folds"
        raise UserError(what, where=folder, hint=f"write the folds into {SPLITS}")
    from sklearn.model_selection import KFold

    names = sorted(cases)
    folds = KFold(n_splits=FOLDS, shuffle=True, random_state=SEED).split(names)
    splits = [
        Split(train=tuple(names[i] for i in train), validation=tuple(names[i] for i in val)) for train, val in folds
    ]
    return splits, f"those that nnU-Net draws when it trains first; there is no {SPLITS} yet"


def same_description(raw: Path, planned: Path) -> bool:
    """Whether ``dataset.json`` has the same channels and labels in both folders; True where one has none."""
    contents = []
    for folder in (raw, planned):
        path = folder / DESCRIPTION
        if not path.is_file():
            return True
        contents.append(parse_object(read_bytes(path, _HINT), "dataset.json of nnU-Net", where=path, hint=_HINT))
    return all(
        contents[0].get(key) == contents[1].get(key) for key in ("channel_names", "labels", "regions_class_order")
    )


def _beside(folder: Path, tree: str) -> list[Path]:
    """The folder of the same data set in another tree, beside a folder as it is named and as links lead to it."""
    return [path.parent.parent / tree / path.name for path in (folder.resolve(), folder.absolute())]


def _no_plans(folder: Path, planned: Sequence[Path], plans: str) -> UserError:
    """Why there are no plans: a wrong name, the folder above, nnU-Net v1, or nothing planned yet."""
    others = sorted(path.stem for one in planned if one.is_dir() for path in one.glob("*Plans*.json"))
    if others:
        hint = f"choose --plans {', --plans '.join(others)}"
        return UserError(f"there is no {plans}.json, but {', '.join(others)}", where=folder, hint=hint)
    inside = sorted(path.name for path in folder.glob("Dataset[0-9][0-9][0-9]_*") if path.is_dir())
    if inside:
        what = f"this is the folder of {len(inside)} data set(s): {', '.join(inside[:5])}"
        return UserError(what, where=folder, hint=f"give one of them, such as {folder / inside[0]}")
    if any(folder.glob("*plans*.pkl")) or (folder / "dataset_properties.pkl").exists():
        what = "written by nnU-Net v1, whose plans are not read"
        return UserError(what, where=folder, hint="plan with nnU-Net v2, or run `segtl plan` on the images")
    what = f"there is no {plans}.json, neither here nor in {planned[-1]}"
    hint = (
        f"run nnUNetv2_plan_and_preprocess first, or give the data set's folder in {_PREPROCESSED}, and this one with "
        "--raw; `segtl plan` plans without nnU-Net"
    )
    return UserError(what, where=folder, hint=hint)


def _holds_images(folder: Path) -> bool:
    """Whether a folder holds images, or lists them in its ``dataset.json``."""
    if (folder / "imagesTr").is_dir():
        return True
    path = folder / DESCRIPTION
    return path.is_file() and "dataset" in parse_object(read_bytes(path, _HINT), DESCRIPTION, where=path, hint=_HINT)


def _configuration(all_of: dict[str, dict[str, Any]], name: str | None, path: Path) -> NnunetConfiguration:
    """A configuration with what it inherits."""
    whole = [one for one in all_of if "previous_stage" not in all_of[one]]
    hint = f"choose --config {', '.join(whole)}"
    if name is None:
        name = next((one for one in DEFAULT_CONFIGURATIONS if one in all_of), None)
        if name is None:
            raise UserError(f"there is no {' or '.join(DEFAULT_CONFIGURATIONS)}", where=path, hint=hint)
    if name not in all_of:
        raise UserError(f"there is no configuration {name[:60]!r}", where=path, hint=hint)
    content: dict[str, Any] = {}
    seen: list[str] = []
    following: Any = name
    while following is not None:
        if following in seen or not isinstance(following, str) or following not in all_of:
            why = "itself" if following in seen else "missing"
            what = f"{name} inherits from {str(following)[:60]!r}, which is {why}"
            raise UserError(what, where=path, hint=_HINT)
        seen.append(following)
        content = all_of[following] | content
        following = all_of[following].get("inherits_from")
    if content.get("previous_stage") is not None:
        what = f"{name} is the second stage of a cascade, which segtl has not"
        raise UserError(what, where=path, hint=hint)
    chosen = _read(NnunetConfiguration, content | {"name": name}, path, f"configurations.{name}.")
    if len(chosen.spacing) != len(chosen.patch_size):
        what = f"configurations.{name}: {len(chosen.spacing)} spacings for a patch of {len(chosen.patch_size)} axes"
        raise UserError(what, where=path, hint=_HINT)
    return chosen


def _read(kind: type[ForeignT], content: dict[str, Any], path: Path, prefix: str) -> ForeignT:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        what = "; ".join(prefix + line for line in wrong_fields(error))
        raise UserError(f"not plans of nnU-Net v2: {what}", where=path, hint=_HINT) from None
