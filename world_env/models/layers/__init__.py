"""Network layers and losses that several families share."""
