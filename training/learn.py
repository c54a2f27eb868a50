"""Train a policy with Stable-Baselines3, in a twin or in the real environment: one field decides."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from training.branches import growing_branches
from training.latent import Senses, look_through
from training.milestones import at_marks
from training.partial import forget, keep_replay, take_back
from training.policy import (
    NormalizedFeatures,
    algorithm_class,
    load_policy,
    policy_card,
    save_policy,
)
from training.real import RealConfig, StepLedger, make_real_vec
from training.warm import begin_from
from world_env.batch import OBSERVATION
from world_env.codec import is_image
from world_env.errors import InvalidOptionError, SpaceMismatchError, StageError
from world_env.spec import JSON
from world_env.twin import Twin

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecEnv

OFF_POLICY = ("SAC", "TD3", "DDPG", "DQN", "TQC", "QRDQN", "CrossQ")
MANY_ROWS: JSON = {
    "n_steps": 64,
    "batch_size": 256,
    "n_epochs": 10,
    "learning_rate": 1e-3,
    "gamma": 0.99,
    "gae_lambda": 0.95,
}
"""PPO in many rows: many updates on small batches, because large ones are quick per step and slow per return."""
FEW_ROWS: JSON = MANY_ROWS | {"n_steps": 256, "batch_size": 64}
"""PPO in up to 8 rows, where every step costs a real one."""
_ROWS = 64
_LAST_RATE = 0.05
"""Share of the peak learning rate at which on-policy algorithms end."""
_CHUNKS = 20


@dataclass(frozen=True)
class LearnConfig:
    """How a policy is trained; the same fields in a twin and in reality."""

    algo: str = "PPO"
    """Any Stable-Baselines3 (or sb3-contrib) algorithm."""
    steps: int = 200_000
    """Environment steps."""
    rows: int | None = None
    """Worlds stepped together; None: 64, or 1 for off-policy algorithms, whose `gradient_steps` count for all rows."""
    seed: int = 0
    """Of the policy's weights, its actions and the worlds."""
    options: JSON = field(default_factory=dict)
    """Arguments of the algorithm that differ from the defaults."""
    dataset_starts: float = 0.5
    """Learned worlds: share of episodes that begin from a state inside the data."""
    rollout_length: int | None = None
    """Learned worlds: cap on one learned episode; shorter ones visit more starts, values are bootstrapped."""
    branch_length: int | None = None
    """Learned worlds: the same for episodes that begin inside the data only; those from true starts go on."""
    first_branch_length: int | None = None
    """Learned worlds: branches grow from here to `branch_length` over the first half of the steps; None: no growth."""
    on_uncertain: str = "pessimistic"
    """Learned worlds: "ignore", "truncate", "terminate" or "pessimistic" past the threshold."""
    temperature: float = 1.0
    """Learned worlds: scale of the model's noise."""
    opinion: int | None = None
    """Learned worlds: the one of the model's opinions that is believed, as in SimulatorConfig; None: all of them."""
    least_noise: float = 0.4
    """Warm starts: deviation that a Gaussian policy's actions have at least when it goes on, in half widths of the
    action space: what has settled down looks for nothing better."""
    observation_mode: str = "pixels"
    """Learned worlds: what the policy sees: "pixels", observations as they are (vectors too); "latent", the model's
    state, which is never decoded; "both"."""
    reward: str = "task"
    """Learned worlds: "task", or "uncertainty": a policy that goes where the twin knows least."""
    normalize: bool = True
    """Learned worlds: put the data's mean and scale into the policy."""
    normalization: JSON | None = None
    """Real worlds, of which no data is known: {"mean", "scale"} of each observation dimension, for the policy."""
    normalize_rewards: bool = True
    """On-policy algorithms learn from rewards over the deviation of discounted returns."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.worlds < 1:
            raise InvalidOptionError(
                f"{self.steps} steps in {self.rows} rows: expected at least 1 of each"
            )
        if self.first_branch_length is not None and (
            self.branch_length is None or self.first_branch_length > self.branch_length
        ):
            raise InvalidOptionError(
                f"branches grow from {self.first_branch_length} to {self.branch_length} steps: give a branch_length, "
                "and a first one that is no longer"
            )
        if self.reward not in ("task", "uncertainty"):
            raise InvalidOptionError(f"reward is {self.reward!r}, expected 'task' or 'uncertainty'")

    @property
    def worlds(self) -> int:
        """How many are stepped together."""
        usual = 1 if self.algo in OFF_POLICY else _ROWS
        return usual if self.rows is None else self.rows


def learn(
    world: Twin | RealConfig,
    config: LearnConfig | None = None,
    *,
    out: Path | None = None,
    ledger: StepLedger | None = None,
    purpose: str = "collect",
    progress: Callable[[int, int, JSON], None] | None = None,
    callbacks: Sequence[BaseCallback] = (),
    warm_start: Path | None = None,
) -> BaseAlgorithm:
    """Train in a twin (no real step is made) or in the real environment (every step is counted).

    out: folder of the policy; a killed run goes on from the last of twenty savings (weights, optimiser, scale of the
        rewards, replay buffer; the worlds begin new episodes), a finished one is loaded.
    callbacks: of Stable-Baselines3, called while it trains.
    warm_start: folder of a policy to begin from, with the same algorithm and networks.
    """
    config = config or LearnConfig()
    described = dataclasses.asdict(config)
    if out is not None and (Path(out) / "policy.json").is_file():
        return _finished(Path(out), world, described)
    env = _world(world, config, ledger, purpose)
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
    look_through(model, _senses(world, config))

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
        ours = [at_marks(config.steps, _CHUNKS, mark)]
        if config.branch_length is not None and config.first_branch_length is not None:
            ours.append(
                growing_branches(
                    config.first_branch_length, config.branch_length, config.steps // 2
                )
            )
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


def _world(
    world: Twin | RealConfig, config: LearnConfig, ledger: StepLedger | None, purpose: str
) -> VecEnv:
    from stable_baselines3.common.vec_env import VecMonitor

    from world_env.sb3 import WorldModelVecEnv

    rows = config.worlds
    if isinstance(world, RealConfig):
        if config.reward != "task":
            raise InvalidOptionError(
                f"reward={config.reward!r} is something that only learned worlds pay: learn in a twin"
            )
        if config.observation_mode != "pixels":
            raise InvalidOptionError(
                f"observation_mode={config.observation_mode!r} is something that only learned worlds show: learn in a "
                "twin, or wrap the real environment in world_env.wrappers:LatentObservation"
            )
        if ledger is None:
            raise StageError(
                "learning in reality spends real steps: pass the ledger that counts them"
            )
        env = make_real_vec(world, rows, purpose=purpose, ledger=ledger)
        env.seed(config.seed)
        return _scaled(env, config)
    learned: VecEnv = WorldModelVecEnv(
        world,
        rows,
        uncertainty=True if config.reward == "uncertainty" else None,
        dataset_starts=config.dataset_starts if world.states is not None else 0.0,
        on_uncertain=config.on_uncertain if world.uncertainty_threshold is not None else "ignore",
        temperature=config.temperature,
        rollout_length=config.rollout_length,
        branch_length=config.first_branch_length or config.branch_length,
        opinion=config.opinion,
        observation_mode=config.observation_mode,
    )
    learned.seed(config.seed)
    if config.reward == "uncertainty":
        from training.curiosity import UncertaintyReward

        learned = UncertaintyReward(learned, world)
    return _scaled(VecMonitor(learned), config)


def _senses(world: Twin | RealConfig, config: LearnConfig) -> Senses | None:
    """What the policy sees through from now on."""
    if isinstance(world, RealConfig) or config.observation_mode == "pixels":
        return None
    return Senses(world, config.observation_mode)


def _scaled(env: VecEnv, config: LearnConfig) -> VecEnv:
    """Rewards over the running deviation of discounted returns, on-policy only; logs stay in task units."""
    if not config.normalize_rewards or config.algo in OFF_POLICY:
        return env
    from stable_baselines3.common.vec_env import VecNormalize

    gamma: Any = (MANY_ROWS | config.options)["gamma"]
    if not isinstance(gamma, int | float) or not 0.0 <= gamma <= 1.0:
        raise InvalidOptionError(f"gamma is {gamma!r}, expected a discount in 0..1")
    return VecNormalize(
        env,
        norm_obs=False,
        norm_reward=True,
        gamma=gamma,
    )


def _algorithm(world: Twin | RealConfig, config: LearnConfig, env: VecEnv) -> BaseAlgorithm:
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
    if isinstance(world, Twin) and config.normalize and config.observation_mode == "pixels":
        policy_kwargs |= normalization_of(world)
    elif config.normalization is not None:
        policy_kwargs |= _normalized(config.normalization)
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    if is_image(env.observation_space):
        policy = "CnnPolicy"
    try:
        return algorithm_class(config.algo)(
            policy,
            env,
            seed=config.seed,
            device="cpu",
            policy_kwargs=policy_kwargs or None,
            **options,
        )
    except (TypeError, ValueError, AssertionError) as error:
        # What its constructor refuses: an unknown or impossible option, or a space it has no policy for.
        raise InvalidOptionError(
            f"{config.algo} does not take the options {sorted(options)} with actions in {env.action_space}: {error}"
        ) from error


def check_counts_from_zero(space: spaces.Space[Any]) -> None:
    """Raises SpaceMismatchError for discrete actions with another `start`: Stable-Baselines3 ignores it."""
    start = getattr(space, "start", 0)
    if np.any(start):
        raise SpaceMismatchError(
            f"the action space {space} does not count from 0, but Stable-Baselines3's policies do: wrap the "
            'environment in "world_env.wrappers:ZeroBasedActions" (`wrappers` of RealConfig, --wrappers)'
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


def _save(model: BaseAlgorithm, out: Path, world: Twin | RealConfig, provenance: JSON) -> None:
    save_policy(
        model,
        out,
        trained_in=_side(world),
        provenance={"learn": provenance, "world": _identity(world)},
    )


def _identity(world: Twin | RealConfig) -> JSON:
    """Which world a policy was trained in, so that no policy of another one is taken for it."""
    if isinstance(world, RealConfig):
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


def _same(folder: Path, world: Twin | RealConfig, described: JSON) -> None:
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
    plain = dataclasses.asdict(LearnConfig())
    if {key: stored.get(key, plain[key]) for key in described} != described:
        raise StageError(
            f"{folder} holds a policy of another configuration: choose another folder, or delete it to begin again"
        )


def _finished(out: Path, world: Twin | RealConfig, described: JSON) -> BaseAlgorithm:
    _same(out, world, described)
    return load_policy(out)


def _side(world: Twin | RealConfig) -> str:
    return "learned" if isinstance(world, Twin) else "real"


def _episode_logs(model: BaseAlgorithm) -> JSON:
    recent = [info["r"] for info in model.ep_info_buffer or ()]
    return {"episode_return": sum(recent) / len(recent) if recent else None}
