"""Every warning is true: its rule fires on the number that it is about, and on no other."""

import copy
from typing import Any

import made_up
import pytest

from world_env.twin.warning_rules import RULES, Measured, misuses, warnings_of
from world_env.types import JSON

EPISODE = 200


def clean() -> JSON:
    """Made up: a fidelity that nothing is wrong with."""
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
AUROC, EFFECT = "horizons.uncertainty.auroc", "counterfactual.effect_error"
LOST, BACK = [0.1] * 90 + [2.0] * 110, [0.1] * 60 + [2.0] * 40 + [0.1] * 100

# rule, entry, value that it fires on, a part of what it says, value near it that it spares.
CASES: list[tuple[str, str, Any, str, Any]] = [
    ("unjudged", "agreement", None, "No policy pool is recorded", {"evaluation": {"policies": 24}}),
    ("uncalibrated", "return_prediction", None, "no promise was calibrated", {"half_width": 1.0}),
    ("few policies", f"{POOL}.policies", 9, "9 policies of 8", 10),
    ("few policies", f"{POOL}.runs", 7, "24 policies of 7", 8),
    ("pearson", f"{POOL}.pearson", 0.949, "0.949 only", 0.95),
    ("bias", f"{POOL}.bias_fraction", 0.051, "5.1 % of the pool's range less", 0.05),
    ("bias", f"{POOL}.bias_fraction", -0.2, "20 % of the pool's range more", -0.05),
    ("coverage", f"{COVERAGE}.evaluation", 0.84, "held 84 %", 0.85),
    ("coverage", f"{COVERAGE}.evaluation", 0.96, "wider than they say", 0.95),
    ("coverage", "return_prediction.level", 0.97, "too narrow", None),
    ("coverage of trained", f"{COVERAGE}.optimisation", 0.5, "trained in it: they are too", 1.0),
    ("width", "return_prediction.width_fraction", 0.26, "wide: 26 %", 0.25),
    ("flattered", f"{TRAINED}.bias", 12.0, "earn less in reality than it says: 12 on", 0.0),
    ("flattery unknown", TRAINED, None, "not known", {"policies": 6}),
    ("few ends", "termination.terminal_labels", 9, "Only 9", 10),
    ("few ends", "termination.terminal_labels", 0, "never seen", None),
    ("survival", ALIVE, [1.0, 1.0, 0.5], "after 5 steps 50 %", [1.0, 1.0, 0.9]),
    ("short trust", "horizons.trusted_horizon", 199, "199 steps, an episode has up to 200", 200),
    ("short trust", "horizons.trusted_horizon", 0, "for 0 steps", None),
    ("lost", "open_loop.error", LOST, "From step 91 on", BACK),
    ("lost", "open_loop.error", [0.1] * 199 + [None], "From step 200 on", [0.1] * 199),
    ("uncertainty", AUROC, [0.9, 0.6, 0.69], "AUROC 0.69", [0.6, 0.7, 0.9]),
    ("uncertainty", AUROC, 0.5, "AUROC 0.50", 0.7),
    ("actions", EFFECT, [0.1, 0.6, 0.2], "After 5 steps", [0.1, 0.59, 1.0]),
]


def fired(fidelity: JSON) -> dict[str, str]:
    measured = Measured(fidelity, EPISODE)
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


def test_chance_is_named_where_it_may_explain_the_flattery() -> None:
    fidelity = clean()
    fidelity["agreement"]["optimisation"] |= {"bias": 3.0, "bias_ci95": [-1.0, 7.0]}
    assert "chance may explain" in fired(fidelity)["flattered"]
    fidelity["agreement"]["optimisation"]["bias_ci95"] = [0.5, 7.0]
    assert "chance" not in fired(fidelity)["flattered"]


def test_nothing_measured_is_said_first() -> None:
    nothing = "No policy pool has been judged: promises of this twin have no interval."
    for empty in ({}, None, [], {"agreement": None, "return_prediction": None, "horizons": None}):
        assert warnings_of(empty) == [nothing]


def test_known_ends_rest_on_no_data() -> None:
    fidelity = clean()
    fidelity["termination"]["terminal_labels"] = 0
    assert warnings_of(fidelity, horizon=EPISODE, known=["termination"]) == []
    assert len(warnings_of(fidelity, horizon=EPISODE, known=["reward"])) == 1


def test_without_a_time_limit_the_longest_held_out_episode_counts() -> None:
    fidelity = clean()
    assert warnings_of(fidelity) == []
    fidelity["horizons"]["trusted_horizon"] = 100
    assert "an episode has up to 200" in warnings_of(fidelity)[0]
    assert "an episode has up to 1,000" in warnings_of(fidelity, horizon=1000)[0]


def test_misuses_follow_from_what_is_known() -> None:
    good = misuses(clean(), horizon=EPISODE)
    assert any("less than 190" in text for text in good)
    assert any("more than 3 % of the steps" in text for text in good)
    assert not any("no interval" in text or "single predictions" in text for text in good)
    bad = copy.deepcopy(clean())
    bad["return_prediction"] = None
    bad["horizons"]["trusted_horizon"] = 50
    bad["horizons"]["uncertainty"]["auroc"] = [0.5]
    said = " ".join(misuses(bad, horizon=EPISODE))
    for part in ("no interval was calibrated", "more than 50 steps", "telling by its uncertainty"):
        assert part in said
    assert "harmed" in said and "harmed" in " ".join(good)
