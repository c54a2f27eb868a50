"""Weights of a world model that lie outside the folder of its twin, in a repository of the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from safetensors.torch import load
from torch import Tensor

from world_env.errors import (
    ExternalWeightsError,
    InvalidOptionError,
    MissingExtraError,
    TwinFormatError,
)
from world_env.struct import Struct


class ExternalWeights(Struct, frozen=True, kw_only=True):
    """A safetensors file of a Hub repository that holds weights of a world model. Reading it runs no code."""

    hub: str
    """Repository, "organisation/name"."""
    revision: str
    """Commit or tag of the repository."""
    file: str = "model.safetensors"
    """Path of the file in the repository."""
    sha256: str
    """SHA-256 of the file, in hexadecimal."""
    prefix: str = ""
    """Prefix of the tensors' names in the `state_dict` of the world model, such as "encoder."."""

    def __post_init__(self) -> None:
        for name, pattern, expected in (
            ("hub", r"[\w.-]+/[\w.-]+", "'organisation/name'"),
            ("revision", r"[\w./-]+", "a commit or a tag"),
            ("file", r"[\w./-]+\.safetensors", "a path that ends in .safetensors"),
            ("sha256", r"[0-9a-f]{64}", "64 hexadecimal digits"),
        ):
            value = getattr(self, name)
            if not re.fullmatch(pattern, value):
                raise InvalidOptionError(
                    f"{name} of external weights is {value!r}, expected {expected}"
                )

    def read(self) -> dict[str, Tensor]:
        """Download the file, unless it is in the local cache, and return its tensors by their names in the model.

        Raises MissingExtraError without huggingface_hub, ExternalWeightsError if the file cannot be downloaded,
        TwinFormatError if its SHA-256 differs or it is not a safetensors file.
        """
        where = f"{self.file} of the Hub repository {self.hub} at {self.revision}"
        try:
            from huggingface_hub import hf_hub_download
        except ImportError as error:
            raise MissingExtraError(
                f'the weights are {where}: pip install "world-env[hub]" to download them'
            ) from error
        try:
            path = hf_hub_download(self.hub, self.file, revision=self.revision)
        # The exceptions of huggingface_hub have no common base class.
        except Exception as error:
            raise ExternalWeightsError(
                f"cannot download {where} ({type(error).__name__}: {error}): check the connection, or load the twin "
                "once with a connection, after which the file is in the local cache"
            ) from error
        blob = Path(path).read_bytes()
        digest = hashlib.sha256(blob).hexdigest()
        if digest != self.sha256:
            raise TwinFormatError(
                f"{where} has the SHA-256 {digest[:12]}..., the twin expects {self.sha256[:12]}...: the file was "
                "changed, or the download is damaged"
            )
        try:
            tensors = load(blob)
        # The exception class of safetensors is not part of its stable interface.
        except Exception as error:
            raise TwinFormatError(f"{where} is not a readable safetensors file: {error}") from error
        return {self.prefix + name: value for name, value in tensors.items()}
