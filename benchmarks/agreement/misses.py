"""One-step errors of a twin along real episodes of policies, and how these policies move.

    python -m benchmarks.agreement.misses --task HalfCheetah-v5 --seeds 0 1 2 --column 8

For each seed: the twin of the cell of agreement.py, the policies of the pool, and the policies trained in the twin. All
play a few real episodes, counted in the file. In units of the observed column (column 8 of HalfCheetah: forward speed
in m/s):

    turned               share of steps after which an action changes its sign, over dimensions of the action
    change               root mean square change of the column in one step
    miss, miss_rms       mean and root mean square of predicted minus real after one step (mean of the members)
    reward, reward_miss  mean real reward of a step; mean of predicted minus real
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from benchmarks.agreement.agreement import LEARN_RUNS, place_of
from benchmarks.arguments import option, script_parser
from benchmarks.returns.returns import read
from world_env.atomic_io import write_json
from world_env.batch import Batch, Context
from world_env.collection import play
from world_env.data import Episode, encode_episodes
from world_env.models import WorldModel
from world_env.policies import load_policy
from world_env.policy_evaluation import Pool
from world_env.provenance import facts
from world_env.real import StepLedger, make_real
from world_env.rng import CounterRNG
from world_env.rollouts import Actor, policy_actor
from world_env.spec import EnvConfig
from world_env.twin import Twin
from world_env.types import JSON, OBSERVATION

BENCHMARK = "misses"
SEEDS = range(60_000, 60_004)
"""Reset seeds of the real episodes, used by nothing else."""
MAX_STEPS = 500
"""Largest number of steps of an episode."""


def main() -> None:
    """Measure the twins of the named cells and write the file."""
    parser = script_parser(__doc__, BENCHMARK, seeds=range(3))
    option(parser, "--task", "HalfCheetah-v5", "task to measure")
    option(parser, "--column", 8, "observation dimension")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = Path(os.environ.get("WORLD_ENV_RUNS", "runs"))
    found = Pool.load(runs / "pools" / arguments.task)
    ledger, rows = StepLedger(), list[JSON]()
    for seed in arguments.seeds:
        place = place_of(runs, arguments.task, seed, {})
        twin = Twin.load(sorted(place.glob("round-*"))[-1] / "twin")
        actors = {
            (member.name, "reality"): found.actor(member, twin.spec) for member in found.members
        }
        for number in range(LEARN_RUNS):
            policy = load_policy(place / f"learned-{number}")
            actors[f"run {number}", "twin"] = policy_actor(policy)
        for (name, trained_in), actor in actors.items():
            episodes = real_episodes(actor, found.real, ledger)
            row = {"task": arguments.task, "seed": seed, "policy": name, "trained_in": trained_in}
            row |= {"column": arguments.column} | moved_and_missed(episodes, twin, arguments.column)
            rows.append(row)
            print(row, flush=True)
    stored = read(arguments.out) or {"rows": []}
    kept = [row for row in stored["rows"] if row["task"] != arguments.task]
    tree = {"benchmark": BENCHMARK} | facts() | {"real_steps": ledger.by_purpose}
    write_json(arguments.out, tree | {"rows": kept + rows})


def real_episodes(actor: Actor, real: EnvConfig, ledger: StepLedger) -> list[Episode]:
    """Real episodes of a policy, at most `MAX_STEPS` steps each."""

    def act(observation: np.ndarray) -> np.ndarray:
        return actor(observation[None], np.arange(1))[0]

    with closing(make_real(real, purpose="evaluate", ledger=ledger)) as env:
        return [play(env, act, seed, MAX_STEPS) for seed in SEEDS]


def moved_and_missed(episodes: list[Episode], twin: Twin, column: int) -> JSON:
    """Rest of one row, from real episodes with Box actions and observations."""
    data = encode_episodes(episodes, twin.codec)
    batch = data.gather(torch.arange(len(data.left)), 1)
    before, after = batch.observations[OBSERVATION][:, :, column].unbind(1)
    predicted, rewards = mean_step(twin.model, batch)
    miss = predicted[:, column] - after
    turns = [np.sign(part.actions[1:]) != np.sign(part.actions[:-1]) for part in episodes]
    return {
        "steps": len(batch),
        "reward": float(batch.rewards.mean()),
        "turned": float(np.concatenate(turns).mean()),
        "change": _root_mean_square(after - before),
        "miss": float(miss.mean()),
        "miss_rms": _root_mean_square(miss),
        "reward_miss": float((rewards - batch.rewards[:, 0]).mean()),
    }


@torch.no_grad()
def mean_step(model: WorldModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, D) next observations and (B,) rewards, means over members without noise."""
    context = Context.from_observation(batch.start(), batch.actions.shape[-1])
    observations, rewards = [], []
    # An ensemble draws one member for each batch row: ten draws cover all members.
    for draw in range(10):
        rng = CounterRNG.from_seed(draw, len(batch))
        state = model.encode(context, rng=rng)
        state, prediction = model.step(state, batch.actions[:, 0], rng=rng, temperature=0.0)
        observations.append(model.decode(state)[OBSERVATION])
        rewards.append(prediction.reward)
    return torch.stack(observations).mean(0), torch.stack(rewards).mean(0)


def _root_mean_square(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt())


if __name__ == "__main__":
    main()
