"""Choice between a threshold and sampled terminations.

A threshold is right where the state tells the end: a probability that is small everywhere else then ends no episode. It
misses ends by chance, whose probability never exceeds it, or ends every episode at the first step of a region in which
they are likely. The simulator then samples terminations from the predicted probability. Episodes decide, not single
steps: a false termination with probability 0.002 a step is a small error of one step and ends 86 % of the episodes
before step 1,000.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from world_env.data.episode import Episode
from world_env.model_evaluation.survival import survival_curves
from world_env.models.base import TrainableWorldModel
from world_env.results.fidelity import TerminationRule
from world_env.twin.twin import Twin

MIN_ENDS = 10
"""Fewest terminal steps from which the choice is made. Fewer do not tell chance from a rare cause."""
MAX_MISCOUNT = 1.25
"""Ratio of the steps above the threshold and the terminal steps, either way, up to which the threshold counts right."""
MIN_GAIN = 0.05
"""Smallest difference of two survival gaps that counts, with any number of episodes."""
_MAX_SHIFT = 10.0


def miscounts_ends(probability: Tensor, label: Tensor, threshold: float) -> bool:
    """Whether a threshold calls clearly fewer or more steps terminal than there are, on real transitions.

    It calls fewer if ends by chance are rarer than the threshold, and more if they are the likelier outcome.
    probability: (N,), 1 beyond a hard termination bound. label: (N,). False terminations make up for missed ones: both
    occur at the edge of a region in which episodes end.
    """
    ends, called = int((label > 0).sum()), int((probability > threshold).sum())
    counts = called <= MAX_MISCOUNT * ends and ends <= MAX_MISCOUNT * called
    return ends >= MIN_ENDS and not counts


def sampling_twin(twin: Twin, probability: Tensor, label: Tensor) -> Twin:
    """Return a copy of a twin that samples terminations, with calibrated probabilities.

    probability, label: as in `miscounts_ends`. If the sum of the probabilities differs from the number of terminal
    steps by more than chance explains, the log-odds are shifted: by the model, if its family can, and of the threshold,
    so that the same steps exceed it.
    """
    shift = calibrating_shift(probability, label)
    model = copy.deepcopy(twin.model)
    if (
        not shift
        or not isinstance(model, TrainableWorldModel)
        or not model.shift_termination(shift)
    ):
        return dataclasses.replace(twin, termination="sample")
    threshold = torch.tensor(twin.termination_threshold, dtype=torch.float64)
    moved = float((threshold.logit() + shift).sigmoid())
    return dataclasses.replace(twin, model=model, termination="sample", termination_threshold=moved)


def calibrating_shift(probability: Tensor, label: Tensor) -> float:
    """Shift of the log-odds with which the probabilities sum up to the number of terminal steps.

    0 if the difference is at most two standard errors. Steps beyond a hard termination bound, whose probability is 1,
    do not count: the bound ends them.
    """
    inside = probability < 1.0
    odds = probability[inside].double().clamp(min=1e-12).logit()
    ends = float((label[inside] > 0).sum())
    error = float(odds.sigmoid().sum()) - ends
    if not ends or error * error <= 4.0 * ends:
        return 0.0
    low, high = -_MAX_SHIFT, _MAX_SHIFT
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = float((odds + middle).sigmoid().sum()) > ends
        low, high = (low, middle) if above else (middle, high)
    return 0.5 * (low + high)


def choose_termination_rule(
    twin: Twin, sampling: Twin, episodes: Sequence[Episode]
) -> TerminationRule | None:
    """Choose the rule whose learned episodes end as the real ones, under the same actions.

    twin: with the threshold. sampling: the same twin with sampled terminations.
    The threshold is kept unless sampling is better by more than chance explains.
    Returns None without a whole episode that terminates.
    """
    threshold, sample = (survival_curves(each, episodes) for each in (twin, sampling))
    if threshold is None or sample is None:
        return None
    # A survival curve of n episodes has a standard error of up to 0.5 / sqrt(n).
    needed = max(MIN_GAIN, 0.5 / np.sqrt(threshold.episodes))
    (real, by_threshold), (_, by_chance) = threshold.mean_lengths, sample.mean_lengths
    return TerminationRule(
        rule="sample" if threshold.gap - sample.gap > needed else "threshold",
        episodes=threshold.episodes,
        real_length=round(real, 3),
        threshold_length=round(by_threshold, 3),
        sample_length=round(by_chance, 3),
        threshold_gap=round(threshold.gap, 4),
        sample_gap=round(sample.gap, 4),
    )
