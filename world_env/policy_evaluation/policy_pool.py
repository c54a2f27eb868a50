"""Policy pool: policies trained in the real environment only, spread over the range of returns, to evaluate twins.

No pool policy trains in a twin, and no twin is fitted to data of a pool policy: `collect` refuses them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from world_env.atomic_io import write_json
from world_env.device import torch_defaults
from world_env.errors import StageError
from world_env.policies.function_policy import FunctionPolicy
from world_env.policies.loading import as_policy
from world_env.policies.protocol import Policy
from world_env.policies.random_policy import EpsilonRandomPolicy, RandomPolicy
from world_env.policies.saved_policy import save_policy
from world_env.policy_evaluation.config import MAX_OF_A_FIFTH, PoolConfig
from world_env.policy_evaluation.pool_selection import Member, choose, range_shares
from world_env.real.api_check import check_real, check_step
from world_env.real.real_env import spec_of
from world_env.real.step_ledger import StepLedger
from world_env.results.provenance import facts
from world_env.results.step_plan import PlannedSteps, of_episodes
from world_env.rl.callbacks import milestones
from world_env.rl.learn import LearnConfig, learn
from world_env.rl.step_plan import training_steps
from world_env.rollouts.real import run_real
from world_env.rollouts.returns import Returns
from world_env.run_config import keep_config, one_at_a_time
from world_env.seeding import SeedPurpose, derived_seeds
from world_env.spec import EnvConfig, WorldSpec, check_same_spaces
from world_env.twin.twin import Twin
from world_env.types import JSON

FORMAT = 1
FIRST_SEED = 30_000
"""First reset seed of a pool's evaluation episodes. `collect`, `build` and `compare` use other seeds."""
_STAGES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
"""Shares of a run after which its policy is saved, besides the last one."""
_NOISE = (0.25, 0.5, 0.75, 0.9)
"""Probabilities of a random action for copies of the last policy. They fill gaps between the stages."""
_LITTLE_NOISE = (0.01, 0.02, 0.05, 0.1)
"""The same for each run's best policy, where gaps remain: tasks that end after one wrong action."""
_SELECT_EPISODES = 10
"""Real episodes of each candidate."""
_MANIFEST = "pool.json"
Report = Callable[[str, int, int, JSON], None]
"""Progress callback: (stage, steps done, steps in total, values to log)."""


@dataclass(frozen=True)
class Pool:
    """Policies with their real returns. Made by `pool`, loaded by `Pool.load`.

    returns: one for each member, over the reset seeds `seeds`. real_steps: purpose -> real steps of the pool.
    encoder: fingerprint of the twin that gives latent observations; None: observations of the environment.
    scripted: "module:function" of the scripted policy, if there is one.
    """

    folder: Path
    real: EnvConfig
    members: list[Member]
    returns: list[Returns]
    seeds: range
    real_steps: dict[str, int] = field(default_factory=dict)
    provenance: JSON = field(default_factory=dict)
    encoder: str | None = None
    scripted: str | None = None

    def policy(self, member: Member, spec: WorldSpec) -> Policy:
        """The policy of a member. Its random numbers derive from the seeds of its episodes, real or learned."""
        return _policy(self.folder, member, self.scripted, spec)

    @classmethod
    def load(cls, folder: Path) -> Pool:
        """Load a finished pool. Raises StageError where there is none."""
        path = Path(folder) / _MANIFEST
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            if tree["format"] > FORMAT:
                raise StageError(
                    f"{path} has format {tree['format']}, but this version reads up to {FORMAT}: upgrade world-env"
                )
            members = [
                Member(**{key: row[key] for key in ("name", "run", "source", "noise")})
                for row in tree["members"]
            ]
            returns = [
                Returns(np.array(row["returns"]), np.array(row["lengths"], np.int64), None)
                for row in tree["members"]
            ]
            if tree.get("scripted") is None and any(m.source == "scripted" for m in members):
                raise ValueError(
                    "it does not name its scripted policy: run the command that made it again"
                )
            seeds = range(tree["seeds"][0], tree["seeds"][1] + 1)
            if not members or any(len(part.values) != len(seeds) for part in returns):
                raise ValueError("each member needs one return per seed")
            real = EnvConfig.from_json(tree["real"], where=str(path), error=StageError)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, StageError):
                raise
            raise StageError(
                f"{path} is no finished pool ({type(error).__name__}: {error}): make one with `world-env pool`, or run "
                "an interrupted command again to resume"
            ) from error
        return cls(
            Path(folder),
            real,
            members,
            returns,
            seeds,
            tree["real_steps"],
            tree["provenance"],
            tree.get("encoder"),
            tree.get("scripted"),
        )


