"""Benchmarks: families."""
