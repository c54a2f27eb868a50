"""Gymnasium and Stable-Baselines3 environments around the stepping core."""
