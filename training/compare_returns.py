"""Compare the learned with the real return of a policy, and write the report page.

    python -m training.compare_returns --twin runs/cartpole/twin --policy runs/cartpole/ppo.zip --out runs/cartpole

Each policy plays the same episodes in the twin and in the real environment. The real steps are counted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import world_env
from world_env.policies import RandomPolicy
from world_env.real import StepLedger
from world_env.reporting import write_report
from world_env.results import facts


def main() -> None:
    """Compare, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--twin", type=Path, required=True, help="folder of the twin")
    parser.add_argument("--policy", type=Path, required=True, help="the policy: a model's .zip")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    parser.add_argument(
        "--episodes", type=int, default=100, help="episodes per policy (default: 100)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    twin = world_env.Twin.load(arguments.twin)
    ledger = StepLedger(arguments.out / "real-steps.json")
    comparison = world_env.compare(
        twin,
        {"random": RandomPolicy(twin.spec.action_space), "PPO in the twin": arguments.policy},
        ledger=ledger,
        episodes=arguments.episodes,
        seed=10_000,
        real_steps={"random": 0, "PPO in the twin": ledger.by_purpose.get("collect", 0)},
    )
    ledger.save()
    print(comparison)
    print(f"real steps by purpose: {ledger.by_purpose}")
    page = write_report(
        arguments.out / "report",
        title=f"{twin.spec.real_id}: learned and real",
        comparison=comparison.replace(provenance=facts()),
        fidelity=twin.fidelity,
        provenance=twin.provenance,
    )
    print(f"page: {page}")


if __name__ == "__main__":
    main()
