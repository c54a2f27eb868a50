"""A family of a plug-in that uses every part of the protocol: nothing outside this folder knows it."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from world_env import Context, Prediction, TrainableWorldModel
from world_env.batch import Batch, Observation, State, Statistics
from world_env.rng import CounterRNG
from world_env.spec import WorldSpec


@dataclass(frozen=True)
class NetworkConfig:
    widths: tuple[int, ...] = (16, 16)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if min(self.widths, default=1) < 1:
            raise ValueError(f"widths is {self.widths}, expected integers >= 1")


@dataclass(frozen=True)
class ConditionedConfig:
    dynamics: NetworkConfig = NetworkConfig()
    embedding: int = 4
    average_decay: float = 0.9
    lr_scale: float = 0.1


class ConditionedModel(TrainableWorldModel):
    """Change of a vector observation as a function of observation, action, a task and a push.

    The task is embedded slowly (a parameter group of its own), a frozen projection mixes the inputs, and steps use an
    averaged copy of the dynamics network.
    """

    config_class = ConditionedConfig
    presets = {"tiny": {"dynamics": {"widths": [4]}, "embedding": 2}}
    conditioning = {"task": (2,), "push": ()}
    center: Tensor
    scale: Tensor
    change_scale: Tensor

    def __init__(self, spec: WorldSpec, config: ConditionedConfig) -> None:
        super().__init__(spec, config)
        self.config: ConditionedConfig = config
        (size,) = spec.observation_space.shape or (0,)
        (actions,) = spec.action_space.shape or (0,)
        self.embedding = nn.Linear(2, config.embedding)
        inputs = size + actions + config.embedding + 1
        self.projection = nn.Linear(inputs, inputs, bias=False)
        nn.init.eye_(self.projection.weight)
        self.projection.requires_grad_(False)
        widths = [inputs, *config.dynamics.widths]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.SiLU()]
        self.dynamics = nn.Sequential(*layers, nn.Linear(widths[-1], size + 1))
        self.average = copy.deepcopy(self.dynamics).requires_grad_(False)
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("change_scale", torch.ones(size))

    def parameter_groups(self) -> list[dict]:
        slow = list(self.embedding.parameters())
        return [
            {"params": list(self.dynamics.parameters())},
            {"params": slow, "lr_scale": self.config.lr_scale, "weight_decay": 0.0},
        ]

    def after_update(self, batch: Batch) -> None:
        for average, value in zip(
            self.average.parameters(), self.dynamics.parameters(), strict=True
        ):
            average.lerp_(value, 1.0 - self.config.average_decay)

    def prepare(self, statistics: Statistics) -> None:
        self.center.copy_(statistics.center["observation"])
        self.scale.copy_(statistics.scale["observation"])
        self.change_scale.copy_(statistics.change_scale["observation"])

    def window(self, progress: float) -> int:
        return 1

    def loss(
        self, batch: Batch, *, rng: CounterRNG, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        observations = batch.observations["observation"]
        output = self._output(
            self.dynamics, observations[:, 0], batch.actions[:, 0], batch.conditioning
        )
        target = (observations[:, 1] - observations[:, 0]) / self.change_scale
        parts = {
            "change": functional.mse_loss(output[:, :-1], target),
            "reward": functional.mse_loss(output[:, -1], batch.rewards[:, 0]),
        }
        return torch.stack(list(parts.values())).sum(), {n: p.detach() for n, p in parts.items()}

    def encode(self, context: Context, *, rng: CounterRNG) -> State:
        return {"observation": context.last()["observation"], **context.conditioning}

    def observe(
        self, state: State, action: Tensor, observation: Observation, *, rng: CounterRNG
    ) -> State:
        return {**state, **observation}

    def step(
        self,
        state: State,
        action: Tensor,
        *,
        rng: CounterRNG,
        temperature: float = 1.0,
        uncertainty: bool | str = False,
    ) -> tuple[State, Prediction]:
        before = state["observation"]
        output = self._output(self.average, before, action, state)
        after = before + output[:, :-1] * self.change_scale
        shade = after[:, :1].sigmoid()[:, :, None, None]
        return {**state, "observation": after}, Prediction(
            reward=output[:, -1],
            terminated=torch.zeros_like(output[:, -1]),
            extras={
                "energy": after.square().sum(-1),
                "hidden": output,
                "frame": shade.expand(-1, 1, 6, 8),
            },
        )

    def decode(self, state: State) -> Observation:
        return {"observation": state["observation"]}

    def features(self, state: State) -> Tensor:
        return torch.cat([state["observation"], state["task"]], -1)

    def _output(
        self, network: nn.Module, observation: Tensor, action: Tensor, given: dict[str, Tensor]
    ) -> Tensor:
        embedded = self.embedding(given["task"])
        parts = [(observation - self.center) / self.scale, action, embedded, given["push"][:, None]]
        return network(self.projection(torch.cat(parts, -1)))
