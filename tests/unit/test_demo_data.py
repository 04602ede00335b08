import hashlib

import nibabel
import numpy as np
import pytest

from seg_transfer.data.dataset import find_dataset
from seg_transfer.data.image import read_image, read_label
from seg_transfer.demo.baseline import EDGES, Thresholds
from seg_transfer.demo.phantom import LABELS
from seg_transfer.demo.phantom_dataset import HELD_OUT, TRAINING, make_case, make_dataset
from seg_transfer.errors import UserError
from seg_transfer.evaluation.case_scores import score_case


def cases_of(seed):
    seeds = np.random.SeedSequence(seed).spawn(TRAINING + HELD_OUT)
    return [make_case(number, np.random.default_rng(one)) for number, one in enumerate(seeds)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("demo") / "data", seed=0)


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_it_is_an_nnunet_data_set(folder):
    dataset = find_dataset(folder)
    assert dataset.dimension == 3
    assert dict(dataset.labels) == {"background": 0, **LABELS}
    assert len(dataset.cases) == TRAINING
    assert all(case.label is not None for case in dataset.cases)
    names = [path.name for path in sorted((folder / "labelsTs").iterdir())]
    assert names == [f"abdomen_{number}.nii.gz" for number in range(13, 17)]
    assert len(list((folder / "imagesTs").iterdir())) == HELD_OUT


def test_cases_differ_in_orientation_and_scale_but_not_in_anatomy(folder):
    stored, stages = set(), []
    for number in range(1, TRAINING + 1):
        path = folder / "imagesTr" / f"abdomen_{number:02d}_0000.nii.gz"
        stored.add(nibabel.aff2axcodes(nibabel.load(path).affine))
        image = read_image([path])
        label = read_label(folder / "labelsTr" / f"abdomen_{number:02d}.nii.gz").array[0]
        stages.append(np.median(image.array))
        assert image.spacing[2] > 1.8 * max(image.spacing[:2])
        assert image.array[0].size < 100_000
        centres = {}
        for name, value in LABELS.items():
            voxels = np.argwhere(label == value)
            assert len(voxels) > 500, name
            centres[name] = (np.c_[voxels, np.ones(len(voxels))] @ image.affine.T)[:, :3].mean(axis=0)
        # Right is +x, front +y, up +z.
        assert centres["liver"][0] > 20
        assert centres["spleen"][0] < -60
        assert centres["kidneys"][2] < centres["liver"][2]
        assert centres["kidneys"][1] < centres["liver"][1]
    assert len(stored) == 6
    assert max(stages) > 3 * min(stages)
    oblique = nibabel.load(folder / "imagesTr" / "abdomen_03_0000.nii.gz").affine
    assert np.count_nonzero(np.abs(oblique[:3, :3]) > 1e-3) > 3


def test_the_seed_decides_on_every_byte(folder, tmp_path):
    again, other = make_dataset(tmp_path / "again", seed=0), make_dataset(tmp_path / "other", seed=1)
    first, second, third = digests(folder), digests(again), digests(other)
    assert first == second
    assert first.keys() == third.keys()
    assert not set(first.values()) & set(third.values())


def test_a_finished_data_set_is_kept_and_another_seed_refused(folder):
    before = digests(folder)
    assert make_dataset(folder, seed=0) == folder
    assert digests(folder) == before
    with pytest.raises(UserError, match="another seed"):
        make_dataset(folder, seed=7)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_intensity_alone_stays_far_below_a_network(seed):
    cases = cases_of(seed)
    fitted = Thresholds.fit(((image, label) for image, label, _ in cases[:TRAINING]), LABELS.values())
    dice = [
        score_case(fitted.apply(image), label, LABELS.values(), grid.spacing)[value].metrics["dice"]
        for image, label, grid in cases[TRAINING:]
        for value in LABELS.values()
    ]
    assert 0.05 < np.mean(dice) < 0.4


def test_thresholds_find_what_intensity_does_tell_apart():
    """Two labels of their own intensities amid noise: the best thresholds are nearly exact."""
    random = np.random.default_rng(0)
    labels = random.choice(3, size=(30, 30, 30), p=(0.8, 0.1, 0.1))
    image = np.array([0.0, 50.0, 100.0])[labels] + random.normal(size=labels.shape) * 5
    fitted = Thresholds.fit([(image, labels)], (1, 2))
    assert (fitted.apply(image * 3 + 1000) == labels).mean() > 0.99
    assert fitted.label_of_bin.shape == (EDGES.size + 1,)
