"""What other actions would have done from the same real state, in reality and in the twin.

A diagnostic, never part of a headline: it puts the real simulator back to where it was. What a policy learns from is
what its actions change, so a twin must be right about that, not only about where the world goes by itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from world_env.batch import Context, Observation
from world_env.errors import InvalidOptionError
from world_env.model_evaluation.errors import significant
from world_env.policies.correlated_noise import CorrelatedNoise
from world_env.real.real_env import make_real
from world_env.real.step_ledger import StepLedger
from world_env.rng import CounterRNG
from world_env.spec import EnvConfig, check_same_spaces
from world_env.twin.twin import Twin
from world_env.types import JSON

_STEPS = (1, 5, 20)
"""After how many steps outcomes are compared."""
_APART = 10
"""Real steps from one state to the next."""
_HOLD = 5
"""Mean steps that a random action lasts: what changes at every step averages itself away."""
_SCORES = ("effect_size", "effect_error", "cosine", "rank", "pairs")
_EXACT = 1e-9
"""Largest difference of an observation that is seen again."""


def counterfactual(
    twin: Twin,
    real: EnvConfig,
    *,
    ledger: StepLedger,
    states: int = 32,
    actions: int = 4,
    seed: int = 0,
) -> JSON:
    """How well a twin knows what actions change: the difference of two outcomes from one state, learned against real.

    From each of `states` real states along a random walk, `actions` random sequences are played in both worlds. Every
    two that reality did not end before give one effect, in standard deviations of all that was seen.
    Returns "steps" and, for each, "effect_size" (root mean square of the real effects), "effect_error" (of learned less
    real ones, as a share of that size: 1 is a twin that is blind to actions), "cosine" (their mean, of the effects that
    are not 0), "rank" (Spearman's correlation over all effects and dimensions), each None where nothing has an effect,
    and "pairs"; "states"; "actions"; "reason", why all of that is None, else None.
    Real steps count under "spot_check". Raises InvalidOptionError, SpaceMismatchError.
    """
    if states < 1 or actions < 2:
        raise InvalidOptionError(
            f"states is {states} and actions {actions}: expected at least 1, and 2 to tell apart"
        )
    with closing(make_real(real, purpose="spot_check", ledger=ledger)) as env:
        check_same_spaces(env, twin.spec)
        walker = _Walker(env, seed)
        reason = _obstacle(walker)
        branches = [] if reason else _branches(walker, states, actions)
    measured = _effects(twin, branches, actions, seed) if branches else dict.fromkeys(_SCORES)
    return {
        "steps": list(_STEPS),
        "unit": "standard deviations of what was seen",
        **measured,
        "states": states,
        "actions": actions,
        "reason": reason,
    }


class _Walker:
    """Goes about the real environment with random actions that last. now: the observation."""

    def __init__(self, env: gym.Env, seed: int) -> None:
        self.env = env
        self._rng = np.random.default_rng(seed)
        self._policy = CorrelatedNoise(env.action_space, _HOLD)
        self.now: Any = None
        self._begin()

    def walk(self) -> None:
        for action in self.sequence(_APART):
            now, _, terminated, truncated, _ = self.env.step(action)
            self.now = copy.deepcopy(now)
            if terminated or truncated:
                self._begin()

    def sequence(self, steps: int) -> list[Any]:
        self._policy.reset(self._draw())
        return [self._policy.act(None) for _ in range(steps)]

    def _begin(self) -> None:
        self.now = copy.deepcopy(self.env.reset(seed=self._draw())[0])

    def _draw(self) -> int:
        return int(self._rng.integers(2**31))


@dataclass(frozen=True)
class _Branch:
    """start: the observation that `actions` began at. seen: after each of them, up to where the episode ended."""

    start: Any
    actions: list[Any]
    seen: list[Any]


def _play(env: gym.Env, start: Any, actions: list[Any]) -> _Branch:
    seen = []
    for action in actions:
        # A copy: environments may keep, or change, the array that they are given.
        observation, _, terminated, truncated, _ = env.step(copy.copy(action))
        seen.append(copy.deepcopy(observation))
        if terminated or truncated:
            break
    return _Branch(start, actions, seen)


def _branches(walker: _Walker, states: int, actions: int) -> list[_Branch]:
    branches = []
    for _ in range(states):
        walker.walk()
        back = _bookmark(walker.env)
        branches += [
            _play(back(), walker.now, walker.sequence(max(_STEPS))) for _ in range(actions)
        ]
        walker.env = back()
    return branches


def _bookmark(env: gym.Env) -> Callable[[], gym.Env]:
    """A function that gives an environment standing where this one stands now; the one given before is then spoiled."""
    inner: Any = env.unwrapped
    data = getattr(inner, "data", None)
    if type(data).__name__ != "MjData":
        # With its noise, so that both of two actions meet the same. Steps of copies are counted too.
        saved = copy.deepcopy(env)
        return lambda: copy.deepcopy(saved)
    import mujoco

    # Such environments are copied as new ones; so the wrappers are, around the one simulator, which is set back.
    wrappers, memory = copy.deepcopy(env, {id(inner): inner}), copy.copy(data)

    def back() -> gym.Env:
        mujoco.mj_copyData(data, inner.model, memory)
        return copy.deepcopy(wrappers, {id(inner): inner})

    return back


def _obstacle(walker: _Walker) -> str | None:
    """Why the environment cannot be put back to a state, found by a replay; None: it can, and has been."""
    walker.walk()
    actions = walker.sequence(max(_STEPS))
    try:
        back = _bookmark(walker.env)
        first = _play(walker.env, walker.now, actions)
        again = _play(back(), walker.now, actions)
    except Exception as error:  # every environment refuses in its own way
        return f"the environment cannot be copied ({type(error).__name__}: {error})"[:300]
    if len(first.seen) != len(again.seen):
        return f"a replay took {len(again.seen)} steps to the end of the episode, not {len(first.seen)}"
    off = max(_distance(*pair) for pair in zip(first.seen, again.seen, strict=True))
    if not off <= _EXACT:
        return f"a replay from a copied state saw observations that differ by {off:.3g}"
    walker.env = back()
    return None


def _distance(one: Any, other: Any) -> float:
    if isinstance(one, dict):
        return max(_distance(one[key], other[key]) for key in one)
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).max())


def _effects(twin: Twin, branches: list[_Branch], actions: int, seed: int) -> JSON:
    """Scores per measured step. branches: `actions` of each state, one state after another."""
    everything = _encoded(twin, [seen for branch in branches for seen in branch.seen])
    scale = everything.std(0)
    # What never moved has no unit but its own.
    scale = torch.where(scale > _EXACT, scale, 1.0)
    one, other = torch.combinations(torch.arange(actions)).T
    scores: list[JSON] = []
    for steps, learned in zip(_STEPS, _learned(twin, branches, seed, actions), strict=True):
        lasting = torch.tensor([len(branch.seen) >= steps for branch in branches])
        real = _encoded(twin, [branch.seen[:steps][-1] for branch in branches])
        both = lasting.view(-1, actions)
        both = both[:, one] & both[:, other]
        effects = (
            (outcome.view(-1, actions, outcome.shape[-1]) / scale) for outcome in (learned, real)
        )
        scores.append(_agreement(*((each[:, one] - each[:, other])[both] for each in effects)))
    return {
        name: [score[name] for score in scores]
        if name == "pairs"
        else significant(score[name] for score in scores)
        for name in _SCORES
    }


def _agreement(learned: Tensor, real: Tensor) -> JSON:
    """Scores of (P, D) effects; NaN where nothing has one."""
    from scipy.stats import spearmanr

    moving = real.square().sum(-1) > 0
    if not moving.any():
        return dict.fromkeys(_SCORES, math.nan) | {"pairs": len(real)}
    size = float(real.square().mean().sqrt())
    error = float((learned - real).square().mean().sqrt())
    told, true = learned[moving], real[moving]
    # A twin that is blind to actions has no order.
    ranked = bool((told != told[0, 0]).any())
    rank = float(spearmanr(told.flatten(), true.flatten()).statistic) if ranked else math.nan
    return {
        "effect_size": size,
        "effect_error": error / size,
        "cosine": float(torch.cosine_similarity(told, true, dim=-1).mean()),
        "rank": rank,
        "pairs": len(real),
    }


@torch.no_grad()
def _learned(twin: Twin, branches: list[_Branch], seed: int, actions: int) -> list[Tensor]:
    """(B, D) what the twin's most likely future shows of each branch after each of `_STEPS`."""
    codec, model = twin.codec, twin.model.for_inference()
    start = codec.encode_observation(_stacked([branch.start for branch in branches]))
    # One stream for all actions of a state: what differs between them is the action.
    rng = CounterRNG(torch.arange(len(branches)) // actions + seed)
    state = model.encode(Context.from_observation(start, codec.action_size), rng=rng)
    outcomes = []
    for step in range(max(_STEPS)):
        action = codec.encode_action(np.stack([branch.actions[step] for branch in branches]))
        state, _ = model.step(state, action, rng=rng, temperature=0.0)
        if step + 1 in _STEPS:
            outcomes.append(_flat(model.decode(state)))
    return outcomes


def _encoded(twin: Twin, observations: list[Any]) -> Tensor:
    return _flat(twin.codec.encode_observation(_stacked(observations)))


def _stacked(observations: list[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.stack([one[key] for one in observations]) for key in observations[0]}
    return np.stack(observations)


def _flat(observation: Observation) -> Tensor:
    """(B, D) float64, one key after another."""
    parts = [observation[key].flatten(1).double() for key in sorted(observation)]
    return torch.cat(parts, -1)
