"""Video of several learned rollouts from one real state, beside the real episode."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from world_env.errors import InvalidOptionError, MissingExtraError
from world_env.policies.loading import AnyPolicy, as_policy
from world_env.real.env_config import AnyEnv, as_env_config, limited
from world_env.real.real_env import make_real, spec_from
from world_env.real.step_ledger import StepLedger
from world_env.rendering.renderer import Renderer
from world_env.reporting.side_by_side_video import END_LABELS, beside, encode_frames, frame_duration
from world_env.rollouts.learned import LearnedStep, steps_in_twin
from world_env.rollouts.real import ONE, RealStep, steps_in_real
from world_env.simulation.config import OnUncertain, SimulatorConfig
from world_env.simulation.simulator import Simulator
from world_env.simulation.termination import ENDS
from world_env.spaces import one_row, row_of
from world_env.spec import check_same_spaces
from world_env.twin.twin import Twin

_WIDTH, _BAND, _GAP, _COLUMNS = 240, 20, 4, 3
_INK, _REAL, _CUT, _PAPER = (29, 33, 41), (31, 111, 235), (198, 47, 59), (255, 255, 255)
_GREY_OUT = 0.6
"""Share of white in a panel whose rollout went out of distribution."""


@dataclass
class _Panel:
    """State of one panel of the video."""

    name: str
    observation: Any
    end: str = ""
    steps: int = 0


def futures(
    twin: Twin,
    policy: AnyPolicy,
    out: str | os.PathLike[str],
    *,
    real: AnyEnv,
    after: int = 50,
    steps: int = 100,
    number: int = 5,
    every: int = 1,
    seed: int = 0,
    ledger: StepLedger,
) -> Path:
    """Write a video (.gif, or .mp4 as in `watch`) of learned rollouts from one real state, beside the real episode.

    after: real steps before the rollouts begin (default: 50).
    steps: length of each rollout in steps (default: 100).
    number: learned rollouts (default: 5), each with its own noise and, in an ensemble, its own member.
    every: keep every n-th frame (default: 1, all frames).
    A rollout stops and its frames are greyed out where the uncertainty exceeds its maximum on the training data. Real
    steps are counted in `ledger` as "evaluate".
    Raises InvalidOptionError for a real episode shorter than `after`, SpaceMismatchError, MissingExtraError,
    StageError.
    """
    counts = {"after": after, "steps": steps, "number": number, "every": every}
    for name, value in counts.items():
        if value < 1:
            raise InvalidOptionError(f"{name} must be >= 1, got {value}")
    with beside(Path(out)) as fresh, ExitStack() as stack:
        config = limited(as_env_config(real), twin.spec.horizon)
        env = stack.enter_context(closing(make_real(config, purpose="evaluate", ledger=ledger)))
        check_same_spaces(env, twin.spec)
        played = as_policy(policy, twin.spec)
        observation = env.reset(seed=seed)[0]
        played.reset(ONE, [seed])
        reality = steps_in_real(played, env, observation)
        for number_of_step, taken in enumerate(itertools.islice(reality, after), 1):
            observation = taken.observation
            if taken.terminated or taken.truncated:
                raise InvalidOptionError(
                    f"the real episode ended after {number_of_step} steps, before step {after}: choose a smaller value "
                    "of after, another seed or a better policy"
                )
        limit = spec_from(env, config).horizon
        left = None if limit is None else limit - after
        simulator = _simulator_at(twin, observation, number, seed, left)
        learned = steps_in_twin(played.fork(number), simulator, simulator.observe())
        panels = [_Panel("real", observation)]
        panels += [_Panel(f"rollout {i + 1}", observation) for i in range(number)]
        renderer = stack.enter_context(closing(Renderer(twin.spec)))
        frames = [_compose(panels, renderer, 0)]
        for step in range(1, steps + 1):
            _real_step(next(reality, None), panels[0])
            _learned_step(next(learned, None), panels[1:])
            if step % every == 0:
                frames.append(_compose(panels, renderer, step))
            if all(panel.end for panel in panels):
                break
        encode_frames(fresh, frames, every * frame_duration(twin.spec))
    return Path(out)


def _simulator_at(
    twin: Twin, observation: Any, number: int, seed: int, horizon: int | None
) -> Simulator:
    """Simulator with `number` environments at the real observation, truncated where they go out of distribution.

    horizon: steps that are left of the time limit.
    """
    rule: OnUncertain = "ignore" if twin.uncertainty_threshold is None else "truncate"
    config = SimulatorConfig(
        on_uncertain=rule, uncertainty="full" if rule == "truncate" else False, horizon=horizon
    )
    simulator = Simulator(twin, number, seed=seed, config=config)
    rows = one_row(observation)
    repeated = (
        {key: np.repeat(value, number, 0) for key, value in rows.items()}
        if isinstance(rows, dict)
        else np.repeat(rows, number, 0)
    )
    simulator.reset(options={"observation": repeated})
    return simulator


def _real_step(step: RealStep | None, panel: _Panel) -> None:
    """Show a step of the real episode; None: it has ended."""
    if step is None:
        return
    panel.observation, panel.steps = step.observation, panel.steps + 1
    panel.end = "terminated" if step.terminated else "horizon" if step.truncated else ""


def _learned_step(step: LearnedStep | None, panels: Sequence[_Panel]) -> None:
    """Show a step of the rollouts; None: all have ended."""
    if step is None:
        return
    for row in np.flatnonzero(step.running).tolist():
        panels[row].observation = row_of(step.result.observation, row)
        panels[row].steps += 1
        panels[row].end = ENDS[int(step.result.end[row])]


def _compose(panels: Sequence[_Panel], renderer: Renderer, step: int) -> np.ndarray:
    """One frame: all panels in a grid, the real one first."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise MissingExtraError('videos need Pillow: pip install "world-env[train]"') from error
    pictures = []
    for panel in panels:
        picture = Image.fromarray(renderer.frame(panel.observation))
        size = (_WIDTH, round(picture.height * _WIDTH / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        if panel.end == "uncertainty":
            picture = Image.blend(picture, Image.new("RGB", size, _PAPER), _GREY_OUT)
        pictures.append(picture)
    height = pictures[0].height + _BAND + _GAP
    rows = -(-len(panels) // _COLUMNS)
    total = _COLUMNS * (_WIDTH + _GAP) - _GAP
    canvas = Image.new("RGB", (total + total % 2, 2 * (rows * height // 2)), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for place, (panel, picture) in enumerate(zip(panels, pictures, strict=True)):
        left, top = place % _COLUMNS * (_WIDTH + _GAP), place // _COLUMNS * height
        canvas.paste(picture, (left, top + _BAND))
        name, colour = (f"real, step {step}", _REAL) if place == 0 else (panel.name, _INK)
        if panel.end:
            reason = END_LABELS.get(panel.end, panel.end)
            name, colour = f"{panel.name}: {reason} at {panel.steps}", _CUT
        draw.text((left + 4, top + _BAND / 2), name, colour, anchor="lm", font_size=12)
    return np.array(canvas)
