"""Comparison of learned and real returns."""
