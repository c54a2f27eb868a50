"""Video of a policy in the twin beside the same policy in the real environment."""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from world_env.atomic_io import atomic_path
from world_env.errors import InvalidOptionError, MissingExtraError
from world_env.policies.function_policy import FunctionPolicy
from world_env.policies.loading import AnyPolicy, as_policy
from world_env.policies.protocol import Policy
from world_env.real.env_config import AnyEnv, as_env_config, limited
from world_env.real.real_env import make_real, spec_from
from world_env.real.step_ledger import StepLedger
from world_env.rendering.renderer import Renderer
from world_env.rollouts.learned import steps_in_twin
from world_env.rollouts.real import ONE, steps_in_real
from world_env.simulation.config import SimulatorConfig
from world_env.simulation.simulator import Simulator
from world_env.simulation.termination import ENDS
from world_env.spaces import is_image, observation_spaces, one_row, row_of, stacked
from world_env.spec import WorldSpec, check_same_spaces
from world_env.twin.twin import Twin

if TYPE_CHECKING:
    import gymnasium as gym

MODES = ("closed_loop", "open_loop")

END_LABELS = {
    "horizon": "time limit",
    "rollout": "rollout length",
    "uncertainty": "out of distribution",
    "non_finite": "NaN or infinite values",
}
"""Words for the reasons in `simulation.termination.ENDS`; other reasons stay as they are."""

_PANEL_HEIGHT, _BAND, _GAP = 300, 26, 6
_INK, _SOFT, _PAPER = (29, 33, 41), (118, 124, 135), (255, 255, 255)
_LONGEST_FRAME, _SHORTEST_FRAME = 100, 33
"""Milliseconds of one frame, at most and at least, for any step duration of the environment."""


@dataclass
class _Side:
    """State of one side of the video.

    end: why the episode ended, "" while it runs. follows: whether a learned side still receives real observations.
    """

    name: str
    observation: Any
    steps: int = 0
    total: float = 0.0
    end: str = ""
    follows: bool = False


class _Real:
    def __init__(self, env: gym.Env, policy: Policy, seed: int) -> None:
        observation = env.reset(seed=seed)[0]
        self.side = _Side("real", copy.deepcopy(observation))
        self._steps = steps_in_real(policy, env, observation)

    def step(self) -> Any:
        """Take a step and return its action."""
        side, step = self.side, next(self._steps)
        side.observation, side.total = copy.deepcopy(step.observation), side.total + step.reward
        side.steps += 1
        side.end = "terminated" if step.terminated else "truncated" if step.truncated else ""
        return step.action


class _Learned:
    def __init__(
        self,
        twin: Twin,
        policy: Policy,
        seed: int,
        first: Any,
        *,
        temperature: float,
        horizon: int | None = None,
    ) -> None:
        config = SimulatorConfig(temperature=temperature, horizon=horizon)
        self._simulator, self._seed = Simulator(twin, 1, seed=seed, config=config), seed
        # A model with a memory may need more than one observation to infer its state.
        self.context = twin.model.context
        self._observations, self._actions = [first], list[Any]()
        options = None if first is None else {"observation": one_row(first)}
        observation = self._simulator.reset(seed=seed, options=options)
        self._steps = steps_in_twin(policy, self._simulator, observation)
        self.side = _Side("learned", row_of(observation, 0))

    def step(self) -> None:
        side, result = self.side, next(self._steps).result
        side.observation, side.total = row_of(result.observation, 0), side.total + result.reward[0]
        side.steps += 1
        side.end, side.follows = ENDS[int(result.end[0])], False

    def follow(self, action: Any, real: _Side) -> None:
        """Receive one more real observation instead of a step."""
        self._observations.append(real.observation)
        self._actions.append(np.asarray(action))
        past = {
            "observations": one_row(stacked(self._observations)),
            "actions": np.stack(self._actions)[None],
        }
        observation = self._simulator.reset(seed=self._seed, options={"context": past})
        side = self.side
        side.observation, side.follows = row_of(observation, 0), True
        side.steps, side.total, side.end = real.steps, real.total, real.end


