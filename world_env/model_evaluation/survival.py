"""Survival curves: episode ends in a twin and in the real environment under the same actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from world_env.data.episode import Episode, stacked_conditioning
from world_env.model_evaluation.errors import significant
from world_env.model_evaluation.open_loop import measured_steps
from world_env.policies.function_policy import LoggedActionsPolicy
from world_env.results.fidelity import Survival
from world_env.rollouts.learned import run_learned
from world_env.simulation.termination import ENDS
from world_env.twin.twin import Twin

_EPISODES, _ROLLOUTS = 128, 4
"""Largest number of episodes, and learned rollouts of each."""


def survival(twin: Twin, episodes: Sequence[Episode], *, seed: int = 0) -> Survival | None:
    """Share of episodes that have not terminated after given numbers of steps: real and learned, same actions.

    Several learned rollouts start from the first observation of each episode. Both curves are Kaplan-Meier estimates,
    in which truncated episodes are censored. Where the real episode terminated, learned rollouts continue with its last
    action, so that late terminations count.
    Returns None where no real episode terminates.
    """
    curves = survival_curves(twin, episodes, seed=seed)
    if curves is None:
        return None
    steps = measured_steps(curves.longest)
    real, learned = (
        significant(curve[np.array(steps) - 1]) for curve in (curves.real, curves.learned)
    )
    return Survival(steps=steps, real=real, learned=learned, episodes=curves.episodes)


@dataclass(frozen=True)
class SurvivalCurves:
    """Share of episodes that have not terminated after 1, 2, ..., L steps, L the length of the longest episode.

    real, learned: (L,) Kaplan-Meier estimates. episodes: number of real episodes.
    """

    real: np.ndarray
    learned: np.ndarray
    episodes: int

    @property
    def longest(self) -> int:
        """Length L of the longest real episode."""
        return len(self.real)

    @property
    def gap(self) -> float:
        """Largest difference of the two curves."""
        return float(np.abs(self.real - self.learned).max())

    @property
    def mean_lengths(self) -> tuple[float, float]:
        """Mean lengths (real, learned) of episodes that are cut after L steps: the areas under the curves."""
        return float(1.0 + self.real[:-1].sum()), float(1.0 + self.learned[:-1].sum())


def survival_curves(
    twin: Twin, episodes: Sequence[Episode], *, seed: int = 0
) -> SurvivalCurves | None:
    """Curves of `survival` after every step; None where no real episode terminates."""
    whole = [episode for episode in episodes if episode.elapsed == 0]
    whole = whole[:: max(1, -(-len(whole) // _EPISODES))]
    if not any(episode.terminated for episode in whole):
        return None
    lengths = np.array([len(episode) for episode in whole])
    terminated = np.array([episode.terminated for episode in whole])
    observed = np.where(terminated, lengths.max(), lengths).repeat(_ROLLOUTS)
    ends = _learned_ends(twin, whole, observed, seed)
    steps = np.arange(1, int(lengths.max()) + 1)
    return SurvivalCurves(
        real=_kaplan_meier(lengths, terminated, steps),
        learned=_kaplan_meier(np.minimum(ends, observed), ends <= observed, steps),
        episodes=len(whole),
    )


def _kaplan_meier(lengths: np.ndarray, terminated: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Kaplan-Meier estimate of the share that has not terminated after each of `steps`."""
    from scipy.stats import CensoredData, ecdf

    data = CensoredData.right_censored(lengths.astype(float), ~terminated)
    return np.asarray(ecdf(data).sf.evaluate(steps))


def _learned_ends(
    twin: Twin, episodes: Sequence[Episode], observed: np.ndarray, seed: int
) -> np.ndarray:
    """(episodes x rollouts,) steps until each learned rollout terminates; more than `observed` where it does not."""
    columns = [episode.observation_columns() for episode in episodes]
    begin = {
        key: np.stack([column[key][0] for column in columns]).repeat(_ROLLOUTS, axis=0)
        for key in columns[0]
    }
    parts = isinstance(episodes[0].observations, dict)
    policy = LoggedActionsPolicy([each.actions for each in episodes for _ in range(_ROLLOUTS)])
    first = begin if parts else next(iter(begin.values()))
    given = stacked_conditioning(episodes) if twin.model.conditioning else {}
    conditioning = {name: values.repeat(_ROLLOUTS, axis=0) for name, values in given.items()}
    played = run_learned(
        policy, twin, first, seed=seed, conditioning=conditioning, max_steps=observed
    )
    assert played.ends is not None
    terminated = played.ends == ENDS.index("terminated")
    return np.where(terminated, played.lengths, int(observed.max()) + 1)
