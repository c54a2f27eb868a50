"""Stable-Baselines3's PPO and SAC with a faster update on a CPU."""
