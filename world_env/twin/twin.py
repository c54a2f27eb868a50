"""Twin: a world model with all that is needed to simulate it, stored as one folder.

The folder can be read without this package, and loading it runs no code:
    twin.json             strict JSON: format, family, config, spec, data range, thresholds, provenance, fidelity
    weights.safetensors   parameters and normalisers of the model, except those in files on the Hub ("external" in
                          twin.json)
    starts.safetensors    real initial states, and states inside data episodes
    card.md               model card made from twin.json at every save; never read
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from world_env.atomic_io import FolderBusyError, FolderError, replaced_folder
from world_env.batch import Context
from world_env.codec import Codec
from world_env.data_range import DataRange
from world_env.device import as_device, as_dtype, torch_defaults
from world_env.errors import (
    ExternalWeightsError,
    InitialStatesError,
    InvalidOptionError,
    KnownFunctionError,
    TwinBusyError,
    TwinFormatError,
    TwinMismatchError,
    TwinSaveError,
    WorldEnvError,
)
from world_env.models.base import WorldModel
from world_env.models.conditioning import check_shapes
from world_env.models.config import config_from_json, config_to_json
from world_env.models.registry import load_family
from world_env.results.fidelity import Fidelity
from world_env.results.provenance import Provenance
from world_env.spec import WorldSpec
from world_env.twin.external_weights import ExternalWeights
from world_env.twin.model_card import card_text
from world_env.twin.serialization import (
    FILES,
    FORMAT,
    WHOLE,
    dump_tensors,
    find_twin,
    read_json,
    read_tensors,
    write_bytes,
)
from world_env.types import JSON, TERMINATIONS, Termination

KnownFunction = Callable[[Any, Any, Any], np.ndarray]
"""(obs, action, next_obs), batched environment arrays -> (B,) rewards or (B,) bool."""


@dataclass(frozen=True)
class Twin:
    """A world model with its spec, initial states, thresholds, provenance and measured fidelity.

    Raises InitialStatesError if it has no initial state, InvalidOptionError for an unknown rule of termination.
    """

    spec: WorldSpec
    """Spaces, time limit and real environment."""
    family: str
    """Name of the model family, as registered by `register_world_model`."""
    model: WorldModel
    """The world model, on its device and in evaluation mode."""
    starts: Context
    """Real initial states of episodes."""
    states: Context | None = None
    """States inside data episodes, for the option `dataset_starts`; None: not stored."""
    ranges: DataRange | None = None
    """Range of observations and rewards in the data, to which predictions are clipped; None: no clipping."""
    termination_threshold: float = 0.5
    """Probability above which a step terminates. Chosen on the validation split, or on all episodes if few ended."""
    termination: Termination = "threshold"
    """When a step terminates: "threshold" where the probability exceeds the threshold, "sample" with this probability,
    for episodes that end by chance. Chosen by the fit. Hard termination bounds hold in both."""
    uncertainty_threshold: float | None = None
    """Largest uncertainty on the data; a state above it is out of distribution. None: not measured."""
    provenance: Provenance = field(default_factory=Provenance)
    """Origin of the twin: data, settings and versions."""
    fidelity: Fidelity = field(default_factory=Fidelity)
    """Measured errors of the model."""
    reward_fn: KnownFunction | None = None
    """Known reward function (obs, action, next_obs) -> (B,), on batched numpy arrays; None: the model predicts."""
    termination_fn: KnownFunction | None = None
    """Known termination function, likewise. Known functions are recorded by name and never stored as code."""
    external: tuple[ExternalWeights, ...] = ()
    """Files on the Hugging Face Hub that hold weights of the model, which `save` then leaves out of the folder."""

    def __post_init__(self) -> None:
        if self.termination not in TERMINATIONS:
            raise InvalidOptionError(
                f"termination is {self.termination!r}, expected one of {', '.join(map(repr, TERMINATIONS))}"
            )
        if len(self.starts) == 0:
            raise InitialStatesError(
                "starts is empty, but a twin needs at least one initial state: collect at least one complete episode"
            )
        for name, context in (("starts", self.starts), ("states", self.states)):
            if context is not None:
                check_shapes(self.model, context.conditioning, name)

    @cached_property
    def codec(self) -> Codec:
        """Codec of the spec and the data range, built once per twin."""
        return Codec(self.spec, self.ranges)

    @property
    def known(self) -> list[str]:
        """Outcomes that known functions compute instead of the model: "reward", "termination" or both."""
        return [
            name for name in ("reward", "termination") if getattr(self, f"{name}_fn") is not None
        ]

    def __repr__(self) -> str:
        parameters = sum(value.numel() for value in self.model.parameters())
        spaces = (self.spec.observation_space, self.spec.action_space)
        real = self.provenance.real
        name = self.spec.real_id or ("no real environment" if real is None else real.env_id)
        return (
            f"Twin({name}, {self.family}, {parameters} parameters, "
            f"{' -> '.join(_short(space) for space in spaces)}, horizon={self.spec.horizon}, "
            f"{len(self.starts)} initial states)"
        )

    def fingerprint(self) -> str:
        """Return a SHA-256 of spec, thresholds and weights, independent of the folder."""
        described: list[Any] = [self.spec.to_json(), self.family, self.termination_threshold]
        described += [self.uncertainty_threshold, self.known]
        if self.ranges is not None and self.ranges.ends is not None:
            described.append(self.ranges.ends)
        if self.ranges is not None and self.ranges.offset:
            described.append(self.ranges.offset)
        if self.termination != "threshold":
            described.append(self.termination)
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        tensors = self.model.state_dict()
        for name in sorted(tensors.keys() - set(self.model.inert_buffers())):
            value = tensors[name].detach().cpu().reshape(-1).view(torch.uint8)
            digest.update(name.encode() + value.numpy().tobytes())
        return digest.hexdigest()

    @classmethod
    @torch_defaults()
    def untrained(
        cls, spec: WorldSpec, family: str = "ensemble", config: Any = None, *, seed: int = 0
    ) -> Twin:
        """Create a twin with random weights and one initial state, in the middle of the space.

        For tests and benchmarks. config: of the family (default None: its default config).
        """
        model_class = load_family(family)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = model_class(spec, model_class.config_class() if config is None else config)
        model.eval().requires_grad_(False)
        codec = Codec(spec)
        observation = {key: torch.zeros(1, *shape) for key, shape in codec.shapes.items()}
        # Decoded and encoded again, so that the initial state lies in the space.
        observation = codec.encode_observation(codec.decode_observation(observation))
        conditioning = {name: torch.zeros(1, *size) for name, size in model.conditioning.items()}
        starts = Context.from_observation(observation, codec.action_size, conditioning)
        return cls(spec, family, model, starts)

    @torch_defaults()
    def save(self, folder: str | Path) -> Path:
        """Save the twin to a folder and return its path. An older twin is replaced only when the new one is complete.

        Raises TwinSaveError if the folder cannot be written, is not a twin, or the twin cannot be stored as JSON;
        TwinBusyError while another process saves the same twin.
        """
        target = Path(folder).resolve()
        try:
            with replaced_folder(target, files=WHOLE, noun="twin") as fresh:
                self._write(fresh)
        except (TwinSaveError, ExternalWeightsError):
            raise
        except FolderBusyError as error:
            raise TwinBusyError(str(error)) from error
        except FolderError as error:
            raise TwinSaveError(str(error)) from error
        except OSError as error:
            raise TwinSaveError(
                f"cannot write the twin to {target}: {error}. The existing files are unchanged. "
                "Check permissions and free space, or save to another folder."
            ) from error
        return target

    @classmethod
    @torch_defaults()
    def load(
        cls,
        name: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        reward_fn: KnownFunction | None = None,
        termination_fn: KnownFunction | None = None,
    ) -> Twin:
        """Load a twin. Its model is frozen and in evaluation mode.

        name: a bundled twin, or a folder (a Path, or a str with a separator).
        device: torch device of the model (default: CPU). dtype: torch.float32 or torch.float64 (default None: that of
            the stored weights).
        reward_fn, termination_fn: required if the twin was fitted with known functions.
        Raises TwinNotFoundError, TwinFormatError (damaged files), TwinVersionError (newer format), TwinMismatchError
        (weights do not fit the config), UnknownFamilyError, PluginError, ExternalWeightsError (weights outside the
        folder cannot be downloaded), KnownFunctionError (a known function is missing) or
        InvalidOptionError (unknown device or dtype).
        """
        folder, device = find_twin(name), as_device(device)
        if dtype is not None:
            as_dtype(dtype)
        tree = read_json(folder)
        functions = {"reward": reward_fn, "termination": termination_fn}
        missing = [known for known in tree["known"] if functions.get(known) is None]
        if missing:
            raise KnownFunctionError(
                f"the twin {folder.name!r} was fitted with known {' and '.join(missing)} functions, which are not "
                f"stored: pass {', '.join(f'{known}_fn=' for known in missing)} (obs, action, next_obs) to Twin.load"
            )
        spec = WorldSpec.from_json(tree["spec"])
        external = tuple(
            ExternalWeights.from_json(each, where=f"external of {folder}", error=TwinFormatError)
            for each in tree.get("external", [])
        )
        weights = read_tensors(folder, "weights.safetensors", tree)
        for each in external:
            weights |= each.read()
        model = _build_model(tree, spec, weights)
        starts = read_tensors(folder, "starts.safetensors", tree)
        return cls(
            spec=spec,
            family=tree["family"],
            model=model.to(device=device, dtype=dtype).eval().requires_grad_(False),
            starts=_context(starts, "starts", model),
            states=_context(starts, "states", model) if "states.length" in starts else None,
            ranges=_ranges(tree["ranges"], spec),
            termination_threshold=float(tree["termination_threshold"]),
            termination=tree.get("termination", "threshold"),
            uncertainty_threshold=tree["uncertainty_threshold"],
            provenance=tree["provenance"],
            fidelity=tree["fidelity"],
            reward_fn=reward_fn,
            termination_fn=termination_fn,
            external=external,
        )

    def card(self) -> str:
        """Return the model card, Markdown."""
        return card_text(
            family=self.family,
            spec=self.spec,
            provenance=self.provenance,
            fidelity=self.fidelity,
            known=self.known,
        )

    def _write(self, folder: Path) -> None:
        starts = _flat(self.starts, "starts")
        if self.states is not None:
            starts |= _flat(self.states, "states")
        weights = {
            name: value.detach().cpu().contiguous()
            for name, value in self.model.state_dict().items()
        }
        for each in self.external:
            for name, value in each.read().items():
                own = weights.pop(name, None)
                if own is None or not torch.equal(own, value.to(own.dtype)):
                    raise TwinSaveError(
                        f"{name!r} of the model differs from {each.file} of the Hub repository {each.hub}, so it "
                        "cannot be stored there: remove the entry from `external`, or undo the change of the weights"
                    )
        blobs = {
            "weights.safetensors": dump_tensors(weights),
            "starts.safetensors": dump_tensors(starts),
        }
        try:
            config = config_to_json(self.model.config)
        except TypeError as error:
            raise TwinSaveError(
                f"the config of the {type(self.model).__name__} is {self.model.config!r:.80}, expected a frozen "
                f"dataclass or msgspec.Struct with JSON fields ({error}): change its config_class"
            ) from error
        try:
            tree = {
                "format": FORMAT,
                "family": self.family,
                "config": config,
                "spec": self.spec.to_json(),
                "ranges": None if self.ranges is None else self.ranges.to_json(),
                "termination_threshold": self.termination_threshold,
                "uncertainty_threshold": self.uncertainty_threshold,
                "known": self.known,
                "provenance": self.provenance.to_json(),
                "fidelity": self.fidelity.to_json(),
                "files": {name: hashlib.sha256(blob).hexdigest() for name, blob in blobs.items()},
            }
            if self.termination != "threshold":
                tree["termination"] = self.termination
            if self.external:
                tree["external"] = [each.to_json() for each in self.external]
            text = json.dumps(tree, indent=1, allow_nan=False) + "\n"
        except (TypeError, InvalidOptionError) as error:
            raise TwinSaveError(
                f"the twin cannot be written as JSON: {error}. Its config and the stages of its provenance may hold "
                "numbers, strings, bools, None, and lists and dicts of these."
            ) from error
        blobs["twin.json"] = text.encode()
        blobs["card.md"] = self.card().encode(errors="replace")
        for name, blob in blobs.items():
            write_bytes(folder / name, blob)


_loaded: dict[tuple[Any, ...], Twin] = {}
"""Twins by (folder, device, dtype, times of the files); one entry per folder, device and dtype."""


def load_cached(
    name: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    reward_fn: KnownFunction | None = None,
    termination_fn: KnownFunction | None = None,
) -> Twin:
    """Load a twin as `Twin.load`, but read an unchanged folder only once, so that environments share one model.

    Twins with known functions are not cached.
    """
    if reward_fn is not None or termination_fn is not None:
        return Twin.load(
            name, device=device, dtype=dtype, reward_fn=reward_fn, termination_fn=termination_fn
        )
    folder, device = find_twin(name).resolve(), as_device(device)
    place = (folder, str(device), dtype)
    times = [
        path.stat().st_mtime_ns if path.exists() else 0
        for path in (folder / "twin.json", *(folder / file for file in FILES))
    ]
    key = (*place, *times)
    if key not in _loaded:
        twin = Twin.load(folder, device=device, dtype=dtype)
        for old in [old for old in _loaded if old[:3] == place]:
            _loaded.pop(old, None)
        _loaded[key] = twin
    return _loaded[key]


def device_and_dtype_of(twin: Twin) -> tuple[torch.device, torch.dtype]:
    """Return the device and float dtype of a twin's model; CPU for a model without tensors."""
    tensors = list(twin.model.state_dict().values())
    return tensors[0].device if tensors else torch.device("cpu"), twin.model.dtype


