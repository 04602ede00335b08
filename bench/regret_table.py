"""Regret of choosing among strategies, from the runs of ``bench/regret.py``.

The naive regret, best strategy minus choice on the same draw, punishes even a perfect choice, since the best of several
noisy figures is too high. Here the best strategy is found on the other draws: its Dice minus that of the choice, on the
draw left out; every draw is left out once, and the mean is taken. A choice as good as the best has 0 on average, and a
lucky one less.

Intervals: draws and patients are resampled 1000 times, the same for all strategies. Harm is the Dice from scratch minus
that of the choice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rows import Row, figures_of, read_rows

from seg_transfer.util.statistics import mean_interval

RUNS, CASES, TEST_CASES, CHOICES = "runs.csv", "cases.csv", "test_cases.csv", "choices.csv"
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
    """Mean over trials of a figure, and its 95 % interval.

    A patient counts as often in every draw and size of a data set, since it is the same one that is scored there again.
    """
    random = np.random.default_rng(seed)
    scored = {name: _scored(trial) for name, trial in trials.items()}
    patients: dict[str, set[str]] = {}
    for name, draws in scored.items():
        patients.setdefault(dataset_of(name), set()).update(*(each.patients for each in draws.values()))
    mean = np.mean([of(_dice_by_position(draws, sorted(draws)), name, sorted(draws)) for name, draws in scored.items()])
    resampled = []
    for _ in range(BOOTSTRAPS):
        counts = {dataset: _drawn(sorted(names), random) for dataset, names in patients.items()}
        figures = [_resampled(draws, name, counts[dataset_of(name)], of, random) for name, draws in scored.items()]
        resampled.append(np.mean(figures))
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return float(mean), float(low), float(high)


@dataclass(frozen=True)
class _Scored:
    """Dice of a draw's cases: strategy -> one for each of ``patients``, who may have several cases."""

    patients: list[str]
    dice: dict[str, NDArray[np.float64]]


def _scored(trial: Trial) -> dict[int, _Scored]:
    found = {}
    for draw in next(iter(trial.values())):
        cases = sorted(set.intersection(*(set(cells[draw]) for cells in trial.values())))
        dice = {strategy: np.array([cells[draw][case] for case in cases]) for strategy, cells in trial.items()}
        found[draw] = _Scored(list(map(patient_of, cases)), dice)
    return found


def _dice_by_position(
    scored: Mapping[int, _Scored], draws: Sequence[int], counts: Mapping[str, int] | None = None
) -> dict[str, list[float]]:
    means = {}
    for draw in set(draws):
        weights = counts and [counts[name] for name in scored[draw].patients]
        means[draw] = {name: float(np.average(dice, weights=weights)) for name, dice in scored[draw].dice.items()}
    return {strategy: [means[draw][strategy] for draw in draws] for strategy in means[draws[0]]}


def _drawn(patients: Sequence[str], random: np.random.Generator) -> dict[str, int]:
    """How often each patient counts where they are drawn with replacement."""
    counts = np.bincount(random.integers(len(patients), size=len(patients)), minlength=len(patients))
    return dict(zip(patients, counts.tolist(), strict=True))


def _resampled(
    scored: Mapping[int, _Scored],
    name: str,
    counts: Mapping[str, int],
    of: Callable[[Dice, str, Sequence[int]], float],
    random: np.random.Generator,
) -> float:
    """The figure of one resample of a trial's draws; nan where none of a draw's patients counts.

    Where the figure is not defined, as regret is not for copies of a single draw, draws are taken anew.
    """
    if any(not sum(counts[patient] for patient in each.patients) for each in scored.values()):
        return float("nan")
    figure, draws = float("nan"), sorted(scored)
    while np.isnan(figure):
        taken = random.choice(draws, len(draws)).tolist()
        figure = of(_dice_by_position(scored, taken, counts), name, taken)
        if len(draws) == 1:
            break
    return figure


