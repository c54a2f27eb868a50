"""Real return after a given number of real steps: policies trained in twins, and baselines in the real environment.

    python -m benchmarks.sample_efficiency.sample_efficiency --resume
    python -m benchmarks.sample_efficiency.sample_efficiency --tasks Hopper-v5 --seeds 0 --policies sac_real --resume

A row is one policy of one task and seed, evaluated once at the end on the same 100 reset seeds. An interrupted run
resumes from its folder (`WORLD_ENV_RUNS`, default "runs"). Policies:

    svg_twin        SVG, trained only in the twins of a refinement (preset "SVG")
    svg_twin_known  the same, with the true termination function
    ppo_twin        PPO, trained from scratch in the last twin of `svg_twin`, without more real steps
    sac_real        SAC in the real environment with as many steps, settings of the RL Baselines3 Zoo
    ppo_real        PPO in the real environment, 1,000,000 steps, defaults of Stable-Baselines3
    random          not trained

`curve` holds real returns of the policies of earlier rounds over 20 episodes; these steps are not counted and nothing
uses the result. `predicted_return` is made in the last twin before the policy is evaluated. `forward_mean` is the
return of the forward reward alone, if the environment reports it. Seeds 100 to 109 are for tuning.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.arguments import script_parser
from benchmarks.refinement.refined import returns_of
from benchmarks.returns.returns import EVALUATION_SEEDS, merge, read
from training import termination_functions
from world_env import BuildConfig, learn, refine
from world_env.pipeline import final_ppo, refine_config
from world_env.policies import RandomPolicy, as_policy, load_policy
from world_env.policy_evaluation import learned_returns
from world_env.real import StepLedger, spec_of
from world_env.refinement import Round, predicted_return
from world_env.results import PredictedReturn, facts
from world_env.rl import LearnConfig
from world_env.rollouts import run_real
from world_env.spec import EnvConfig
from world_env.twin import KnownFunction
from world_env.types import JSON

BENCHMARK = "sample_efficiency"
TASKS = {
    "HalfCheetah-v5": 100_000,
    "Hopper-v5": 100_000,
    "Walker2d-v5": 100_000,
    "InvertedDoublePendulum-v5": 5_000,
}
"""Task -> real steps of the policies trained in twins, and of SAC in the real environment."""
TERMINATIONS = {
    "HalfCheetah-v5": "never_ends",
    "Hopper-v5": "hopper_falls",
    "Walker2d-v5": "walker_falls",
    "InvertedDoublePendulum-v5": "double_pendulum_falls",
}
"""Task -> its true termination function in training/termination_functions.py."""
LONG = 1_000_000
POLICIES = ("svg_twin", "ppo_twin", "svg_twin_known", "sac_real", "ppo_real", "random")
CURVE = (0.1, 0.25, 0.5, 0.75)
"""Shares of the real steps at which the learning curve is measured, besides the end."""
CURVE_SEEDS = EVALUATION_SEEDS[:20]
_ZOO_SAC: JSON = {"learning_starts": 10_000}
"""Settings of SAC for MuJoCo in the RL Baselines3 Zoo that are no defaults of Stable-Baselines3."""
_PLAIN_PPO: JSON = {
    "n_steps": 2048,
    "batch_size": 64,
    "n_epochs": 10,
    "learning_rate": 3e-4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
}
"""Defaults of Stable-Baselines3's PPO, in place of those of world-env."""


