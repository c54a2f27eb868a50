"""Benchmarks: agreement."""
