"""Each warning rule fires on its own number and on no other."""

from typing import Any

import made_up
import pytest

from world_env.results import Fidelity, PolicyComparison
from world_env.twin.warning_rules import RULES, Measured, comparison_warnings, misuses, warnings_of
from world_env.types import JSON

EPISODE = 200


def clean() -> JSON:
    """Synthetic fidelity to which no warning rule applies."""
    fidelity = made_up.fidelity()
    fidelity["horizons"]["trusted_horizon"] = EPISODE
    fidelity["agreement"]["optimisation"] |= {"bias": -0.5, "bias_fraction": -0.0005}
    return fidelity


def changed(path: str, value: Any) -> JSON:
    """The clean fidelity with one entry changed."""
    fidelity = part = clean()
    *way, last = path.split(".")
    for name in way:
        part = part[name]
    part[last] = value
    return fidelity


POOL, TRAINED = "agreement.evaluation", "agreement.optimisation"
COVERAGE, ALIVE = "return_prediction.coverage", "horizons.survival.learned"
AUROC, EFFECT = "horizons.uncertainty.auroc", "action_effects.effect_error"
LINEAR = "horizons.observation.linear"
HALF_BETTER = [[1e-4] * 4 + [9.0] * 4] * 4
SURVIVING = [1.0, 1.0, 0.99, 0.98, 0.92, 0.76, 0.57, 0.29]
LOST, BACK = [0.1] * 90 + [2.0] * 110, [0.1] * 60 + [2.0] * 40 + [0.1] * 100


def row(
    real: list[float] | None = None, learned: list[float] | None = None, share: float | None = 0.0
) -> JSON:
    """A row of a comparison with overlapping intervals."""
    real, learned = real or [10.0, 12.0], learned or [11.0, 14.0]
    return {
        "policy": "ppo_twin", "real_mean": sum(real) / 2, "real_ci95": real, "learned_mean": sum(learned) / 2,
        "learned_ci95": learned, "past_threshold_share": share, "episodes": 100,
    }  # fmt: skip


def compared(*rows: JSON) -> list[PolicyComparison]:
    return [PolicyComparison.from_json(row, where="test") for row in rows]


def chosen(gap: float) -> JSON:
    """Choice of the threshold for terminations, with a survival gap over 100 episodes."""
    lengths = {"real_length": 5.0, "threshold_length": 20.0, "sample_length": 21.0}
    gaps = {"threshold_gap": gap, "sample_gap": 0.5}
    return {"rule": "threshold", "episodes": 100} | lengths | gaps


