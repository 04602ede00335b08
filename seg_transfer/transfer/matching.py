"""Matches the tensors of a weights file to those of an encoder, by names and shapes.

Projects name the same tensor differently: ``conv1.weight`` in timm and torchvision, ``module.encoder_q.conv1.weight``
in MoCo, ``teacher`` -> ``backbone.conv1.weight`` in DINO, ``backbone.0.weight`` in RadImageNet, whose encoder is an
``nn.Sequential`` of torchvision's modules. Names end as the architecture's do; the prefix before them is the one with
which most elements match.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
PREFERRED = (
    ("teacher", "student"),  # DINO evaluates its teacher
    ("encoder_q", "encoder_k"),  # MoCo transfers its query encoder
    ("state_dict_ema", "state_dict"),  # timm takes the averaged weights
    ("model_ema", "model"),
)
"""Pairs of networks that one training saves, with equal names and shapes: (the one to transfer, the other)."""


@dataclass(frozen=True)
class Match:
    """One way to read an encoder's tensors from a file.

    Attributes:
        part: Key of the state dict in the file, such as ``teacher``; "" is the outermost.
        prefix: Prefix of the encoder's names in it, such as ``backbone.``.
        pairs: Name in the encoder -> name in the state dict.
        surplus: Names in the state dict that belong to the encoder's modules but not to the encoder; many of them
            mean a deeper network.
        share: Matched elements over those of the encoder and the surplus, in [0, 1].
    """

    part: str
    prefix: str
    pairs: Mapping[str, str]
    surplus: tuple[str, ...]
    share: float

    def __str__(self) -> str:
        return f"{self.part}: {self.prefix}" if self.part else self.prefix


@dataclass(frozen=True)
class Target:
    """Tensors of an encoder.

    Attributes:
        shapes: Name -> shape, in the architecture's order; a name's first component is a top-level module.
        image: Names of the weights that read the image's channels.
    """

    shapes: Shapes
    image: frozenset[str]

    def takes(self, name: str, shape: Shape) -> bool:
        """Whether a tensor of this shape fits, unchanged or adapted to the input channels or inflated to 3D."""
        required = self.shapes[name]
        if len(shape) == 4 and name in self.image and shape[1] in (1, 3):
            shape = (shape[0], required[1], *shape[2:])
        if len(shape) == 4 and len(required) == 5:
            shape = (*shape[:2], required[2], *shape[2:])
        return shape == required

    def size(self, name: str) -> int:
        """Number of elements of one tensor."""
        return prod(self.shapes[name])

    @property
    def elements(self) -> int:
        """Number of elements of all tensors."""
        return sum(map(self.size, self.shapes))


def best_matches(target: Target, parts: Mapping[str, Shapes]) -> list[Match]:
    """The matches with the largest share; several if they differ and have equal shares.

    Args:
        target: The encoder.
        parts: Key of each state dict in the file -> its names and shapes.
    """
    best: list[Match] = []
    for part, source in parts.items():
        for match in (*_by_names(target, part, source), *_by_order(target, part, source)):
            share = best[0].share if best else 0.0
            if match.share > share:
                best = [match]
            elif match.share == share > 0 and all((part, match.pairs) != (one.part, one.pairs) for one in best):
                best.append(match)
    return [match for match in best if not any(_is_lesser_duplicate(match, other) for other in best)]


def _is_lesser_duplicate(match: Match, other: Match) -> bool:
    """Whether the paths in the file differ in one pair of :data:`PREFERRED` alone; DDP's "module" does not count."""
    path, preferred = ([c for c in f"{one.part}.{one.prefix}".split(".") if c != "module"] for one in (match, other))
    differing = [pair for pair in zip(preferred, path, strict=False) if pair[0] != pair[1]]
    return len(path) == len(preferred) and len(differing) == 1 and differing[0] in PREFERRED


def _by_names(target: Target, part: str, source: Shapes) -> Iterator[Match]:
    """One match per prefix of some of the encoder's names, with and without the first component that all may share."""
    by_key = {_key(name): name for name in target.shapes}
    modules = [_key(name.partition(".")[0]) + "_" for name in target.shapes]
    family = {module.partition("_")[0] + "_" for module in modules}
    forms = [(by_key, set(modules))]
    if len(family) == 1:
        cut = len(family.pop())
        forms.append(({key[cut:]: name for key, name in by_key.items()}, {module[cut:] for module in modules}))
    for names, starts in forms:
        by_prefix: dict[str, dict[str, str]] = defaultdict(dict)
        for source_name, shape in source.items():
            components = source_name.split(".")
            for cut in range(len(components)):
                name = names.get("_".join(components[cut:]))
                if name is not None and target.takes(name, shape):
                    by_prefix["".join(f"{component}." for component in components[:cut])][name] = source_name
        for prefix, pairs in by_prefix.items():
            used = set(pairs.values())
            unused = (each for each in source if each.startswith(prefix) and each not in used)
            surplus = [each for each in unused if _key(each.removeprefix(prefix)).startswith(tuple(starts))]
            yield _match(target, part, source, prefix, pairs, surplus)


def _by_order(target: Target, part: str, source: Shapes) -> Iterator[Match]:
    """One match per prefix before numbers, as in an ``nn.Sequential`` of the architecture's modules.

    Modules without tensors, and branches that the encoder lacks, leave gaps in the numbers: each of the encoder's
    modules takes the next number whose tensors have its names and shapes.
    """
    modules: dict[str, list[str]] = defaultdict(list)
    for name in target.shapes:
        modules[name.partition(".")[0]].append(name)
    numbered: dict[str, dict[int, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for source_name in source:
        components = source_name.split(".")
        for cut, component in enumerate(components[:-1]):
            if component.isdecimal():
                prefix = "".join(f"{one}." for one in components[:cut])
                numbered[prefix][int(component)][_key(".".join(components[cut + 1 :]))] = source_name
    for prefix, groups in numbered.items():
        pairs: dict[str, str] = {}
        surplus: list[str] = []
        remaining = iter(sorted(groups.items()))
        for names in modules.values():
            needed = {_key(name.partition(".")[2]): name for name in names}
            for _, group in remaining:
                if all(key in group and target.takes(needed[key], source[group[key]]) for key in needed):
                    pairs |= {name: group[key] for key, name in needed.items()}
                    surplus += [group[key] for key in group.keys() - needed.keys()]
                    break
        yield _match(target, part, source, prefix, pairs, surplus)


def _match(
    target: Target, part: str, source: Shapes, prefix: str, pairs: Mapping[str, str], surplus: list[str]
) -> Match:
    matched = sum(map(target.size, pairs))
    elements = target.elements + sum(prod(source[name]) for name in surplus)
    return Match(part, prefix, pairs, tuple(surplus), matched / elements)


def _key(name: str) -> str:
    """Name in a form that does not depend on timm's nesting of sequential modules ("features.0" or "features_0")."""
    return name.replace(".", "_")
