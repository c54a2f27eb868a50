"""Train a policy with Stable-Baselines3, in a twin or in the real environment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from world_env.atomic_io import check_target
from world_env.device import as_device, torch_defaults
from world_env.envs.action_masks import DEFAULT_KEY
from world_env.errors import (
    InvalidOptionError,
    RealStepLimitError,
    StageError,
)
from world_env.policies.action_units import (
    ActionUnits,
    attach_units,
    can_fold,
    fold_units,
    without_units,
)
from world_env.policies.algorithms import check_algo_options
from world_env.policies.latent_policy import LatentEncoder, attach_encoder
from world_env.policies.normalization import NormalizedFeatures
from world_env.policies.saved_policy import load_policy, policy_card, save_policy
from world_env.policies.sb3_policy import attach_mask_key
from world_env.real.env_config import AnyEnv, as_env_config
from world_env.real.real_env import make_real_vec
from world_env.real.step_ledger import StepLedger
from world_env.rl.algorithms import SVG_NAME, training_class
from world_env.rl.callbacks import at_intervals
from world_env.rl.config import FEW_ENVS, MANY_ENVS, TABLE_ENTROPY, LearnConfig
from world_env.rl.hindsight import hindsight_options
from world_env.rl.resume import (
    drop_partial_rollout,
    partial_folder,
    remove,
    restore,
    save_replay_buffer,
)
from world_env.rl.sb3_metrics import training_metrics
from world_env.rl.supported_spaces import check_supported
from world_env.rl.warm_start import load_warm_start
from world_env.run_config import check_same_config, one_at_a_time
from world_env.seeding import SeedPurpose, derived_seed
from world_env.spaces import is_image
from world_env.spec import EnvConfig
from world_env.twin.twin import Twin
from world_env.types import JSON

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecEnv

__all__ = [
    "MANY_ENVS",
    "LearnConfig",
    "learn",
    "normalization_of",
]

_LAST_RATE = 0.05
"""Final learning rate of on-policy algorithms, as a fraction of the peak."""
_SAVES = 20
"""How often a training saves its state and reports progress."""
_UPDATES_PER_SAVE = 500
"""Smallest number of updates of SVG between two saves: about 20 s on a CPU. Its trainings can be as short."""
_SIDES = {"learned": "a twin", "real": "the real environment"}
"""Wording of `trained_in` in errors."""

_log = logging.getLogger(__name__)


@torch_defaults()
@one_at_a_time(lambda *_, out=None, **__: out)
def learn(
    world: Twin | Path | AnyEnv,
    config: LearnConfig | None = None,
    *,
    out: Path | None = None,
    ledger: StepLedger | None = None,
    purpose: str = "collect",
    progress: Callable[[int, int, JSON], None] | None = None,
    tensorboard: Path | None = None,
    callbacks: Sequence[BaseCallback] = (),
    warm_start: Path | None = None,
    encoder: Twin | None = None,
) -> BaseAlgorithm:
    """Train a policy in a twin (no real step is taken) or in the real environment (every step is counted).

    world: a twin, the folder of a twin, or a real environment: what `world_env.real.as_env_config` takes.
    out: folder of the policy. A finished policy is loaded instead of trained again. After an interruption, the same
        call resumes from the last save (weights, optimizer, reward statistics, replay buffer) with new episodes.
    ledger: counts real steps; required for the real environment.
    purpose: purpose under which the ledger counts them.
    progress: called with (steps done, steps in total, logs).
    tensorboard: folder for TensorBoard logs, by environment steps.
    callbacks: Stable-Baselines3 callbacks.
    warm_start: folder of a policy with the same algorithm and networks whose weights are the initial weights.
    encoder: real environment: the twin whose world model encodes observations, for observation_mode "latent" or "both".
        None: the one that `config.real.encoder` names.
    Raises InvalidOptionError for unsuitable options, StageError if `out` holds another policy or cannot be written,
    StageBusyError while another process trains into `out`, and RealStepLimitError at the limit of `ledger`: the state
    of the training is saved then, and a larger limit resumes it.
    """
    config = config or LearnConfig()
    world = _as_world(world)
    if encoder is None and config.real.encoder is not None:
        encoder = Twin.load(config.real.encoder)
    latent = _latent_encoder(world, config, encoder)
    # Only a stored policy needs settings that JSON can hold: others may have functions as arguments.
    described = {} if out is None else _described(config, encoder)
    if out is not None and (Path(out) / "policy.json").is_file():
        return _finished(Path(out), world, described)
    partial = None if out is None else _partial_folder(Path(out))
    config = _one_by_default(world, config)
    base = _world(world, config, latent, ledger, purpose)
    check_supported(base.observation_space, base.action_space)
    model, env, units = _with_units(world, config, base)
    began = time.perf_counter()
    resumed = partial is not None and (partial / "policy.json").is_file()
    if partial is not None and resumed:
        _check_same_training(partial, world, described)
        kind = training_class(config.algo)
        model = load_policy(partial, env=env, kind=kind, device=config.device)
        restore(model, env, partial)
        _log.info("resuming the training of %s at step %d", out, model.num_timesteps)
    attach_encoder(model, latent)
    attach_units(model, units)
    if config.algo == "MaskablePPO":
        attach_mask_key(model, config.action_mask_key or DEFAULT_KEY)
    if warm_start is not None and not resumed:
        load_warm_start(model, warm_start, env, min_action_std=config.min_action_std)
    first = model.num_timesteps
    # After the algorithm is made, which seeds its environments itself. A resumed training has new episodes.
    env.seed(derived_seed(config.seed, SeedPurpose.TRAINING_ENV, first))

    def save_and_report(done: int) -> None:
        if partial is not None and done < config.steps:
            save_replay_buffer(model, partial)
            state: JSON = {"done": done, "reward_statistics": _reward_statistics(env)}
            # With actions as in the training, so that it resumes with exactly these weights.
            with without_units(model):
                _save(model, partial, world, described | state)
        if progress is not None:
            progress(min(done, config.steps), config.steps, _episode_logs(model))

    left = config.steps - first
    if left > 0:
        # One call in total: each call of `learn` rounds up to whole rollouts and restarts the schedules.
        saves = at_intervals(config.steps, _saves(config), save_and_report)
        with _limited(model, env, ledger, save_and_report), training_metrics(model, tensorboard):
            model.learn(left, callback=[saves, *callbacks], reset_num_timesteps=not resumed)
    save_and_report(max(model.num_timesteps, config.steps))
    state: JSON = {"done": model.num_timesteps, "reward_statistics": _reward_statistics(env)}
    fold_units(model)
    env.close()
    if out is not None and partial is not None:
        state |= {"seconds": round(time.perf_counter() - began, 1)}
        _save(model, Path(out), world, described | state)
        remove(partial)
    return model


def _saves(config: LearnConfig) -> int:
    if config.algo != SVG_NAME:
        return _SAVES
    return min(_SAVES, max(1, config.steps // _UPDATES_PER_SAVE))


def _partial_folder(out: Path) -> Path:
    """Folder of the state of the training. Raises StageError before a step if the policy could not be saved."""
    check_target(out, marker="policy.json", noun="policy folder")
    return partial_folder(out)


def _as_world(world: Twin | Path | AnyEnv) -> Twin | EnvConfig:
    """A twin, also from its folder, or the settings of a real environment."""
    if isinstance(world, Path) or (isinstance(world, str) and Path(world, "twin.json").is_file()):
        world = Twin.load(world)
    return world if isinstance(world, Twin) else as_env_config(world)


def _one_by_default(world: Twin | EnvConfig, config: LearnConfig) -> LearnConfig:
    """Train in one real environment unless more are asked for: of some only one can be open."""
    several = isinstance(world, Twin) or config.num_envs is not None
    return config if several else config.replace(num_envs=1)


@contextmanager
def _limited(
    model: BaseAlgorithm, env: VecEnv, ledger: StepLedger | None, save: Callable[[int], None]
) -> Iterator[None]:
    """Context of a training: it saves the state at the limit on real steps, and the exact counts in any case."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, RealStepLimitError):
            drop_partial_rollout(model)
            save(model.num_timesteps)
        env.close()
        raise
    finally:
        if ledger is not None:
            ledger.save()


