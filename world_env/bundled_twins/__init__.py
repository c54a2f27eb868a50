"""The bundled twins: one folder each, with its model card."""

from __future__ import annotations

from pathlib import Path

DEFAULT_TWIN = "cartpole"
"""The bundled twin of `WorldModel-v0`."""
FOLDER = Path(__file__).parent
"""Where the bundled twins lie."""
