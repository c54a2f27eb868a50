"""A twin as one natively batched `stable_baselines3` VecEnv: what its algorithms take directly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from world_env.bundled_twins import DEFAULT_TWIN
from world_env.envs.factory import open_simulator
from world_env.errors import InvalidOptionError, MissingExtraError, ResetNeededError
from world_env.simulation.simulator import ENDS, Simulator, Snapshot, StepResult
from world_env.spaces import row_of
from world_env.twin.twin import KnownFunction, Twin

try:
    from stable_baselines3.common.vec_env.base_vec_env import VecEnv
except ImportError as error:
    raise MissingExtraError(
        "WorldModelSB3VecEnv needs stable-baselines3, which is not installed: "
        'pip install "world-env[train]"'
    ) from error


class WorldModelSB3VecEnv(VecEnv):
    """`num_envs` worlds of a twin under Stable-Baselines3's contract.

    Finished rows restart within the step; their infos hold "terminal_observation" and "TimeLimit.truncated", so that
    algorithms bootstrap exactly at truncations. Wrap in VecMonitor for episode returns.

    twin, render_mode, device, max_episode_steps, reward_fn, termination_fn, options: as for WorldModelEnv, but
    uncertainty is computed only on demand: `uncertainty=True` puts it into every info, an `on_uncertain` rule alone
    into those of ends. Infos of rows that go on are otherwise empty dicts, the same ones at every step.
    """

    def __init__(
        self,
        twin: str | Path | Twin = DEFAULT_TWIN,
        num_envs: int = 1,
        *,
        seed: int | None = None,
        render_mode: str | None = None,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        reward_fn: KnownFunction | None = None,
        termination_fn: KnownFunction | None = None,
        **options: Any,
    ) -> None:
        self.simulator: Simulator = open_simulator(
            twin,
            num_envs,
            options,
            render_mode=render_mode,
            device=device,
            max_episode_steps=max_episode_steps,
            reward_fn=reward_fn,
            termination_fn=termination_fn,
        )
        self.render_mode = render_mode
        self._renderer: Any = None
        self._actions: Any = None
        self._infos: list[dict[str, Any]] = [{} for _ in range(self.simulator.num_rows)]
        # Where only a rule needs it, it is told at ends: all rows at each step would cost a dict each.
        self._tells_uncertainty = bool(options.get("uncertainty"))
        super().__init__(
            self.simulator.num_rows, self.simulator.view.space, self.twin.spec.action_space
        )
        if seed is not None:
            self.seed(seed)

    @property
    def twin(self) -> Twin:
        """The twin that these worlds live in."""
        return self.simulator.twin

    def reset(self) -> Any:
        """Begin new episodes everywhere; `seed()` and `set_options()` take effect here. Returns observations."""
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        options = self._batched_options()
        observation = self.simulator.reset(seed=seeds, options=options)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return observation

    def step_async(self, actions: Any) -> None:
        """Keep actions (N, ...) for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """(observations, rewards (N,) float32, dones (N,) bool, infos); finished rows show their new start.

        Raises ResetNeededError before the first reset or without `step_async`.
        """
        if self._actions is None:
            raise ResetNeededError("no actions to step with: call step_async(actions) first")
        actions, self._actions = self._actions, None
        result = self.simulator.step(actions)
        observation, dones = result.observation, result.end != 0
        # Thousands of new dicts would cost more than the rest of the shell: rows that go on have nothing to say.
        infos = self._infos.copy()
        if self._tells_uncertainty and result.uncertainty is not None:
            infos = [{"uncertainty": value} for value in result.uncertainty.tolist()]
        if dones.any():
            _tell_ends(infos, result)
            observation = self.simulator.reset(dones)
        return observation, result.reward, dones, infos

    def close(self) -> None:
        """Let go of the renderer, if there is one; closing twice is fine."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One RGB frame for each row; Nones without a render mode."""
        if self.render_mode is None:
            return [None] * self.num_envs
        if self._renderer is None:
            from world_env.rendering.renderer import Renderer

            self._renderer = Renderer(self.twin.spec)
        observation = self.simulator.decoded_observation()
        return [self._renderer.frame(row_of(observation, row)) for row in range(self.num_envs)]

    # -- what the algorithms and wrappers ask for ----------------------------------------------------------------

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute, once for each row asked for."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute; rows share it, so only all of them can be set.

        Raises InvalidOptionError for some of the rows.
        """
        if len(set(self._get_indices(indices))) != self.num_envs:
            raise InvalidOptionError(
                f"rows share their attributes: {attr_name!r} can only be set for all {self.num_envs} of them"
            )
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method once, because rows share one simulator; its result once for each row asked for."""
        if method_name == "render":
            images = self.get_images()
            return [images[row] for row in self._get_indices(indices)]
        value = getattr(self, method_name)(*method_args, **method_kwargs)
        return [value for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """No row is wrapped by anything."""
        return [False for _ in self._get_indices(indices)]

    # -- snapshots -----------------------------------------------------------------------------------------------

    def snapshot(self, rows: Any = None) -> Snapshot:
        """All there is to `rows` ((N,) bool or indices; None: all); `restore` replays the same future."""
        return self.simulator.snapshot(rows)

    def restore(self, snapshot: Snapshot, rows: Any = None, *, fresh_noise: bool = False) -> Any:
        """Put a snapshot's rows into `rows` (None: all); returns all rows' observations."""
        self.simulator.restore(snapshot, rows, fresh_noise=fresh_noise)
        return self.simulator.observe()

    def fork(self, rows: Any = None, n: int = 1, *, seed: int | None = None) -> Simulator:
        """A Simulator with `n` futures of each of `rows`, each with noise of its own."""
        return self.simulator.fork(rows, n, seed=seed)

    # -- details -------------------------------------------------------------------------------------------------

    def _batched_options(self) -> dict[str, Any] | None:
        """SB3 keeps one dict of options a row; a batched simulator can only take the plain case.

        Raises InvalidOptionError for anything but one "observation" a row.
        """
        if not any(self._options):
            return None
        if any(
            not isinstance(options, dict) or set(options) != {"observation"}
            for options in self._options
        ):
            raise InvalidOptionError(
                "set_options takes {'observation': ...} for every row; for contexts and snapshots use "
                "restore(), or WorldModelVectorEnv"
            )
        rows = [options["observation"] for options in self._options]
        if isinstance(rows[0], dict):
            keys = rows[0]
            return {"observation": {key: np.stack([row[key] for row in rows]) for key in keys}}
        return {"observation": np.stack([np.asarray(row) for row in rows])}


def _tell_ends(infos: list[dict[str, Any]], result: StepResult) -> None:
    """Write what SB3 expects into the infos of the rows that ended."""
    for row in np.flatnonzero(result.end).tolist():
        infos[row] = {
            "end": ENDS[result.end[row]],
            "terminal_observation": row_of(result.observation, row),
            "TimeLimit.truncated": bool(result.truncated[row]),
        }
        if result.uncertainty is not None:
            infos[row]["uncertainty"] = float(result.uncertainty[row])