# rule, entry, value that it fires on, a part of the text, value near it that it spares.
CASES: list[tuple[str, str, Any, str, Any]] = [
    ("miscounted ends", "termination_rule", chosen(0.16), "is 20 steps in the twin", chosen(0.14)),
    (
        "return gap",
        "comparison",
        [row(real=[8.0, 10.0])],
        "overlap: PPO trained in the twin (real 9",
        [row()],
    ),
    (
        "return gap",
        "comparison",
        [row(learned=[13.0, 14.0])],
        "[13, 14])",
        [row(learned=[12.0, 14.0])],
    ),
    ("out of distribution", "comparison", [row(share=0.21)], "the twin (21 %)", [row(share=0.2)]),
    ("out of distribution", "comparison", [row(share=1.0)], "the twin (100 %)", [row(share=None)]),
    ("no pool", "agreement", None, "No policy pool is recorded", clean()["agreement"]),
    (
        "uncalibrated",
        "return_prediction",
        None,
        "are not calibrated on it",
        clean()["return_prediction"],
    ),
    ("few policies", f"{POOL}.policies", 9, "9 policies from 8", 10),
    ("few policies", f"{POOL}.runs", 7, "24 policies from 7", 8),
    ("pearson", f"{POOL}.pearson", 0.949, "only 0.949", 0.95),
    ("bias", f"{POOL}.bias_fraction", 0.051, "too high by 5.1 % of the pool's range", 0.05),
    ("bias", f"{POOL}.bias_fraction", -0.2, "too low by 20 % of the pool's range", -0.05),
    ("coverage", f"{COVERAGE}.evaluation", 0.84, "of 84 % of the policies: they", 0.85),
    ("coverage", f"{COVERAGE}.evaluation", 0.96, "too wide", 0.95),
    ("coverage", "return_prediction.level", 0.97, "too narrow", 0.9),
    (
        "coverage of trained",
        f"{COVERAGE}.optimisation",
        0.5,
        "trained in the twin: they are too",
        1.0,
    ),
    ("width", "return_prediction.width_fraction", 0.26, "wide: 26 %", 0.25),
    ("exploitation", f"{TRAINED}.bias", 12.0, "trained in the twin are 12 (", 0.0),
    ("exploitation unknown", TRAINED, None, "is unknown", clean()["agreement"]["optimisation"]),
    ("few ends", "termination.terminal_labels", 9, "Only 9", 10),
    ("few ends", "termination.terminal_labels", 0, "terminations is unknown", 10),
    ("missed ends", "termination.recall", 0.4, "only 40 % of the 64 terminations", 0.5),
    ("survival", ALIVE, [*SURVIVING[:2], 0.5, *SURVIVING[3:]], "after 5 steps, 50 %", SURVIVING),
    ("short horizon", "horizons.trusted_horizon", 199, "199 steps; an episode has up to 200", 200),
    ("short horizon", "horizons.trusted_horizon", 0, "No measured step is trusted", 200),
    ("useless predictions", "open_loop.error", LOST, "From step 91 on", BACK),
    (
        "useless predictions",
        "open_loop.error",
        [0.1] * 199 + [None],
        "From step 200 on",
        [0.1] * 200,
    ),
    ("uncertainty", AUROC, [0.9, 0.6, 0.69], "AUROC 0.69", [0.6, 0.7, 0.9]),
    ("uncertainty", AUROC, [0.5], "AUROC 0.50", [0.7]),
    (
        "linear model",
        LINEAR,
        [[1e-4] * 8] * 4,
        "after 1, 2, 5, 10, 20, 50, 100, 200 steps",
        HALF_BETTER,
    ),
    ("linear model", LINEAR, [[1e-4] * 5 + [9.0] * 3] * 4, "after 1, 2, 5, 10, 20 steps: a", None),
    ("actions", EFFECT, [0.1, 1.0, 0.2], "After 5 steps", [0.2, 0.99, 0.9]),
]


def fired(fidelity: JSON) -> dict[str, str]:
    measured = Measured(made_up.measured(fidelity), EPISODE)
    return {name: text for name, rule in RULES.items() if (text := rule(measured)) is not None}


def test_a_clean_twin_warns_of_nothing() -> None:
    assert fired(clean()) == {}


@pytest.mark.parametrize(("rule", "entry", "fires", "text", "spares"), CASES)
def test_a_rule_fires_on_its_number_alone(
    rule: str, entry: str, fires: Any, text: str, spares: Any
) -> None:
    found = fired(changed(entry, fires))
    assert text in found.pop(rule)
    assert found == {}
    assert rule not in fired(changed(entry, spares))


def test_the_comparison_gives_the_first_warnings() -> None:
    seen = row() | {
        "policy": "ppo_twin", "real_mean": -8969.0, "real_ci95": [-9100.0, -8800.0], "learned_mean": -531.0,
        "learned_ci95": [-600.0, -480.0], "past_threshold_share": 0.71,
    }  # fmt: skip
    rows = compared(row(), seen)
    found = warnings_of(Fidelity(comparison=rows))
    assert found[:2] == comparison_warnings(rows)
    assert "real -8,969 [-9,100, -8,800], learned -531 [-600, -480]" in found[0]
    assert "More than 20 % of the learned steps are out of distribution" in found[1]
    assert "PPO trained in the twin (71 %)" in found[1] and "No policy pool" in found[2]
    assert comparison_warnings(compared(row())) == comparison_warnings([]) == []


