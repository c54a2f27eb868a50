"""A policy in the twin beside the same policy in reality, as a moving picture."""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from world_env.atomic_io import atomic_path
from world_env.collection.exploration import SavedPolicy
from world_env.errors import InvalidOptionError, MissingExtraError
from world_env.policies.protocol import Exploration
from world_env.real.real_env import make_real
from world_env.real.step_ledger import StepLedger
from world_env.rendering.renderer import Renderer
from world_env.rollouts.returns import stacked
from world_env.simulation.config import SimulatorConfig
from world_env.simulation.simulator import Simulator
from world_env.simulation.termination import ENDS
from world_env.spaces import is_image, observation_spaces, one_row, row_of
from world_env.spec import EnvConfig, WorldSpec, check_same_spaces
from world_env.twin.twin import Twin

if TYPE_CHECKING:
    import gymnasium as gym
    from stable_baselines3.common.base_class import BaseAlgorithm

MODES = ("closed_loop", "open_loop")

_PANEL_HEIGHT, _BAND, _GAP = 300, 26, 6
_INK, _SOFT, _PAPER = (29, 33, 41), (118, 124, 135), (255, 255, 255)
_LONGEST_FRAME, _SHORTEST_FRAME = 100, 33
"""Milliseconds a frame is shown, at most and at least, whatever the world's own pace."""


@dataclass
class _Side:
    """One world while it is watched.

    end: why its episode is over, "" while it goes on. sees: whether a learned one is still shown the real one.
    """

    name: str
    observation: Any
    steps: int = 0
    total: float = 0.0
    end: str = ""
    sees: bool = False


class _Real:
    def __init__(self, env: gym.Env, seed: int) -> None:
        self._env = env
        self.side = _Side("real", copy.deepcopy(env.reset(seed=seed)[0]))

    def step(self, action: Any) -> None:
        side = self.side
        # A copy: environments may keep, or change, the array that they are given.
        observation, reward, terminated, truncated, _ = self._env.step(copy.copy(action))
        side.observation, side.total = copy.deepcopy(observation), side.total + float(reward)
        side.steps += 1
        side.end = "terminated" if terminated else "truncated" if truncated else ""


class _Learned:
    def __init__(self, twin: Twin, seed: int, first: Any, *, temperature: float) -> None:
        config = SimulatorConfig(temperature=temperature)
        self._simulator, self._seed = Simulator(twin, 1, seed=seed, config=config), seed
        # A model with a memory may need more than one observation to know where it is.
        self.context = twin.model.context
        self._seen, self._taken = [first], list[Any]()
        options = None if first is None else {"observation": one_row(first)}
        observation = self._simulator.reset(seed=seed, options=options)
        self.side = _Side("learned", row_of(observation, 0))

    def step(self, action: Any) -> None:
        side = self.side
        result = self._simulator.step(np.asarray(action)[None])
        side.observation, side.total = row_of(result.observation, 0), side.total + result.reward[0]
        side.steps += 1
        side.end, side.sees = ENDS[int(result.end[0])], False

    def follow(self, action: Any, real: _Side) -> None:
        """Be shown one more real observation instead of stepping."""
        self._seen.append(real.observation)
        self._taken.append(np.asarray(action))
        past = {
            "observations": one_row(stacked(self._seen)),
            "actions": np.stack(self._taken)[None],
        }
        observation = self._simulator.reset(seed=self._seed, options={"context": past})
        side = self.side
        side.observation, side.sees = row_of(observation, 0), True
        side.steps, side.total, side.end = real.steps, real.total, real.end


