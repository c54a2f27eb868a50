"""SVG: soft actor-critic on short rollouts of a world model, with gradients through its steps.

The actor is trained on the value of H differentiable steps of the model: their rewards and entropies, and the critic's
value of the last state. The critic learns from the same steps. All data comes from the model.

Sources: stochastic value gradients (Heess et al. 2015, arXiv:1510.09142), soft value expansion (SAC-SVG, Amos et al.
2021, arXiv:2008.12775), rollouts of the current policy as initial states (Janner et al. 2019, arXiv:1906.08253).
Letters: B rows of a batch, H steps of a rollout, A action dimensions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from torch import Tensor

from world_env.batch import State, concatenate, select
from world_env.errors import InvalidOptionError, StageError
from world_env.models.base import Prediction
from world_env.policies.normalization import NORMALIZED_LIMIT, NormalizedFeatures
from world_env.policies.scaled_critics import ScaledCriticsPolicy
from world_env.rl.svg_networks import LOSS_SCALE, FlatNetworks, PlainNetworks, networks_of
from world_env.rng import CounterRNG, derive_seeds
from world_env.simulation.differentiable_rollout import expected_reward
from world_env.simulation.initial_states import draw_initial_states
from world_env.simulation.termination import TerminalBounds
from world_env.spaces import is_image
from world_env.twin.twin import Twin

if TYPE_CHECKING:
    from stable_baselines3.common.type_aliases import MaybeCallback

Networks = PlainNetworks | FlatNetworks
_REFRESH = 20
"""Updates between two rollouts that renew the initial states, and the length of these rollouts in steps."""
_ROLLOUTS_KEPT = 200
_DATASET_SHARE = 0.95
"""Share of these rollouts that start inside data episodes."""
_MAX_VALUE_SCALE = 100.0
"""Largest unit of the critics' outputs. Episodes end, so most values are smaller than those of episodes without end."""
_BOUNDS_RATE = 0.001
"""Share by which the bounds of the values move, in an update, to those of its rewards."""
_MAX_SKIPPED = 50
"""Successive updates with gradients that are not finite before the training stops."""
_LOG_INTERVAL = 500


class _Rollout(NamedTuple):
    """H steps of a batch, with gradients."""

    observation: Tensor
    """(B, *O), the first one."""
    action: Tensor
    """(B, A), the first one."""
    log_prob: Tensor
    """(B,), of the first action."""
    reward: Tensor
    """(B,), the first one."""
    returns: Tensor
    """(B,), discounted rewards of all steps, and entropies from the second step on."""
    weight: Tensor
    """(B,), discounted probability that the last state is reached."""
    last: Tensor
    """(B, *O), observation of the last state."""


