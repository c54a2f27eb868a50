"""Validation of episodes before a world model is fitted to them."""
