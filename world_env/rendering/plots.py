"""Bar plots of observations that no simulator can draw."""

from __future__ import annotations

import numpy as np

from world_env.errors import MissingExtraError

_LABELLED = 24
"""Most numbers that a plot shows one a line, with names; beyond, thin columns without."""
_SHOWN = 512


_WIDTH, _HEIGHT = 480, 360


_INK, _FAINT, _BAR, _NEGATIVE = (40, 40, 48), (225, 226, 232), (46, 110, 190), (214, 106, 60)


def bar_plot(names: list[str], values: np.ndarray, reaches: np.ndarray) -> np.ndarray:
    """Named numbers as bars from the middle line; `reaches` (D,) is a full bar's value."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise MissingExtraError(
            'plotting an observation needs Pillow: pip install "world-env[train]"'
        ) from error
    share = np.nan_to_num(values / np.maximum(reaches, 1e-12)).clip(-1.0, 1.0)
    image = Image.new("RGB", (_WIDTH, _HEIGHT), (250, 250, 252))
    draw = ImageDraw.Draw(image)
    colours = [_BAR if part >= 0 else _NEGATIVE for part in share]
    if len(names) > _LABELLED:
        middle, count = _HEIGHT // 2, min(len(names), _SHOWN)
        step = (_WIDTH - 20) / count
        for i in range(count):
            top, bottom = sorted((middle, middle - float(share[i]) * (middle - 30)))
            draw.rectangle((10 + i * step, top, 10 + (i + 0.85) * step, bottom), colours[i])
        draw.line((10, middle, _WIDTH - 10, middle), _INK)
        draw.text((10, 6), f"{count} of {len(names)} numbers", _INK)
        return np.array(image)
    height, left, middle, right = _HEIGHT / len(names), 150, 270, 390
    draw.line((middle, 4, middle, _HEIGHT - 4), _FAINT, 2)
    for i, name in enumerate(names):
        centre = (i + 0.5) * height
        half = min(height * 0.32, 14.0)
        start, stop = sorted((middle, middle + float(share[i]) * (right - middle)))
        draw.rectangle((left, centre - half, right, centre + half), outline=_FAINT)
        draw.rectangle((start, centre - half, stop, centre + half), colours[i])
        draw.text((left - 8, centre), name[-22:], _INK, anchor="rm")
        draw.text((right + 8, centre), f"{values[i]:.4g}", _INK, anchor="lm")
    return np.array(image)
