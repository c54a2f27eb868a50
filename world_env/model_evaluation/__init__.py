"""Errors of a world model on real episodes it was not fitted to."""
