"""The stepping core: many environments of one twin, stepped together."""
