"""Benchmarks: refinement."""
