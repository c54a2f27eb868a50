"""Benchmarks: returns."""
