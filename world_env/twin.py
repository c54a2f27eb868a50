"""A twin: a world model plus all that is needed to live in it, as one folder on disk.

The folder is readable without this package, and loading it executes nothing:
    twin.json             strict JSON: format, family, config, spec, data range, thresholds, provenance, fidelity
    weights.safetensors   the model's parameters and normalisers
    starts.safetensors    true episode starts, and dataset states to begin from
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from world_env.batch import Context
from world_env.codec import Codec
from world_env.errors import (
    KnownFunctionError,
    StartsError,
    TwinBusyError,
    TwinFormatError,
    TwinMismatchError,
    TwinNotFoundError,
    TwinSaveError,
    TwinVersionError,
)
from world_env.models import load_family
from world_env.models.base import WorldModel
from world_env.spec import JSON, DataRange, WorldSpec

FORMAT = 1
"""The newest folder format that this version writes and reads."""

BUNDLED = Path(__file__).parent / "twins"
"""The twins that come with the package."""

KnownFunction = Callable[[Any, Any, Any], np.ndarray]
"""(obs, action, next_obs), batched environment arrays -> (B,) rewards or (B,) bool."""

DEFAULT_TWIN = "cartpole"

_FILES = ("weights.safetensors", "starts.safetensors")


@dataclass(frozen=True)
class Twin:
    """A world model with its spec, starts, thresholds, provenance and measured fidelity.

    starts: true episode starts, for judging. states: dataset states to begin training episodes from, or None.
    termination_threshold: a step terminates where the model's probability is above it; chosen on held-out episodes.
    uncertainty_threshold: the largest uncertainty that the data itself showed; None: not measured.
    reward_fn, termination_fn: known functions (obs, action, next_obs), batched numpy; never stored as code.
    """

    spec: WorldSpec
    family: str
    model: WorldModel
    starts: Context
    states: Context | None = None
    ranges: DataRange | None = None
    termination_threshold: float = 0.5
    uncertainty_threshold: float | None = None
    provenance: JSON = field(default_factory=dict)
    fidelity: JSON = field(default_factory=dict)
    reward_fn: KnownFunction | None = None
    termination_fn: KnownFunction | None = None

    def __post_init__(self) -> None:
        if len(self.starts) == 0:
            raise StartsError(
                "a twin needs at least one start state, got none: collect at least one episode from its real start"
            )

    @property
    def codec(self) -> Codec:
        """The codec of this twin's spec and data."""
        return Codec(self.spec, self.ranges)

    @property
    def known(self) -> list[str]:
        """Which outcomes come from known functions instead of the model."""
        return [
            name for name in ("reward", "termination") if getattr(self, f"{name}_fn") is not None
        ]

    @classmethod
    def untrained(
        cls, spec: WorldSpec, family: str = "ensemble", config: Any = None, *, seed: int = 0
    ) -> Twin:
        """A twin with random weights and one start in the middle of the space: for benchmarks and tests."""
        model_class, config_class = load_family(family)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = model_class(spec, config_class() if config is None else config)
        model.eval().requires_grad_(False)
        codec = Codec(spec)
        observation = {key: torch.zeros(1, *shape) for key, shape in codec.shapes.items()}
        # Through the environment's own arrays and back, so that the start lies in the space.
        observation = codec.encode_observation(codec.decode_observation(observation))
        return cls(spec, family, model, Context.from_observation(observation, codec.action_size))

    def save(self, folder: str | Path) -> Path:
        """Write the twin, beside and renamed: whatever was there stays whole until the new one is.

        Raises TwinSaveError where it cannot be written, TwinBusyError while another process saves the same twin.
        """
        target = Path(folder).resolve()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _locked(target), _beside(target) as fresh:
                self._write(fresh)
                _swap(fresh, target)
        except OSError as error:
            if isinstance(error, TwinSaveError):
                raise
            raise TwinSaveError(
                f"cannot write the twin to {target}: {error}. What was there is unchanged; "
                "check permissions and free space, or save to another folder."
            ) from error
        return target

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        reward_fn: KnownFunction | None = None,
        termination_fn: KnownFunction | None = None,
    ) -> Twin:
        """A bundled twin by name, or a folder (anything with a separator, or a Path). The model is frozen.

        Raises TwinNotFoundError, TwinFormatError (damaged), TwinVersionError (newer format), TwinMismatchError
        (weights and config disagree), UnknownFamilyError, KnownFunctionError (it was fitted with known functions).
        """
        folder = find_twin(name)
        tree = read_json(folder)
        functions = {"reward": reward_fn, "termination": termination_fn}
        missing = [known for known in tree["known"] if functions.get(known) is None]
        if missing:
            raise KnownFunctionError(
                f"the twin {folder.name!r} was made with known {' and '.join(missing)} functions, which are never "
                f"stored: pass {', '.join(f'{known}_fn=' for known in missing)} (obs, action, next_obs) to Twin.load"
            )
        spec = WorldSpec.from_json(tree["spec"])
        model = _build_model(tree, spec, _read_tensors(folder, "weights.safetensors", tree))
        starts = _read_tensors(folder, "starts.safetensors", tree)
        ranges = tree["ranges"]
        return cls(
            spec=spec,
            family=tree["family"],
            model=model.to(device=device, dtype=dtype).eval().requires_grad_(False),
            starts=_context(starts, "starts", spec),
            states=_context(starts, "states", spec) if "states.length" in starts else None,
            ranges=None if ranges is None else DataRange.from_json(ranges),
            termination_threshold=float(tree["termination_threshold"]),
            uncertainty_threshold=tree["uncertainty_threshold"],
            provenance=tree["provenance"],
            fidelity=tree["fidelity"],
            reward_fn=reward_fn,
            termination_fn=termination_fn,
        )

    def _write(self, folder: Path) -> None:
        starts = _flat(self.starts, "starts")
        if self.states is not None:
            starts |= _flat(self.states, "states")
        weights = {
            name: value.detach().cpu().contiguous()
            for name, value in self.model.state_dict().items()
        }
        blobs = {
            "weights.safetensors": dump_tensors(weights),
            "starts.safetensors": dump_tensors(starts),
        }
        tree = {
            "format": FORMAT,
            "family": self.family,
            "config": dataclasses.asdict(self.model.config),
            "spec": self.spec.to_json(),
            "ranges": None if self.ranges is None else self.ranges.to_json(),
            "termination_threshold": self.termination_threshold,
            "uncertainty_threshold": self.uncertainty_threshold,
            "known": self.known,
            "provenance": self.provenance,
            "fidelity": self.fidelity,
            "files": {name: hashlib.sha256(blob).hexdigest() for name, blob in blobs.items()},
        }
        for name, blob in blobs.items():
            _write_bytes(folder / name, blob)
        _write_bytes(
            folder / "twin.json", (json.dumps(tree, indent=1, allow_nan=False) + "\n").encode()
        )


