"""Fitting of world models to episodes."""
