"""The tasks that the project measures itself on. Settings that are not given are the defaults of the library."""

from __future__ import annotations

from pathlib import Path

from world_env.policies import (
    ExplorationConfig,
    HeldExploration,
    StuckSensorsExploration,
    random_and_held,
)
from world_env.policy_evaluation import PoolConfig
from world_env.refinement import RefineConfig, given, preset
from world_env.simulation import ObservationMode, OnUncertain
from world_env.spec import EnvConfig, WrapperConfig
from world_env.struct import Struct
from world_env.types import JSON


class Task(Struct, frozen=True):
    """Settings of one task that differ from the defaults of the library. None: the default of the preset."""

    twin: str
    """Name of the twin."""
    real_steps: int
    """Real steps in total that a twin may cost."""
    real: EnvConfig | None = None
    """The real environment, where the name of the row is not a Gymnasium id."""
    family: str | None = None
    """Family of the world model."""
    model: JSON = {}
    """Settings of the family."""
    max_dataset_states: int | None = None
    """States of the data that the twin keeps as initial states."""
    observation_mode: ObservationMode | None = None
    """Observation mode of the policies: observation, latent or both."""
    rounds: int | None = None
    """Rounds of collection, fitting and training (PPO)."""
    gradient_steps: int | None = None
    """Gradient steps of a fit (PPO)."""
    exploration: ExplorationConfig | None = None
    """Actions of the first round."""
    later_exploration: ExplorationConfig | None = None
    """Actions of the later rounds (PPO)."""
    learn_steps: int | None = None
    """Steps of PPO in the twin per round."""
    algo_kwargs: JSON = {}
    """Arguments of PPO, in the twin and in the real environment."""
    offpolicy: str = "DQN"
    """Off-policy algorithm of the baselines in the real environment."""
    off_policy_algo_kwargs: JSON = {}
    """Arguments of the off-policy algorithm."""
    many_steps: int = 100_000
    """Real steps of the baseline PPO with many steps."""
    reference_steps: int | None = None
    """Real steps of the off-policy algorithm that PPO in the twin is also paired with. None: no pair."""
    on_uncertain: OnUncertain | None = None
    """What happens out of distribution, as in LearnConfig."""
    pool_steps: tuple[int, int] = (200_000, 20_000)
    """Real steps of each on-policy and each off-policy run of the policy pool."""
    pool_episodes: int = 100
    """Real episodes that evaluate each policy of the pool."""
    scripted: str | None = None
    """A policy written by hand, "module:function"."""
    termination: str | None = None
    """The true termination function, "module:function"."""
    bundled: bool = True
    """Whether the twin is bundled with the library."""


_DQN: JSON = {
    "learning_starts": 500,
    "train_freq": 4,
    "gradient_steps": 4,
    "target_update_interval": 250,
    "exploration_fraction": 0.3,
    "buffer_size": 50_000,
    "learning_rate": 1e-3,
    "batch_size": 64,
}

_PENDULUM = Task(
    "pendulum",
    3_000,
    algo_kwargs={
        "gamma": 0.95,
        "policy_kwargs": {"net_arch": [128, 128], "activation_fn": "SiLU"},
    },
    learn_steps=400_000,
    on_uncertain="ignore",
    offpolicy="SAC",
)
"""Common settings of the Pendulum tasks, with state or image observations."""

_IN_ROUNDS = Task(
    "",
    100_000,
    offpolicy="SAC",
    many_steps=1_000_000,
    pool_steps=(400_000, 12_000),
    bundled=False,
)
"""Common settings of the tasks that random actions do not explore: walking, running, swimming and landing."""

