"""segtl as Python functions: one per command, with the command's names and defaults.

Example:
    >>> import seg_transfer
    >>> seg_transfer.plan("data/hippocampus", work="work", time_budget=1200)
    >>> seg_transfer.probe(work="work")
    >>> seg_transfer.train(0, work="work")
    >>> seg_transfer.predict("new_images", "predictions", work="work")
    >>> labels = seg_transfer.predict(array, spacing=(1.0, 1.0, 1.0), work="work")
    >>> seg_transfer.evaluate("predictions", "labels").mean_dice
    >>> seg_transfer.fetch_encoders(["resnet50"])
    >>> seg_transfer.export("model.segtl", work="work")
    >>> labels = seg_transfer.predict(array, spacing=(1.0, 1.0, 1.0), model="model.segtl")
"""

from seg_transfer.api.encoder_weights import encoders, fetch_encoders
from seg_transfer.api.evaluation import evaluate
from seg_transfer.api.exporting import card, export
from seg_transfer.api.inference import predict
from seg_transfer.api.planning import plan
from seg_transfer.api.probing import probe
from seg_transfer.api.summarizing import summary
from seg_transfer.api.training import preprocess, train

__all__ = [
    "card",
    "encoders",
    "evaluate",
    "export",
    "fetch_encoders",
    "plan",
    "predict",
    "preprocess",
    "probe",
    "summary",
    "train",
]
