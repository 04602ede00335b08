"""Which tensor of a file belongs to which of an encoder, by names and shapes alone.

Those who train encoders name the same tensor differently: ``conv1.weight`` in timm and torchvision,
``module.encoder_q.conv1.weight`` in MoCo, ``teacher`` -> ``backbone.conv1.weight`` in DINO, ``backbone.0.weight`` in
RadImageNet, whose encoder is an ``nn.Sequential`` of torchvision's modules. The names at the end are the
architecture's; what stands before them is whichever prefix lets most elements match. No list of prefixes is needed.
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
"""Duplicates that one training leaves in a file, alike in names and shapes: (the one to transfer, the other)."""


@dataclass(frozen=True)
class Match:
    """One way to read an encoder's tensors from a file.

    Attributes:
        part: Place of the state dict in the file, such as ``teacher``; "" is the outermost.
        prefix: What stands before the encoder's names in it, such as ``backbone.``.
        pairs: Name in the encoder -> name in the state dict.
        surplus: Names in the state dict that lie in the encoder's own modules, and that it has no place for: those
            of a deeper network, if there are many.
        share: Elements matched over those of the encoder and of the surplus, in [0, 1].
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
    """What an encoder needs.

    Attributes:
        shapes: Name -> shape; a name's first component is a top-stage module of the architecture, in its order.
        first: Name of the weight that reads the image's channels.
    """

    shapes: Shapes
    first: str

    def takes(self, name: str, shape: Shape) -> bool:
        """Whether a tensor of this shape fits, as it is or adapted: other input channels, inflated to 3D."""
        wanted = self.shapes[name]
        if len(shape) == 4 and name == self.first and shape[1] in (1, 3):
            shape = (shape[0], wanted[1], *shape[2:])
        if len(shape) == 4 and len(wanted) == 5:
            shape = (*shape[:2], wanted[2], *shape[2:])
        return shape == wanted

    def size(self, name: str) -> int:
        """Elements of one tensor."""
        return prod(self.shapes[name])

    @property
    def elements(self) -> int:
        """Of all tensors together."""
        return sum(map(self.size, self.shapes))


def best_matches(target: Target, parts: Mapping[str, Shapes]) -> list[Match]:
    """The ways to read an encoder from a file that match most; several only if they differ and match equally well.

    Args:
        target: The encoder.
        parts: Place of each state dict in the file -> its names and shapes.
    """
    found: list[Match] = []
    for part, source in parts.items():
        for match in (*_by_names(target, part, source), *_by_order(target, part, source)):
            best = found[0].share if found else 0.0
            if match.share > best:
                found = [match]
            elif match.share == best > 0 and all((part, match.pairs) != (one.part, one.pairs) for one in found):
                found.append(match)
    return [match for match in found if not any(_duplicates(match, other) for other in found)]


def _duplicates(match: Match, other: Match) -> bool:
    """Whether ``match`` is the lesser of two duplicates: one component of the place differs ("module" is DDP's)."""
    mine, theirs = ([c for c in f"{one.part}.{one.prefix}".split(".") if c != "module"] for one in (match, other))
    differing = [pair for pair in zip(theirs, mine, strict=False) if pair[0] != pair[1]]
    return len(mine) == len(theirs) and len(differing) == 1 and differing[0] in PREFERRED


def _by_names(target: Target, part: str, source: Shapes) -> Iterator[Match]:
    """One match per prefix that some of the encoder's names follow; also without a first component they all share."""
    named = {_key(name): name for name in target.shapes}
    modules = [_key(name.partition(".")[0]) + "_" for name in target.shapes]
    family = {module.partition("_")[0] + "_" for module in modules}
    forms = [(named, set(modules))]
    if len(family) == 1:
        cut = len(family.pop())
        forms.append(({key[cut:]: name for key, name in named.items()}, {module[cut:] for module in modules}))
    for names, own in forms:
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for given, shape in source.items():
            components = given.split(".")
            for cut in range(len(components)):
                name = names.get("_".join(components[cut:]))
                if name is not None and target.takes(name, shape):
                    found["".join(f"{component}." for component in components[:cut])][name] = given
        for prefix, pairs in found.items():
            used = set(pairs.values())
            inside = (given for given in source if given.startswith(prefix) and given not in used)
            surplus = [given for given in inside if _key(given.removeprefix(prefix)).startswith(tuple(own))]
            yield _match(target, part, source, prefix, pairs, surplus)


def _by_order(target: Target, part: str, source: Shapes) -> Iterator[Match]:
    """One match per prefix that numbers follow, as in an ``nn.Sequential`` of the architecture's modules.

    Modules without tensors, and branches that the encoder does not have, leave gaps in the numbers: each of the
    encoder's modules takes the next number whose tensors are named and shaped like its own.
    """
    modules: dict[str, list[str]] = defaultdict(list)
    for name in target.shapes:
        modules[name.partition(".")[0]].append(name)
    numbered: dict[str, dict[int, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for given in source:
        components = given.split(".")
        for cut, component in enumerate(components[:-1]):
            if component.isdecimal():
                prefix = "".join(f"{one}." for one in components[:cut])
                numbered[prefix][int(component)][_key(".".join(components[cut + 1 :]))] = given
    for prefix, groups in numbered.items():
        pairs: dict[str, str] = {}
        surplus: list[str] = []
        left = iter(sorted(groups.items()))
        for names in modules.values():
            needed = {_key(name.partition(".")[2]): name for name in names}
            for _, group in left:
                if all(key in group and target.takes(needed[key], source[group[key]]) for key in needed):
                    pairs |= {name: group[key] for key, name in needed.items()}
                    surplus += [group[key] for key in group.keys() - needed.keys()]
                    break
        yield _match(target, part, source, prefix, pairs, surplus)


def _match(
    target: Target, part: str, source: Shapes, prefix: str, pairs: Mapping[str, str], surplus: list[str]
) -> Match:
    matched = sum(map(target.size, pairs))
    whole = target.elements + sum(prod(source[given]) for given in surplus)
    return Match(part, prefix, pairs, tuple(surplus), matched / whole)


def _key(name: str) -> str:
    """Names compare equal however timm nests sequential modules ("features.0" or "features_0")."""
    return name.replace(".", "_")
