"""`world-env pool ENV_ID`: policies trained in reality only, spread over the range of returns, to judge twins by.

None of them ever sees a twin, and no twin may learn from them: `collect` refuses a pool's policies.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from world_env.atomic_io import write_json
from world_env.errors import StageError
from world_env.policies.latent_policy import LatentActor
from world_env.policies.saved_policy import CLOSED, load_policy, save_policy
from world_env.policy_evaluation.config import MAX_OF_A_FIFTH, PoolConfig
from world_env.policy_evaluation.pool_selection import Member, choose, fifths
from world_env.provenance import facts
from world_env.real.real_env import spec_of
from world_env.real.step_ledger import StepLedger
from world_env.rl.callbacks import milestones
from world_env.rl.learn import LearnConfig, learn
from world_env.rollouts.actors import Actor, policy_actor, random_actor, scripted_actor
from world_env.rollouts.real import run_real
from world_env.rollouts.returns import Returns
from world_env.spec import EnvConfig, WorldSpec, check_same_spaces
from world_env.twin.twin import Twin
from world_env.types import JSON

FORMAT = 1


FIRST_SEED = 30_000
"""Reset seeds of a pool's judged episodes begin here; collecting, `build` and `compare` use others."""


_STAGES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
"""Shares of a run at which its policy is kept, beside the last one."""


_NOISE = (0.25, 0.5, 0.75, 0.9)
"""Chances of a random action instead of the last policy's: they fill the gaps between stages."""


_LITTLE_NOISE = (0.01, 0.02, 0.05, 0.1)
"""The same for each run's best policy, where the gaps need it: a task that one slip ends lies between good and bad."""


_SELECT_EPISODES = 10


_MANIFEST = "pool.json"


Report = Callable[[str, int, int, JSON], None]