@torch_defaults()
@one_at_a_time(lambda config, **_: config.out)
def pool(config: PoolConfig, *, report: Report | None = None) -> Pool:
    """Train, select and evaluate the policies of a pool. Run again to resume; a finished pool is loaded.

    The pool's own ledger counts its real steps: training ("collect"), a few episodes of every candidate ("select") and
    evaluation ("judge"). They are not part of the real steps of a twin.
    report: progress callback, (stage, steps done, steps in total, values to log).
    Raises ConfigMismatchError for a folder with another pool, SpaceMismatchError for a twin of other spaces as encoder,
    StageBusyError while another process uses the folder, RealStepLimitError at `max_real_steps`.
    """
    report = report or (lambda stage, done, wanted, logs: None)
    folder = Path(config.out)
    spec = spec_of(config.real)
    encoder = None if config.encoder is None else Twin.load(config.encoder)
    if encoder is not None:
        check_same_spaces(spec, encoder.spec)
    identity = _identity(config, encoder)
    keep_config(folder, identity, results=(_MANIFEST, "estimates.json", "*/closed"))
    if (folder / _MANIFEST).is_file():
        return Pool.load(folder)
    ledger = StepLedger(folder / "real-steps.json", max_steps=config.max_real_steps)
    check_real(config.real, ledger=ledger)
    candidates = _fixed(config)
    runs = plan(config, spec.action_space)
    for number, (name, run) in enumerate(runs.items()):
        candidates += _train(config, folder, name, run, ledger, encoder)
        report("train", number + 1, len(runs), {})
    estimates = _estimates(config, folder, candidates, spec, ledger, report)
    chosen = choose(candidates, estimates, config.policies)
    if (
        max(range_shares([estimates[candidates.index(member)] for member in chosen]))
        > MAX_OF_A_FIFTH
    ):
        candidates += _with_little_noise(candidates, estimates)
        estimates = _estimates(config, folder, candidates, spec, ledger, report)
        chosen = choose(candidates, estimates, config.policies)
    seeds = range(FIRST_SEED, FIRST_SEED + config.episodes)
    returns = []
    for number, member in enumerate(chosen):
        policy = _policy(folder, member, config.scripted, spec)
        returns.append(run_real(policy, config.real, seeds, purpose="judge", ledger=ledger))
        report("evaluate", number + 1, len(chosen), {})
    ledger.save()
    tree = {
        "format": FORMAT,
        "identity": identity,
        "real": config.real.to_json(),
        "seeds": [seeds[0], seeds[-1]],
        "range_shares": range_shares([part.mean for part in returns]),
        "encoder": None if encoder is None else encoder.fingerprint(),
        "scripted": config.scripted,
        "real_steps": ledger.by_purpose,
        "provenance": facts().to_json(),
        "members": [
            vars(member)
            | {"returns": part.values.tolist(), "lengths": part.lengths.tolist()}
            for member, part in zip(chosen, returns, strict=True)
        ],
    }  # fmt: skip
    write_json(folder / _MANIFEST, tree)
    return Pool.load(folder)


def plan(config: PoolConfig, space: spaces.Space[Any]) -> dict[str, LearnConfig]:
    """Training runs of a pool: four of PPO, four of algorithms with another kind of exploration."""
    seeds = derived_seeds(config.seed, SeedPurpose.POOL_TRAINING, 8)
    many, few = config.on_policy_steps, config.off_policy_steps
    ppo = {
        f"ppo-{i}": LearnConfig(
            steps=many, num_envs=config.parallel_envs, seed=seeds[i], algo_kwargs=config.algo_kwargs
        )
        for i in range(4)
    }
    if isinstance(space, spaces.Box):
        others = {name: LearnConfig(algo=name, steps=few) for name in ("SAC", "TD3")}
    else:
        others = {"A2C": LearnConfig(algo="A2C", steps=many, num_envs=config.parallel_envs)}
        if isinstance(space, spaces.Discrete):
            others["DQN"] = LearnConfig(
                algo="DQN", steps=few, algo_kwargs=config.off_policy_algo_kwargs
            )
    each = 4 // len(others)
    runs = ppo | {
        f"{name.lower()}-{i}": run.replace(seed=seeds[4 + i])
        for name, run in others.items()
        for i in range(each)
    }
    mode = "observation" if config.encoder is None else "latent"
    return {name: run.replace(observation_mode=mode) for name, run in runs.items()}


def crowding(found: Pool) -> str | None:
    """Warning text where one fifth of the range of returns has too many of the policies; None where it has not."""
    most = max(range_shares([part.mean for part in found.returns]))
    if most <= MAX_OF_A_FIFTH:
        return None
    return (
        f"{100 * most:.0f} % of the policies have returns in one fifth of the range of real returns (expected at most "
        f"{100 * MAX_OF_A_FIFTH:.0f} %), so correlations depend on few other policies: change the real steps of the "
        "runs (--on-policy-steps, --off-policy-steps) to save other stages"
    )


def _fixed(config: PoolConfig) -> list[Member]:
    members = [Member("random", "random", "random")]
    if config.scripted is not None:
        members += [Member("scripted", "scripted", "scripted")]
        members += [
            Member(f"scripted, {noise:.0%} random", "scripted", "scripted", noise)
            for noise in _NOISE
        ]
    return members


