"""Real environments and the count of their steps."""
