"""Train a policy with Stable-Baselines3, in a twin or in the real environment: one field decides."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from world_env.errors import InvalidOptionError, SpaceMismatchError, StageError
from world_env.policies.algorithms import algorithm_class
from world_env.policies.latent_policy import LatentEncoder, attach_encoder
from world_env.policies.normalization import NormalizedFeatures
from world_env.policies.saved_policy import load_policy, policy_card, save_policy
from world_env.real.real_env import make_real_vec
from world_env.real.step_ledger import StepLedger
from world_env.rl.callbacks import at_marks, growing_branches
from world_env.rl.config import FEW_ROWS, MANY_ROWS, OFF_POLICY, LearnConfig
from world_env.rl.resume import forget, keep_replay, take_back
from world_env.rl.warm_start import begin_from
from world_env.spaces import is_image
from world_env.spec import EnvConfig
from world_env.twin.twin import Twin
from world_env.types import JSON, OBSERVATION

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecEnv

__all__ = [
    "MANY_ROWS",
    "LearnConfig",
    "check_counts_from_zero",
    "learn",
    "normalization_of",
]

_LAST_RATE = 0.05
"""Share of the peak learning rate at which on-policy algorithms end."""
_CHUNKS = 20


def learn(
    world: Twin | EnvConfig,
    config: LearnConfig | None = None,
    *,
    out: Path | None = None,
    ledger: StepLedger | None = None,
    purpose: str = "collect",
    progress: Callable[[int, int, JSON], None] | None = None,
    callbacks: Sequence[BaseCallback] = (),
    warm_start: Path | None = None,
    through: Twin | None = None,
) -> BaseAlgorithm:
    """Train in a twin (no real step is made) or in the real environment (every step is counted).

    out: folder of the policy; a killed run goes on from the last of twenty savings (weights, optimiser, scale of the
        rewards, replay buffer; the worlds begin new episodes), a finished one is loaded.
    callbacks: of Stable-Baselines3, called while it trains.
    warm_start: folder of a policy to begin from, with the same algorithm and networks.
    through: real worlds: the twin through whose model the policy sees where `observation_mode` is not "pixels".
    """
    config = config or LearnConfig()
    encoder = _encoder(world, config, through)
    described = dataclasses.asdict(config)
    if through is not None:
        described["through"] = through.fingerprint()
    if out is not None and (Path(out) / "policy.json").is_file():
        return _finished(Path(out), world, described)
    env = _world(world, config, encoder, ledger, purpose)
    check_counts_from_zero(env.action_space)
    model = _algorithm(world, config, env)
    began, partial = (
        time.perf_counter(),
        None if out is None else Path(out).with_name(f".{Path(out).name}.partial"),
    )
    resumed = partial is not None and (partial / "policy.json").is_file()
    if partial is not None and resumed:
        _same(partial, world, described)
        model = load_policy(partial, env=env)
        take_back(model, env, partial)
    elif warm_start is not None:
        begin_from(model, warm_start, env, least_noise=config.least_noise)
    attach_encoder(model, encoder)

    def mark(done: int) -> None:
        if partial is not None and done < config.steps:
            keep_replay(model, partial)
            said: JSON = {"done": done, "reward_statistics": _reward_statistics(env)}
            _save(model, partial, world, described | said)
        if progress is not None:
            progress(min(done, config.steps), config.steps, _episode_logs(model))

    left = config.steps - (model.num_timesteps if resumed else 0)
    if left > 0:
        # One call, not one a chunk: each rounds up to whole rollouts, and begins its schedules anew.
        ours = [at_marks(config.steps, _CHUNKS, mark), *_growth(config)]
        model.learn(left, callback=[*ours, *callbacks], reset_num_timesteps=not resumed)
    mark(max(model.num_timesteps, config.steps))
    rewards = _reward_statistics(env)
    env.close()
    if ledger is not None:
        ledger.save()
    if out is not None:
        seconds = round(time.perf_counter() - began, 1)
        said: JSON = {"done": model.num_timesteps, "seconds": seconds}
        said |= {"reward_statistics": rewards}
        _save(model, Path(out), world, described | said)
        if partial is not None:
            forget(partial)
    return model


def _growth(config: LearnConfig) -> list[BaseCallback]:
    """Lets branches grow over the first half of the steps, where they should."""
    first, last = config.first_branch_length, config.branch_length
    if first is None or last is None:
        return []
    return [growing_branches(first, last, config.steps // 2)]


def _world(
    world: Twin | EnvConfig,
    config: LearnConfig,
    encoder: LatentEncoder | None,
    ledger: StepLedger | None,
    purpose: str,
) -> VecEnv:
    from stable_baselines3.common.vec_env import VecMonitor

    from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv

    rows = config.worlds
    if isinstance(world, EnvConfig):
        if config.reward != "task":
            raise InvalidOptionError(
                f"reward={config.reward!r} is something that only learned worlds pay: learn in a twin"
            )
        if ledger is None:
            raise StageError(
                "learning in reality spends real steps: pass the ledger that counts them"
            )
        env = make_real_vec(world, rows, purpose=purpose, ledger=ledger)
        if encoder is not None:
            from world_env.policies.latent_vec_env import LatentObservationVecEnv

            env = LatentObservationVecEnv(env, encoder)
        env.seed(config.seed)
        return _scaled(env, config)
    learned: VecEnv = WorldModelSB3VecEnv(
        world,
        rows,
        uncertainty=True if config.reward == "uncertainty" else None,
        dataset_starts=config.dataset_starts if world.states is not None else 0.0,
        on_uncertain=config.on_uncertain if world.uncertainty_threshold is not None else "ignore",
        temperature=config.temperature,
        rollout_length=config.rollout_length,
        branch_length=config.first_branch_length or config.branch_length,
        observation_mode=config.observation_mode,
    )
    learned.seed(config.seed)
    if config.reward == "uncertainty":
        from world_env.rl.intrinsic_reward import UncertaintyReward

        learned = UncertaintyReward(learned, world)
    return _scaled(VecMonitor(learned), config)


def _encoder(
    world: Twin | EnvConfig, config: LearnConfig, through: Twin | None
) -> LatentEncoder | None:
    """What the policy sees through from now on."""
    mode, real = config.observation_mode, isinstance(world, EnvConfig)
    if through is not None and (mode == "pixels" or not real):
        raise InvalidOptionError(
            f"a policy with observation_mode={mode!r} in a {_side(world)} world has no use for `through`: it is for "
            "'latent' or 'both' in reality"
        )
    if mode == "pixels":
        return None
    twin = through if isinstance(world, EnvConfig) else world
    if twin is None:
        raise InvalidOptionError(
            f"observation_mode={mode!r} in reality needs the twin that the policy sees through: "
            "pass through=, on the command line --through FOLDER"
        )
    return LatentEncoder(twin, mode)


def _scaled(env: VecEnv, config: LearnConfig) -> VecEnv:
    """Rewards over the running deviation of discounted returns, on-policy only; logs stay in task units."""
    if not config.normalize_rewards or config.algo in OFF_POLICY:
        return env
    from stable_baselines3.common.vec_env import VecNormalize

    return VecNormalize(env, norm_obs=False, norm_reward=True, gamma=config.discount)


def _algorithm(world: Twin | EnvConfig, config: LearnConfig, env: VecEnv) -> BaseAlgorithm:
    from stable_baselines3.common.utils import LinearSchedule

    options: JSON = {}
    if config.algo == "PPO":
        options = dict(MANY_ROWS if config.worlds > 8 else FEW_ROWS)
    if config.algo in OFF_POLICY:
        # More places than transitions would only make every saving slower.
        options["buffer_size"] = config.steps
    if config.algo == "SAC" and isinstance(world, Twin):
        # Twice as much noise as usual: what is tried in a twin costs nothing, as in MBPO (arXiv:1906.08253).
        options["target_entropy"] = -0.5 * float(np.prod(env.action_space.shape or (1,)))
    options |= config.options
    if config.algo not in OFF_POLICY and isinstance(options.get("learning_rate"), float):
        # On-policy policies end calmer when the step size falls: the last of them is the one that is kept.
        peak = options["learning_rate"]
        options["learning_rate"] = LinearSchedule(peak, _LAST_RATE * peak, 1.0)
    policy_kwargs: dict[str, Any] = dict(options.pop("policy_kwargs", {}))
    activation = policy_kwargs.get("activation_fn")
    if isinstance(activation, str):
        policy_kwargs["activation_fn"] = getattr(nn, activation)
    if config.observation_mode != "pixels":
        pass  # latents have scales of their own
    elif isinstance(world, Twin) and config.normalize:
        policy_kwargs |= normalization_of(world)
    elif config.normalization is not None:
        policy_kwargs |= _normalized(config.normalization)
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    if is_image(env.observation_space):
        policy = "CnnPolicy"
        shape = env.observation_space.shape or ()
        if len(shape) == 2:
            raise InvalidOptionError(
                f"pictures {shape} have no axis of channels, and Stable-Baselines3's policies want one: learn "
                "on latents (observation_mode='latent', --observation-mode latent), or wrap the environment "
                "in GrayscaleObservation with keep_dim"
            )
    try:
        return algorithm_class(config.algo)(
            policy,
            env,
            seed=config.seed,
            device="cpu",
            policy_kwargs=policy_kwargs or None,
            **options,
        )
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        # What its constructor refuses: an unknown or impossible option, a space it has no policy for, or a picture that
        # is too small for its convolutions.
        raise InvalidOptionError(
            f"{config.algo} does not take the options {sorted(options)} with actions in {env.action_space}: {error}"
        ) from error


def check_counts_from_zero(space: spaces.Space[Any]) -> None:
    """Raises SpaceMismatchError for discrete actions with another `start`: Stable-Baselines3 ignores it."""
    start = getattr(space, "start", 0)
    if np.any(start):
        raise SpaceMismatchError(
            f"the action space {space} does not count from 0, but Stable-Baselines3's policies do: wrap the "
            'environment in "world_env.wrappers.zero_based_actions:ZeroBasedActions" (`wrappers` of EnvConfig, --wrappers)'
        )


def normalization_of(twin: Twin) -> dict[str, Any]:
    """`policy_kwargs` with the mean and scale of the twin's data; empty for images and Dict observations."""
    space = twin.spec.observation_space
    if not isinstance(space, spaces.Box) or is_image(space) or twin.states is None:
        return {}
    flat = twin.states.last()[OBSERVATION].flatten(1)
    span = flat.amax(0) - flat.amin(0)
    scale = torch.where(span > 0, flat.std(0).maximum(0.05 * span), torch.ones_like(span))
    return _normalized({"mean": flat.mean(0).tolist(), "scale": scale.tolist()})