def _train(
    config: PoolConfig,
    folder: Path,
    name: str,
    run: LearnConfig,
    ledger: StepLedger,
    encoder: Twin | None,
) -> list[Member]:
    """Train one run. Returns its stages, and its last policy with several levels of noise."""
    run_folder = folder / name
    stages = {
        max(1, round(share * run.steps)): run_folder / f"stage-{i}"
        for i, share in enumerate(_STAGES)
    }
    if not (run_folder / "closed" / "policy.json").is_file():
        unfinished = run_folder / "last"
        model = learn(
            config.real,
            run,
            out=unfinished,
            ledger=ledger,
            purpose="collect",
            callbacks=[milestones(stages, trained_in="real", evaluates_twins=True)],
            encoder=encoder,
        )
        save_policy(model, run_folder / "closed", trained_in="real", evaluates_twins=True)
        shutil.rmtree(unfinished)
    kept = [path for path in stages.values() if (path / "policy.json").is_file()]
    members = [Member(f"{name} {path.name}", name, f"{name}/{path.name}") for path in kept]
    last = f"{name}/closed"
    members.append(Member(f"{name} last", name, last))
    return members + [
        Member(f"{name} last, {noise:.0%} random", name, last, noise) for noise in _NOISE
    ]


def _with_little_noise(candidates: Sequence[Member], estimates: Sequence[float]) -> list[Member]:
    """Each run's best policy by estimated return, with several small levels of noise."""
    best: dict[str, tuple[float, Member]] = {}
    for member, value in zip(candidates, estimates, strict=True):
        if not member.noise and member.source != "random":
            best[member.run] = max(
                best.get(member.run, (value, member)), (value, member), key=lambda pair: pair[0]
            )
    return [
        Member(f"{member.name}, {noise:.0%} random", member.run, member.source, noise)
        for _, member in best.values()
        for noise in _LITTLE_NOISE
    ]


def _estimates(
    config: PoolConfig,
    folder: Path,
    candidates: Sequence[Member],
    spec: WorldSpec,
    ledger: StepLedger,
    report: Report,
) -> list[float]:
    """Mean real return of each candidate over a few episodes; stored, so that no real step is taken twice."""
    path = folder / "estimates.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    seeds = derived_seeds(config.seed, SeedPurpose.POOL_SELECTION, _SELECT_EPISODES)
    for number, member in enumerate(candidates):
        if member.name not in known:
            policy = _policy(folder, member, config.scripted, spec)
            found = run_real(policy, config.real, seeds, purpose="select", ledger=ledger)
            known[member.name] = found.mean
            write_json(path, known)
        report("select", number + 1, len(candidates), {})
    return [known[member.name] for member in candidates]


def _policy(folder: Path, member: Member, scripted: str | None, spec: WorldSpec) -> Policy:
    own: Policy
    if member.source == "random":
        return RandomPolicy(spec.action_space)
    if member.source == "scripted" and scripted is not None:
        own = FunctionPolicy.named(scripted)
    else:
        own = as_policy(folder / member.source, spec)
    return EpsilonRandomPolicy(own, spec.action_space, member.noise) if member.noise else own


def _identity(config: PoolConfig, encoder: Twin | None) -> JSON:
    """Settings of the pool: an encoder counts by its weights, not by its path."""
    return config.to_json() | {"encoder": None if encoder is None else encoder.fingerprint()}


def pool_steps(config: PoolConfig, spec: WorldSpec) -> list[PlannedSteps]:
    """Real steps that `pool` still takes: training, choice among the candidates, evaluation."""
    folder = Path(config.out)
    if (folder / _MANIFEST).is_file():
        return []
    runs, parts = plan(config, spec.action_space), [check_step(config.real)]
    for name, run in runs.items():
        if not (folder / name / "closed" / "policy.json").is_file():
            use = f"{run.algo} in the real environment ({name})"
            parts.append(training_steps(run, spec, folder / name / "last", use=use))
    fixed = _fixed(config)
    most = len(fixed) + len(runs) * (len(_STAGES) + 1 + len(_NOISE))
    most += (len(runs) + (config.scripted is not None)) * len(_LITTLE_NOISE)
    path = folder / "estimates.json"
    known = len(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else 0
    limits = (spec.horizon, spec.action_chunk)
    use = f"choice among at most {most} policies x {_SELECT_EPISODES} episodes"
    select = of_episodes("select", use, max(0, most - known) * _SELECT_EPISODES, *limits)
    fewest = len(fixed) + len(runs) * (1 + len(_NOISE))
    parts.append(select.replace(at_least=max(0, fewest - known) * _SELECT_EPISODES))
    use = f"evaluation of at most {config.policies} policies x {config.episodes} episodes"
    judge = of_episodes("judge", use, config.policies * config.episodes, *limits)
    return [*parts, judge.replace(at_least=config.episodes)]
