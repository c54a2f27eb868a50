"""Benchmarks: diagnostics."""
