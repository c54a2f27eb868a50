"""Effects of actions: differences between outcomes of two action sequences from one state, learned against real.

A policy learns from the effects of its actions, so a twin must predict them, not only the motion without control. The
real simulator is reset to earlier states, so this is a diagnostic and no part of the comparison of returns.
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
from world_env.device import without_gradients
from world_env.errors import InvalidOptionError, RealStepLimitError
from world_env.model_evaluation.errors import significant
from world_env.models.conditioning import check_shapes
from world_env.policies.held_policy import HeldPolicy
from world_env.real.env_config import AnyEnv, as_env_config, limited
from world_env.real.real_env import make_real
from world_env.real.step_ledger import StepLedger
from world_env.results.fidelity import ActionEffects
from world_env.rng import CounterRNG
from world_env.rollouts.real import ONE
from world_env.spaces import stacked
from world_env.spec import check_same_spaces
from world_env.twin.twin import Twin
from world_env.types import JSON

_STEPS = (1, 5, 20)
"""Numbers of steps after which outcomes are compared."""
_APART = 10
"""Real steps between two states."""
_HOLD = 5
"""Mean steps that a random action is held: effects of actions that change every step average out."""
_SCORES = ("effect_size", "effect_error", "cosine", "rank", "pairs")
_EXACT = 1e-9
"""Tolerance of observations in a replay."""


def measure_action_effects(
    twin: Twin,
    real: AnyEnv,
    *,
    ledger: StepLedger,
    states: int = 32,
    actions: int = 4,
    seed: int = 0,
) -> ActionEffects:
    """Measure the error of a twin in the effects of actions.

    From each of `states` real states along a random walk, `actions` random action sequences are played in the real
    environment and in the twin. Every two of them that have not ended give one effect: the difference of their
    observations, in standard deviations of all real observations.
    Real steps are counted under "evaluate". Raises InvalidOptionError, SpaceMismatchError, RealStepLimitError.
    """
    if states < 1:
        raise InvalidOptionError(f"states is {states}, expected at least 1")
    if actions < 2:
        raise InvalidOptionError(f"actions is {actions}, expected at least 2 to compare")
    config = limited(as_env_config(real), twin.spec.horizon)
    with closing(make_real(config, purpose="evaluate", ledger=ledger)) as env:
        check_same_spaces(env, twin.spec)
        walker = _Walker(env, seed)
        reason = _obstacle(walker)
        outcomes = [] if reason else _outcomes(walker, states, actions)
    return ActionEffects(
        steps=list(_STEPS),
        unit="standard deviations of the real observations",
        states=states,
        actions=actions,
        reason=reason,
        **(_effects(twin, outcomes, actions, seed) if outcomes else {}),
    )


def most_real_steps(states: int = 32, actions: int = 4) -> int:
    """Largest number of actions that `measure_action_effects` takes in the real environment."""
    replay, sequence = _APART + 2 * max(_STEPS), max(_STEPS)
    return replay + states * (_APART + actions * sequence)


class _Walker:
    """Random walk in the real environment with held actions. now: the current observation."""

    def __init__(self, env: gym.Env, seed: int) -> None:
        self.env = env
        self._rng = np.random.default_rng(seed)
        self._policy = HeldPolicy(env.action_space, _HOLD)
        self.now: Any = None
        self._begin()

    def walk(self) -> None:
        for action in self.sequence(_APART):
            now, _, terminated, truncated, _ = self.env.step(action)
            self.now = copy.deepcopy(now)
            if terminated or truncated:
                self._begin()

    def sequence(self, steps: int) -> list[Any]:
        self._policy.reset(ONE, [self._draw()])
        return [self._policy.act(np.zeros(1), ONE)[0] for _ in range(steps)]

    def _begin(self) -> None:
        self.now = copy.deepcopy(self.env.reset(seed=self._draw())[0])

    def _draw(self) -> int:
        return int(self._rng.integers(2**31))


@dataclass(frozen=True)
class _Outcome:
    """One action sequence. start: observation before it. observations: after each action until the episode ended."""

    start: Any
    actions: list[Any]
    observations: list[Any]


def _play(env: gym.Env, start: Any, actions: list[Any]) -> _Outcome:
    observations = []
    for action in actions:
        # A copy, because environments may keep or change the array.
        observation, _, terminated, truncated, _ = env.step(copy.copy(action))
        observations.append(copy.deepcopy(observation))
        if terminated or truncated:
            break
    return _Outcome(start, actions, observations)


def _outcomes(walker: _Walker, states: int, actions: int) -> list[_Outcome]:
    outcomes = []
    for _ in range(states):
        walker.walk()
        back = _bookmark(walker.env)
        outcomes += [
            _play(back(), walker.now, walker.sequence(max(_STEPS))) for _ in range(actions)
        ]
        walker.env = back()
    return outcomes


def _bookmark(env: gym.Env) -> Callable[[], gym.Env]:
    """Return a function that restores the current state. Each call invalidates the environment of the previous one."""
    inner: Any = env.unwrapped
    data = getattr(inner, "data", None)
    if type(data).__name__ != "MjData":
        # Copies share the state of the random generator, so both sequences have the same noise.
        saved = copy.deepcopy(env)
        return lambda: copy.deepcopy(saved)
    import mujoco

    # deepcopy of a MuJoCo environment makes a new one. So only the wrappers are copied, and the simulator is set back.
    wrappers, memory = copy.deepcopy(env, {id(inner): inner}), copy.copy(data)

    def back() -> gym.Env:
        mujoco.mj_copyData(data, inner.model, memory)
        return copy.deepcopy(wrappers, {id(inner): inner})

    return back


def _obstacle(walker: _Walker) -> str | None:
    """Why the environment cannot be reset to an earlier state, found by a replay. None: it can."""
    walker.walk()
    actions = walker.sequence(max(_STEPS))
    try:
        back = _bookmark(walker.env)
        first = _play(walker.env, walker.now, actions)
        again = _play(back(), walker.now, actions)
    except RealStepLimitError:
        raise
    except Exception as error:  # environments raise any kind of error
        return f"the environment cannot be copied ({type(error).__name__}: {error})"[:300]
    if len(first.observations) != len(again.observations):
        lengths = (len(again.observations), len(first.observations))
        return "a replay from a copied state had {} steps until the episode ended, not {}".format(
            *lengths
        )
    off = max(_distance(*pair) for pair in zip(first.observations, again.observations, strict=True))
    if not off <= _EXACT:
        return f"observations of a replay from a copied state differ by {off:.3g}"
    walker.env = back()
    return None


def _distance(one: Any, other: Any) -> float:
    if isinstance(one, dict):
        return max(_distance(one[key], other[key]) for key in one)
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).max())


def _effects(twin: Twin, outcomes: list[_Outcome], actions: int, seed: int) -> JSON:
    """Scores for each of `_STEPS`. outcomes: `actions` of them for each state, one state after another."""
    everything = _encoded(twin, [each for outcome in outcomes for each in outcome.observations])
    scale = everything.std(0)
    # Constant dimensions have scale 1.
    scale = torch.where(scale > _EXACT, scale, 1.0)
    one, other = torch.combinations(torch.arange(actions)).T
    scores: list[JSON] = []
    for steps, learned in zip(_STEPS, _learned(twin, outcomes, seed, actions), strict=True):
        lasting = torch.tensor([len(outcome.observations) >= steps for outcome in outcomes])
        real = _encoded(twin, [outcome.observations[:steps][-1] for outcome in outcomes])
        both = lasting.view(-1, actions)
        both = both[:, one] & both[:, other]
        effects = ((side.view(-1, actions, side.shape[-1]) / scale) for side in (learned, real))
        scores.append(_agreement(*((each[:, one] - each[:, other])[both] for each in effects)))
    return {
        name: [score[name] for score in scores]
        if name == "pairs"
        else significant(score[name] for score in scores)
        for name in _SCORES
    }


def _agreement(learned: Tensor, real: Tensor) -> JSON:
    """Scores of (P, D) effects; NaN where all real effects are 0."""
    from scipy.stats import spearmanr

    moving = real.square().sum(-1) > 0
    if not moving.any():
        return dict.fromkeys(_SCORES, math.nan) | {"pairs": len(real)}
    size = float(real.square().mean().sqrt())
    error = float((learned - real).square().mean().sqrt())
    learned_moving, real_moving = learned[moving], real[moving]
    # A rank correlation needs learned effects that differ.
    ranked = bool((learned_moving != learned_moving[0, 0]).any())
    rank = math.nan
    if ranked:
        rank = float(spearmanr(learned_moving.flatten(), real_moving.flatten()).statistic)
    return {
        "effect_size": size,
        "effect_error": error / size,
        "cosine": float(torch.cosine_similarity(learned_moving, real_moving, dim=-1).mean()),
        "rank": rank,
        "pairs": len(real),
    }


@without_gradients
def _learned(twin: Twin, outcomes: list[_Outcome], seed: int, actions: int) -> list[Tensor]:
    """(B, D) observations of the twin at temperature 0, for each sequence, after each of `_STEPS`."""
    codec, model = twin.codec, twin.model.for_inference()
    start = codec.encode_observation(stacked([outcome.start for outcome in outcomes]))
    # One random stream for all sequences of a state, so that only the actions differ.
    rng = CounterRNG(torch.arange(len(outcomes)) // actions + seed)
    context = Context.from_observation(start, codec.action_size)
    check_shapes(model, context.conditioning, "an observation")
    state = model.encode(context, rng=rng)
    learned = []
    for step in range(max(_STEPS)):
        action = codec.encode_action(np.stack([outcome.actions[step] for outcome in outcomes]))
        state, _ = model.step(state, action, rng=rng, temperature=0.0)
        if step + 1 in _STEPS:
            learned.append(_flat(model.decode(state)))
    return learned


def _encoded(twin: Twin, observations: list[Any]) -> Tensor:
    return _flat(twin.codec.encode_observation(stacked(observations)))


def _flat(observation: Observation) -> Tensor:
    """(B, D) float64, keys in order."""
    parts = [observation[key].flatten(1).double() for key in sorted(observation)]
    return torch.cat(parts, -1)
