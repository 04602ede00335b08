"""From a plan to evidence about its encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seg_transfer.catalogue.encoders import entry, imagenet_cached
from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.planning.evidence_record import Evidence, ProbeEvidence
from seg_transfer.planning.plan import Weights
from seg_transfer.planning.rules.encoder import weights as weights_rule
from seg_transfer.util import environment
from seg_transfer.util.files import check_folder
from seg_transfer.workflow.preprocess import prepare
from seg_transfer.workflow.work_folder import DEFAULT, Work

CASES = 20


def probe(
    *,
    work: Path | str = DEFAULT,
    cases: int = CASES,
    encoders: Sequence[str] = (),
    context: bool = False,
    device: str = "auto",
    workers: int | None = None,
    seed: int = 0,
) -> ProbeEvidence:
    """Measure how well the labels can be read off the frozen encoder's features, beside controls.

    Writes ``evidence.json``, where other kinds of evidence stay, and ``probe.png`` into the work folder. Cases are
    prepared where that is missing.

    Args:
        work: Work folder with a plan.
        cases: At most so many cases are looked at.
        encoders: Other encoders to look at as well, by themselves and together with the plan's; their weights have to
            be on this machine.
        context: Append the mean over the slice (in 3D: the patch) to the features of each voxel.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        workers: Processes that prepare cases; 0 works in this one, None takes as many as the machine bears.
        seed: Seed of all chance.

    Raises:
        UserError: If there is no plan, it or an encoder has no pretrained weights, there are fewer than two cases, or
            cases cannot be prepared.
    """
    place = Work(Path(work))
    made = place.load_plan()
    check_folder(place.path)
    if cases < 2:
        raise UserError(f"{cases} case(s), at least 2 are needed", where="--cases", hint="give a larger number")
    if made.model.weights.source == "none":
        what = "the plan's encoder starts from random weights, so that there is nothing to probe"
        raise UserError(what, where=place.plan, hint="plan with pretrained --weights")
    others = {name: _weights(name) for name in dict.fromkeys(encoders) if name != made.model.encoder}
    device = environment.resolve_device(device)
    environment.check_torch()
    import torch

    from seg_transfer.evidence.cases import choose_cases
    from seg_transfer.evidence.probe import run_probe
    from seg_transfer.evidence.probe_plot import draw_probe
    from seg_transfer.preprocessing.store import Store

    evidence = Evidence.load(place.evidence)
    chosen = choose_cases(made, cases, seed)
    case_workers = environment.case_workers() if workers is None else workers
    prepare(place, made, Dataset.load(place.dataset), case_workers, cases=chosen)
    store = Store.open(place.store_folder(made), made.data)
    torch.set_num_threads(environment.cores())
    found = run_probe(made, store, chosen, others=others, context=context, seed=seed, device=device)
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
