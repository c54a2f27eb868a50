"""Images of observations."""
