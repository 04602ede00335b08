"""How well the signals of ``bench/signals.py`` predict what the cells of ``bench/regret.py`` gave.

Over trials, a trial being a data set with so many cases: rank correlation between a signal, averaged over draws and
over the stages in use, and a difference between strategies in mean Dice. And as a choice: below a threshold of the
signal one strategy, from it on another. Threshold and strategies are those of the least regret on the other data sets,
and count on the one left out; beside them the constant found in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
from regret_table import POINTS, Trial, load_trials, mean_dice, regret, regrets, whole
from scipy.stats import spearmanr

PRETRAINED = ("frozen", "lower-only", "gradual", "finetune")
QUESTIONS = {
    "pretrained - scratch": (PRETRAINED, ("scratch",)),
    "frozen - frozen random": (("frozen",), ("frozen-random",)),
    "tuned - frozen": (("gradual", "finetune"), ("frozen",)),
    "all stages - lower": (("frozen", "gradual", "finetune"), ("lower-only",)),
}
RACERS = ("gradual", "scratch", "frozen", "lower-only")
"""Candidates of the race, in the order in which it holds them."""

Signals = dict[str, dict[str, dict[int, float]]]
"""Signal -> trial -> draw -> value."""


def race_dice(found: Mapping[str, Any]) -> dict[str, list[float]]:
    """Candidate of a measured race -> mean Dice of each case that scored it; nan where it has no label."""
    means = {}
    for name, racer in zip(RACERS, found["race"]["racers"], strict=True):
        cases = [[value for value in labels.values() if value is not None] for labels in racer["dice"].values()]
        means[name] = [float(np.mean(values)) if values else float("nan") for values in cases]
    return means


def race_winner(found: Mapping[str, Any]) -> str:
    """The candidate with the highest mean Dice."""
    dice = race_dice(found)
    return max(dice, key=lambda name: np.nanmean(dice[name]))


def _gain(name: str) -> Callable[[Mapping[str, Any], int], float]:
    """Of a score, pretrained over random."""

    def value(found: Mapping[str, Any], stages: int) -> float:
        return float(np.mean(np.subtract(found["pretrained"][name], found["random"][name])[:stages]))

    return value


def _probe_gains(found: Mapping[str, Any], stages: int) -> list[float]:
    stages = {each["stage"]: each for each in found["probe"]["features"] if each["source"] == "pretrained"}
    return [stages[stage]["gain"]["mean"] for stage in range(stages)]


def _race_difference(question: str) -> Callable[[Mapping[str, Any], int], float]:
    def value(found: Mapping[str, Any], _: int) -> float:
        dice = race_dice(found)
        for_, against = ([name for name in side if name in dice] for side in QUESTIONS[question])
        means = [np.mean([np.nanmean(dice[name]) for name in side]) for side in (for_, against)]
        return float(means[0] - means[1])

    return value


SIGNALS: dict[str, Callable[[Mapping[str, Any], int], float]] = {
    "evidence of the plan, gain over random": lambda found, _: float(
        np.mean([each["mean"] for each in found["evidence"]["gain"]])
    ),
    "LogME, gain over random": _gain("logme"),
    "H-score, gain over random": _gain("h_score"),
    "CC-FV, gain over random": _gain("cc_fv"),
    "probe, gain over random": lambda found, stages: float(np.mean(_probe_gains(found, stages))),
    "probe, gain at the finest two stages": lambda found, stages: float(np.mean(_probe_gains(found, stages)[:2])),
    "probe, gain at the deepest stage in use": lambda found, stages: _probe_gains(found, stages)[-1],
    "gradients, agreement": lambda found, stages: float(np.mean(found["gradients"]["agreement"][:stages])),
    "gradients, log relative norm": lambda found, stages: float(
        np.mean(np.log(found["gradients"]["relative_norm"][:stages]))
    ),
    "BatchNorm, distance": lambda found, stages: float(np.mean(found["statistics"]["distance"][:stages])),
    "race, pretrained - scratch": _race_difference("pretrained - scratch"),
    "race, tuned - frozen": _race_difference("tuned - frozen"),
    "race, all stages - lower": _race_difference("all stages - lower"),
}


def load_signals(folder: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Trial -> draw -> what was measured, of draws with all signals."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        held = json.loads(path.read_text(encoding="utf-8"))
        if held.keys() >= {"evidence", "probe"}:
            trial, draw = held["draw"].rsplit("-draw", 1)
            found.setdefault(trial, {})[int(draw)] = held
    return found


def values(measured: Mapping[str, Mapping[int, Mapping[str, Any]]], stages: Mapping[str, int]) -> Signals:
    """Every signal of every draw; the number of training cases is one of them."""
    found: Signals = {"number of cases": {}}
    for trial, draws in measured.items():
        cases = float(trial.rsplit("-", 1)[1])
        found["number of cases"][trial] = dict.fromkeys(draws, cases)
        for name, value in SIGNALS.items():
            found.setdefault(name, {})[trial] = {draw: value(each, stages[trial]) for draw, each in draws.items()}
    return found


@dataclass(frozen=True)
class Threshold:
    """One strategy below a signal's threshold, and another from it on."""

    below: str
    threshold: float
    above: str

    def choose(self, value: float) -> str:
        return self.above if value >= self.threshold else self.below


