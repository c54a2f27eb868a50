"""The symmetric logarithm and its inverse."""

from __future__ import annotations

from torch import Tensor


def symlog(value: Tensor) -> Tensor:
    """Symmetric logarithm: sign(x) ln(1 + |x|) [Hafner et al. 2023, arXiv:2301.04104, eq. 9]."""
    return value.sign() * value.abs().log1p()


def symexp(value: Tensor) -> Tensor:
    """Inverse of `symlog`: sign(x) (exp(|x|) - 1)."""
    return value.sign() * value.abs().expm1()
