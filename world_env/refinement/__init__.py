"""Repeated collection, fitting and policy training."""
