"""Recurrent state-space model for images, vectors and hidden state."""