_loaded: dict[tuple[Any, ...], Twin] = {}
"""Twins by (folder, times of its files, device, dtype); one entry a folder, device and dtype."""


def load_cached(
    name: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    reward_fn: KnownFunction | None = None,
    termination_fn: KnownFunction | None = None,
) -> Twin:
    """`Twin.load`, but a folder that did not change is read once: many environments share one frozen model."""
    if reward_fn is not None or termination_fn is not None:
        return Twin.load(
            name, device=device, dtype=dtype, reward_fn=reward_fn, termination_fn=termination_fn
        )
    folder = find_twin(name).resolve()
    place = (folder, str(device), dtype)
    times = [
        path.stat().st_mtime_ns if path.exists() else 0
        for path in (folder / "twin.json", *(folder / file for file in _FILES))
    ]
    key = (*place, *times)
    if key not in _loaded:
        twin = Twin.load(folder, device=device, dtype=dtype)
        for old in [old for old in _loaded if old[:3] == place]:
            _loaded.pop(old, None)
        _loaded[key] = twin
    return _loaded[key]


def list_twins() -> list[str]:
    """The names of the bundled twins."""
    if not BUNDLED.is_dir():
        return []
    return sorted(folder.name for folder in BUNDLED.iterdir() if (folder / "twin.json").is_file())


def find_twin(name: str | Path) -> Path:
    """The folder of a twin. Raises TwinNotFoundError, TwinFormatError."""
    text = os.fspath(name)
    is_path = isinstance(name, Path) or os.sep in text or "/" in text
    folder = Path(text).expanduser() if is_path else BUNDLED / text
    if not is_path and (
        not re.fullmatch(r"[A-Za-z0-9_-]+", text) or not (folder / "twin.json").is_file()
    ):
        hint = f" For the folder of that name write './{text}'." if Path(text).is_dir() else ""
        raise TwinNotFoundError(
            f"no twin {text!r}: the bundled ones are {', '.join(list_twins()) or 'none'}.{hint} "
            "Train one with `world-env build ENV_ID`, or list them with `world-env twins`."
        )
    if not folder.is_dir():
        raise TwinNotFoundError(
            f"no twin at {folder}: there is no such folder. Bundled: {', '.join(list_twins())}"
        )
    if not (folder / "twin.json").is_file():
        raise TwinFormatError(
            f"{folder} is no twin: it has no twin.json (it holds {sorted(os.listdir(folder))[:6]}). "
            "A twin is the folder that `world-env fit` or Twin.save wrote."
        )
    return folder


_TYPES: dict[str, tuple[type, ...]] = {
    "format": (int,),
    "family": (str,),
    "config": (dict,),
    "spec": (dict,),
    "ranges": (dict, type(None)),
    "termination_threshold": (int, float),
    "uncertainty_threshold": (int, float, type(None)),
    "known": (list,),
    "provenance": (dict,),
    "fidelity": (dict,),
    "files": (dict,),
}


