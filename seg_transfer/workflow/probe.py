"""Probes the frozen encoder of a plan."""

from __future__ import annotations

from seg_transfer.catalogue.encoders import imagenet_cached
from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.options.calls import takes
from seg_transfer.options.plan_options import ProbeOptions
from seg_transfer.planning.evidence_record import Evidence, ProbeEvidence
from seg_transfer.planning.plan import Weights
from seg_transfer.planning.rules.encoder import weights as weights_rule
from seg_transfer.transfer.encoder_entry import encoder_entry
from seg_transfer.util import environment
from seg_transfer.util.local_files import check_folder
from seg_transfer.workflow.preprocess import preprocess_missing
from seg_transfer.workflow.work_folder import WorkFolder


@takes(ProbeOptions)
def probe(options: ProbeOptions) -> ProbeEvidence:
    """Measure how well classifiers predict the labels from the frozen encoder's features, compared with controls.

    Writes ``probe.png`` and its part of ``evidence.json`` into the work folder. Cases that are not preprocessed yet are
    preprocessed.

    Raises:
        UserError: If there is no plan, an encoder has no pretrained weights, there are fewer than two cases, or cases
            cannot be preprocessed.
    """
    work = WorkFolder(options.work)
    plan = work.load_plan()
    check_folder(work.path)
    if plan.model.weights.source == "none":
        what = "the plan's encoder starts from random weights: there is nothing to probe"
        raise UserError(what, where=work.plan, hint="plan with pretrained --weights")
    others = {name: _weights(name) for name in dict.fromkeys(options.encoders) if name != plan.model.encoder}
    device = environment.resolve_device(options.device)
    environment.check_torch()
    import torch

    from seg_transfer.evidence.labelled_voxels import choose_cases
    from seg_transfer.evidence.probe import run_probe
    from seg_transfer.evidence.probe_plot import draw_probe
    from seg_transfer.preprocessing.store import Store

    evidence = Evidence.load(work.evidence)
    chosen = choose_cases(plan, options.cases, options.seed)
    dataset = Dataset.load(work.dataset)
    case_workers = environment.case_workers(options.workers, dataset.select(chosen).files())
    preprocess_missing(work, plan, dataset, case_workers, cases=chosen)
    store = Store.open(work.store_folder(plan), plan.data)
    torch.set_num_threads(environment.cores())
    measured = run_probe(plan, store, chosen, others=others, context=options.context, seed=options.seed, device=device)
    draw_probe(work.probe_plot, measured)
    evidence.model_copy(update={"probe": measured}).save(work.evidence)
    return measured


def _weights(name: str) -> Weights:
    """Pretrained weights of an encoder that are on this machine."""
    weights, _ = weights_rule(encoder_entry(name, "--with"), "auto", imagenet_cached)
    if weights.source == "none":
        raise UserError(
            f"there are no pretrained weights of {name} on this machine",
            where="--with",
            hint=f"`segtl encoders fetch {name}` brings them",
        )
    return weights
