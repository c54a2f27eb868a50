"""Probabilistic ensemble for vector observations."""