def fit(trials: Mapping[str, Trial], signal: Mapping[str, Mapping[int, float]]) -> Threshold:
    """The threshold and strategies of the least mean regret; a constant counts as a threshold that none reaches."""
    seen = sorted({value for trial in trials for value in signal[trial].values()})
    middles = [(one + other) / 2 for one, other in pairwise(seen)]
    strategies = list(next(iter(trials.values())))
    rules = [Threshold(strategy, np.inf, strategy) for strategy in strategies]
    rules += [Threshold(one, middle, other) for one, other in permutations(strategies, 2) for middle in middles]
    dice = {name: _dice(trial) for name, trial in trials.items()}

    def cost(rule: Threshold) -> float:
        return float(np.mean([_regret(dice[name], signal[name], rule) for name in trials]))

    return min(rules, key=cost)


def _dice(trial: Trial) -> tuple[list[int], dict[str, list[float]]]:
    draws = sorted(next(iter(trial.values())))
    return draws, {strategy: [mean_dice(cells[draw]) for draw in draws] for strategy, cells in trial.items()}


def _regret(held: tuple[list[int], dict[str, list[float]]], signal: Mapping[int, float], rule: Threshold) -> float:
    draws, dice = held
    return regret(dice, [{rule.choose(signal[draw]): 1.0} for draw in draws], draws)


def left_out(trials: Mapping[str, Trial]) -> Iterator[tuple[list[str], dict[str, Trial]]]:
    """Each data set's trials, and the trials of the others."""
    for dataset in sorted({name.rsplit("-", 1)[0] for name in trials}):
        mine = [name for name in trials if name.rsplit("-", 1)[0] == dataset]
        yield mine, {name: trial for name, trial in trials.items() if name not in mine}


def fitted(trials: Mapping[str, Trial], signal: Mapping[str, Mapping[int, float]]) -> dict[str, Threshold]:
    """Trial -> rule found on the other data sets."""
    found = {}
    for mine, others in left_out(trials):
        rule = fit(others, signal)
        found |= dict.fromkeys(mine, rule)
    return found


def correlation(signal: Mapping[str, Mapping[int, float]], trials: Mapping[str, Trial], question: str) -> float:
    """Spearman's, over trials."""
    for_, against = QUESTIONS[question]
    gained = []
    for trial in trials.values():
        _, dice = _dice(trial)
        gained.append(np.mean([dice[name] for name in for_]) - np.mean([dice[name] for name in against]))
    return float(spearmanr([np.mean(list(signal[name].values())) for name in trials], gained).statistic)


def signals_table(folder: Path, regret_folder: Path) -> str:
    """Both tables as Markdown, on development cases; over trials that are complete."""
    trials = load_trials(regret_folder, release=False)
    trials = whole(trials, max(map(len, trials.values()), default=0))
    measured = load_signals(folder)
    trials = {name: trial for name, trial in trials.items() if set(_dice(trial)[0]) <= set(measured.get(name, {}))}
    if len({name.rsplit("-", 1)[0] for name in trials}) < 2:
        return f"needs two data sets with all cells and signals; there are {', '.join(trials) or 'none'}"
    stages = {name: _stages(regret_folder, name) for name in trials}
    found = values({name: measured[name] for name in trials}, stages)
    return "\n".join(
        [f"Over {', '.join(trials)}", "", *_correlations(found, trials), "", *_choices(found, trials)],
    )


def _correlations(found: Signals, trials: Mapping[str, Trial]) -> list[str]:
    lines = [f"| rank correlation over {len(trials)} trials | {' | '.join(QUESTIONS)} |", "|---" * 5 + "|"]
    for name, signal in found.items():
        row = [f"{correlation(signal, trials, question):+.2f}" for question in QUESTIONS]
        lines.append(f"| {name} | {' | '.join(row)} |")
    return lines


def _choices(found: Signals, trials: Mapping[str, Trial]) -> list[str]:
    lines = ["| choice by, found on the other data sets | regret, points | 95 % interval | rules |", "|---" * 4 + "|"]
    nothing = {name: dict.fromkeys(_dice(trial)[0], 0.0) for name, trial in trials.items()}
    for name, signal in {"nothing: a constant": nothing, **found}.items():
        rules = fitted(trials, signal)
        mean, low, high = regrets(
            trials, lambda trial, draw, rules=rules, signal=signal: {rules[trial].choose(signal[trial][draw]): 1.0}
        )
        lines.append(
            f"| {name} | {POINTS * mean:.2f} | {POINTS * low:.2f} to {POINTS * high:.2f} | {_said(rules.values())} |"
        )
    return lines


def _said(rules: Iterable[Threshold]) -> str:
    words = [
        rule.below if rule.below == rule.above else f"{rule.below} < {rule.threshold:.3g} <= {rule.above}"
        for rule in rules
    ]
    return "; ".join(dict.fromkeys(words))


def _stages(folder: Path, trial: str) -> int:
    cell: dict[str, Any] = json.loads(next(folder.glob(f"{trial}-*-draw*.json")).read_text(encoding="utf-8"))
    return int(cell["stages"])