def _world(
    world: Twin | EnvConfig,
    config: LearnConfig,
    encoder: LatentEncoder | None,
    ledger: StepLedger | None,
    purpose: str,
) -> VecEnv:
    from stable_baselines3.common.vec_env import VecMonitor

    from world_env.envs.sb3_vec_env import WorldModelSB3VecEnv
    from world_env.rl.masked_actions import masked

    if isinstance(world, EnvConfig):
        if config.simulation.reward != "task":
            raise InvalidOptionError(
                f"reward={config.simulation.reward!r} is available in a twin only: train in a twin, or use "
                "reward='task'"
            )
        if ledger is None:
            raise StageError(
                f"training in the real environment {world.env_id} takes real steps, which must be counted: pass "
                "ledger=StepLedger(...). To train in a twin, pass Twin.load(NAME OR FOLDER)"
            )
        env = make_real_vec(world, config.parallel_envs, purpose=purpose, ledger=ledger)
        if encoder is not None:
            from world_env.policies.latent_vec_env import LatentObservationVecEnv

            env = LatentObservationVecEnv(env, encoder)
        return masked(env, config)
    rollouts = config.simulation
    learned: VecEnv = WorldModelSB3VecEnv(
        world,
        config.parallel_envs,
        uncertainty=True if rollouts.reward == "uncertainty" else None,
        dataset_starts=rollouts.dataset_starts if world.states is not None else 0.0,
        on_uncertain="ignore" if world.uncertainty_threshold is None else rollouts.rule(world.spec),
        temperature=rollouts.temperature,
        rollout_length=rollouts.rollout_length,
        dataset_rollout_length=rollouts.dataset_rollout_length,
        observation_mode=config.observation_mode,
    )
    if rollouts.reward == "uncertainty":
        from world_env.rl.intrinsic_reward import UncertaintyReward

        learned = UncertaintyReward(learned, world)
    return masked(VecMonitor(learned), config)