def test_intervals_that_differ_by_rounding_overlap() -> None:
    assert comparison_warnings(compared(row([500.0, 500.0], [500.00001, 500.00001]))) == []
    assert comparison_warnings(compared(row([500.0, 500.0], [500.1, 500.1]))) != []


def test_many_policies_are_counted_and_the_worst_are_named() -> None:
    rows = [row([10.0, 12.0], [20.0 + i, 30.0]) | {"policy": f"p{i}"} for i in range(5)]
    text = comparison_warnings(compared(*rows))[0]
    assert text.index("p4 (") < text.index("p3 (") < text.index("p2 (") and "p1 (" not in text
    assert text.endswith("; and 2 more.")


def test_every_rule_has_a_case() -> None:
    assert {case[0] for case in CASES} == set(RULES)


def test_a_ceiling_below_the_goal_excuses_the_twin() -> None:
    fidelity = clean()
    fidelity["agreement"]["evaluation"] |= {"pearson": 0.9, "ceiling": 0.9}
    assert fired(fidelity) == {}
    fidelity["agreement"]["evaluation"]["ceiling"] = 0.91
    assert "0.910" in fired(fidelity)["pearson"]
    fidelity["agreement"]["evaluation"]["ceiling"] = None
    assert "unknown" in fired(fidelity)["pearson"]


def test_an_interval_of_the_exploitation_that_includes_0_is_named() -> None:
    fidelity = clean()
    fidelity["agreement"]["optimisation"] |= {"bias": 3.0, "bias_ci95": [-1.0, 7.0]}
    assert "the 95 % interval includes 0" in fired(fidelity)["exploitation"]
    fidelity["agreement"]["optimisation"]["bias_ci95"] = [0.5, 7.0]
    assert "includes 0" not in fired(fidelity)["exploitation"]


def test_nothing_measured_is_said_first() -> None:
    nothing = (
        "No policy pool was evaluated: predicted returns of this twin have no interval. Evaluate one with "
        "`world-env pool` and `world-env compare --pool`."
    )
    assert warnings_of(Fidelity()) == [nothing]


def test_known_ends_rest_on_no_data() -> None:
    fidelity = clean()
    fidelity["termination"]["terminal_labels"] = 0
    assert warnings_of(made_up.measured(fidelity), horizon=EPISODE, known=["termination"]) == []
    assert len(warnings_of(made_up.measured(fidelity), horizon=EPISODE, known=["reward"])) == 1


def test_without_a_time_limit_the_longest_held_out_episode_counts() -> None:
    fidelity = clean()
    assert warnings_of(made_up.measured(fidelity)) == []
    fidelity["horizons"]["trusted_horizon"] = 100
    assert "an episode has up to 200" in warnings_of(made_up.measured(fidelity))[0]
    assert "an episode has up to 1,000" in warnings_of(made_up.measured(fidelity), horizon=1000)[0]


def test_misuses_follow_from_what_is_known() -> None:
    good = misuses(made_up.measured(clean()), horizon=EPISODE)
    assert any("less than 190" in text for text in good)
    assert any("more than 3 % of their steps" in text for text in good)
    assert not any("no interval" in text or "single predictions" in text for text in good)
    bad = clean()
    bad["return_prediction"] = None
    bad["horizons"]["trusted_horizon"] = 50
    bad["horizons"]["uncertainty"]["auroc"] = [0.5]
    said = " ".join(misuses(made_up.measured(bad), horizon=EPISODE))
    for part in ("no interval is calibrated", "more than 50 steps", "by their uncertainty"):
        assert part in said
    assert "cause harm" in said and "cause harm" in " ".join(good)
