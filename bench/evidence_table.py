"""The tables of ``bench/evidence.py``, each followed by a line on whether the signal orders rightly."""

from __future__ import annotations

from typing import Any

import numpy as np

ENCODERS = ("random", "little", "bundled")
INPUTS = ("cells", "grey cells", "retina", "green retina", "hippocampus", "inverted hippocampus")
MADE_OF = {"grey cells": "cells", "green retina": "retina", "inverted hippocampus": "hippocampus"}
LIKE_SOURCE = INPUTS[:4]
SIGNALS = {
    "told": ("balanced accuracy of the plan's evidence", 1),
    "h_score": ("shrunk H-score", 1),
    "logme": ("LogME", 1),
    "cc_fv": ("CC-FV", 1),
    "agreement": ("agreement of gradients", 1),
    "relative_norm": ("relative gradient norm", -1),
}
"""What it is called, and 1 where more is expected of a better encoder, -1 where less is."""
ENOUGH = 0.9


def signal(result: dict[str, Any], name: str) -> list[float]:
    """One entry per stage."""
    if name == "told":
        return [each["mean"] for each in result["told"]["pretrained"]]
    return result["gradients" if name in result["gradients"] else "scores"][name]


def tables(results: dict[str, Any]) -> str:
    """A table of every signal, each followed by a line on whether it orders rightly."""
    parts = []
    for name, (title, sign) in SIGNALS.items():
        more = "more" if sign > 0 else "less"
        parts.append(f"\n{title} by stage, finest first ({more} is expected of a better encoder)\n")
        parts.append(f"| input | {' | '.join(ENCODERS)} |\n|---|{'---|' * len(ENCODERS)}")
        for given in INPUTS:
            row = [figures(signal(results[given][encoder], name)) for encoder in ENCODERS]
            parts.append(f"| {given} | {' | '.join(row)} |")
        parts.append(f"\n{title}: {orders(results, name, sign)}")
    parts.append("\ndistance of BatchNorm's statistics by stage, finest first; mean\n")
    parts.append(f"| input | {' | '.join(ENCODERS)} |\n|---|{'---|' * len(ENCODERS)}")
    for given in (*results["source"]["bundled"], *INPUTS):
        row = [distances(results, given, encoder) for encoder in ENCODERS]
        parts.append(f"| {given} | {' | '.join(f'{figures(each)}; {np.mean(each):.3f}' for each in row)} |")
    parts.append(f"\ndistance of statistics: {odd_inputs(results)}")
    right = [title for name, (title, sign) in SIGNALS.items() if is_right(results, name, sign)]
    parts.append(f"\nrandom < bundled in at least {ENOUGH:.0%} of stages of inputs: {', '.join(right) or 'none'}")
    return "\n".join(parts)


def figures(values: list[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)


def orders(results: dict[str, Any], name: str, sign: int) -> str:
    """In how many stages of the inputs like the source each pair of encoders is in order, and at which stages."""
    pairs = [("random", "little"), ("little", "bundled"), ("random", "bundled")]
    found = {pair: np.array([in_order(results, given, name, sign, pair) for given in LIKE_SOURCE]) for pair in pairs}
    said = [f"{one} < {other} in {right.sum()} of {right.size}" for (one, other), right in found.items()]
    by_stage = " ".join(str(count) for count in found["random", "bundled"].sum(0))
    return f"{', '.join(said)}; the last by stage {by_stage} of {len(LIKE_SOURCE)} inputs"


def is_right(results: dict[str, Any], name: str, sign: int) -> bool:
    """Whether a signal tells random from bundled, without which it is out."""
    right = [in_order(results, given, name, sign, ("random", "bundled")) for given in LIKE_SOURCE]
    return bool(np.mean(right) >= ENOUGH)


def in_order(results: dict[str, Any], given: str, name: str, sign: int, pair: tuple[str, str]) -> list[bool]:
    """At each stage, whether the second encoder of a pair is the better one."""
    worse, better = (signal(results[given][encoder], name) for encoder in pair)
    return [sign * one < sign * other for one, other in zip(worse, better, strict=True)]


def distances(results: dict[str, Any], given: str, encoder: str) -> list[float]:
    if given in results["source"][encoder]:
        return results["source"][encoder][given]
    return results[given][encoder]["statistics"]["distance"]


def odd_inputs(results: dict[str, Any]) -> str:
    """Whether odd inputs are further from the bundled encoder's source than what they were made of."""
    mean = {given: np.mean(distances(results, given, "bundled")) for given in (*results["source"]["bundled"], *INPUTS)}
    made_of = MADE_OF | {"grey source": "source", "inverted source": "source"}
    said = [
        f"{odd} {'further' if mean[odd] > mean[plain] else 'NOT further'} than {plain} "
        f"({mean[odd]:.3f}, {mean[plain]:.3f})"
        for odd, plain in made_of.items()
    ]
    nearer = [given for given in INPUTS if mean[given] <= mean["source"]]
    said.append(f"nearer than the source itself: {', '.join(nearer) or 'none'}")
    return "; ".join(said)