def watch(
    twin: Twin,
    policy: AnyPolicy,
    out: str | os.PathLike[str],
    *,
    real: AnyEnv | None = None,
    steps: int = 200,
    seed: int = 0,
    ledger: StepLedger,
    mode: str = "closed_loop",
) -> Path:
    """Write a video of a policy in the twin and in the real environment, side by side.

    out: path with the suffix .gif, or .mp4 (needs imageio-ffmpeg); without a suffix, .gif is added.
        Other arguments as in `side_by_side`. The video plays at the speed of the environment, within limits.
    Returns the path of the file. Raises as `side_by_side`, and StageError for a file that cannot be written.
    """
    path = Path(out)
    path = path.with_name(path.name + ".gif") if not path.suffix else path
    # The file is opened first: a path that cannot be written must not cost real steps.
    with beside(path) as fresh:
        frames = side_by_side(
            twin, policy, real=real, steps=steps, seed=seed, ledger=ledger, mode=mode
        )
        encode_frames(fresh, frames, frame_duration(twin.spec))
    return path


def frame_duration(spec: WorldSpec) -> int:
    """Milliseconds of one frame: the step duration of the environment, within limits."""
    return int(np.clip(1000 * (spec.seconds_per_step or 0.05), _SHORTEST_FRAME, _LONGEST_FRAME))


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Context with a temporary file for a .gif or .mp4: renamed to `path` at the end, removed after an error."""
    if path.suffix not in (".gif", ".mp4"):
        raise InvalidOptionError(
            f"cannot write {path.name}: expected a file name with the suffix .gif or .mp4"
        )
    if path.suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise MissingExtraError(
            "an .mp4 needs ffmpeg: pip install imageio-ffmpeg, or choose the suffix .gif"
        )
    with atomic_path(path) as temporary:
        temporary.touch()
        yield temporary


def side_by_side(
    twin: Twin,
    policy: AnyPolicy,
    *,
    real: AnyEnv | None = None,
    steps: int = 200,
    seed: int = 0,
    ledger: StepLedger,
    mode: str = "closed_loop",
) -> list[np.ndarray]:
    """Frames (H, W, 3) uint8 of one episode from the same first observation: learned left, real right.

    policy: what `world_env.policies.as_policy` takes; a Stable-Baselines3 model acts deterministically.
    real: the real environment; None: the twin alone, from one of its initial states, without real steps.
    steps: length of the video at most (default: 200); it ends earlier once both episodes ended. Real steps are counted
        in `ledger` as "evaluate".
    mode: "closed_loop": on each side the policy acts on the observations of that side. "open_loop": both sides get the
        actions chosen in the real environment; the twin runs without noise, after the real observations that its
        model needs as context; for image observations, a third panel shows the absolute difference.
    One renderer draws both sides. Raises InvalidOptionError, MissingExtraError, and SpaceMismatchError for different
    spaces.
    """
    if mode not in MODES or steps < 1 or (mode == "open_loop" and real is None):
        raise InvalidOptionError(
            f"mode={mode!r}, steps={steps}, real={real}: expected one of {', '.join(MODES)}, at least 1 step, and a "
            "real environment for open_loop"
        )
    played = as_policy(policy, twin.spec)
    sides = [played.fork(1) for _ in range(2)]
    for each in sides:
        each.reset(ONE, [seed])
    real = None if real is None else as_env_config(real)
    with ExitStack() as stack:
        reality = first = horizon = None
        if real is not None:
            env = make_real(limited(real, twin.spec.horizon), purpose="evaluate", ledger=ledger)
            stack.enter_context(closing(env))
            check_same_spaces(env, twin.spec)
            horizon = spec_from(env, real).horizon
            reality = _Real(env, sides[1], seed)
            first = reality.side.observation
        renderer = stack.enter_context(closing(Renderer(twin.spec)))
        if reality is None or mode == "closed_loop":
            learned = _Learned(twin, sides[0], seed, first, temperature=1.0, horizon=horizon)
            players: list[_Real | _Learned] = [learned]
            players += [] if reality is None else [reality]
            return list(_play(players, renderer, steps))
        given: list[Any] = []
        copied_actions = FunctionPolicy(lambda observations: np.asarray(given[-1])[None])
        learned = _Learned(twin, copied_actions, seed, first, temperature=0.0, horizon=horizon)
        parts = observation_spaces(twin.spec.observation_space).values()
        differs = any(map(is_image, parts))
        return list(_play_together(learned, reality, given, renderer, steps, differs))


def _play(
    players: Sequence[_Real | _Learned], renderer: Renderer, steps: int
) -> Iterator[np.ndarray]:
    """Frames of all sides, until all episodes ended."""
    sides = [player.side for player in players]
    yield _compose(sides, renderer, 0)
    for step in range(1, steps + 1):
        if all(side.end for side in sides):
            return
        for player in players:
            if not player.side.end:
                player.step()
        yield _compose(sides, renderer, step)


def _play_together(
    learned: _Learned,
    real: _Real,
    given: list[Any],
    renderer: Renderer,
    steps: int,
    differs: bool,
) -> Iterator[np.ndarray]:
    """Frames of both sides under the actions chosen in the real environment, until the real episode ends.

    given: the actions so far, of which the learned side takes the last one.
    """
    sides = [learned.side, real.side]
    yield _compose(sides, renderer, 0, differs)
    for step in range(1, steps + 1):
        if real.side.end:
            return
        given.append(real.step())
        if step < learned.context:
            learned.follow(given[-1], real.side)
        elif not learned.side.end:
            learned.step()
        yield _compose(sides, renderer, step, differs)


def _compose(
    sides: Sequence[_Side], renderer: Renderer, step: int, differs: bool = False
) -> np.ndarray:
    """One frame: the sides with their names, the step and the return so far, and optionally their difference."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise MissingExtraError('videos need Pillow: pip install "world-env[train]"') from error
    frames = [(side.name, _status(side), renderer.frame(side.observation)) for side in sides]
    if differs:
        one, other = (frame.astype(np.int16) for _, _, frame in frames)
        apart = np.abs(one - other)
        frames.append(("difference", f"mean {apart.mean():.1f} of 255", apart.astype(np.uint8)))
    panels = []
    for _, _, frame in frames:
        picture = Image.fromarray(frame)
        width = max(round(picture.width * _PANEL_HEIGHT / picture.height), 160)
        smooth = picture.height > 100
        how = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
        panels.append(picture.resize((width, _PANEL_HEIGHT), how))
    total = sum(panel.width for panel in panels) + _GAP * (len(panels) - 1)
    # Video encoders need even sizes.
    canvas = Image.new("RGB", (total + total % 2, _PANEL_HEIGHT + 2 * _BAND), _PAPER)
    draw = ImageDraw.Draw(canvas)
    left = 0
    for (name, text, _), panel in zip(frames, panels, strict=True):
        canvas.paste(panel, (left, _BAND))
        draw.text((left + 8, _BAND / 2), name, _INK, anchor="lm", font_size=20)
        below = (left + 8, _PANEL_HEIGHT + 1.5 * _BAND)
        draw.text(below, text, _SOFT, anchor="lm", font_size=18)
        left += panel.width + _GAP
    draw.text((total - 8, _BAND / 2), f"step {step}", _SOFT, anchor="rm", font_size=18)
    return np.array(canvas)


def _status(side: _Side) -> str:
    if side.follows:
        return "context: real observations"
    end = f" · {END_LABELS.get(side.end, side.end)} at {side.steps}" if side.end else ""
    return f"return {side.total:.4g}{end}"


def encode_frames(path: Path, frames: Sequence[np.ndarray], duration: int) -> None:
    """Write (H, W, 3) uint8 frames of equal size as a video. duration: milliseconds of one frame."""
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
