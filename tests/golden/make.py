"""Make the golden twins: `python tests/golden/make.py`; only after a deliberate change of the format."""

import json
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces

from world_env.data_range import DataRange
from world_env.models.registry import load_family
from world_env.simulation.simulator import Simulator
from world_env.spec import WorldSpec
from world_env.twin.twin import Twin

HERE = Path(__file__).parent
CONFIGS = {"linear": {}, "ensemble": {"members": 2, "width": 8, "layers": 2, "head_width": 8}}
STEPS = 12


def trajectory(twin: Twin) -> list[dict]:
    """What three rows show in a dozen steps with fixed actions."""
    simulator = Simulator(twin, 3, seed=7)
    shown = [{"observation": simulator.reset().tolist()}]
    for step in range(STEPS):
        action = np.sin(np.arange(3, dtype=np.float32)[:, None] + step)
        result = simulator.step(action)
        shown.append(
            {
                "observation": result.observation.tolist(),
                "reward": result.reward.tolist(),
                "end": result.end.tolist(),
            }
        )
    return shown


def main() -> None:
    spec = WorldSpec(spaces.Box(-5.0, 5.0, (3,)), spaces.Box(-1.0, 1.0, (1,)), horizon=50)
    ranges = DataRange({"observation": ([-4.0] * 3, [4.0] * 3)}, (-2.0, 2.0))
    for family, options in CONFIGS.items():
        config = load_family(family).config_class
        twin = Twin.untrained(spec, family, config(**options), seed=3)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in twin.model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        golden = Twin(
            spec, family, twin.model, twin.starts, ranges=ranges, termination_threshold=0.99
        )
        golden.save(HERE / family)
        text = json.dumps(trajectory(golden), indent=1)
        (HERE / f"{family}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
