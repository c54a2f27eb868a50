"""Benchmarks: sample efficiency."""