class SVG(stable_baselines3.SAC):
    """Soft actor-critic that learns from the gradients of a twin's model. Interface and files are those of SAC.

    `num_timesteps` counts updates. The environment is used for its twin only.

    policy: "MlpPolicy", a `ScaledCriticsPolicy`.
    env: a `WorldModelSB3VecEnv`, wrapped or not; its twin's model has Box observations and actions and differentiable
        steps.
    rollout_steps: H, at least 1.
    stop_uncertain: stop the gradients through steps whose uncertainty exceeds the twin's threshold (default: False).
        Their rewards and values still count. It costs the estimate of the uncertainty in each step.
    device: torch device of model and networks (default: that of Stable-Baselines3, `learn` takes the CPU).
    Other arguments are those of Stable-Baselines3's SAC; those of the replay buffer have no effect.
    Raises InvalidOptionError for spaces, known reward functions or models without gradients.
    """

    policy_aliases = {"MlpPolicy": ScaledCriticsPolicy}

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        rollout_steps: int = 5,
        stop_uncertain: bool = False,
        learning_rate: Any = 3e-4,
        batch_size: int = 256,
        gamma: float = 0.995,
        tau: float = 0.005,
        ent_coef: str | float = "auto_0.1",
        target_entropy: str | float = "auto",
        **options: Any,
    ) -> None:
        if rollout_steps < 1:
            raise InvalidOptionError(f"rollout_steps is {rollout_steps}, expected an integer >= 1")
        kwargs = options["policy_kwargs"] = dict(options.get("policy_kwargs") or {})
        if kwargs.get("optimizer_class", torch.optim.Adam) is torch.optim.Adam:
            kwargs["optimizer_kwargs"] = {"fused": True} | (kwargs.get("optimizer_kwargs") or {})
        self.value_scale = _MAX_VALUE_SCALE
        if env is not None:
            _check_twin(_twin_of(env), env.observation_space)
            self.value_scale = _value_scale(_twin_of(env), gamma)
            if policy == "MlpPolicy":
                kwargs.setdefault("value_scale", self.value_scale)
        self.rollout_steps, self.stop_uncertain = rollout_steps, stop_uncertain
        options["buffer_size"] = 1  # all data comes from the model
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            batch_size=batch_size,
            gamma=gamma,
            tau=tau,
            ent_coef=ent_coef,
            target_entropy=target_entropy,
            **options,
        )
        self.skipped_updates = 0
        self.value_bounds: tuple[float, float] | None = None

    def continue_from(self, older: SVG) -> None:
        """Take over the optimizers and the bounds of the values of an earlier training; weights are not copied."""
        for name in ("actor", "critic"):
            new, old = (getattr(each, name).optimizer for each in (self, older))
            new.load_state_dict(old.state_dict())
        if self.ent_coef_optimizer is not None and older.ent_coef_optimizer is not None:
            self.ent_coef_optimizer.load_state_dict(older.ent_coef_optimizer.state_dict())
        self.value_bounds = older.value_bounds

    def _excluded_save_params(self) -> list[str]:
        own = ["_world", "_pool", "_networks", "_rng"]
        return [*super()._excluded_save_params(), *own]

    def learn(  # type: ignore[override]
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = _LOG_INTERVAL,
        tb_log_name: str = "SVG",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SVG:
        """Train for `total_timesteps` updates.

        Raises StageError after 50 successive updates with gradients that are not finite.
        """
        assert self.env is not None
        self._world = DifferentiableTwin(_twin_of(self.env), self)
        self._pool: list[State] = []
        self._networks = networks_of(self)
        total, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        callback.on_training_start(locals(), globals())
        self.policy.set_training_mode(True)
        running = True
        while running and self.num_timesteps < total:
            callback.on_rollout_start()
            self._refresh()
            callback.on_rollout_end()
            for _ in range(min(_REFRESH, total - self.num_timesteps)):
                self._update_current_progress_remaining(self.num_timesteps, total)
                self._update()
                self.num_timesteps += 1
                callback.update_locals(locals())
                if not (running := callback.on_step()):
                    break
                if self.num_timesteps % log_interval == 0:
                    self.logger.dump(self.num_timesteps)
        callback.on_training_end()
        return self

    def _refresh(self) -> None:
        """Add the states that the current policy visits within 20 steps of states of the data."""
        # New random numbers, which depend on the seed and the number of updates only.
        seeds = derive_seeds(torch.arange(self.batch_size, device=self.device), self.num_timesteps)
        self._rng = CounterRNG(derive_seeds(seeds, self.seed or 0))
        with torch.no_grad():
            visited = list(self._world.visited(self._networks, self._rng))
        self._pool.append(concatenate(visited))
        del self._pool[:-_ROLLOUTS_KEPT]

    def _initial_states(self) -> State:
        drawn = self._pool[int(torch.randint(len(self._pool), ()))]
        number = len(next(iter(drawn.values())))
        rows = torch.randint(number, (self.batch_size,), device=self.device)
        return select(drawn, rows)

    def _update(self) -> None:
        """One gradient step of critic, actor and entropy coefficient."""
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)
        entropy, networks = self._entropy_coefficient(), self._networks
        rollout = self._world.rollout(
            networks, self._initial_states(), self._rng, entropy, self.rollout_steps
        )
        last_action, last_log_prob = networks.act(rollout.last)
        low, high = self._updated_bounds(rollout.reward - entropy * rollout.log_prob)
        scale = self.value_scale
        with torch.no_grad():
            last = networks.least_target(rollout.last, last_action).clamp(low, high)
            target = rollout.returns + rollout.weight * (last - entropy * last_log_prob)
        critic_loss, finite = networks.step_critics(
            rollout.observation.detach(), rollout.action.detach(), target, scale
        )
        if not self._taken("critic", finite):
            return
        networks.average_target(self.tau)
        last = networks.value(rollout.last, last_action) - entropy * last_log_prob
        value = (rollout.returns - entropy * rollout.log_prob + rollout.weight * last).mean()
        if not self._taken("actor", networks.step_actor(-LOSS_SCALE * value / scale)):
            return
        self._step_entropy(rollout.log_prob.detach().mean())
        self.skipped_updates = 0
        self._n_updates += 1
        for name, number in (
            ("ent_coef", entropy),
            ("critic_loss", critic_loss),
            ("actor_loss", -value.detach()),
        ):
            self.logger.record_mean(f"train/{name}", float(number))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _entropy_coefficient(self) -> float:
        if self.log_ent_coef is not None and self.ent_coef_optimizer is not None:
            return float(self.log_ent_coef.detach().exp())
        return float(self.ent_coef_tensor)

    def _step_entropy(self, log_prob: Tensor) -> None:
        if self.log_ent_coef is None or self.ent_coef_optimizer is None:
            return
        self.ent_coef_optimizer.zero_grad()
        (self.log_ent_coef.exp() * -(log_prob + float(self.target_entropy))).sum().backward()
        self.ent_coef_optimizer.step()

    def _taken(self, part: str, finite: bool) -> bool:
        """Count an update that was skipped. Raises StageError after many in succession."""
        if finite:
            return True
        self.skipped_updates += 1
        self.logger.record("train/skipped_updates", self.skipped_updates)
        if self.skipped_updates >= _MAX_SKIPPED:
            raise StageError(
                f"{self.skipped_updates} successive updates have gradients of the {part} that are not finite: the "
                "model or its derivatives are not finite where the policy goes. Use fewer rollout_steps, or a lower "
                "learning_rate"
            )
        return False

    def _updated_bounds(self, soft_reward: Tensor) -> tuple[float, float]:
        """Bounds of target values, from a running average of the range of rewards with their entropy.

        The outputs of the critics move with the middle of the bounds, from 0 at first. So a new policy has the values
        of episodes without end, where they would need 1 / tau updates for every `rollout_steps` steps of an episode.
        """
        ends = np.quantile(soft_reward.detach().numpy(force=True), [0.01, 0.99])
        found = [float(end) / _decay(self.gamma) for end in ends]
        if not np.isfinite(found).all():
            found = list(self.value_bounds or (-1.0, 1.0))
        before = self.value_bounds or found
        low, high = (b + _BOUNDS_RATE * (f - b) for b, f in zip(before, found, strict=True))
        middle = sum(self.value_bounds or (0.0, 0.0)) / 2.0
        self._shift_values((low + high) / 2.0 - middle)
        self.value_bounds = (low, high)
        # An episode that ends soon has a value near 0, however large or small the rewards are.
        return min(low, 0.0), max(high, 0.0)

    def _shift_values(self, change: float) -> None:
        """Add a constant to the values of critics and target critics."""
        unit = getattr(self.policy, "value_scale", 1.0)
        with torch.no_grad():
            for critics in (self.critic, self.critic_target):
                networks: Any = critics.q_networks
                for network in networks:
                    last = [layer for layer in network if isinstance(layer, torch.nn.Linear)][-1]
                    last.bias.add_(change / unit)


