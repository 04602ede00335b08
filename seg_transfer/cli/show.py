"""Tables and lines of results on stdout: ``show_NAME`` for the command NAME; without one its result is printed.

``end_NAME`` ends a command whose result is shown with another exit code, where some of it failed. What has scores is in
:mod:`seg_transfer.cli.show_scores`.
"""

from __future__ import annotations

import logging
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.padding import Padding
from rich.table import Table

from seg_transfer.catalogue.encoders import BUNDLED
from seg_transfer.cli.console import flush
from seg_transfer.cli.printing import console, print_line, print_table
from seg_transfer.errors import SOME_FAILED
from seg_transfer.evaluation.metrics import METRICS
from seg_transfer.util.texts import first_of
from seg_transfer.util.units import bytes_text, seconds_text
from seg_transfer.workflow.work_folder import WorkFolder

if TYPE_CHECKING:
    from seg_transfer.options.import_options import ImportNnunetOptions
    from seg_transfer.options.model_options import CardOptions, DicomSegOptions, ExportOptions
    from seg_transfer.options.other_options import (
        ConvertOptions,
        FetchOptions,
        InfoOptions,
        InspectOptions,
        StatusOptions,
        ViewOptions,
    )
    from seg_transfer.options.plan_options import CheckOptions, PlanOptions
    from seg_transfer.options.pretrain_options import PretrainOptions
    from seg_transfer.options.serving_options import DicomNodeOptions, ServeOptions
    from seg_transfer.planning.plan import Plan
    from seg_transfer.pretraining.fit import Pretrained
    from seg_transfer.reporting.server import PageServer
    from seg_transfer.serving.dicom_node import Node
    from seg_transfer.serving.server import Server
    from seg_transfer.transfer.fetch import Fetched
    from seg_transfer.workflow.check import CheckReport, Finding
    from seg_transfer.workflow.convert import FoundSeries
    from seg_transfer.workflow.encoder_weights import EncoderStatus
    from seg_transfer.workflow.info import Info
    from seg_transfer.workflow.inspect import CaseReport
    from seg_transfer.workflow.status import Status

logger = logging.getLogger(__name__)
_dice = METRICS["dice"].text


def show_plan(plan: Plan, options: PlanOptions | ImportNnunetOptions) -> None:
    """Show the data set, the decisions that matter, and the expected cost; with ``--explain`` all of them."""
    from seg_transfer.planning.brief import brief

    data, work_folder = plan.data, WorkFolder(options.work)
    kind = "2D images" if data.dimension == 2 else "volumes"
    channels = first_of(channel.name for channel in data.channels)
    print_line(f"{data.dataset}: {len(data.cases)} {kind}; channels: {channels}")
    print_line(f"labels: {first_of(label.name for label in data.labels if label.value)}")
    if data.regions:
        print_line(f"regions: {first_of(f'{region.name} {_values(region.values)}' for region in data.regions)}")
    if data.ignore is not None:
        print_line(f"not annotated: {data.ignore}")
    if options.explain:
        for reason in plan.reasons:
            print_line(f"{reason.field}: {reason.choice}")
            console().print(Padding(reason.reason, (0, 0, 0, 4), expand=False))
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        for row in brief(plan):
            table.add_row(row.decision, row.choice, row.why)
        print_table(table)
    if plan.expected is not None:
        expected = plan.expected
        print_line(
            f"expected: {seconds_text(expected.training_seconds_per_fold)} of training per fold, "
            f"{bytes_text(expected.memory_bytes)} of memory, {bytes_text(expected.disk_bytes)} of disk"
        )
    command = "" if options.command is None else options.command.name
    more = "" if options.explain else f" ({command} --explain tells every reason)"
    print_line(f"plan: {work_folder.plan}{more}")
    option = work_folder.option
    logger.info(f"next: `segtl train 0{option}` (cv in place of 0: every fold)")


show_import_nnunet = show_plan


