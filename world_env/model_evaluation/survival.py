"""Whether episodes end in a twin as often, and as early, as in reality."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from world_env.data.episode import Episode
from world_env.model_evaluation.errors import significant
from world_env.model_evaluation.open_loop import measured_steps
from world_env.simulation.simulator import Simulator, SimulatorConfig
from world_env.twin.twin import Twin
from world_env.types import JSON

_EPISODES, _ROLLOUTS = 128, 4
"""Most episodes that are followed, and learned rollouts of each."""


def survival(twin: Twin, episodes: Sequence[Episode], *, seed: int = 0) -> JSON | None:
    """How many episodes go on after so many steps, in reality and in the twin under the same actions.

    Learned rollouts begin at the true starts and are lived in as in any simulator, several of each. Both curves are
    Kaplan and Meier's: a truncated episode went on when it was lost from sight, in either world. Where reality
    terminated, a learned rollout goes on with the last action, so that an end that comes late is seen to.
    Returns "steps", "real" and "learned" (shares), "episodes" (how many); None where no episode terminates.
    """
    whole = [episode for episode in episodes if episode.elapsed == 0]
    whole = whole[:: max(1, -(-len(whole) // _EPISODES))]
    if not any(episode.terminated for episode in whole):
        return None
    lengths = np.array([len(episode) for episode in whole])
    died = np.array([episode.terminated for episode in whole])
    steps = measured_steps(int(lengths.max()))
    watched = np.where(died, lengths.max(), lengths).repeat(_ROLLOUTS)
    ends = _learned_ends(twin, whole, watched, seed)
    learned = _going_on(np.minimum(ends, watched), ends <= watched, steps)
    return {
        "steps": steps,
        "real": significant(_going_on(lengths, died, steps)),
        "learned": significant(learned),
        "episodes": len(whole),
    }


def _going_on(lengths: np.ndarray, died: np.ndarray, steps: list[int]) -> np.ndarray:
    """Kaplan and Meier's share that goes on after each of `steps`."""
    from scipy.stats import CensoredData, ecdf

    seen = CensoredData.right_censored(lengths.astype(float), ~died)
    return np.asarray(ecdf(seen).sf.evaluate(steps))


def _learned_ends(
    twin: Twin, episodes: Sequence[Episode], watched: np.ndarray, seed: int
) -> np.ndarray:
    """(episodes x rollouts,) steps until each learned rollout terminates; more than `watched` where it does not."""
    columns = [episode.observation_columns() for episode in episodes]
    begin = {
        key: np.stack([column[key][0] for column in columns]).repeat(_ROLLOUTS, axis=0)
        for key in columns[0]
    }
    longest = int(watched.max())
    # One step more, so that no end is the horizon's.
    config = SimulatorConfig(horizon=longest + 1)
    simulator = Simulator(twin, len(watched), seed=seed, config=config)
    parts = isinstance(episodes[0].observations, dict)
    simulator.reset(options={"observation": begin if parts else next(iter(begin.values()))})
    ends = np.full(len(watched), longest + 1)
    for step in range(longest):
        running = ~simulator.finished & (watched > step)
        if not running.any():
            break
        actions = np.stack([episode.actions[min(step, len(episode) - 1)] for episode in episodes])
        result = simulator.step(actions.repeat(_ROLLOUTS, axis=0), rows=running)
        ends[running & result.terminated] = step + 1
    return ends
