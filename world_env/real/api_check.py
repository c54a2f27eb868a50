"""Dry run of a real environment, before a stage spends real steps."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np

from world_env.errors import StageError
from world_env.real.env_config import AnyEnv, as_env_config, given_env
from world_env.real.gate import CountedEnv
from world_env.real.known import Known
from world_env.real.real_env import make_real, spec_from, spec_of
from world_env.real.step_ledger import StepLedger
from world_env.real.wrapping import layers
from world_env.results.step_plan import PlannedSteps, exact
from world_env.spaces import copied
from world_env.spec import EnvConfig, WorldSpec

_SEED = 0
_passed: Known[bool] = Known()
"""Whether an environment has passed."""


def check_real(real: AnyEnv, *, ledger: StepLedger | None = None) -> WorldSpec:
    """Check a real environment with three resets and one random step, and return its spec.

    The same reset seed is used twice in one environment, with the step in between, and once in a second environment
    that is made after the first one is closed (an environment object is reset three times). A warning says where the
    first observations differ. An environment that has passed is not made again in the same process.

    real: what `as_env_config` takes. ledger: counts the step under "validate"; None: it is not counted.
    Raises EnvApiError for an environment with another API, and what `make_real` raises.
    """
    real = as_env_config(real)
    if _passed.get(real):
        return spec_of(real)
    ledger = StepLedger() if ledger is None else ledger
    env = make_real(real, purpose="validate", ledger=ledger)
    try:
        spec = spec_from(env, real)
        first = _first(env)
        env.action_space.seed(_SEED)
        env.step(env.action_space.sample())
        _check_repeats(real, env, spec)
        again = _first(env)
    finally:
        env.close()
        ledger.save()
    env = make_real(real, purpose="validate", ledger=ledger)
    try:
        fresh = _first(env)
    finally:
        env.close()
    _warn(real, _same(first, again), _same(first, fresh))
    _passed.add(real, True)
    return spec


def check_step(real: AnyEnv) -> PlannedSteps:
    """Real step that `check_real` still takes: none of an environment that has passed in this process."""
    left = 0 if _passed.get(as_env_config(real)) else 1
    return exact("validate", "check of the environment", left)


def forget_checks() -> None:
    """Forget which environments have passed, for example after the code of one changed."""
    _passed.clear()


def _check_repeats(real: EnvConfig, env: gym.Env, spec: WorldSpec) -> None:
    """Raise StageError where a wrapper repeats actions, so that the time limit below it counts other steps."""
    taken = next(layer.taken for layer in layers(env) if isinstance(layer, CountedEnv))
    if real.horizon is None and taken > real.action_chunk and spec.horizon is not None:
        repeats, limit = taken // real.action_chunk, spec.horizon * real.action_chunk
        raise StageError(
            f"one step of {real.env_id} with its wrappers takes {repeats} steps of the environment, so its time limit "
            f"of {limit} steps is not that of an episode: pass the time limit in steps of the "
            f"wrapped environment, such as horizon={-(-limit // repeats)} (--horizon STEPS)"
        )


def _first(env: gym.Env) -> Any:
    return copied(env.reset(seed=_SEED)[0])


def _same(one: Any, other: Any) -> bool:
    """Whether two observations are equal but for rounding."""
    if isinstance(one, dict):
        return all(_same(value, other[key]) for key, value in one.items())
    return bool(np.allclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True))


def _warn(real: EnvConfig, again: bool, fresh: bool) -> None:
    """Warn of first observations that the reset seed does not determine."""
    if again and fresh:
        return
    made = "a second reset" if given_env(real) is not None or not again else "a second environment"
    text = f"{real.env_id}: reset(seed={_SEED}) returns a different first observation in {made}"
    if fresh and given_env(real) is None:
        cause = "it depends on earlier episodes of the same environment, as running statistics do"
    else:
        cause = "the reset does not use its seed, as super().reset(seed=seed) and self.np_random do"
    warnings.warn(
        f"{text}: probably {cause}. The twin and the real environment are then compared on different first "
        "observations, so differences of returns are less certain, and the results of a resumed run are different.",
        stacklevel=3,
    )