class DifferentiableTwin:
    """Rollouts of a policy in a twin's model, with gradients with respect to the policy."""

    def __init__(self, twin: Twin, algorithm: SVG) -> None:
        acted = twin.spec.action_space
        assert isinstance(acted, spaces.Box)
        self.twin, self._device = twin, algorithm.device
        on_cpu = self._device.type == "cpu"
        self.model = (twin.model if on_cpu else copy.deepcopy(twin.model).to(self._device)).frozen()
        self._gamma = algorithm.gamma
        self._stop_uncertain = algorithm.stop_uncertain
        self._extractor = algorithm.actor.features_extractor
        self._bounds = TerminalBounds(twin.ranges)
        gain, offset = (torch.as_tensor(each) for each in twin.codec.action_scale)
        half = torch.as_tensor((acted.high - acted.low) / 2.0).flatten()
        middle = torch.as_tensor((acted.high + acted.low) / 2.0).flatten()
        # The policy acts in [-1, 1] of the space, the model in that of its codec.
        self._gain = (half * gain).to(self._device, self.model.dtype)
        self._offset = (middle * gain + offset).to(self._device, self.model.dtype)
        self._check_gradients()

    def observation(self, state: State) -> Tensor:
        """Observations (B, *O) of states, in the units of the environment, with their gradients."""
        (encoded,) = self.model.decode(state).values()
        return self.twin.codec.decoded_tensor(encoded)

    def _decoded(self, state: State) -> Any:
        """Observations (B, *O) of states as an array, in the units of the environment."""
        return self.twin.codec.decode_observation(self.model.decode(state))

    def encoded(self, action: Tensor) -> Tensor:
        """Actions (B, A) of the policy, in [-1, 1], as the model gets them."""
        return (action * self._gain + self._offset).clamp(-1.0, 1.0).to(self.model.dtype)

    def rollout(
        self, networks: Networks, state: State, rng: CounterRNG, entropy: float, steps: int
    ) -> _Rollout:
        """Roll out the policy from states of B rows. entropy: coefficient of the entropy."""
        first = observation = self.observation(state)
        first_action, first_log_prob = networks.act(observation)
        action, log_prob = first_action, first_log_prob
        returns: Any = 0.0
        weight, first_reward = torch.ones(len(action), device=self._device), None
        for step in range(steps):
            if step:
                action, log_prob = networks.act(observation)
                returns = returns - weight * entropy * log_prob
            arrived, prediction = self.model.step(
                state, self.encoded(action), rng=rng, uncertainty=self._stop_uncertain
            )
            reward, ends = self._outcome(state, action, arrived, prediction)
            threshold = self.twin.uncertainty_threshold
            if prediction.uncertainty is not None and threshold is not None:
                uncertain = prediction.uncertainty > threshold
                arrived = {name: _stopped(part, uncertain) for name, part in arrived.items()}
            first_reward = reward if first_reward is None else first_reward
            returns = returns + weight * reward
            weight = self._gamma * weight * (1.0 - ends)
            state, observation = arrived, self.observation(arrived)
        assert first_reward is not None
        return _Rollout(
            first, first_action, first_log_prob, first_reward, returns, weight, observation
        )

    def _outcome(
        self, state: State, action: Tensor, arrived: State, prediction: Prediction
    ) -> tuple[Tensor, Tensor]:
        """(expected reward, probability of termination) of a step, each (B,) float32."""
        ends = prediction.terminated.float()
        if self.twin.termination_fn is not None:
            ends = self._known_ends(state, action, arrived).to(ends)
        elif self._bounds:
            # As in learned episodes: the model alone predicts this limit only approximately.
            beyond = torch.from_numpy(self._bounds.beyond(self._decoded(arrived))).to(ends.device)
            ends = torch.where(beyond, 1.0, ends)
        return expected_reward(prediction, ends).float(), ends

    def _known_ends(self, state: State, action: Tensor, arrived: State) -> Tensor:
        assert self.twin.termination_fn is not None
        space = self.twin.spec.action_space
        assert isinstance(space, spaces.Box)
        before, after = self._decoded(state), self._decoded(arrived)
        scaled = action.detach().numpy(force=True).reshape(-1, *space.shape)
        taken = space.low + (scaled + 1.0) / 2.0 * (space.high - space.low)
        ended = self.twin.termination_fn(before, taken.astype(space.dtype), after)
        return torch.as_tensor(np.asarray(ended, np.float32))

    def visited(self, networks: Networks, rng: CounterRNG) -> Iterator[State]:
        """Yield the states of 20 steps of the policy, each with the rows that have not ended."""
        context = draw_initial_states(self.twin.starts, self.twin.states, _DATASET_SHARE, rng)
        state = self.model.encode(context.to(self._device, self.model.dtype), rng=rng)
        alive = torch.ones(len(rng), dtype=torch.bool, device=self._device)
        for _ in range(_REFRESH):
            yield {name: value[alive] for name, value in state.items()}
            observation = self.observation(state)
            action, _ = networks.act(observation)
            arrived, prediction = self.model.step(state, self.encoded(action), rng=rng)
            _, ends = self._outcome(state, action, arrived, prediction)
            alive = alive & (rng.uniform(1)[:, 0] >= ends) & self._is_known(arrived)
            if not alive.any():
                return
            state = arrived

    def _is_known(self, state: State) -> Tensor:
        """(B,) bool: finite observations that the policy's normalisation does not clip."""
        observation = self.observation(state)
        known = torch.isfinite(observation).flatten(1).all(1)
        if isinstance(self._extractor, NormalizedFeatures):
            known &= (self._extractor(observation).abs() < NORMALIZED_LIMIT).all(1)
        return known

    def _check_gradients(self) -> None:
        """Raise InvalidOptionError unless reward or next state has a gradient with respect to the action."""
        rng = CounterRNG.from_seed(0, 1, device=self._device)
        context = self.twin.starts.select(torch.zeros(1, dtype=torch.int64))
        state = self.model.encode(context.to(self._device, self.model.dtype), rng=rng)
        action = torch.zeros_like(self._gain)[None].requires_grad_()
        with torch.enable_grad():
            arrived, prediction = self.model.step(state, action, rng=rng)
        tensors = [prediction.reward, *arrived.values()]
        if not any(each.requires_grad for each in tensors):
            raise InvalidOptionError(
                f"SVG needs the gradients of the model's steps, and those of the family {self.twin.family!r} have "
                "none: use SAC or PPO"
            )