@dataclass(frozen=True)
class Pool:
    """Policies and what they earned in reality; made by `pool`, read by `Pool.load`.

    returns: one for each member, over the same reset seeds.
    through: fingerprint of the twin that they all see through; None: they see observations as they are.
    scripted: "module:function" of the policy written by hand, if one is among them.
    """

    folder: Path
    real: EnvConfig
    members: list[Member]
    returns: list[Returns]
    seeds: range
    real_steps: dict[str, int] = field(default_factory=dict)
    provenance: JSON = field(default_factory=dict)
    through: str | None = None
    scripted: str | None = None

    def actor(self, member: Member, spec: WorldSpec) -> Actor:
        """A member as it acts, its noise begun anew, so that it is the same in both worlds."""
        return _actor(self.folder, member, self.scripted, spec, len(self.seeds))

    @classmethod
    def load(cls, folder: Path) -> Pool:
        """Raises StageError where there is no finished pool."""
        path = Path(folder) / _MANIFEST
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            if tree["format"] > FORMAT:
                raise StageError(
                    f"{path} has the format {tree['format']}, this version reads up to {FORMAT}: upgrade world-env"
                )
            members = [
                Member(**{key: row[key] for key in ("name", "run", "source", "noise")})
                for row in tree["members"]
            ]
            returns = [
                Returns(np.array(row["returns"]), np.array(row["lengths"], np.int64), None)
                for row in tree["members"]
            ]
            seeds = range(tree["seeds"][0], tree["seeds"][1] + 1)
            if not members or any(len(part.values) != len(seeds) for part in returns):
                raise ValueError("each member needs one return a seed")
            real = EnvConfig.from_json(tree["real"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, StageError):
                raise
            raise StageError(
                f"{path} is no finished pool ({type(error).__name__}: {error}): make one with `world-env pool`, or run "
                "the command that began it again"
            ) from error
        return cls(
            Path(folder),
            real,
            members,
            returns,
            seeds,
            tree["real_steps"],
            tree["provenance"],
            tree.get("through"),
            tree.get("scripted"),
        )


def pool(config: PoolConfig, *, report: Report | None = None) -> Pool:
    """Train, choose and judge the policies of a pool; what is finished is read back.

    Training, choosing (10 episodes a candidate) and judging are counted in the pool's own ledger: none of these steps
    belongs to a twin.
    Raises StageError where the folder holds another pool.
    """
    say = report or (lambda stage, done, wanted, logs: None)
    folder = Path(config.out)
    spec = spec_of(config.real)
    through = None if config.through is None else Twin.load(config.through)
    if through is not None:
        check_same_spaces(spec, through.spec)
    identity = _identity(config, through)
    _check_folder(folder, identity)
    if (folder / _MANIFEST).is_file():
        return Pool.load(folder)
    ledger = StepLedger(folder / "real-steps.json")
    candidates = _fixed(config)
    runs = plan(config, spec.action_space)
    for number, (name, run) in enumerate(runs.items()):
        candidates += _train(config, folder, name, run, ledger, through)
        say("train", number + 1, len(runs), {})
    estimates = _estimates(config, folder, candidates, spec, ledger, say)
    chosen = choose(candidates, estimates, config.policies)
    if max(fifths([estimates[candidates.index(member)] for member in chosen])) > MAX_OF_A_FIFTH:
        candidates += _barely_weakened(candidates, estimates)
        estimates = _estimates(config, folder, candidates, spec, ledger, say)
        chosen = choose(candidates, estimates, config.policies)
    seeds = range(FIRST_SEED, FIRST_SEED + config.episodes)
    returns = []
    for number, member in enumerate(chosen):
        actor = _actor(folder, member, config.scripted, spec, len(seeds))
        returns.append(run_real(actor, config.real, seeds, purpose="judge", ledger=ledger))
        say("judge", number + 1, len(chosen), {})
    ledger.save()
    tree = {
        "format": FORMAT,
        "identity": identity,
        "real": config.real.to_json(),
        "seeds": [seeds[0], seeds[-1]],
        "fifths": fifths([part.mean for part in returns]),
        "through": None if through is None else through.fingerprint(),
        "scripted": config.scripted,
        "real_steps": ledger.by_purpose,
        "provenance": facts(),
        "members": [
            vars(member)
            | {"returns": part.values.tolist(), "lengths": part.lengths.tolist()}
            for member, part in zip(chosen, returns, strict=True)
        ],
    }  # fmt: skip
    write_json(folder / _MANIFEST, tree)
    return Pool.load(folder)


def plan(config: PoolConfig, space: spaces.Space[Any]) -> dict[str, LearnConfig]:
    """Eight independent runs: half of them PPO, the others of two algorithms that explore in other ways."""
    many, few = config.on_policy_steps, config.off_policy_steps
    ppo = {
        f"ppo-{i}": LearnConfig(steps=many, rows=8, seed=config.seed + i, options=config.options)
        for i in range(4)
    }
    if isinstance(space, spaces.Box):
        others = {name: LearnConfig(algo=name, steps=few) for name in ("SAC", "TD3")}
    else:
        others = {"A2C": LearnConfig(algo="A2C", steps=many, rows=8)}
        if isinstance(space, spaces.Discrete):
            others["DQN"] = LearnConfig(algo="DQN", steps=few, options=config.off_policy_options)
    each = 4 // len(others)
    runs = ppo | {
        f"{name.lower()}-{i}": LearnConfig(**(vars(run) | {"seed": config.seed + 10 + i}))
        for name, run in others.items()
        for i in range(each)
    }
    mode = "pixels" if config.through is None else "latent"
    return {n: dataclasses.replace(run, observation_mode=mode) for n, run in runs.items()}


def crowding(found: Pool) -> str | None:
    """A warning where one fifth of the range of returns holds more than 40 % of the policies."""
    most = max(fifths([part.mean for part in found.returns]))
    if most <= MAX_OF_A_FIFTH:
        return None
    return (
        f"{most:.0%} of the policies lie in one fifth of the range of real returns (at most {MAX_OF_A_FIFTH:.0%} "
        "wanted): a correlation over them says little of those in between. Other numbers of real steps a run "
        "(--on-policy-steps, --off-policy-steps) leave other stages"
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
    through: Twin | None,
) -> list[Member]:
    """The run's stages, and its last policy with more and more noise."""
    place = folder / name
    stages = {
        max(1, round(share * run.steps)): place / f"stage-{i}" for i, share in enumerate(_STAGES)
    }
    if not (place / "closed" / "policy.json").is_file():
        open_one = place / "last"
        model = learn(
            config.real,
            run,
            out=open_one,
            ledger=ledger,
            purpose="collect",
            callbacks=[milestones(stages, trained_in="real", provenance={CLOSED: True})],
            through=through,
        )
        save_policy(model, place / "closed", trained_in="real", provenance={CLOSED: True})
        shutil.rmtree(open_one)
    kept = [path for path in stages.values() if (path / "policy.json").is_file()]
    members = [Member(f"{name} {path.name}", name, f"{name}/{path.name}") for path in kept]
    last = f"{name}/closed"
    members.append(Member(f"{name} last", name, last))
    return members + [
        Member(f"{name} last, {noise:.0%} random", name, last, noise) for noise in _NOISE
    ]


def _barely_weakened(candidates: Sequence[Member], estimates: Sequence[float]) -> list[Member]:
    """Each run's best policy by its estimate, with little noise."""
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
    say: Report,
) -> list[float]:
    """Mean return of each candidate over a few real episodes; kept, because they cost real steps."""
    path = folder / "estimates.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    seeds = range(FIRST_SEED + 10_000, FIRST_SEED + 10_000 + _SELECT_EPISODES)
    for number, member in enumerate(candidates):
        if member.name not in known:
            actor = _actor(folder, member, config.scripted, spec, len(seeds))
            found = run_real(actor, config.real, seeds, purpose="select", ledger=ledger)
            known[member.name] = found.mean
            write_json(path, known)
        say("choose", number + 1, len(candidates), {})
    return [known[member.name] for member in candidates]


def _actor(folder: Path, member: Member, scripted: str | None, spec: WorldSpec, rows: int) -> Actor:
    random = random_actor(spec.action_space, range(rows))
    if member.source == "random":
        return random
    if member.source == "scripted" and scripted is not None:
        own = scripted_actor(scripted)
    else:
        own = policy_actor(load_policy(folder / member.source, expect=spec))
    if not member.noise:
        return own
    dice = [np.random.default_rng([row, 1]) for row in range(rows)]

    def act(observation: Any, running: np.ndarray) -> np.ndarray:
        chosen, other = own(observation, running), random(observation, running)
        swap = np.array([dice[row].random() < member.noise for row in running])
        taken = np.where(swap.reshape(-1, *[1] * (chosen.ndim - 1)), other, chosen)
        if isinstance(own, LatentActor):
            own.took(taken, running)
        return taken

    return act


def _identity(config: PoolConfig, through: Twin | None) -> JSON:
    tree = {key: value for key, value in vars(config).items() if key not in ("out", "real")}
    tree |= {"real": config.real.to_json()}
    del tree["through"]
    if through is not None:  # pools that are older than it go on
        tree["through"] = through.fingerprint()
    return json.loads(json.dumps(tree))  # type: ignore[no-any-return]


def _check_folder(folder: Path, identity: JSON) -> None:
    """The first call leaves its settings, the next ones must have the same."""
    path = folder / "settings.json"
    if not path.is_file():
        write_json(path, identity)
    elif json.loads(path.read_text(encoding="utf-8")) != identity:
        raise StageError(
            f"{folder} holds a pool of other settings ({path.name}): choose another folder, or repeat them to go on"
        )
