"""Policy of Stable-Baselines3's SAC whose critics normalise their hidden layers.

Layer normalisation bounds the values of a critic away from the states that it was trained on (Ball et al. 2023,
arXiv:2302.02948). The actor is that of SAC.
"""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import SACPolicy
from torch import nn


class LayerNormCritic(ContinuousCritic):
    """`ContinuousCritic` with a LayerNorm after each hidden linear layer."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.q_networks = [_with_layer_norms(network) for network in self.q_networks]
        for number, network in enumerate(self.q_networks):
            setattr(self, f"qf{number}", network)


class LayerNormSACPolicy(SACPolicy):
    """`SACPolicy` with `LayerNormCritic`. Files load with `SAC.load` where this package is installed."""

    def make_critic(
        self, features_extractor: BaseFeaturesExtractor | None = None
    ) -> ContinuousCritic:
        """Make a critic, as `SACPolicy`."""
        options = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return LayerNormCritic(**options).to(self.device)


def _with_layer_norms(network: nn.Module) -> nn.Sequential:
    *hidden, last = network.children()
    layers: list[nn.Module] = []
    for layer in hidden:
        layers.append(layer)
        if isinstance(layer, nn.Linear):
            layers.append(nn.LayerNorm(layer.out_features))
    return nn.Sequential(*layers, last)