TASKS: dict[str, Task] = {
    "CartPole-v1": Task(
        "cartpole",
        2_000,
        off_policy_algo_kwargs=_DQN,
        pool_steps=(60_000, 40_000),
        scripted="training.scripted_policies:balance",
    ),
    "Pendulum-v1": _PENDULUM.replace(
        reference_steps=20_000,
        pool_steps=(120_000, 10_000),
        scripted="training.scripted_policies:swing_up",
    ),
    "Pendulum-v1-pixels": _PENDULUM.replace(
        twin="pendulum-pixels",
        real_steps=20_000,
        real=EnvConfig(
            "Pendulum-v1",
            {"render_mode": "rgb_array"},
            (
                # Drawing at the default 500 x 500 pixels would take three times as long per step.
                WrapperConfig("world_env.wrappers:SetAttributes", {"screen_dim": 128}),
                WrapperConfig("gymnasium.wrappers:AddRenderObservation", {"render_only": True}),
                WrapperConfig("gymnasium.wrappers:ResizeObservation", {"shape": [64, 64]}),
                WrapperConfig("gymnasium.wrappers:GrayscaleObservation"),
            ),
        ),
        learn_steps=1_000_000,
        family="rssm",
        model={"windows": 16, "window": 20, "depth": 24, "members": 4},
        gradient_steps=10_000,
        max_dataset_states=800,
        observation_mode="latent",
        exploration=random_and_held(5),
        many_steps=1_000_000,
        pool_steps=(80_000, 10_000),
        pool_episodes=50,
    ),
    "Acrobot-v1": Task(
        "acrobot",
        20_000,
        rounds=2,
        exploration=random_and_held(5),
        algo_kwargs={"ent_coef": 0.01},
        learn_steps=400_000,
        on_uncertain="ignore",
        off_policy_algo_kwargs=_DQN,
        many_steps=200_000,
        pool_steps=(120_000, 60_000),
        pool_episodes=400,
        scripted="training.scripted_policies:pump",
    ),
    "MountainCarContinuous-v0": Task(
        "mountain-car-continuous",
        5_000,
        exploration=HeldExploration(steps=30),
        algo_kwargs={"gamma": 0.999, "use_sde": True, "sde_sample_freq": 16},
        on_uncertain="ignore",
        offpolicy="SAC",
        pool_steps=(80_000, 6_000),
        scripted="training.scripted_policies:rock",
    ),
    "InvertedDoublePendulum-v5": Task(
        "inverted-double-pendulum",
        10_000,
        rounds=4,
        gradient_steps=10_000,
        later_exploration=StuckSensorsExploration(path="selected", share=0.2),
        learn_steps=300_000,
        on_uncertain="ignore",
        offpolicy="SAC",
        many_steps=1_000_000,
        pool_steps=(200_000, 8_000),
        bundled=False,
    ),
    "HalfCheetah-v5": _IN_ROUNDS.replace(twin="half-cheetah", bundled=True),
    "Hopper-v5": _IN_ROUNDS.replace(
        twin="hopper", termination="training.termination_functions:hopper_falls"
    ),
    "Walker2d-v5": _IN_ROUNDS.replace(twin="walker2d"),
    "Ant-v5": _IN_ROUNDS.replace(twin="ant"),
    "Swimmer-v5": _IN_ROUNDS.replace(twin="swimmer"),
    "LunarLander-v3": _IN_ROUNDS.replace(
        twin="lunar-lander",
        real_steps=50_000,
        offpolicy="DQN",
        pool_steps=(400_000, 100_000),
    ),
}
"""Name -> task. The name is the id of the real environment, unless the task names another one."""
BUNDLED = {name: task for name, task in TASKS.items() if task.bundled}
"""Tasks whose twin is bundled with the library."""


def real_of(
    name: str, kwargs: JSON | None = None, wrappers: tuple[WrapperConfig, ...] = ()
) -> EnvConfig:
    """The real environment of a task or of a Gymnasium id, with more arguments and outer wrappers."""
    row = TASKS.get(name)
    real = EnvConfig(name) if row is None or row.real is None else row.real
    return real.replace(kwargs=real.kwargs | (kwargs or {}), wrappers=(*real.wrappers, *wrappers))


def task_of(real: EnvConfig) -> Task:
    """The task of a real environment: its own, even if wrapped further, else that of its id, else the defaults."""
    own = next(
        (row for row in TASKS.values() if row.real is not None and _within(row.real, real)), None
    )
    env_id = real.env_id
    name = env_id.rpartition("/")[2].rpartition("-v")[0].lower() or env_id.lower()
    return own or TASKS.get(env_id) or Task(name, 10_000, bundled=False)


def _within(inner: EnvConfig, real: EnvConfig) -> bool:
    """Whether `real` is `inner` with more arguments or outer wrappers."""
    return (
        inner.env_id == real.env_id
        and inner.wrappers == real.wrappers[: len(inner.wrappers)]
        and inner.kwargs.items() <= real.kwargs.items()
    )


def refine_task(
    task: Task, real: EnvConfig, out: Path, seed: int, *, algo: str = "PPO"
) -> RefineConfig:
    """The rounds of a task's row: the preset of `algo` ("PPO" or "SAC"), and the values of the row."""
    plain = preset(real, out, algo=algo, steps=task.real_steps, seed=seed)
    fit = {
        "family": task.family,
        "model": task.model or None,
        "max_dataset_states": task.max_dataset_states,
    }
    learn: JSON = {"observation_mode": task.observation_mode}
    asked: JSON = {"exploration": task.exploration}
    if algo != "SAC":
        fit |= {"gradient_steps": task.gradient_steps}
        learn |= {"steps": task.learn_steps}
        learn |= {"algo_kwargs": plain.learn.algo_kwargs | task.algo_kwargs}
        if task.on_uncertain is not None:
            learn |= {"simulation": plain.learn.simulation.replace(on_uncertain=task.on_uncertain)}
        asked |= {"rounds": task.rounds, "later_exploration": task.later_exploration}
    return plain.replace(
        fit=plain.fit.replace(**given(fit)),
        learn=plain.learn.replace(**given(learn)),
        **given(asked),
    )


def pool_task(task: Task, real: EnvConfig, out: Path, *, encoder: str | None = None) -> PoolConfig:
    """The pool of a task's row."""
    return PoolConfig(
        real,
        out,
        on_policy_steps=task.pool_steps[0],
        off_policy_steps=task.pool_steps[1],
        episodes=task.pool_episodes,
        scripted=task.scripted,
        algo_kwargs=task.algo_kwargs,
        off_policy_algo_kwargs=task.off_policy_algo_kwargs,
        encoder=encoder,
    )
