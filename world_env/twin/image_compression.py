"""Lossless compression of images in safetensors files: one zlib stream per stack of images.

The image stack KEY becomes two tensors: "zlib:KEY", the bytes of a zlib stream of its pixels in row-major order, and
"shape:KEY", its shape. Other tensors do not change. Drawn images become about thirty times smaller.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np

_STREAM, _SHAPE = "zlib:", "shape:"
_LEVEL = 6
_MAX_RATIO = 1_032
"""Largest compression ratio of zlib. Limits the memory that a forged shape can allocate."""
_MIN_DIMENSIONS = 3
"""Number of dimensions of the smallest stack of images: (N, height, width)."""


def packed_images(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compress stacks of images (uint8 arrays with at least 3 dimensions); other arrays are returned as they are."""
    result: dict[str, np.ndarray] = {}
    for key, value in arrays.items():
        if value.dtype != np.uint8 or value.ndim < _MIN_DIMENSIONS:
            result[key] = value
            continue
        stream = zlib.compress(np.ascontiguousarray(value).tobytes(), _LEVEL)
        result[_STREAM + key] = np.frombuffer(stream, np.uint8)
        result[_SHAPE + key] = np.array(value.shape, np.int64)
    return result


def unpacked_images(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Invert `packed_images`. Arrays that are not compressed are returned as they are.

    Raises ValueError for a damaged stream or a wrong shape.
    """
    result: dict[str, np.ndarray] = {}
    for key, value in arrays.items():
        if key.startswith(_STREAM):
            name = key.removeprefix(_STREAM)
            result[name] = _image_stack(name, value, arrays.get(_SHAPE + name))
        elif not key.startswith(_SHAPE):
            result[key] = value
    return result


def _image_stack(name: str, stream: np.ndarray, shape: np.ndarray | None) -> np.ndarray:
    if shape is None or shape.dtype != np.int64 or shape.ndim != 1 or (shape < 0).any():
        raise ValueError(f"the images {name!r} have no valid tensor 'shape:{name}'")
    size = math.prod(shape.tolist())
    if size > _MAX_RATIO * len(stream) + 64:
        raise ValueError(
            f"the images {name!r} have a shape of {size} bytes, more than a stream of {len(stream)} can hold"
        )
    decompressor = zlib.decompressobj()
    try:
        # One byte more than expected, to detect a stream that is too long.
        pixels = decompressor.decompress(stream.tobytes(), size + 1)
    except zlib.error as error:
        raise ValueError(f"the images {name!r} are not a valid zlib stream: {error}") from error
    if len(pixels) != size or not decompressor.eof:
        raise ValueError(
            f"the images {name!r} have the shape {tuple(shape.tolist())}, {size} bytes, their stream has another size"
        )
    return np.frombuffer(bytearray(pixels), np.uint8).reshape(shape.tolist())
