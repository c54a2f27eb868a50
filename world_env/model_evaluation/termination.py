"""Classification of terminations: threshold, precision, recall, Brier score, AUROC."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from world_env.results.fidelity import TerminationScores


def termination_threshold(probability: Tensor, label: Tensor) -> float:
    """Choose the probability above which a step counts as terminal, on labelled transitions.

    probability, label: (N,). Minimises the number of false and missed terminations, which both change the length of an
    episode (a false one with probability 0.002 a step ends 86 % of episodes before step 1,000). Among equally good
    thresholds, returns the middle of the range of log-odds nearest to 0. Returns 0.5 for data without terminations.
    """
    if not bool((label > 0).any()):
        return 0.5
    grid = torch.sigmoid(torch.linspace(-4.0, 4.0, 81))
    ends = label > 0
    wrong = torch.stack([((probability > each) != ends).sum() for each in grid])
    best = torch.nonzero(wrong == wrong.min()).squeeze(1)
    # The middle of the optimal range that is nearest to log-odds 0, the grid's point 40.
    gaps = torch.nonzero(torch.diff(best) > 1).squeeze(1) + 1
    runs = torch.tensor_split(best, gaps)
    middle = min((float(run.double().mean()) for run in runs), key=lambda place: abs(place - 40.0))
    return float(torch.sigmoid(torch.tensor(middle * 0.1 - 4.0)))


def termination_scores(
    probability: Tensor, label: Tensor, threshold: float, bounds: Sequence[str] = ()
) -> TerminationScores:
    """Score predicted terminations on real transitions. bounds: descriptions of the hard termination bounds."""
    called, ends = probability > threshold, label > 0
    hits = int((called & ends).sum())
    return TerminationScores(
        terminal_labels=int(ends.sum()),
        precision=hits / int(called.sum()) if bool(called.any()) else None,
        recall=hits / int(ends.sum()) if bool(ends.any()) else None,
        brier=float((probability - label).square().mean()),
        bounds=list(bounds),
    )


def auroc(score: np.ndarray, label: np.ndarray) -> float:
    """Area under the ROC curve: probability that a labelled score exceeds an unlabelled one.

    score: (N,). label: (N,) bool, with both values.
    """
    from scipy.stats import rankdata

    ranks, labelled = rankdata(score), int(label.sum())
    least = labelled * (labelled + 1) / 2
    return float((ranks[label].sum() - least) / (labelled * (len(label) - labelled)))
