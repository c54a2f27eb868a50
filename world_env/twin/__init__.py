"""A world model with all that is needed to step it, as one folder on disk."""
