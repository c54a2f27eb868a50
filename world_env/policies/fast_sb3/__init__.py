"""PPO and SAC of Stable-Baselines3 with a faster update on a CPU."""
