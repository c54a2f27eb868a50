"""SAC policies whose critics have normalised layers and an output in large units."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import SACPolicy

from world_env.policies.normalization import LayerNormReLU, Scale


class ScaledCriticsPolicy(SACPolicy):
    """`SACPolicy` with `LayerNormReLU` in the critics, and their outputs in units of `value_scale`.

    Actor, arguments and names of the weights are those of `SACPolicy`. Where the unit is near the size of the values,
    SVG learns faster: docs/results/sample-efficiency.md.
    value_scale: typical size of a value, in units of the reward.
    """

    def __init__(self, *args: Any, value_scale: float = 1.0, **kwargs: Any) -> None:
        self.value_scale = value_scale
        super().__init__(*args, **kwargs)

    def make_critic(
        self, features_extractor: BaseFeaturesExtractor | None = None
    ) -> ContinuousCritic:
        """Make the critics, or the target critics."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        kwargs["activation_fn"] = LayerNormReLU
        critic = ContinuousCritic(**kwargs)
        networks: Any = critic.q_networks
        for network in networks:
            network.append(Scale(self.value_scale))
        return critic.to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"value_scale": self.value_scale}
