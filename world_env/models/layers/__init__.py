"""Network layers and losses shared by the families of world models."""
