"""The PPO loop of CleanRL trains in a twin, given by its id alone.

After `ppo.py` of CleanRL, https://github.com/vwxyzjn/cleanrl (MIT licence, Huang et al. 2022, JMLR), shortened: the
steps after the end of an episode, in which Gymnasium's vector environments reset, are left out of the loss.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from episodes import ENV_ID, LEARNED_LENGTH, NUM_ENVS, mean_length
from torch import Tensor, nn
from torch.distributions.categorical import Categorical


def layer_init(layer: nn.Linear, std: float = np.sqrt(2)) -> nn.Linear:
    nn.init.orthogonal_(layer.weight, std)
    nn.init.constant_(layer.bias, 0.0)
    return layer


class Agent(nn.Module):
    def __init__(self, envs: Any) -> None:
        super().__init__()
        inputs = int(np.prod(envs.single_observation_space.shape))

        def network(outputs: int, std: float) -> nn.Sequential:
            first, second = layer_init(nn.Linear(inputs, 64)), layer_init(nn.Linear(64, 64))
            last = layer_init(nn.Linear(64, outputs), std)
            return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), last)

        self.critic = network(1, 1.0)
        self.actor = network(envs.single_action_space.n, 0.01)

    def get_action_and_value(self, x: Tensor, action: Any = None) -> tuple[Tensor, ...]:
        probs = Categorical(logits=self.actor(x))
        action = probs.sample() if action is None else action
        return action, probs.log_prob(action), probs.entropy(), self.critic(x).squeeze(-1)


def sync() -> Any:
    def thunk() -> gym.Env[Any, Any]:
        return gym.wrappers.RecordEpisodeStatistics(gym.make(ENV_ID))

    return gym.vector.SyncVectorEnv([thunk] * NUM_ENVS)


def one_call() -> Any:
    envs = gym.make_vec(ENV_ID, num_envs=NUM_ENVS)
    return gym.wrappers.vector.RecordEpisodeStatistics(envs)


@pytest.mark.parametrize("make_envs", [sync, one_call])
def test_ppo(make_envs: Any) -> None:
    torch.manual_seed(0)
    num_steps, iterations, epochs, minibatch = 64, 12, 6, 256
    gamma, gae_lambda, clip_coef = 0.98, 0.9, 0.2
    envs = make_envs()
    agent = Agent(envs)
    optimizer = torch.optim.Adam(agent.parameters(), lr=2e-3, eps=1e-5)
    obs = torch.zeros((num_steps, NUM_ENVS, *envs.single_observation_space.shape))
    actions, logprobs, rewards, dones, values = torch.zeros((5, num_steps, NUM_ENVS))
    next_obs, _ = envs.reset(seed=0)
    next_obs, next_done = torch.Tensor(next_obs), torch.zeros(NUM_ENVS)
    returns_of_episodes: list[float] = []
    for _ in range(iterations):
        for step in range(num_steps):
            obs[step], dones[step] = next_obs, next_done
            with torch.no_grad():
                action, logprobs[step], _, values[step] = agent.get_action_and_value(next_obs)
            actions[step] = action
            shown, reward, terminations, truncations, infos = envs.step(action.numpy())
            rewards[step] = torch.tensor(reward)
            next_obs = torch.Tensor(shown)
            next_done = torch.Tensor(np.logical_or(terminations, truncations))
            if "episode" in infos:
                ended = infos["_episode"]
                np.testing.assert_array_equal(
                    infos["episode"]["r"][ended], infos["episode"]["l"][ended]
                )
                returns_of_episodes += infos["episode"]["r"][ended].tolist()
        with torch.no_grad():
            next_value = agent.critic(next_obs).squeeze(-1)
            advantages, last = torch.zeros_like(rewards), torch.zeros(NUM_ENVS)
            for t in reversed(range(num_steps)):
                after = next_value if t == num_steps - 1 else values[t + 1]
                nonterminal = 1.0 - (next_done if t == num_steps - 1 else dones[t + 1])
                delta = rewards[t] + gamma * after * nonterminal - values[t]
                advantages[t] = last = delta + gamma * gae_lambda * nonterminal * last
            returns = advantages + values
        # A step that begins with a finished episode is the reset: its action is ignored.
        acted = torch.nonzero(dones.reshape(-1) == 0).squeeze(-1)
        assert (rewards.reshape(-1)[acted] == 1).all()
        assert (rewards[dones == 1] == 0).all()
        b_obs = obs.reshape(-1, *obs.shape[2:])
        flat = [part.reshape(-1) for part in (actions, logprobs, advantages, returns)]
        for _ in range(epochs):
            for index in acted[torch.randperm(len(acted))].split(minibatch):
                b_actions, b_logprobs, b_advantages, b_returns = (part[index] for part in flat)
                _, newlogprob, entropy, newvalue = agent.get_action_and_value(
                    b_obs[index], b_actions
                )
                ratio = (newlogprob - b_logprobs).exp()
                norm = (b_advantages - b_advantages.mean()) / (b_advantages.std() + 1e-8)
                clipped = ratio.clamp(1 - clip_coef, 1 + clip_coef)
                loss = -torch.min(norm * ratio, norm * clipped).mean()
                loss = loss + 0.25 * (newvalue - b_returns).square().mean() - 0.01 * entropy.mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
    assert len(returns_of_episodes) > 50
    assert np.mean(returns_of_episodes[-30:]) > 1.5 * np.mean(returns_of_episodes[:30])
    with torch.no_grad():
        length = mean_length(lambda shown: agent.actor(torch.Tensor(shown)).argmax(-1).numpy())
    assert length > LEARNED_LENGTH
    envs.close()
