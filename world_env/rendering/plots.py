"""Bar plots of observations, for environments without a picture."""

from __future__ import annotations

import numpy as np

from world_env.errors import MissingExtraError

MAX_LABELLED_VALUES = 24
"""Largest number of values with one labelled line each. More values are drawn as columns without labels."""
MAX_COLUMNS = 512
"""Largest number of columns."""

WIDTH, HEIGHT = 480, 360
"""Size of a plot in pixels."""

TEXT_COLOUR, GRID_COLOUR = (40, 40, 48), (225, 226, 232)
POSITIVE_COLOUR, NEGATIVE_COLOUR = (46, 110, 190), (214, 106, 60)


def bar_plot(names: list[str], values: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Plot named values as bars from a zero line, (HEIGHT, WIDTH, 3) uint8.

    values: (D,). limits: (D,) magnitudes that fill a bar. NaN is drawn as 0.
    Raises MissingExtraError if Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise MissingExtraError(
            'plotting an observation needs Pillow, which is not installed: pip install "world-env[train]"'
        ) from error
    fraction = np.nan_to_num(values / np.maximum(limits, 1e-12)).clip(-1.0, 1.0)
    image = Image.new("RGB", (WIDTH, HEIGHT), (250, 250, 252))
    draw = ImageDraw.Draw(image)
    colours = [POSITIVE_COLOUR if part >= 0 else NEGATIVE_COLOUR for part in fraction]
    if len(names) > MAX_LABELLED_VALUES:
        middle, count = HEIGHT // 2, min(len(names), MAX_COLUMNS)
        step = (WIDTH - 20) / count
        for i in range(count):
            top, bottom = sorted((middle, middle - float(fraction[i]) * (middle - 30)))
            draw.rectangle((10 + i * step, top, 10 + (i + 0.85) * step, bottom), colours[i])
        draw.line((10, middle, WIDTH - 10, middle), TEXT_COLOUR)
        draw.text((10, 6), f"first {count} of {len(names)} values", TEXT_COLOUR)
        return np.array(image)
    height, left, middle, right = HEIGHT / len(names), 150, 270, 390
    draw.line((middle, 4, middle, HEIGHT - 4), GRID_COLOUR, 2)
    for i, name in enumerate(names):
        centre = (i + 0.5) * height
        half = min(height * 0.32, 14.0)
        start, stop = sorted((middle, middle + float(fraction[i]) * (right - middle)))
        draw.rectangle((left, centre - half, right, centre + half), outline=GRID_COLOUR)
        draw.rectangle((start, centre - half, stop, centre + half), colours[i])
        draw.text((left - 8, centre), name[-22:], TEXT_COLOUR, anchor="rm")
        draw.text((right + 8, centre), f"{values[i]:.4g}", TEXT_COLOUR, anchor="lm")
    return np.array(image)
