"""Collection of real episodes."""