def _short(space: Any) -> str:
    """Text of a space, for a repr; long ones without their bounds."""
    text = str(space)
    return text if len(text) <= 30 else f"{type(space).__name__}{space.shape or ''}"


def _build_model(tree: JSON, spec: WorldSpec, weights: dict[str, Tensor]) -> WorldModel:
    model_class = load_family(tree["family"])
    named = f"config {tree['config']!s:.200} of the family {tree['family']!r}"
    config = config_from_json(
        model_class.config_class, tree["config"], where=named, error=TwinFormatError
    )
    # The initial values are overwritten below; the global generator of the caller must not change.
    with torch.random.fork_rng(devices=[]):
        try:
            model: WorldModel = model_class(spec, config)
        except (TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, WorldEnvError):
                raise
            raise TwinFormatError(f"{named}: {error}") from error
    if tree["format"] == 1:  # This format has no inert buffers.
        weights = {name: model.get_buffer(name) for name in model.inert_buffers()} | weights
    weights = model.completed(weights)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in weights.items()}
    if expected != got:
        wrong = sorted(
            name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name)
        )
        first = wrong[0]
        raise TwinMismatchError(
            f"weights and config disagree in {len(wrong)} tensors, first {first!r}: the config expects the shape "
            f"{expected.get(first, 'none')}, the file has {got.get(first, 'none')}"
        )
    bad = sorted(name for name, value in weights.items() if not torch.isfinite(value).all())
    if bad:
        raise TwinFormatError(
            f"the weights have non-finite values in {bad[:4]}: the fit diverged, fit the twin again"
        )
    stored = [value.dtype for value in weights.values() if value.is_floating_point()]
    if stored:
        model.to(stored[0])
    model.load_state_dict(weights)
    return model