def _with_units(
    world: Twin | EnvConfig, config: LearnConfig, base: VecEnv
) -> tuple[BaseAlgorithm, VecEnv, ActionUnits | None]:
    """Return the algorithm, its environments and the units of its actions; None if it acts in those of the task."""
    ranges = world.ranges if isinstance(world, Twin) else None
    units = None if config.off_policy else ActionUnits.of(base.action_space, ranges)
    if units is not None:
        from world_env.rl.scaled_actions import ScaledActions

        env = _scaled(ScaledActions(base, units), config)
        model = _algorithm(world, config, env)
        if can_fold(model):
            return model, env, units
        if not model.policy.squash_output:
            _log.warning(
                "the actions of this %s policy are not scaled: it explores in the units of %s, which may be too "
                'narrow or too wide. Wrap the environment in "gymnasium.wrappers:RescaleAction", or choose a Gaussian '
                "policy without state-dependent exploration",
                config.algo,
                base.action_space,
            )
    env = _scaled(base, config)
    return _algorithm(world, config, env), env, None


def _latent_encoder(
    world: Twin | EnvConfig, config: LearnConfig, encoder: Twin | None
) -> LatentEncoder | None:
    """Return the encoder of a latent policy, or None. Raises InvalidOptionError if `encoder` does not fit."""
    mode, real = config.observation_mode, isinstance(world, EnvConfig)
    if encoder is not None and not real:
        raise InvalidOptionError(
            "`encoder` is for training in the real environment, but this training is in a twin, which encodes its own "
            "latents: omit `encoder`"
        )
    if encoder is not None and mode == "observation":
        raise InvalidOptionError(
            f"`encoder` has no effect with observation_mode={mode!r}: choose 'latent' or 'both', or omit `encoder`"
        )
    if mode == "observation":
        return None
    twin = encoder if isinstance(world, EnvConfig) else world
    if twin is None:
        raise InvalidOptionError(
            f"observation_mode={mode!r} in the real environment needs a twin whose world model encodes the "
            "observations: pass encoder=TWIN (--encoder TWIN on the command line)"
        )
    return LatentEncoder(twin, mode)


def _scaled(env: VecEnv, config: LearnConfig) -> VecEnv:
    """Normalise rewards by the standard deviation of discounted returns, on-policy only. Logs stay in raw units."""
    if not config.normalize_rewards or config.off_policy:
        return env
    from stable_baselines3.common.vec_env import VecNormalize

    return VecNormalize(env, norm_obs=False, norm_reward=True, gamma=config.discount)


