"""Images in files: every stack of them one zlib stream, which anything can undo.

In a safetensors file the image stack KEY becomes two tensors: "zlib:KEY", the bytes of a zlib stream of its pixels in
row-major order, and "shape:KEY", its shape. All other tensors stay as they are. A drawn picture shrinks about
thirtyfold, and nothing is lost.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np

_STREAM, _SHAPE = "zlib:", "shape:"
_LEVEL = 6
_MAX_AT_ONCE = 1_032
"""Bytes that one of a zlib stream can stand for, at most: a forged shape does not fill the memory."""
_MIN_DIMENSIONS = 3
"""Of a stack of images: (N, height, width), or more."""


def packed_images(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays, stacks of images (uint8 of at least 3 dimensions) as streams."""
    found: dict[str, np.ndarray] = {}
    for key, value in arrays.items():
        if value.dtype != np.uint8 or value.ndim < _MIN_DIMENSIONS:
            found[key] = value
            continue
        stream = zlib.compress(np.ascontiguousarray(value).tobytes(), _LEVEL)
        found[_STREAM + key] = np.frombuffer(stream, np.uint8)
        found[_SHAPE + key] = np.array(value.shape, np.int64)
    return found


def unpacked_images(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `packed_images`; arrays that were never packed pass. Raises ValueError for a broken stream."""
    found: dict[str, np.ndarray] = {}
    for key, value in arrays.items():
        if key.startswith(_STREAM):
            name = key.removeprefix(_STREAM)
            found[name] = _image_stack(name, value, arrays.get(_SHAPE + name))
        elif not key.startswith(_SHAPE):
            found[key] = value
    return found


def _image_stack(name: str, stream: np.ndarray, shape: np.ndarray | None) -> np.ndarray:
    if shape is None or shape.dtype != np.int64 or shape.ndim != 1 or (shape < 0).any():
        raise ValueError(f"the images {name!r} have no shape")
    size = math.prod(shape.tolist())
    if size > _MAX_AT_ONCE * len(stream) + 64:
        raise ValueError(
            f"the images {name!r} should be {size} bytes, more than their stream holds"
        )
    undo = zlib.decompressobj()
    try:
        # One byte more than there should be shows a stream that goes on.
        pixels = undo.decompress(stream.tobytes(), size + 1)
    except zlib.error as error:
        raise ValueError(f"the images {name!r} are no zlib stream ({error})") from error
    if len(pixels) != size or not undo.eof:
        raise ValueError(
            f"the images {name!r} should be {size} bytes, {tuple(shape.tolist())}, but their stream holds others"
        )
    return np.frombuffer(bytearray(pixels), np.uint8).reshape(shape.tolist())
