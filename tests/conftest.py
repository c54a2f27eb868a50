"""What every test shares: a quiet machine, and no test skipped without a listed reason."""

import os

# Before anything loads torch, pygame or matplotlib.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")


pytest_plugins = ["skips", "shared_fixtures"]