def _decay(gamma: float) -> float:
    """Share of its weight that a reward loses in a step; more than 0, so that episodes without end have a value."""
    return 1.0 - min(gamma, 0.9999)


def _value_scale(twin: Twin, gamma: float) -> float:
    """Typical size of a value: that of an episode without end whose rewards span half of the range of the data."""
    if twin.ranges is None:
        return _MAX_VALUE_SCALE
    low, high = twin.ranges.reward
    return float(np.clip((high - low) / 2.0 / _decay(gamma), 1.0, _MAX_VALUE_SCALE))


def _stopped(value: Tensor, rows: Tensor) -> Tensor:
    """`value` (B, ...) without the gradients of the rows (B,) bool."""
    return torch.where(rows.reshape(-1, *[1] * (value.ndim - 1)), value.detach(), value)


def _check_twin(twin: Twin, observed: spaces.Space[Any]) -> None:
    """Raise InvalidOptionError for a twin whose steps SVG cannot differentiate.

    observed: observation space of the policy.
    """
    space, acted = twin.spec.observation_space, twin.spec.action_space
    if not isinstance(space, spaces.Box) or is_image(space) or not isinstance(acted, spaces.Box):
        raise InvalidOptionError(
            "SVG learns through the steps of the model, so observations and actions must be vectors of numbers: a Box "
            f"that is not an image. The observation space is {space}, the action space is {acted}. Use SAC or PPO"
        )
    if observed != space:
        raise InvalidOptionError(
            f"SVG acts on observations, but the observation space of the policy is {observed}, that of the twin is "
            f"{space}: use observation_mode='observation'"
        )
    if twin.reward_fn is not None:
        raise InvalidOptionError(
            "SVG needs the gradient of the reward, but the twin has a known reward function, which has none: load the "
            "twin without reward_fn"
        )


def _twin_of(env: Any) -> Twin:
    """Twin of a VecEnv of learned episodes. Raises InvalidOptionError for other environments."""
    while not hasattr(env, "twin") and hasattr(env, "venv"):
        env = env.venv
    twin = getattr(env, "twin", None)
    if not isinstance(twin, Twin):
        raise InvalidOptionError(
            f"SVG learns through the steps of a twin, but the environment is a {type(env).__name__}: pass a "
            "WorldModelSB3VecEnv"
        )
    return twin
