"""Synthetic fidelity of a twin with every measure that exists, for tests only."""

import math
from typing import Any

import numpy as np

from world_env.results import Fidelity
from world_env.types import JSON

LOW, HIGH = -1250.0, -130.0
HALF_WIDTH, BIAS = 95.0, 18.0
STEPS = [1, 2, 5, 10, 20, 50, 100, 200]
NAMES = ["cos", "sin", "angular velocity", "load"]


def measured(tree: JSON | None = None) -> Fidelity:
    """Fidelity from a tree such as that of `fidelity` (default: that one)."""
    return Fidelity.from_json(fidelity() if tree is None else tree, where="made up")


def fidelity() -> JSON:
    """Fidelity of a twin with accurate evaluation and too high returns of the policies trained in it, as JSON."""
    points = _points()
    stats = {kind: _statistics([p for p in points if p["kind"] == kind]) for kind in _KINDS}
    curve = [0.0011 * step**1.05 for step in range(1, 201)]
    return {
        "validation_steps": 4000,
        "open_loop": {
            "unit": "standard deviations of the data",
            "error": curve,
            "hold_last": [1.7 * (1 - 0.9**step) for step in range(1, 201)],
            "windows": 200,
        },
        "reward_error": 0.146,
        "termination": {"terminal_labels": 64, "precision": 0.91, "recall": 0.84, "brier": 0.004},
        "notes": ["load is constant: there is nothing in it to learn"],
        "comparison": [
            {"policy": "random", "real_mean": -1166.0, "real_ci95": [-1218.0, -1112.0],
             "learned_mean": -1173.0, "learned_ci95": [-1223.0, -1123.0], "episodes": 100},
        ],
        "agreement": {
            "pool": {"policies": 24, "runs": 8, "real_steps": 812_000, "range": [LOW, HIGH], "episodes": 100},
            **stats,
            "points": points,
        },
        "return_prediction": {
            "level": 0.9,
            "bias": BIAS,
            "bias_per_share": 0.0,
            "half_width": HALF_WIDTH,
            "most_past_threshold": 0.03,
            "calibrated_on": {"policies": 23, "runs": 8},
            "coverage": {kind: stats[kind]["coverage90"] for kind in _KINDS},
            "width_fraction": 2 * HALF_WIDTH / (HIGH - LOW),
        },
        "horizons": _horizons(),
        "action_effects": {
            "unit": "standard deviations of the real observations",
            "steps": [1, 5, 20], "effect_error": [0.004, 0.03, 0.2], "effect_size": [0.11, 0.6, 1.1],
            "states": 32, "actions": 4,
        },
    }  # fmt: skip


_KINDS = ("evaluation", "optimisation")


def _points() -> list[JSON]:
    rng = np.random.default_rng(5)
    points = []
    for i in range(30):
        trained = i >= 24
        real = rng.uniform(-420, HIGH) if trained else LOW + (HIGH - LOW) * (i / 23) ** 0.8
        share = 0.09 if i in (7, 26) else float(rng.uniform(0, 0.02))
        off = rng.normal(BIAS, 60) + (150 if share > 0.03 else 0) + (70 if trained else 0)
        points.append(_point(i, float(real), float(real + off), share, trained, rng))
    return points


def _point(
    i: int, real: float, learned: float, share: float, trained: bool, rng: np.random.Generator
) -> JSON:
    supported = share <= 0.03
    noise = float(rng.uniform(8, 45))
    return {
        "policy": f"{'twin' if trained else 'sac'}-{i // 3}-{i % 3}",
        "run": f"run-{i // 3}",
        "kind": _KINDS[trained],
        "real": real,
        "real_ci95": [real - noise, real + noise],
        "learned": learned,
        "learned_ci95": [learned - 0.9 * noise, learned + 0.9 * noise],
        "past_threshold_share": share,
        "supported": supported,
        "low": learned - BIAS - HALF_WIDTH if supported else None,
        "high": learned - BIAS + HALF_WIDTH if supported else None,
    }


def _statistics(points: list[JSON], *, whole: bool = True) -> JSON:
    real, learned = (np.array([p[side] for p in points]) for side in ("real", "learned"))
    given = [p for p in points if p["supported"]]
    held = [p["low"] <= p["real"] <= p["high"] for p in given]
    pearson = float(np.corrcoef(real, learned)[0, 1])
    bias, mae = float((learned - real).mean()), float(np.abs(learned - real).mean())
    stats: dict[str, Any] = {
        "policies": len(points),
        "runs": len({p["run"] for p in points}),
        "pearson": pearson,
        "pearson_ci95": [pearson - 0.03, min(1.0, pearson + 0.01)],
        "spearman": 0.975,
        "spearman_upper_half": 0.91,
        "mmrv": 11.5,
        "mmrv_fraction": 11.5 / (HIGH - LOW),
        "regret1": 0.0,
        "regret3": 0.0,
        "bias": bias,
        "bias_fraction": bias / (HIGH - LOW),
        "mae": mae,
        "mae_fraction": mae / (HIGH - LOW),
        "ceiling": 0.998,
        "ceilings": {"spearman": 0.99, "mmrv": 2.0},
    }
    if not whole:
        return stats
    return stats | {
        "coverage90": float(np.mean(held)),
        "width_fraction": 2 * HALF_WIDTH / (HIGH - LOW),
        "supported_share": len(given) / len(points),
        "supported": _statistics(given, whole=False),
    }


def _horizons() -> JSON:
    rates = (0.0008, 0.0009, 0.0024, 0.0002)
    return {
        "observation": {
            "steps": STEPS,
            "unit": "standard deviations of the data",
            "names": NAMES,
            "error": [[rate * step**1.1 for step in STEPS] for rate in rates],
            "hold_last": [[1.5 * (1 - 0.88**step) for step in STEPS] for _ in rates],
            "linear": [[0.02 * math.exp(0.03 * step) for step in STEPS] for _ in rates],
            "windows": [256, 256, 256, 256, 240, 200, 120, 64],
        },
        "reward": {
            "steps": STEPS,
            "unit": "task units",
            "one_step": [0.02 * step**0.6 for step in STEPS],
            "return_so_far": [0.02 * step**1.3 for step in STEPS],
            "return_spread": [0.5 * step for step in STEPS],
        },
        "survival": {
            "steps": STEPS,
            "real": [1.0, 1.0, 0.99, 0.97, 0.9, 0.71, 0.5, 0.22],
            "learned": [1.0, 1.0, 0.99, 0.98, 0.92, 0.76, 0.57, 0.29],
            "episodes": 120,
        },
        "uncertainty": {
            "steps": STEPS,
            "spearman": [0.4, 0.45, 0.5, 0.5, 0.5, 0.4, 0.3, 0.3],
            "auroc": [0.8, 0.82, 0.85, 0.86, 0.8, 0.78, 0.74, 0.7],
        },
        "termination": None,
        "trusted_horizon": 100,
    }