def read_json(folder: Path) -> JSON:
    """The checked content of a twin's twin.json. Raises TwinFormatError, TwinVersionError."""
    path = folder / "twin.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"), parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise TwinFormatError(f"{path} is not valid JSON ({error}): the file is damaged") from error
    if not isinstance(tree, dict) or "format" not in tree:
        raise TwinFormatError(f"{path} has no 'format' field: it does not describe a twin")
    if isinstance(tree["format"], int) and tree["format"] > FORMAT:
        raise TwinVersionError(
            f"{path} has format {tree['format']}, this version of world-env reads up to {FORMAT}: "
            "upgrade with `pip install -U world-env`"
        )
    for name, types in _TYPES.items():
        if name not in tree or not isinstance(tree[name], types) or isinstance(tree[name], bool):
            got = repr(tree[name])[:80] if name in tree else "nothing"
            raise TwinFormatError(
                f"{path}: field {name!r} should be {types[0].__name__}, got {got}"
            )
    if set(tree["files"]) != set(_FILES):
        raise TwinFormatError(
            f"{path} lists the files {sorted(tree['files'])}, a twin has exactly {sorted(_FILES)}: "
            "a twin never reads outside its folder"
        )
    return tree


def _reject_constant(text: str) -> float:
    raise ValueError(f"{text} is not strict JSON")


def _read_tensors(folder: Path, name: str, tree: JSON) -> dict[str, Tensor]:
    path = folder / name
    if not path.is_file() or path.is_symlink():
        raise TwinFormatError(
            f"{path} is missing (or a link): a twin is a folder with {', '.join(_FILES)}"
        )
    blob = path.read_bytes()
    digest = hashlib.sha256(blob).hexdigest()
    if digest != tree["files"][name]:
        raise TwinFormatError(
            f"{path} is damaged: its sha256 is {digest[:12]}..., twin.json says {str(tree['files'][name])[:12]}... "
            f"({len(blob)} bytes). Copy the twin again, or fit it again."
        )
    try:
        return load_tensors(blob)
    except (
        Exception
    ) as error:  # safetensors raises its own class, which is not part of its stable interface
        raise TwinFormatError(f"{path} is no readable safetensors file: {error}") from error


def _build_model(tree: JSON, spec: WorldSpec, weights: dict[str, Tensor]) -> WorldModel:
    model_class, config_class = load_family(tree["family"])
    try:
        config = config_class(**tree["config"])
    except (TypeError, ValueError) as error:
        raise TwinFormatError(
            f"config {tree['config']} does not fit the family {tree['family']!r}: {error}"
        ) from error
    # Initial values are overwritten at once; the caller's global generator should not notice.
    with torch.random.fork_rng(devices=[]):
        model: WorldModel = model_class(spec, config)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in weights.items()}
    if wanted != got:
        wrong = sorted(
            name for name in wanted.keys() | got.keys() if wanted.get(name) != got.get(name)
        )
        first = wrong[0]
        raise TwinMismatchError(
            f"weights and config disagree in {len(wrong)} tensors, first {first!r}: the config makes "
            f"{wanted.get(first, 'none')}, the file holds {got.get(first, 'none')}"
        )
    bad = sorted(name for name, value in weights.items() if not torch.isfinite(value).all())
    if bad:
        raise TwinFormatError(f"the weights hold non-finite numbers in {bad[:4]}: the fit diverged")
    model.load_state_dict(weights)
    return model


def _flat(context: Context, name: str) -> dict[str, Tensor]:
    tensors = {f"{name}.observations.{key}": value for key, value in context.observations.items()}
    tensors |= {
        f"{name}.{part}": getattr(context, part) for part in ("actions", "length", "elapsed")
    }
    return {key: value.detach().cpu().contiguous() for key, value in tensors.items()}


def _context(tensors: dict[str, Tensor], name: str, spec: WorldSpec) -> Context:
    prefix = f"{name}.observations."
    observations = {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
    shapes = {key: tuple(value.shape[2:]) for key, value in observations.items()}
    codec = Codec(spec)
    parts = [tensors.get(f"{name}.{part}") for part in ("actions", "length", "elapsed")]
    if shapes != codec.shapes or any(part is None for part in parts):
        raise TwinMismatchError(
            f"the {name} hold observations {shapes}, the spec asks for {codec.shapes}"
        )
    return Context(observations, *(part for part in parts if part is not None))


def _write_bytes(path: Path, blob: bytes) -> None:
    with path.open("wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """One writer a twin. The lock dies with its process, so a kill leaves nothing to clean up."""
    try:
        import fcntl
    except ImportError:  # Windows: renaming is still atomic there, the last writer wins
        yield
        return
    with (target.parent / f".{target.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TwinBusyError(
                f"another process is saving {target} right now: wait for it, or save to another folder"
            ) from error
        yield


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A fresh folder beside the target, removed unless it was renamed away."""
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".new", dir=target.parent))
    try:
        fresh.chmod(0o755)
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _swap(fresh: Path, target: Path) -> None:
    """Put the finished folder in place; only a twin is ever replaced."""
    if (
        target.exists()
        and not (target / "twin.json").is_file()
        and (target.is_file() or any(target.iterdir()))
    ):
        raise TwinSaveError(
            f"{target} exists and is no twin: it is not overwritten. Choose another folder, or remove it first."
        )
    if not target.exists():
        fresh.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
