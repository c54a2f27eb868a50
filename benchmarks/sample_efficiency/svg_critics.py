"""SVG in a fixed twin by its critics: plain ones of SAC, and normalised ones with outputs in other units.

    python -m benchmarks.sample_efficiency.svg_critics --resume

The twin is the bundled "half-cheetah"; no real step is taken. After every 1,000 updates: returns in the twin and in the
real environment, and the values of the critics beside the returns that they predict: discounted, with entropies, of the
same states, actions and policy in 1,000 steps of the model (Monte Carlo).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from stable_baselines3.sac.policies import SACPolicy

from benchmarks.arguments import script_parser
from benchmarks.returns.returns import add_missing
from world_env.envs import WorldModelSB3VecEnv
from world_env.policies import as_policy
from world_env.policy_evaluation import learned_returns
from world_env.real import StepLedger
from world_env.rl.learn import normalization_of
from world_env.rl.svg import SVG, DifferentiableTwin
from world_env.rl.svg_networks import networks_of
from world_env.rng import CounterRNG
from world_env.rollouts import run_real
from world_env.twin import Twin
from world_env.types import JSON

BENCHMARK = "svg_critics"
TWIN = "half-cheetah"
CRITICS: dict[str, Any] = {
    "plain": None,
    "normalised, unit 1": 1.0,
    "normalised, unit 100": 100.0,
    "normalised, unit 1,000": 1_000.0,
}
"""Name -> unit of the values; None: the critics of Stable-Baselines3's SAC."""
UPDATES = (1_000, 2_000, 3_000)
BATCH = 128
RESET_SEEDS = range(30_000, 30_020)
ROWS, STEPS = 64, 1_000
"""Rows and steps of the Monte Carlo returns."""


def main() -> None:
    """Run the missing rows and write the file after each."""
    parser = script_parser(__doc__, BENCHMARK, seeds=range(3), resume=True)
    parser.add_argument(
        "--critics",
        nargs="+",
        metavar="NAME",
        choices=CRITICS,
        default=list(CRITICS),
        help=f"critics to measure, of {'; '.join(CRITICS)}",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.resume:
        arguments.out.unlink(missing_ok=True)
    for seed in arguments.seeds:
        for critics in arguments.critics:
            key = {"task": TWIN, "seed": seed, "critics": critics}
            add_missing(arguments.out, BENCHMARK, key, partial(measured, seed, CRITICS[critics]))


def measured(seed: int, unit: float | None) -> JSON:
    """Rest of one row."""
    twin = Twin.load(TWIN)
    options = normalization_of(twin)
    policy: Any = "MlpPolicy"
    if unit is None:
        policy = SACPolicy
    else:
        options["value_scale"] = unit
    env = WorldModelSB3VecEnv(twin, 1)
    model = SVG(policy, env, seed=seed, batch_size=BATCH, policy_kwargs=options)
    return {"curve": [_trained(model, twin, updates) for updates in UPDATES]}


def _trained(model: SVG, twin: Twin, updates: int) -> JSON:
    """Train until a number of updates, and measure."""
    model.learn(updates - model.num_timesteps, reset_num_timesteps=False)
    policy = as_policy(model)
    learned = learned_returns(policy, twin, len(RESET_SEEDS))
    real = run_real(policy, twin.provenance.real, RESET_SEEDS, purpose="judge", ledger=StepLedger())
    values, returns = _values(model, twin)
    return {
        "updates": updates,
        "learned_mean": learned.mean,
        "real_mean": float(real.values.mean()),
        "value": values,
        "monte_carlo": returns,
    }


def _values(model: SVG, twin: Twin) -> tuple[float, float]:
    """Mean value of the critics, and mean return of the same states and actions."""
    rng = CounterRNG.from_seed(0, ROWS)
    world, networks = DifferentiableTwin(twin, model), networks_of(model)
    assert model.log_ent_coef is not None
    with torch.no_grad():
        drawn = next(world.visited(networks, rng))
        entropy = float(model.log_ent_coef.exp())
        rollout = world.rollout(networks, drawn, rng, entropy, STEPS)
        values = networks.value(rollout.observation, rollout.action)
    return float(values.mean()), float(rollout.returns.mean())


if __name__ == "__main__":
    main()
