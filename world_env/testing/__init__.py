"""Public contract checks for world models and vector environments."""