def main() -> None:
    """Run the missing rows and write the file after each."""
    parser = script_parser(__doc__, BENCHMARK, tasks=TASKS, seeds=range(3), resume=True)
    parser.add_argument(
        "--policies",
        nargs="+",
        metavar="POLICY",
        choices=POLICIES,
        default=list(POLICIES),
        help="policies to measure, as above (default: all)",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep = arguments.resume
    for task in arguments.tasks:
        for seed in arguments.seeds:
            for policy in arguments.policies:
                key = {"task": task, "seed": seed, "policy": policy}
                stored = (read(arguments.out) if keep else None) or {"rows": []}
                if any(key.items() <= row.items() for row in stored["rows"]):
                    continue
                row = key | measured(task, seed, policy)
                merge(arguments.out, BENCHMARK, {"rows": [row]}, keep=keep)
                keep = True
                print(row, flush=True)


def measured(task: str, seed: int, name: str) -> JSON:
    """Train a policy, evaluate it, and return the fields of its row."""
    began, real = time.perf_counter(), EnvConfig(task)
    folder = Path(os.environ.get("WORLD_ENV_RUNS", "runs")) / BENCHMARK / f"{task}-{seed}"
    # PPO trains in the last twin of the rounds of SVG, which are run first where they are missing.
    rounds = "svg_twin" if name == "ppo_twin" else name
    ledger = StepLedger(folder / f"{rounds}-real-steps.json")
    policy: Any = RandomPolicy(spec_of(real).action_space)
    found: list[Round] = []
    predicted: PredictedReturn | None = None
    if name.endswith("_real"):
        policy = learn(real, _baseline(name, task, seed), out=folder / name, ledger=ledger)
    elif name != "random":
        known = termination_of(task) if name.endswith("_known") else None
        build = BuildConfig(real, folder / rounds, steps=TASKS[task], algo="SVG", seed=seed)
        found = refine(refine_config(build), ledger=ledger, termination_fn=known)
        policy, predicted = found[-1].policy, found[-1].log.predicted_return
        if name == "ppo_twin":
            began = time.perf_counter()
            policy = learn(found[-1].twin, final_ppo(build), out=folder / name)
            predicted = _predicted(policy, found)
    steps = sum(n for purpose, n in ledger.by_purpose.items() if purpose != "judge")
    if name.startswith("svg"):
        # Of a resumed run, other processes made the first rounds.
        seconds = sum(sum(each.seconds.values()) for each in found)
    else:
        seconds = time.perf_counter() - began
    judged = StepLedger()
    returns = run_real(policy, real, EVALUATION_SEEDS, purpose="judge", ledger=judged)
    made = facts()
    return {
        **returns_of(returns),
        "real_min": float(returns.values.min()),
        "real_steps": steps,
        "real_steps_by_purpose": ledger.by_purpose | judged.by_purpose,
        "predicted_return": None if predicted is None else predicted.to_json(),
        "curve": curve_of(found, real) if name.startswith("svg") else [],
        "seconds": round(seconds, 1),
        "commit": made.commit,
        "date": made.date,
    }


def _predicted(policy: Any, found: list[Round]) -> PredictedReturn:
    """Predicted return of a policy that no round has selected, with the errors of their real evaluations."""
    learned = learned_returns(as_policy(policy), found[-1].twin, len(EVALUATION_SEEDS))
    checks = [each.log.reality for each in found if each.log.reality is not None]
    return predicted_return(learned, [], checks)


def curve_of(found: list[Round], real: EnvConfig) -> list[JSON]:
    """Real returns of the policies of earlier rounds."""
    # The folder of the round itself: its newest policy, selected or not.
    kept = [
        each for each in found if (each.twin_folder.with_name("policy") / "policy.json").is_file()
    ]
    near = [_nearest(kept, share * found[-1].real_steps) for share in CURVE]
    curve = []
    for each in {each.number: each for each in near}.values():
        policy = load_policy(each.twin_folder.with_name("policy"))
        returns = run_real(policy, real, CURVE_SEEDS, purpose="judge", ledger=StepLedger())
        curve.append({"real_steps": each.real_steps, "real_mean": returns.mean})
    return curve


def _nearest(rounds: list[Round], steps: float) -> Round:
    return min(rounds, key=lambda each: abs(each.real_steps - steps))


def termination_of(task: str) -> KnownFunction:
    """True termination function of a task."""
    function: KnownFunction = getattr(termination_functions, TERMINATIONS[task])
    return function


def _baseline(name: str, task: str, seed: int) -> LearnConfig:
    if name == "sac_real":
        config = LearnConfig(algo="SAC", steps=TASKS[task], algo_kwargs=_ZOO_SAC)
    else:
        config = LearnConfig(
            steps=LONG, num_envs=1, algo_kwargs=_PLAIN_PPO, normalize_rewards=False
        )
    return config.replace(seed=seed)


if __name__ == "__main__":
    main()