def patient_of(case: str) -> str:
    """Both eyes of a person, ``retina_07L`` and ``retina_07R``, are one patient; any other case is one by itself."""
    eye = re.fullmatch(r"(retina_\d+)[LR]", case)
    return eye[1] if eye else case


def mean_dice(cases: Cases) -> float:
    """Over cases."""
    return float(np.mean(list(cases.values())))


def load_trials(folder: Path, *, release: bool) -> dict[str, Trial]:
    """``<data set>-<size>`` -> its runs, the smaller size first; of development cases, or of test cases.

    Args:
        folder: Holds the CSV files.
        release: Read the test cases.

    Raises:
        SystemExit: If runs of a draw are normalized differently.
    """
    normalized: dict[tuple[str, str, str], str] = {}
    for row in read_rows(folder / RUNS):
        how, draw = row["normalization"], (row["dataset"], row["size"], row["draw"])
        if how and normalized.setdefault(draw, how) != how:
            raise SystemExit(f"{' '.join(draw)}: some strategies are normalized by {how}, others not: run them again")
    found: dict[str, Trial] = {}
    for row in sorted(read_rows(folder / (TEST_CASES if release else CASES)), key=_file_order):
        labels = figures_of(row["dice"])
        if labels:
            trial = found.setdefault(f"{row['dataset']}-{row['size']}", {})
            cases = trial.setdefault(row["strategy"], {}).setdefault(int(row["draw"]), {})
            cases[row["case"]] = float(np.mean(list(labels.values())))
    return dict(sorted(found.items(), key=lambda named: (dataset_of(named[0]), int(named[0].rsplit("-", 1)[1]))))


def _file_order(row: Row) -> tuple[str, str, int]:
    return row["dataset"], row["strategy"], int(row["draw"])


def last_choices(folder: Path) -> dict[str, dict[int, str]]:
    """Trial -> draw -> strategy that the planner chose last."""
    found: dict[str, dict[int, str]] = {}
    for row in read_rows(folder / CHOICES):
        found.setdefault(f"{row['dataset']}-{row['size']}", {})[int(row["draw"])] = row["strategy"]
    return found


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
        folder: Of the results.
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
    for against in ("scratch", "gradual"):
        lines += _gains(trials, strategies, against)
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


def gain(trial: Trial, strategy: str, against: str = "scratch") -> tuple[float, float, float] | None:
    """Mean Dice of a strategy minus another's in the draws that both have, and its 95 % interval over cases.

    A case counts with its mean over the draws; None if fewer than two cases were scored with both.
    """
    found, other = trial.get(strategy, {}), trial.get(against, {})
    differences: dict[str, list[float]] = {}
    for draw in found.keys() & other.keys():
        for case in found[draw].keys() & other[draw].keys():
            differences.setdefault(case, []).append(found[draw][case] - other[draw][case])
    by_case = [float(np.mean(each)) for each in differences.values()]
    return (float(np.mean(by_case)), *mean_interval(by_case)) if len(by_case) > 1 else None


def _gains(trials: Mapping[str, Trial], strategies: Sequence[str], against: str) -> list[str]:
    """Each strategy minus another in the draws that both have, in points: mean over draws, interval over cases."""
    others = [strategy for strategy in strategies if strategy != against]
    means: dict[str, list[float]] = {strategy: [] for strategy in others}
    lines = ["", f"Minus {against}, points", "", f"| trial | {' | '.join(others)} |", "|---" * (1 + len(others)) + "|"]
    for name, trial in trials.items():
        row = []
        for strategy in others:
            gained = gain(trial, strategy, against)
            if gained is not None:
                means[strategy].append(gained[0])
            row.append("–" if gained is None else _interval(gained))
        lines.append(f"| {name} | {' | '.join(row)} |")
    over = (f"{POINTS * np.mean(each):.2f} ({len(each)} trials)" if each else "–" for each in means.values())
    return [*lines, f"| mean | {' | '.join(over)} |"]


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
