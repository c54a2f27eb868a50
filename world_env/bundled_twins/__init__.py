"""Bundled twins: one folder per twin, each with a model card."""

from __future__ import annotations

from pathlib import Path

DEFAULT_TWIN = "cartpole"
"""Name of the bundled twin of `WorldModel-v0`."""
FOLDER = Path(__file__).parent
"""Folder of the bundled twins."""