def show_check(report: CheckReport, _: CheckOptions) -> None:
    """Show the labels' volumes and everything that was found."""
    print_line(f"{report.root}: {report.cases} cases, layout {report.layout}")
    print_line(f"channels: {', '.join(report.channels)}")
    volume = "ml" if report.unit == "mm" else "pixels"
    table = Table("label", "value", "cases", f"least {volume}", "median", "largest")
    for label in report.labels:
        sizes = ("" if size is None else _number(size) for size in (label.least, label.median, label.largest))
        table.add_row(label.name, str(label.value), str(label.cases), *sizes)
    print_table(table)
    if report.findings:
        table = Table("severity", "case", "file", "what", "hint")
        for alike in _alike(report.findings):
            cases = [found.case for found in alike if found.case]
            files = [found.file.name for found in alike if found.file]
            table.add_row(
                alike[0].severity,
                first_of(dict.fromkeys(cases), 3),
                first_of(dict.fromkeys(files), 3),
                alike[0].what,
                alike[0].hint,
            )
        print_table(table)
    counts = (f"{report.count(severity)} {severity}(s)" for severity in ("problem", "warning", "note"))
    print_line(", ".join(counts))
    if report.fixed_copy is not None:
        print_line(f"fixed copy: {report.fixed_copy}")


def end_check(report: CheckReport, options: CheckOptions) -> None:
    """Exit with code 3 where there is a problem."""
    if report.count("problem") or (options.strict and report.count("warning")):
        raise typer.Exit(SOME_FAILED)


