"""Episodes of a policy, in the real environment and in a twin."""