def _algorithm(world: Twin | EnvConfig, config: LearnConfig, env: VecEnv) -> BaseAlgorithm:
    from stable_baselines3.common.utils import LinearSchedule

    kind, device = training_class(config.algo), as_device(config.device)
    check_algo_options(kind, config.algo_kwargs)
    options: JSON = {}
    if config.algo in ("PPO", "MaskablePPO"):
        options = dict(MANY_ENVS if config.parallel_envs > 8 else FEW_ENVS)
        if isinstance(world, Twin) and world.spec.is_table:
            options["ent_coef"] = TABLE_ENTROPY
    if config.algo == SVG_NAME and not isinstance(world, Twin):
        raise InvalidOptionError(
            f"SVG learns through the steps of a twin, but {world.env_id} is a real environment: train in a twin, or "
            "use SAC or PPO"
        )
    if config.off_policy:
        # A larger buffer than there are transitions would only make each save slower.
        options["buffer_size"] = config.steps
    if config.algo == "SAC" and isinstance(world, Twin):
        # Half the usual value gives more exploration, as in MBPO (arXiv:1906.08253): twin steps are free.
        options["target_entropy"] = -0.5 * float(np.prod(env.action_space.shape or (1,)))
    options |= config.algo_kwargs
    options |= hindsight_options(world, env, options)
    if not config.off_policy and isinstance(options.get("learning_rate"), float):
        # The last policy is the one that is saved, and a falling learning rate makes it less noisy.
        peak = options["learning_rate"]
        options["learning_rate"] = LinearSchedule(peak, _LAST_RATE * peak, 1.0)
    policy_kwargs: dict[str, Any] = dict(options.pop("policy_kwargs", {}))
    activation = policy_kwargs.get("activation_fn")
    if isinstance(activation, str):
        if not hasattr(nn, activation):
            raise InvalidOptionError(
                f"unknown activation_fn {activation!r} in policy_kwargs: expected a class of torch.nn, such as 'ReLU'"
            )
        policy_kwargs["activation_fn"] = getattr(nn, activation)
    if config.observation_mode != "observation":
        pass  # the statistics are those of observations, not of latents
    elif config.algo.startswith("sbx."):
        _log.info("policies of SBX take raw observations: normalisation by the data has no effect")
    elif isinstance(world, Twin) and config.simulation.normalize:
        policy_kwargs |= normalization_of(world)
    elif config.real.normalization is not None:
        policy_kwargs |= _normalized(config.real.normalization)
    network = "MultiInput" if isinstance(env.observation_space, spaces.Dict) else "Mlp"
    if is_image(env.observation_space):
        network = "Cnn"
    # Recurrent algorithms have policies of their own.
    policy = next((f"{network}{end}" for end in ("Policy", "LstmPolicy")
                   if f"{network}{end}" in kind.policy_aliases), f"{network}Policy")  # fmt: skip
    try:
        return kind(
            policy,
            env,
            seed=config.seed,
            device=device,
            policy_kwargs=policy_kwargs or None,
            **options,
        )
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        # An impossible option, a space that the algorithm does not support, or an image too small for its convolutions.
        given = f". algo_kwargs: {config.algo_kwargs}" if config.algo_kwargs else ""
        raise InvalidOptionError(
            f"cannot train {config.algo} with {policy}: {error or type(error).__name__}. The observation space is "
            f"{env.observation_space}, the action space is {env.action_space}{given}"
        ) from error


def normalization_of(twin: Twin) -> dict[str, Any]:
    """Return `policy_kwargs` with the mean and scale of the twin's data; empty for images and Dict observations."""
    space = twin.spec.observation_space
    if not isinstance(space, spaces.Box) or is_image(space) or twin.states is None:
        return {}
    # Decoded: policies get the observations of the environment, not those of the model.
    flat = torch.as_tensor(twin.codec.decode_observation(twin.states.last())).flatten(1)
    flat = flat if flat.dtype == torch.float32 else flat.double()
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
    """Return the JSON that identifies the environment of a training."""
    if isinstance(world, EnvConfig):
        return world.to_json()
    return {"twin": world.fingerprint()}


def _reward_statistics(env: VecEnv) -> JSON | None:
    """Return the running statistics of the returns, or None if rewards are not normalised."""
    from stable_baselines3.common.vec_env import VecNormalize

    if not isinstance(env, VecNormalize):
        return None
    return {name: float(getattr(env.ret_rms, name)) for name in ("mean", "var", "count")}


def _check_same_training(folder: Path, world: Twin | EnvConfig, described: JSON) -> None:
    """Raise StageError if the folder holds a policy of another environment or configuration."""
    card = policy_card(folder)
    stored = card.provenance.get("learn", {})
    advice = "choose another folder, or delete it to train from scratch"
    if card.trained_in != _side(world):
        raise StageError(
            f"{folder} holds a policy trained in {_SIDES[card.trained_in]}, but this training is in "
            f"{_SIDES[_side(world)]}: {advice}"
        )
    if card.provenance.get("world") != _identity(world):
        raise StageError(
            f"{folder} holds a policy trained in another "
            + (
                "twin"
                if isinstance(world, Twin)
                else "real environment, or with other arguments of it"
            )
            + f": {advice}"
        )
    check_same_config({name: stored.get(name) for name in described}, described, folder)


def _described(config: LearnConfig, encoder: Twin | None) -> JSON:
    """Settings that identify a training: an encoder counts by its weights, not by its path."""
    tree = config.to_json()
    return tree | {
        "real": tree["real"] | {"encoder": None if encoder is None else encoder.fingerprint()}
    }


def _finished(out: Path, world: Twin | EnvConfig, described: JSON) -> BaseAlgorithm:
    _check_same_training(out, world, described)
    return load_policy(out)


def _side(world: Twin | EnvConfig) -> Literal["learned", "real"]:
    return "learned" if isinstance(world, Twin) else "real"


def _episode_logs(model: BaseAlgorithm) -> JSON:
    recent = [info["r"] for info in model.ep_info_buffer or ()]
    return {"episode_return": sum(recent) / len(recent) if recent else None}