def _alike(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Findings that say the same of several cases, together."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for found in findings:
        groups.setdefault((found.severity, found.what, found.hint), []).append(found)
    return list(groups.values())


def show_card(card: str, _: CardOptions) -> None:
    """Show a model's card."""
    for line in card.splitlines():
        print_line(line)


def show_export(files: Sequence[Path], _: ExportOptions) -> None:
    """Show the written files."""
    for file in files:
        print_line(str(file))


def show_status(status: Status, _: StatusOptions) -> None:
    """Show the state of a work folder, and the next commands."""
    print_line(f"{status.work}: {status.dataset or 'no data set yet'}")
    if status.plan is not None:
        edited = f", edited by hand: {', '.join(status.edited)}" if status.edited else ""
        print_line(f"plan: {status.plan}{edited}")
        print_line(f"preprocessed: {status.preprocessed} of {status.cases} cases")
    folders = dict.fromkeys(Path(run.folder).parent for run in status.runs)
    for folder in folders:
        runs = [run for run in status.runs if Path(run.folder).parent == folder]
        print_line(f"{'current' if runs[0].current else 'earlier'} plan's runs: {folder}")
        table = Table("fold", "state", "mean Dice")
        for run in runs:
            table.add_row(str(run.fold), run.state, "" if run.mean_dice is None else _dice(run.mean_dice))
        print_table(table)
    for problem in filter(None, (run.problem for run in status.runs)):
        logger.warning(problem)
    for run in status.runs:
        if run.shortfall is not None:
            logger.warning(f"{run.folder}: {run.shortfall}")
    for step in status.next:
        print_line(f"next: {step}")


def show_inspect(report: CaseReport, _: InspectOptions) -> None:
    """Show a case's figures beside the data set's, its scores and what is unusual about it."""
    held_out = "in no fold" if report.fold is None else f"held out by fold {report.fold}"
    print_line(f"{report.case}: {held_out}; {', '.join(map(str, report.files))}")
    table = Table("figure", "this case", "rank", "lowest", "median", "highest", title="among all cases")
    table.title_justify = "left"
    for place in (*report.figures, *(one.mean_dice for one in report.scores if one.mean_dice)):
        figures = map(_number, (place.lowest, place.median, place.highest))
        table.add_row(place.what, _number(place.value), f"{place.rank} of {place.cases}", *figures)
    print_table(table)
    for scores in report.scores:
        if scores.labels:
            metrics = list(next(iter(scores.labels.values())))
            title = f"{scores.plan}, fold {scores.fold}{'' if scores.current else ' (an earlier plan)'}"
            table = Table("label", *metrics, title=title, title_justify="left")
            for label, values in scores.labels.items():
                table.add_row(label, *("–" if values[name] is None else f"{values[name]:.3f}" for name in metrics))
            print_table(table)
        if scores.failure is not None:
            logger.warning(f"{scores.plan}, fold {scores.fold}: {scores.failure}")
    print_line(f"fragments: {', '.join(f'{label} {count}' for label, count in report.fragments.items())}")
    if report.same_image:
        logger.warning(f"the same image as {', '.join(report.same_image)}")
    for warning in report.warnings:
        logger.warning(warning)
    print_line(f"overlay: {report.overlay}")


def show_convert(found: Sequence[FoundSeries], options: ConvertOptions) -> None:
    """Show the series, and which of them are volumes."""
    table = Table("number", "modality", "description", "files", "voxels", "spacing (mm)", "name or problem")
    for one in found:
        shape = "" if one.shape is None else " x ".join(map(str, one.shape))
        spacing = "" if one.spacing is None else " x ".join(f"{size:.3g}" for size in one.spacing)
        cells = (one.number, one.modality, one.description, str(one.files), shape, spacing, one.problem or one.name)
        table.add_row(*cells)
    print_table(table)
    if options.output is None:
        logger.info("next: the same with `-o IMAGES` converts them; --series chooses")
    else:
        logger.info(f"next: `segtl predict -i {options.output} -o PREDICTIONS`")


def show_dicom_seg(files: Sequence[Path], _: DicomSegOptions) -> None:
    """Show the paths of the segmentations."""
    for file in files:
        print_line(str(file))


show_rtstruct = show_mesh = show_dicom_seg


def show_view(server: PageServer, options: ViewOptions) -> None:
    """Show the address, open it, and serve it until Ctrl-C."""
    logger.info("Ctrl-C ends it")
    with server, suppress(KeyboardInterrupt):
        print_line(server.address)
        flush()
        if options.browser:
            webbrowser.open(server.address)
        server.serve_forever()


def show_serve(server: Server, _: ServeOptions) -> None:
    """Start the server, show its address, and serve until Ctrl-C."""
    with suppress(KeyboardInterrupt), server:
        print_line(server.address)
        if server.show_token:
            print_line(f"token: {server.token}")
        flush()
        logger.info("Ctrl-C ends it")
        server.serve_forever()


def show_dicom_node(node: Node, _: DicomNodeOptions) -> None:
    """Start the node, show its address, and receive until Ctrl-C."""
    with suppress(KeyboardInterrupt), node:
        print_line(node.address)
        flush()
        logger.info(f"receives {node.modality}; Ctrl-C ends it")
        node.serve_forever()


def show_info(info: Info, _: InfoOptions) -> None:
    """Show the installation and the machine."""
    print_line(f"segtl {info.segtl}, Python {info.python}, {info.system}")
    print_line(
        f"{info.processor}: {info.cores} core(s), {bytes_text(info.memory_bytes)} of memory free, device {info.device}"
    )
    print_line(", ".join(f"{name} {version}" for name, version in info.packages.items()))


def show_encoders(encoders: Sequence[EncoderStatus]) -> None:
    """Show the encoder catalogue, and the weights on this machine."""
    table = Table("encoder", "channels", "strides", "parameters", "licence of the weights", "3D", "weights here")
    table.columns[3].justify = "right"
    for encoder in encoders:
        entry = encoder.entry
        table.add_row(
            entry.name,
            " ".join(map(str, entry.channels)),
            " ".join(map(str, entry.strides)),
            f"{entry.parameters / 1e6:.1f} M",
            entry.licence,
            "yes" if entry.volumes else "no",
            ", ".join(_weights(entry.name, kind) for kind in encoder.weights) or "no",
        )
    print_table(table)
    logger.info("`segtl encoders fetch NAME` puts other ImageNet weights into the cache; timm/NAME is any CNN of timm")


def show_fetch(files: Sequence[Fetched], _: FetchOptions) -> None:
    """Show the SHA-256 of fetched weights, in the format of `sha256sum`."""
    for file in files:
        print_line(f"{file.sha256}  {file.path}")


def show_pretrain(pretrained: Pretrained, _: PretrainOptions) -> None:
    """Show the files of a pretrained encoder, and its accuracy beside that of the most frequent class."""
    facts = pretrained.facts
    chance = f"always the most frequent class: {facts.chance:.3f}"
    print_line(f"{pretrained.weights}, {pretrained.card}: top-1 {facts.top1:.3f} ({chance}), {facts.state.step} steps")


def _weights(encoder: str, kind: str) -> str:
    return f"bundled ({BUNDLED[encoder].images})" if kind == "bundled" else kind


def _number(value: float) -> str:
    """Four significant digits, without an exponent up to a billion."""
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"


def _values(values: Sequence[int]) -> str:
    return "+".join(map(str, values))
