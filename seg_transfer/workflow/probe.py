"""From a plan to evidence about its encoder."""

from __future__ import annotations

from seg_transfer.catalogue.encoders import entry, imagenet_cached
from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.options.calls import takes
from seg_transfer.options.plan_options import ProbeOptions
from seg_transfer.planning.evidence_record import Evidence, ProbeEvidence
from seg_transfer.planning.plan import Weights
from seg_transfer.planning.rules.encoder import weights as weights_rule
from seg_transfer.util import environment
from seg_transfer.util.files import check_folder
from seg_transfer.workflow.preprocess import prepare
from seg_transfer.workflow.work_folder import Work


@takes(ProbeOptions)
def probe(options: ProbeOptions) -> ProbeEvidence:
    """Measure how well the labels can be read off the frozen encoder's features, beside controls.

    Writes ``evidence.json``, where other kinds of evidence stay, and ``probe.png`` into the work folder. Cases are
    prepared where that is missing.

    Raises:
        UserError: If there is no plan, it or an encoder has no pretrained weights, there are fewer than two cases, or
            cases cannot be prepared.
    """
    place = Work(options.work)
    made = place.load_plan()
    check_folder(place.path)
    if made.model.weights.source == "none":
        what = "the plan's encoder starts from random weights, so that there is nothing to probe"
        raise UserError(what, where=place.plan, hint="plan with pretrained --weights")
    others = {name: _weights(name) for name in dict.fromkeys(options.encoders) if name != made.model.encoder}
    device = environment.resolve_device(options.device)
    environment.check_torch()
    import torch

    from seg_transfer.evidence.labelled_voxels import choose_cases
    from seg_transfer.evidence.probe import run_probe
    from seg_transfer.evidence.probe_plot import draw_probe
    from seg_transfer.preprocessing.store import Store

    evidence = Evidence.load(place.evidence)
    chosen = choose_cases(made, options.cases, options.seed)
    case_workers = environment.case_workers(options.workers)
    prepare(place, made, Dataset.load(place.dataset), case_workers, cases=chosen)
    store = Store.open(place.store_folder(made), made.data)
    torch.set_num_threads(environment.cores())
    found = run_probe(made, store, chosen, others=others, context=options.context, seed=options.seed, device=device)
    draw_probe(place.probe_plot, found)
    evidence.model_copy(update={"probe": found}).save(place.evidence)
    return found


def _weights(name: str) -> Weights:
    """Pretrained weights of an encoder that are on this machine."""
    found, _ = weights_rule(entry(name), "auto", imagenet_cached)
    if found.source == "none":
        raise UserError(
            f"there are no pretrained weights of {name} on this machine",
            where="--with",
            hint=f"`segtl encoders fetch {name}` brings them",
        )
    return found