def _normalized(scales: JSON) -> dict[str, Any]:
    return {
        "features_extractor_class": NormalizedFeatures,
        "features_extractor_kwargs": scales,
    }


def _save(model: BaseAlgorithm, out: Path, world: Twin | EnvConfig, provenance: JSON) -> None:
    save_policy(
        model,
        out,
        trained_in=_side(world),
        provenance={"learn": provenance, "world": _identity(world)},
    )


def _identity(world: Twin | EnvConfig) -> JSON:
    """Which world a policy was trained in, so that no policy of another one is taken for it."""
    if isinstance(world, EnvConfig):
        # As it is read back: lists, not tuples.
        tree: JSON = json.loads(json.dumps(world.to_json()))
        return tree
    return {"twin": world.fingerprint()}


def _reward_statistics(env: VecEnv) -> JSON | None:
    """The scale of the rewards so far; None where they are not scaled."""
    from stable_baselines3.common.vec_env import VecNormalize

    if not isinstance(env, VecNormalize):
        return None
    return {name: float(getattr(env.ret_rms, name)) for name in ("mean", "var", "count")}


def _same(folder: Path, world: Twin | EnvConfig, described: JSON) -> None:
    card = policy_card(folder)
    stored = card["provenance"].get("learn", {})
    if card.get("trained_in") != _side(world):
        raise StageError(
            f"{folder} holds a policy trained in the {card.get('trained_in')} world, not in the {_side(world)} one: "
            "choose another folder, or delete it to begin again"
        )
    if card["provenance"].get("world") != _identity(world):
        raise StageError(
            f"{folder} holds a policy trained in another {_side(world)} world (other weights, data or arguments): "
            "choose another folder, or delete it to begin again"
        )
    # A setting that came later had its default when an older policy was trained.
    plain = dataclasses.asdict(LearnConfig()) | {"through": None}
    if {key: stored.get(key, plain[key]) for key in described} != described:
        raise StageError(
            f"{folder} holds a policy of another configuration: choose another folder, or delete it to begin again"
        )


def _finished(out: Path, world: Twin | EnvConfig, described: JSON) -> BaseAlgorithm:
    _same(out, world, described)
    return load_policy(out)


def _side(world: Twin | EnvConfig) -> str:
    return "learned" if isinstance(world, Twin) else "real"


def _episode_logs(model: BaseAlgorithm) -> JSON:
    recent = [info["r"] for info in model.ep_info_buffer or ()]
    return {"episode_return": sum(recent) / len(recent) if recent else None}
