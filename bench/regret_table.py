"""Regret of choosing among strategies, from the cells of ``bench/regret.py``.

The naive regret, best strategy minus choice on the same draw, punishes even a perfect choice, since the best of several
noisy figures is too high. Here the best strategy is found on the other draws: its Dice minus that of the choice, on the
draw left out; every draw is left out once, and the mean is taken. A choice as good as the best has 0 on average, and a
lucky one less.

Intervals: draws are resampled, then patients within them (the same for all strategies), 1000 times. Harm is the Dice
from scratch minus that of the choice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BOOTSTRAPS = 1000
POINTS = 100
FEW = 4
"""Up to so many cases are told one by one, since an interval over them says little."""

Cases = dict[str, float]
"""Case -> mean Dice over its labels."""
Trial = dict[str, dict[int, Cases]]
"""Strategy -> draw -> cases."""
Dice = Mapping[str, Sequence[float]]
"""Strategy -> Dice by position, a position being a draw."""
Chooser = Callable[[str, int], Mapping[str, float]]
"""Name of a trial and draw -> share of each strategy in the choice; a random choice has them all."""


def regret(dice: Dice, shares: Sequence[Mapping[str, float]], draws: Sequence[int]) -> float:
    """Mean over draws of the Dice that is lost.

    Args:
        dice: Strategy -> Dice by position.
        shares: Strategy -> its share in the choice, by position.
        draws: Which draw each position holds; a resample may hold one draw several times.

    Returns:
        The regret; nan if every position holds the same draw.
    """
    lost = []
    for position, draw in enumerate(draws):
        others = [other for other, held in enumerate(draws) if held != draw]
        if others:
            best = max(dice, key=lambda strategy: np.mean([dice[strategy][other] for other in others]))
            chosen = sum(share * dice[strategy][position] for strategy, share in shares[position].items())
            lost.append(dice[best][position] - chosen)
    return float(np.mean(lost)) if lost else float("nan")


def regrets(trials: Mapping[str, Trial], chooser: Chooser, seed: int = 0) -> tuple[float, float, float]:
    """Mean regret over trials, and its 95 % interval."""

    def of(dice: Dice, name: str, draws: Sequence[int]) -> float:
        return regret(dice, [chooser(name, draw) for draw in draws], draws)

    return _over_trials(trials, of, seed)


def harms(
    trials: Mapping[str, Trial], chooser: Chooser, against: str = "scratch", seed: int = 0
) -> tuple[float, float, float]:
    """Mean over trials of the Dice of a strategy minus that of the choice, and its 95 % interval."""

    def of(dice: Dice, name: str, draws: Sequence[int]) -> float:
        chosen = [
            sum(share * dice[strategy][position] for strategy, share in chooser(name, draw).items())
            for position, draw in enumerate(draws)
        ]
        return float(np.mean(np.subtract(dice[against], chosen)))

    return _over_trials(trials, of, seed)


def _over_trials(
    trials: Mapping[str, Trial], of: Callable[[Dice, str, Sequence[int]], float], seed: int
) -> tuple[float, float, float]:
    """Mean over trials of a figure, and its 95 % interval; each trial is resampled by itself."""
    found = [
        _bootstrapped(trial, lambda dice, draws, name=name: of(dice, name, draws), np.random.default_rng([seed, index]))
        for index, (name, trial) in enumerate(trials.items())
    ]
    each = np.array([resampled for _, resampled in found])
    means = np.nanmean(each[:, ~np.isnan(each).all(axis=0)], axis=0)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(np.mean([value for value, _ in found])), float(low), float(high)


def _bootstrapped(
    trial: Trial, of: Callable[[Dice, Sequence[int]], float], random: np.random.Generator
) -> tuple[float, NDArray]:
    """A figure of one trial, and of each resample of its draws and patients."""
    draws = sorted(next(iter(trial.values())))
    whole = {strategy: [mean_dice(cells[draw]) for draw in draws] for strategy, cells in trial.items()}
    resampled = []
    for _ in range(BOOTSTRAPS):
        taken = [draws[index] for index in random.integers(len(draws), size=len(draws))]
        weights = {draw: _weights(sorted(next(iter(trial.values()))[draw]), random) for draw in dict.fromkeys(taken)}
        dice = {name: [mean_dice(cells[draw], weights[draw]) for draw in taken] for name, cells in trial.items()}
        resampled.append(of(dice, taken))
    return of(whole, draws), np.array(resampled)


def _weights(cases: Sequence[str], random: np.random.Generator) -> dict[str, int]:
    """How often each case counts where patients are drawn with replacement."""
    patients = sorted(set(map(patient_of, cases)))
    counts = np.bincount(random.integers(len(patients), size=len(patients)), minlength=len(patients))
    drawn = dict(zip(patients, counts.tolist(), strict=True))
    return {case: drawn[patient_of(case)] for case in cases}


def patient_of(case: str) -> str:
    """Both eyes of a person, ``retina_07L`` and ``retina_07R``, are one patient; any other case is one by itself."""
    eye = re.fullmatch(r"(retina_\d+)[LR]", case)
    return eye[1] if eye else case


def mean_dice(cases: Cases, weights: Mapping[str, int] | None = None) -> float:
    """Over cases; ``weights`` says how often each counts."""
    names = sorted(cases)
    return float(np.average([cases[name] for name in names], weights=weights and [weights[name] for name in names]))


def load_trials(folder: Path, *, release: bool) -> dict[str, Trial]:
    """``<data set>-<size>`` -> what was run there, the smaller size first; of development cases, or of test cases."""
    found: dict[str, Trial] = {}
    for path in sorted(folder.glob("*.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        dice = json.loads((folder / "test" / path.name).read_text(encoding="utf-8")) if release else cell["dice"]
        cases = {case: float(np.mean(list(labels.values()))) for case, labels in dice.items() if labels}
        if cases:
            trial = found.setdefault(f"{cell['dataset']}-{cell['size']}", {})
            trial.setdefault(cell["strategy"], {})[cell["draw"]] = cases
    return dict(sorted(found.items(), key=lambda named: (dataset_of(named[0]), int(named[0].rsplit("-", 1)[1]))))


def dataset_of(name: str) -> str:
    """The data set of a trial."""
    return name.rsplit("-", 1)[0]


def whole(trials: Mapping[str, Trial], strategies: int) -> dict[str, Trial]:
    """Trials in which all strategies were run on the same two or more draws; draws that are not complete go."""
    kept = {}
    for name, trial in trials.items():
        common = set.intersection(*(set(draws) for draws in trial.values()))
        if len(trial) == strategies and len(common) > 1:
            kept[name] = {strategy: {draw: cells[draw] for draw in common} for strategy, cells in trial.items()}
    return kept


def regret_table(
    folder: Path, strategies: Sequence[str], choices: Mapping[str, Mapping[str, Mapping[int, str]]], *, release: bool
) -> str:
    """Dice of every trial, and the regret of constant, random and given choices, in points, as Markdown.

    Args:
        folder: Of the cells.
        strategies: All of them; harm is counted against ``scratch``.
        choices: Who chooses -> trial -> draw -> strategy. Regret is over the trials in which all of them choose one of
            the strategies, so that it can be compared.
        release: On the test cases.
    """
    trials = load_trials(folder, release=release)
    lines = ["| trial | draws | " + " | ".join(strategies) + " |", "|---" * (2 + len(strategies)) + "|"]
    for name, trial in trials.items():
        counts = "/".join(str(len(trial.get(strategy, {}))) for strategy in strategies)
        means = [
            f"{np.mean([mean_dice(cases) for cases in trial[strategy].values()]):.3f}" if strategy in trial else "–"
            for strategy in strategies
        ]
        lines.append(f"| {name} | {counts} | " + " | ".join(means) + " |")
    complete = {
        name: trial
        for name, trial in whole(trials, len(strategies)).items()
        if all(chosen.get(name, {}).get(draw) in trial for chosen in choices.values() for draw in trial[strategies[0]])
    }
    lines += ["", f"Regret over {', '.join(complete) or 'no trial yet'}", ""]
    if not complete:
        return "\n".join(lines)
    choosers: dict[str, Chooser] = {
        f"always {strategy}": lambda name, draw, strategy=strategy: {strategy: 1.0} for strategy in strategies
    }
    for who, chosen in choices.items():
        choosers[who] = lambda name, draw, chosen=chosen: {chosen[name][draw]: 1.0}
    choosers["a random one"] = lambda name, draw: dict.fromkeys(strategies, 1 / len(strategies))
    datasets = list(dict.fromkeys(map(dataset_of, complete)))
    lines.append(f"| choice | regret, points | {' | '.join(f'harm, {dataset}' for dataset in datasets)} |")
    lines.append("|---" * (2 + len(datasets)) + "|")
    for choice, chooser in choosers.items():
        parts = [{name: trial for name, trial in complete.items() if dataset_of(name) == d} for d in datasets]
        figures = [regrets(complete, chooser), *(harms(part, chooser) for part in parts)]
        lines.append(f"| {choice} | {' | '.join(map(_interval, figures))} |")
    for who in choices:
        lines += ["", f"Each strategy minus the choice: {who}", ""]
        lines += [f"| strategy | {' | '.join(complete)} |", "|---" * (1 + len(complete)) + "|"]
        for strategy in strategies:
            figures = [harms({name: trial}, choosers[who], against=strategy) for name, trial in complete.items()]
            lines.append(f"| {strategy} | {' | '.join(map(_interval, figures))} |")
    return "\n".join([*lines, *_case_by_case(complete, strategies)])


def _case_by_case(trials: Mapping[str, Trial], strategies: Sequence[str]) -> list[str]:
    """Dice of each case, the mean over draws, of the trials with few cases; the same cases in every draw."""
    rows = []
    for name, trial in trials.items():
        scored = [set(cases) for draws in trial.values() for cases in draws.values()]
        if len(scored[0]) <= FEW and all(cases == scored[0] for cases in scored):
            for case in sorted(scored[0]):
                means = [np.mean([cases[case] for cases in trial[strategy].values()]) for strategy in strategies]
                rows.append(f"| {name} | {case} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    head = ["", "| trial | case | " + " | ".join(strategies) + " |", "|---" * (2 + len(strategies)) + "|"]
    return [*head, *rows] if rows else []


def _interval(figures: tuple[float, float, float]) -> str:
    mean, low, high = (POINTS * value for value in figures)
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"