def _ranges(tree: JSON | None, spec: WorldSpec) -> DataRange | None:
    """Return the data range, or None. Raises TwinFormatError if its sizes do not fit the spec."""
    if tree is None:
        return None
    ranges = DataRange.from_json(tree)
    codec = Codec(spec)
    sizes = {key: math.prod(space.shape or (1,)) for key, space in codec.keys.items()}
    pairs: list[Any] = [(key, sizes.get(key), pair) for key, pair in ranges.observation.items()]
    if ranges.action is not None:
        pairs.append(("action", codec.action_size, ranges.action))
    if ranges.ends is not None:
        pairs.append(("ends", sum(sizes.values()), ranges.ends))
    for key, size, (low, high) in pairs:
        if (len(low), len(high)) != (size, size):
            raise TwinFormatError(
                f"the data range of {key!r} has {len(low)} and {len(high)} values, the spec expects {size}"
            )
    for key, columns in ranges.offset.items():
        space = codec.keys.get(key)
        fits = isinstance(space, Box) and (
            np.issubdtype(space.dtype, np.floating) or all(type(each) is int for each in columns)
        )
        if not fits or len(columns) != sizes[key]:
            raise TwinFormatError(
                f"the offset of {key!r} is {str(columns)[:80]}, expected one number for each column of a Box, and "
                "integers for integers: restore the file if it was edited"
            )
    return ranges


