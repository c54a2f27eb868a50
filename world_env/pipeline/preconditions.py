"""Checks of a build or a refinement before its first real step."""

from __future__ import annotations

import importlib.util
import logging

from world_env.pipeline.config import BuildConfig
from world_env.pipeline.refinement_config import refine_config
from world_env.policy_evaluation.policy_pool import Pool
from world_env.real.real_env import spec_of
from world_env.refinement.config import RefineConfig, check_actions
from world_env.refinement.preconditions import checked_spec
from world_env.rendering.poses import POSES
from world_env.spec import WorldSpec, check_same_spaces
from world_env.twin.twin import KnownFunction

_PAGE_PACKAGES = {"matplotlib": "plots", "PIL": "frames"}
"""Packages of the report page -> what the page lacks without them."""

_log = logging.getLogger(__name__)


def check_before_steps(
    config: BuildConfig | RefineConfig, reward_fn: KnownFunction | None = None
) -> WorldSpec:
    """Check everything that would stop a later stage, without a real step, and return the spec of the environment.

    Checked are: environment, spaces, algorithm, family and size of the model, exploration, time limit, pool, and the
    known rewards of the twins (`reward_fn`) if the training needs them. Logs a warning for packages of the report page
    that are not installed.
    Raises the errors of `world_env.refinement.preconditions.checked_spec`, StageError for a folder without a pool, and
    SpaceMismatchError for a pool of another environment.
    """
    if isinstance(config, RefineConfig):
        return checked_spec(config, reward_fn)
    spec = checked_spec(refine_config(config), reward_fn)
    check_actions(config.algo, spec)
    if config.pool is not None:
        check_same_spaces(spec_of(Pool.load(config.pool).real), spec)
    wanted = dict(_PAGE_PACKAGES)
    if spec.real_id in POSES and not spec.real_id.endswith("-v5"):  # those draw with MuJoCo
        wanted["pygame"] = "frames"
    for package, part in wanted.items():
        if importlib.util.find_spec(package) is None:
            _log.warning(
                'the report page will have no %s: %s is not installed (pip install "world-env[%s]")',
                part,
                package,
                "classic" if package == "pygame" else "train",
            )
    return spec
