"""Episodes: in memory, on disk, and as training tensors."""
