"""What is unlike the training images is noticed; what is like them is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from channel_checks import DATASETS, exchanged, noticed, selected
from made_fingerprints import channel, colours, fingerprint, plan_of
from pydantic import ValidationError

from seg_transfer.data.image import image_from_array
from seg_transfer.exporting.anonymise import anonymise
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.rules.training_images import measures_of, training_images
from seg_transfer.planning.site_parts import SiteImages
from seg_transfer.planning.training_images import ChannelMeasures, ImageMeasures, TrainingImages
from seg_transfer.planning.unlike_training import looks_like, measure_image, unlike_training

ROOT = Path(__file__).resolve().parents[2]
CT, PET = ChannelMeasures(-1000, 1400, -200, 400), ChannelMeasures(0, 20, 0.8, 1.5)
NAMES = ("CT", "PET")
IMAGE = ImageMeasures((CT, PET), (1.0, 1.0, 3.0), (120, 120, 50), "LPS")


def louder(measures: ChannelMeasures, factor: float) -> ChannelMeasures:
    return ChannelMeasures(*(factor * each for each in vars(measures).values()))


def trained_on(*images: ImageMeasures) -> TrainingImages:
    """The training images of a data set of CT and PET with these measurements."""
    made = fingerprint(cases=len(images), channels=(channel("CT"), channel("PET")))
    cases = []
    for case, image in zip(made.cases, images, strict=True):
        figures = zip(case.channels, image.channels, strict=True)
        changes = {
            "channels": tuple(one.model_copy(update=vars(measures)) for one, measures in figures),
            "spacing": image.spacing,
            "shape": image.shape,
            "orientation": image.orientation,
        }
        cases.append(case.model_copy(update=changes))
    return training_images(SiteImages.of(cases), made.dimension)


def varied(count: int, seed: int = 0) -> list[ImageMeasures]:
    """Images whose intensities and sizes differ by a tenth."""
    random = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        channels = tuple(louder(each, float(np.exp(random.normal(0, 0.1)))) for each in (CT, PET))
        x, y, z = (round(side * float(np.exp(random.normal(0, 0.1)))) for side in IMAGE.shape)
        images.append(replace(IMAGE, channels=channels, shape=(x, y, z)))
    return images


def said(image: ImageMeasures, training: TrainingImages) -> str:
    return "\n".join(unlike_training(image, training, NAMES, "mm"))


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_images_like_those_of_training_are_like_them(count: int) -> None:
    training = trained_on(*varied(count))
    assert [said(image, training) for image in [*varied(count), *varied(200, seed=1)]] == [""] * (count + 200)


@pytest.mark.parametrize("count", [1, 5, 40])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"channels": (PET, CT)}, "channels in the wrong order? CT looks like PET, PET looks like CT"),
        ({"channels": (louder(CT, 1e-3), PET)}, "CT: standard deviation 0.4, expected"),
        ({"channels": (CT, louder(PET, 1e3))}, "PET: mean 800, expected"),
        ({"channels": (CT, ChannelMeasures(0, 0, 0, 0))}, "PET: standard deviation 1."),
        ({"spacing": (1.0, 1.0, 300.0)}, "spacing in mm: along z 300, expected"),
        ({"spacing": (1e-3, 1e-3, 3e-3)}, "spacing in mm: along x 0.001, expected"),
        ({"shape": (120, 120, 2)}, "size in mm: along z 6, expected"),
        ({"shape": (4000, 120, 50)}, "size in mm: along x 4e+03, expected"),
        ({"orientation": "SAR"}, "orientation: its axes run SAR, expected LPS; is its header right?"),
    ],
)
def test_what_is_far_outside_is_named_with_its_limits(count: int, change: dict, expected: str) -> None:
    found = said(replace(IMAGE, **change), trained_on(*varied(count)))
    assert expected in found and ("\n" not in found or "spacing" in change), found


def test_limits_follow_the_spread_of_the_cases() -> None:
    """What is far outside of images of one scanner is not of images whose own intensities differ as much."""
    bright = replace(IMAGE, channels=(louder(CT, 5), louder(PET, 5)))
    assert "standard deviation" in said(bright, trained_on(*varied(20)))
    several = [replace(IMAGE, channels=(louder(CT, each), louder(PET, each))) for each in (1, 2, 4, 8, 0.5) * 4]
    assert said(bright, trained_on(*several)) == ""


def test_an_outlier_of_training_is_none_at_prediction() -> None:
    outlier = replace(IMAGE, channels=(louder(CT, 30), louder(PET, 0.01)), spacing=(9.0, 9.0, 9.0), orientation="RAS")
    assert said(outlier, trained_on(*varied(60), outlier)) == ""
    assert said(outlier, trained_on(*varied(60))) != ""


def test_an_array_has_no_orientation_and_files_of_all_orientations_were_seen() -> None:
    assert said(replace(IMAGE, orientation=None), trained_on(IMAGE)) == ""
    both = trained_on(IMAGE, replace(IMAGE, orientation="RAS"))
    assert both.orientations == ("LPS", "RAS") and said(replace(IMAGE, orientation="RAS"), both) == ""


def test_three_channels_that_went_round_are_told_apart() -> None:
    mr = ChannelMeasures(0, 1200, 400, 320)
    made = fingerprint(cases=3, channels=tuple(channel(name) for name in ("CT", "PET", "MR")))
    case = made.cases[0]
    figures = zip(case.channels, (CT, PET, mr), strict=True)
    channels = tuple(one.model_copy(update=vars(measures)) for one, measures in figures)
    cases = tuple(each.model_copy(update={"channels": channels}) for each in made.cases)
    training = training_images(SiteImages.of(cases), made.dimension)
    image = replace(measures_of(cases[0]), channels=(mr, CT, PET))
    assert looks_like(image, training) == [2, 0, 1]
    assert looks_like(measures_of(cases[0]), training) == [0, 1, 2]


def test_an_image_is_measured_as_in_the_fingerprint() -> None:
    array = np.random.default_rng(0).normal(50, 20, (2, 9, 8, 7)).astype(np.float32)
    measured = measure_image(image_from_array(array, (1.0, 2.0, 3.0)))
    assert measured.spacing == (1.0, 2.0, 3.0) and measured.shape == (9, 8, 7) and measured.orientation == "RAS"
    assert measured.channels[1].mean == pytest.approx(array[1].mean(), rel=1e-5)
    assert measured.channels[1].std == pytest.approx(array[1].std(), rel=1e-5)
    assert measured.channels[0].minimum == array[0].min()
    assert measure_image(image_from_array(array, (1, 1, 1)), oriented=False).orientation is None


@pytest.mark.parametrize("name", DATASETS)
def test_no_case_of_a_real_data_set_is_unlike_its_own_training_images(name: str) -> None:
    made = Fingerprint.load(ROOT / "plans" / f"{name}.fingerprint.json")
    names = [each.name for each in made.channels]
    training = training_images(SiteImages.of(made.cases), made.dimension)
    assert noticed([measures_of(case) for case in made.cases], training, names) == 0


@pytest.mark.parametrize("size", ["6", "12"])
def test_exchanged_channels_of_ct_pet_and_mr_are_always_noticed(size: str) -> None:
    made = Fingerprint.load(ROOT / "plans" / "sarcoma.fingerprint.json")
    lists = json.loads((ROOT / "bench" / "lists" / "sarcoma.json").read_text())
    training = training_images(SiteImages.of(selected(made, lists["few_shot"][size]).cases), made.dimension)
    names = [each.name for each in made.channels]
    held_out = [measures_of(case) for case in selected(made, lists["test"]).cases]
    assert noticed(held_out, training, names) == 0
    assert noticed(exchanged(held_out, names), training, names) == 5 * len(held_out) == 20


def test_the_plan_holds_them_outside_of_its_hash_and_they_are_exported() -> None:
    made = plan_of(fingerprint(channels=colours()))
    assert made.training_images is not None and len(made.training_images.channels) == 3
    without = made.model_copy(update={"training_images": None})
    assert without.hash == made.hash and without.differs_in(made) == []
    assert Plan.from_json(made.to_json(), where="text").training_images == made.training_images
    assert anonymise(made, name="x").training_images == made.training_images
    content = json.loads(made.to_json())
    del content["training_images"]["channels"][0]
    del content["checksums"]
    with pytest.raises(ValidationError, match="channels: 2 entries instead of 3"):
        Plan.model_validate(content)


def test_limits_that_would_overflow_do_not() -> None:
    """A model file that was made up is compared with as well."""
    training = trained_on(IMAGE)
    spread = training.size[0].model_copy(update={"mean": -1e6, "std": 1e5, "lowest": -1e6, "highest": -1e6})
    odd = training.model_copy(update={"size": (spread,) * 3, "degrees": 1})
    assert said(IMAGE, odd) == ""
    odd = training.model_copy(update={"size": (spread.model_copy(update={"std": 1e-300}),) * 3})
    assert "size in mm" in said(IMAGE, odd)
    thin = training.channels[0].figures[0].model_copy(update={"mean": 1e3, "std": 1e-300})
    channels = tuple(each.model_copy(update={"figures": (thin,) * 5}) for each in training.channels)
    assert "CT: minimum in standard deviations -2.5" in said(IMAGE, training.model_copy(update={"channels": channels}))
