"""Exploration: the policy that acts in the real environment while data is collected."""

from __future__ import annotations

from world_env.errors import InvalidOptionError
from world_env.policies.held_policy import HeldPolicy
from world_env.policies.loading import as_policy, trained_policy
from world_env.policies.mixture_policy import MixturePolicy
from world_env.policies.protocol import Policy
from world_env.policies.random_policy import RandomPolicy
from world_env.policies.saved_policy import load_policy, policy_card
from world_env.policies.stuck_sensors_policy import StuckSensorsPolicy
from world_env.spec import WorldSpec


def parse_exploration(text: str, spec: WorldSpec) -> Policy:
    """Make the exploration that a text names.

    "random"; "held:STEPS" (mean steps per action); "policy:FOLDER" (sampled actions); "greedy:FOLDER" (deterministic
    actions); "stuck:SHARE:FOLDER" (sampled actions, that share of the observation dimensions stuck);
    "mix:WEIGHT*PART+WEIGHT*PART" (a mixture of these).

    Raises InvalidOptionError for any other text, and what `load_policy` raises.
    """
    kind, _, rest = text.strip().partition(":")
    space = spec.action_space
    if kind == "random" and not rest:
        return RandomPolicy(space)
    if kind == "held" and rest:
        return HeldPolicy(space, _number(rest, text, "held:20"))
    if kind in ("policy", "greedy") and rest:
        _check_may_collect(rest)
        return as_policy(rest, spec, deterministic=kind == "greedy")
    if kind == "stuck" and rest:
        number, _, folder = rest.partition(":")
        share = _number(number, text, "stuck:0.5:FOLDER")
        _check_may_collect(folder)
        model = load_policy(folder, expect=spec)
        return StuckSensorsPolicy.of(trained_policy(model, deterministic=False), model, share)
    if kind == "mix" and rest:
        pairs = [part.partition("*") for part in rest.split("+")]
        weights = [_number(weight, text, "mix:0.5*random+0.5*held:20") for weight, _, _ in pairs]
        return MixturePolicy([parse_exploration(part, spec) for _, _, part in pairs], weights)
    raise InvalidOptionError(
        f'unknown exploration {text!r}: expected "random", "held:20" (mean steps per action), "policy:FOLDER", '
        '"greedy:FOLDER", "stuck:0.5:FOLDER" (share of stuck dimensions), or a mixture such as '
        '"mix:0.5*random+0.5*held:20"'
    )


def _check_may_collect(folder: str) -> None:
    """Raise InvalidOptionError for a policy of a pool that evaluates twins."""
    if not folder.endswith(".zip") and policy_card(folder).evaluates_twins:
        raise InvalidOptionError(
            f"the policy {folder} belongs to a policy pool that evaluates twins: a twin fitted to data of this policy "
            "would get results that are too good. Collect with another policy."
        )


def _number(text: str, whole: str, example: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidOptionError(
            f'{text!r} in the exploration {whole!r} is not a number: expected for example "{example}"'
        ) from error
