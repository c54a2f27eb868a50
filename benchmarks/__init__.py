"""Scripts that measure, one folder a question."""
