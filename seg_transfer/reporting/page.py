"""The report as one HTML page that loads nothing: its figures, volumes, style and scripts are in it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from seg_transfer.errors import printable

ASSETS = files("seg_transfer.reporting") / "assets"


@dataclass(frozen=True)
class Drawing:
    """A figure: its data address, what it shows for those who cannot see it, and its caption."""

    address: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Cells:
    """A table; the first cell of a row is its head."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    sortable: bool = False


@dataclass(frozen=True)
class Part:
    """A section.

    Attributes:
        name: Its anchor.
        head: Its title.
        texts: Paragraphs.
        tables: Tables.
        figures: Figures.
        details: A table that is folded away.
    """

    name: str
    head: str
    texts: Sequence[str] = ()
    tables: Sequence[Cells] = ()
    figures: Sequence[Drawing] = ()
    details: Cells | None = None


@dataclass(frozen=True)
class CaseDrawing:
    """The overlay of a case."""

    caption: str
    address: str
    alt: str


@dataclass(frozen=True)
class CaseVolumes:
    """A case for the viewer.

    Attributes:
        title: Its name and score.
        note: How it was thinned out.
        files: "image", then names of label maps -> content of a ``.nii.gz``.
        colours: NiiVue's table of colours for the label maps.
        crosshair: Width of the crosshair, in mm.
        plane: The only plane that is shown: ``image`` of a 2D image, ``axial``, ``coronal`` or ``sagittal`` of a single
            slice; empty for a volume, which is shown in all of them and in 3D.
    """

    title: str
    note: str
    files: dict[str, bytes]
    colours: dict[str, list[int] | list[str]]
    crosshair: float
    plane: str = ""


@dataclass(frozen=True)
class Page:
    """Everything that a report shows."""

    title: str
    subtitle: str
    headline: str
    footer: str
    parts: list[Part] = field(default_factory=list)
    cases: list[CaseDrawing] = field(default_factory=list)
    volumes: list[CaseVolumes] = field(default_factory=list)

    @property
    def sections(self) -> list[tuple[str, str]]:
        """Anchors and titles."""
        return [(part.name, part.head) for part in self.parts]


def render(page: Page) -> str:
    """The report as HTML; names of cases and labels are escaped."""
    return _render("report.html", page, volumes_json([_inside(each.files) for each in page.volumes], page.volumes))


def render_viewer(title: str, volumes: CaseVolumes, addresses: Mapping[str, str]) -> str:
    """A page with the viewer alone, which loads its volumes.

    Args:
        title: Of the page.
        volumes: The case; the content of its files is not used.
        addresses: Name of a file -> its address.
    """
    page = Page(title, "", "", "The viewer is NiiVue (BSD 2-Clause licence).", volumes=[volumes])
    return _render(
        "view.html", page, volumes_json([{name: {"url": url} for name, url in addresses.items()}], [volumes])
    )


def volumes_json(sources: Sequence[Mapping[str, Mapping[str, str]]], volumes: Sequence[CaseVolumes]) -> str:
    """What the viewer reads, as JSON that can be part of a page.

    Args:
        sources: Per case, name of a file -> where it is: its address, or its content.
        volumes: The cases.
    """
    content = [
        {
            "title": printable(each.title),
            "note": printable(each.note),
            "crosshair": each.crosshair,
            "plane": each.plane,
            "parts": [
                {"name": printable(name), **where, "colours": each.colours if index else None}
                for index, (name, where) in enumerate(source.items())
            ],
        }
        for source, each in zip(sources, volumes, strict=True)
    ]
    # A script ends at the first </script>, whatever its type: no < may be in the JSON.
    return json.dumps(content).replace("<", "\\u003c")


def _inside(files: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    return {name: {"base64": base64.b64encode(content).decode("ascii")} for name, content in files.items()}


def _render(template: str, page: Page, volumes: str) -> str:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters["coded"] = _coded
    environment.globals["asset"] = lambda name: Markup(_asset(name))
    return environment.get_template(template).render(page=page, volumes_json=Markup(volumes))


def _coded(text: str) -> str:
    """A text whose commands, in backticks, are shown as such."""
    from markupsafe import Markup, escape

    parts = [escape(printable(part)) for part in text.split("`")]
    return Markup().join(
        Markup("<code>{}</code>").format(part) if index % 2 else part for index, part in enumerate(parts)
    )


def _shown(value: object) -> object:
    """Texts without control characters; what is markup stays."""
    from markupsafe import Markup

    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