def watch(
    twin: Twin,
    policy: BaseAlgorithm | Exploration,
    out: str | os.PathLike[str],
    *,
    real: EnvConfig | None = None,
    steps: int = 200,
    seed: int = 0,
    ledger: StepLedger,
    mode: str = "closed_loop",
) -> Path:
    """Write the frames of `side_by_side` as a moving picture, about as fast as the world is.

    out: a path that ends in .gif, or in .mp4 where imageio-ffmpeg is installed; without an ending,
        .gif is added. Returns the file's path. Raises as `side_by_side` does, and StageError where
        the file cannot be written.
    """
    path = Path(out)
    path = path.with_name(path.name + ".gif") if not path.suffix else path
    # Opened before a real step is spent: where it cannot be written, nothing should be filmed.
    with beside(path) as fresh:
        frames = side_by_side(
            twin, policy, real=real, steps=steps, seed=seed, ledger=ledger, mode=mode
        )
        encode_frames(fresh, frames, frame_duration(twin.spec))
    return path


def frame_duration(spec: WorldSpec) -> int:
    """Milliseconds that one step of this world is shown."""
    return int(np.clip(1000 * (spec.seconds_per_step or 0.05), _SHORTEST_FRAME, _LONGEST_FRAME))


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, a .gif or an .mp4, renamed to it at the end, removed where that is never reached."""
    if path.suffix not in (".gif", ".mp4"):
        raise InvalidOptionError(f"cannot write {path.name}: expected a name in .gif or .mp4")
    if path.suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise MissingExtraError(
            "an mp4 needs ffmpeg: pip install imageio-ffmpeg, or choose a name that ends in .gif"
        )
    with atomic_path(path) as temporary:
        temporary.touch()
        yield temporary


def side_by_side(
    twin: Twin,
    policy: BaseAlgorithm | Exploration,
    *,
    real: EnvConfig | None = None,
    steps: int = 200,
    seed: int = 0,
    ledger: StepLedger,
    mode: str = "closed_loop",
) -> list[np.ndarray]:
    """Frames (H, W, 3) uint8 of both worlds from the same first observation, learned on the left.

    real: None: the twin alone, from one of its own starts; no real step is taken.
    steps: at most so many; it ends earlier when both episodes have. `real` pays them as
        "spot_check".
    mode: "closed_loop": in each world the policy acts on what it sees there; "open_loop": both
        get the actions that it chose in reality, and the twin runs without noise, from as many real
        observations as its model takes in; where worlds are seen as pixels, a third picture is how
        far theirs are apart.
    The same renderer draws both sides. Raises InvalidOptionError, SpaceMismatchError where the two
    worlds differ in their spaces, MissingExtraError.
    """
    if mode not in MODES or steps < 1 or (mode == "open_loop" and real is None):
        raise InvalidOptionError(
            f"mode {mode!r} with {steps} steps and real={real}: expected one of "
            f"{', '.join(MODES)}, at least 1 step, and a real environment for open_loop"
        )
    with ExitStack() as stack:
        worlds: list[_Real | _Learned] = []
        first = None
        if real is not None:
            env = make_real(real, purpose="spot_check", ledger=ledger)
            stack.enter_context(closing(env))
            check_same_spaces(env, twin.spec)
            worlds.append(_Real(env, seed))
            first = worlds[0].side.observation
        noise = 0.0 if mode == "open_loop" else 1.0
        worlds.insert(0, _Learned(twin, seed, first, temperature=noise))
        actors = [_actor(policy, seed) for _ in worlds]
        renderer = stack.enter_context(closing(Renderer(twin.spec)))
        if mode == "open_loop":
            parts = observation_spaces(twin.spec.observation_space).values()
            differs = any(map(is_image, parts))
            return list(_play_together(worlds, actors[-1], renderer, steps, differs))
        return list(_play(worlds, actors, renderer, steps))


def _play(
    worlds: Sequence[_Real | _Learned],
    actors: Sequence[Exploration],
    renderer: Renderer,
    steps: int,
) -> Iterator[np.ndarray]:
    """Each world with an actor of its own, until all are over."""
    sides = [world.side for world in worlds]
    yield _compose(sides, renderer, 0)
    for step in range(1, steps + 1):
        if all(side.end for side in sides):
            return
        for world, actor in zip(worlds, actors, strict=True):
            if not world.side.end:
                world.step(actor.act(world.side.observation))
        yield _compose(sides, renderer, step)


def _play_together(
    worlds: Sequence[_Real | _Learned],
    actor: Exploration,
    renderer: Renderer,
    steps: int,
    differs: bool,
) -> Iterator[np.ndarray]:
    """The learned and the real world with the actions that are chosen in the real one, until that one is over."""
    learned, real = worlds
    assert isinstance(learned, _Learned)
    sides = [learned.side, real.side]
    yield _compose(sides, renderer, 0, differs)
    for step in range(1, steps + 1):
        if real.side.end:
            return
        action = actor.act(real.side.observation)
        real.step(action)
        if step < learned.context:
            learned.follow(action, real.side)
        elif not learned.side.end:
            learned.step(action)
        yield _compose(sides, renderer, step, differs)


def _actor(policy: BaseAlgorithm | Exploration, seed: int) -> Exploration:
    """An actor for one world, with memory and noise of its own; a trained policy acts greedily."""
    actor: Exploration
    if hasattr(policy, "predict"):
        actor = SavedPolicy(cast("BaseAlgorithm", policy), deterministic=True)
    else:
        actor = copy.deepcopy(policy)
    actor.reset(seed)
    return actor


def _compose(
    sides: Sequence[_Side], renderer: Renderer, step: int, differs: bool = False
) -> np.ndarray:
    """The worlds side by side beneath their names, the step and the return so far; their difference where asked for."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise MissingExtraError('pictures need Pillow: pip install "world-env[train]"') from error
    frames = [(side.name, _told(side), renderer.frame(side.observation)) for side in sides]
    if differs:
        one, other = (frame.astype(np.int16) for _, _, frame in frames)
        apart = np.abs(one - other)
        frames.append(("difference", f"{apart.mean():.1f} of 255", apart.astype(np.uint8)))
    panels = []
    for _, _, frame in frames:
        picture = Image.fromarray(frame)
        width = max(round(picture.width * _PANEL_HEIGHT / picture.height), 160)
        smooth = picture.height > 100
        how = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
        panels.append(picture.resize((width, _PANEL_HEIGHT), how))
    total = sum(panel.width for panel in panels) + _GAP * (len(panels) - 1)
    # Even sizes: video encoders want them.
    canvas = Image.new("RGB", (total + total % 2, _PANEL_HEIGHT + 2 * _BAND), _PAPER)
    draw = ImageDraw.Draw(canvas)
    left = 0
    for (name, text, _), panel in zip(frames, panels, strict=True):
        canvas.paste(panel, (left, _BAND))
        draw.text((left + 8, _BAND / 2), name, _INK, anchor="lm", font_size=16)
        below = (left + 8, _PANEL_HEIGHT + 1.5 * _BAND)
        draw.text(below, text, _SOFT, anchor="lm", font_size=13)
        left += panel.width + _GAP
    draw.text((total - 8, _BAND / 2), f"step {step}", _SOFT, anchor="rm", font_size=14)
    return np.array(canvas)


def _told(side: _Side) -> str:
    if side.sees:
        return "still shown the real one"
    return f"return {side.total:.4g}" + (f" · {side.end} at {side.steps}" if side.end else "")


def encode_frames(path: Path, frames: Sequence[np.ndarray], duration: int) -> None:
    """Write equally large (H, W, 3) uint8 frames. duration: milliseconds a frame."""
    if path.suffix == ".mp4":
        import imageio.v3 as imageio

        imageio.imwrite(path, np.stack(frames), fps=1000 / duration, macro_block_size=2)
        return
    from PIL import Image

    images = [Image.fromarray(frame).quantize(128) for frame in frames]
    images[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=[duration] * (len(images) - 1) + [1500],
        loop=0,
    )