def _flat(context: Context, name: str) -> dict[str, Tensor]:
    tensors = {f"{name}.observations.{key}": value for key, value in context.observations.items()}
    tensors |= {
        f"{name}.{part}": getattr(context, part) for part in ("actions", "length", "elapsed")
    }
    tensors |= {f"{name}.conditioning.{key}": value for key, value in context.conditioning.items()}
    return {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}


def _context(tensors: dict[str, Tensor], name: str, model: WorldModel) -> Context:
    prefix = f"{name}.observations."
    observations = {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
    shapes = {key: tuple(value.shape[2:]) for key, value in observations.items()}
    codec = Codec(model.spec)
    actions, length, elapsed = (
        tensors.get(f"{name}.{part}") for part in ("actions", "length", "elapsed")
    )
    if shapes != codec.shapes or actions is None or length is None or elapsed is None:
        raise TwinMismatchError(
            f"{name} has observations of the shapes {shapes}, the spec expects {codec.shapes}"
        )
    _check_counts(name, length, elapsed)
    rows = len(length)
    known = max((value.shape[1] for value in observations.values()), default=0)
    if int(length.max()) > known:
        raise TwinFormatError(
            f"'length' of {name} is up to {int(length.max())} observations, but {name} has {known} per context"
        )
    parts = [(key, value, (rows, known, *shapes[key])) for key, value in observations.items()]
    parts.append(("actions", actions, (rows, known - 1, codec.action_size)))
    for key, value, shape in parts:
        if tuple(value.shape) != shape:
            raise TwinFormatError(
                f"{key!r} of {name} has the shape {tuple(value.shape)}, expected {shape}"
            )
        as_bytes = value.dtype is torch.uint8 and key in codec.images
        if not as_bytes and not (value.is_floating_point() and bool(torch.isfinite(value).all())):
            wrong = " with NaN or infinite values" if value.is_floating_point() else ""
            raise TwinFormatError(
                f"{key!r} of {name} must hold finite floats, got {value.dtype}{wrong}"
            )
    prefix = f"{name}.conditioning."
    conditioning = {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
    for key, value in conditioning.items():
        if value.shape[:1] != (rows,) or not bool(torch.isfinite(value).all()):
            raise TwinFormatError(
                f"conditioning {key!r} of {name} has the shape {tuple(value.shape)}, expected {rows} finite values"
            )
    check_shapes(model, conditioning, name, TwinMismatchError)
    return Context(observations, actions, length, elapsed, conditioning)


def _check_counts(name: str, length: Tensor, elapsed: Tensor) -> None:
    """Raise TwinFormatError unless both are (B,) int64 with B >= 1, length >= 1 and elapsed >= 0."""
    for part, value, least in (("length", length, 1), ("elapsed", elapsed, 0)):
        if value.dtype != torch.int64 or value.ndim != 1 or not 0 < len(value) == len(length):
            raise TwinFormatError(
                f"{part!r} of {name} is {value.dtype} of the shape {tuple(value.shape)}, expected int64 with one entry "
                "per context, and at least one context"
            )
        if int(value.min()) < least:
            raise TwinFormatError(
                f"{part!r} of {name} has the smallest value {int(value.min())}, expected at least {least}"
            )
