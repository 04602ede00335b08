"""Work folders as training leaves them, made without training: random networks and given label maps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
from made_balls import LABELS, make_dataset
from made_plans import data_plan, manifest, model_plan, plan

import seg_transfer
from seg_transfer.data.dataset import Dataset, find_dataset
from seg_transfer.data.splits import Split
from seg_transfer.evaluation.score_files import evaluate_files
from seg_transfer.network.build import build_network
from seg_transfer.planning.counted import Counted
from seg_transfer.planning.data_plan import Channel, DataPlan, Label, Normalization
from seg_transfer.planning.examine import examine
from seg_transfer.planning.plan import ModelPlan, Plan
from seg_transfer.planning.rules.training_images import training_images
from seg_transfer.training.checkpoint import save_state
from seg_transfer.training.checkpoint_header import model_digests
from seg_transfer.workflow.work_folder import WorkFolder

PATCHES = {"2d": (1, 24, 24), "2.5d": (3, 24, 24), "3d": (8, 24, 24)}
Change = Callable[[np.ndarray], None]


def nothing(labels: np.ndarray) -> None:
    """Predict the reference itself."""


LIGHT = "tf_efficientnet_lite0"
"""An encoder that a process loads without timm and torchvision, which take it seconds to import."""


def ball_plan(dataset: Dataset, configuration: str, *, folds: int = 2, **model: object) -> Plan:
    """A plan for the data set of balls whose fold k of n holds out every n-th case."""
    cases = tuple(case.id for case in dataset.cases)
    data: DataPlan = data_plan(
        dataset=dataset.root.name,
        channels=(Channel(name="MRI", normalization=Normalization(kind="zscore")),),
        labels=tuple(Label(name=name, value=value) for name, value in LABELS.items()),
        cases=cases,
        spacing=(2.5, 1.0, 1.0),
    )
    splits = tuple(
        Split(train=tuple(case for case in cases if case not in cases[fold::folds]), validation=cases[fold::folds])
        for fold in range(folds)
    )
    network: ModelPlan = model_plan(configuration, PATCHES[configuration], **model)
    return plan(data, network, splits=splits)


def add_run(work: WorkFolder, made: Plan, *, predict: Change = nothing, folds: tuple[int, ...] = (0, 1)) -> Plan:
    """Put trained and validated folds of a plan into a work folder, and make it the current plan.

    Args:
        work: The folder; its ``dataset.json`` is there.
        made: The plan.
        predict: Changes the reference ``(i, j, k)``, in place, into what the fold is to have predicted.
        folds: Which folds.
    """
    dataset = Dataset.load(work.dataset)
    made.save(work.plan)
    plan_folder = work.plan_folder(made)
    plan_folder.keep_plan()
    channels, classes = len(made.data.channels), len(made.data.outputs)
    for fold in folds:
        run = plan_folder.run(fold)
        network, _ = build_network(made.model, channels=channels, classes=classes, seed=fold, pretrained_stages=0)
        header = {"plan": made.model_dump(mode="json")}
        save_state(run.model, "model", network.state_dict(), header)
        manifest(made, fold).save(run.manifest)
        files = {}
        for case in dataset.select(made.recipe.splits[fold].validation).cases:
            assert case.label is not None
            reference = nibabel.load(case.label)
            labels = np.asarray(reference.dataobj).copy()
            predict(labels)
            file = run.validation / f"{case.id}.nii.gz"
            file.parent.mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(labels, reference.affine), file)
            files[case.id] = file, case.label
        scores = evaluate_files(files, labels=made.data.scored)
        scores.model_copy(update={"models": model_digests([run.model])}).save(run.scores)
    return made


def make_work(folder: Path, data: Path) -> WorkFolder:
    """A work folder that knows its data set."""
    work = WorkFolder(folder)
    find_dataset(data).save(work.dataset)
    return work


def tiny_labels(made: Plan, dataset: Dataset) -> Plan:
    """The plan, as if nine training cases had held a billionth of a ml of each label, unlike what is predicted."""
    site = examine(dataset, workers=0).site
    tiny = [label.model_copy(update={"cases": 9, "ml": Counted.of([1e-9] * 9)}) for label in site.labels]
    return made.model_copy(update={"training_images": training_images(site.images, site.dimension, tiny)})


def exported_balls(folder: Path, change: Callable[[Plan, Dataset], Plan] = lambda made, _: made) -> Path:
    """An exported model of random weights, ``model.segtl``, beside its data set ``balls``; its plan may be changed."""
    work = make_work(folder / "work", make_dataset(folder / "balls", cases=2))
    dataset = Dataset.load(work.dataset)
    add_run(work, change(ball_plan(dataset, "2.5d", encoder=LIGHT), dataset), folds=(0,))
    seg_transfer.export(folder / "model.segtl", work=work.path)
    return folder / "model.segtl"
