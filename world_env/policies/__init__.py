"""Policies: saved, loaded, normalised, and trained with faster updates."""
