"""Plots show the measured numbers and leave out what was not measured."""

import base64
from collections.abc import Callable
from typing import Any

import made_up
import numpy as np
import pytest

from world_env.reporting import plots
from world_env.results import Fidelity, PolicyComparison, RoundLog
from world_env.results.error_curves import ErrorCurves, error_curves
from world_env.types import JSON


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures whose pictures were asked for."""
    figures: list[Any] = []
    monkeypatch.setattr(plots, "_svg", lambda figure: figures.append(figure) or "a picture")
    return figures


def labels(figure: Any) -> list[str]:
    return figure.axes[0].get_legend_handles_labels()[1]


def series(figure: Any, label: str) -> tuple[np.ndarray, np.ndarray]:
    (line,) = [line for line in figure.axes[0].get_lines() if line.get_label() == label]
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def test_kinds_and_support_are_told_apart(drawn: list[Any]) -> None:
    fidelity = made_up.measured()
    assert plots.agreement_scatter(fidelity)
    axes = drawn[0].axes[0]
    assert set(labels(drawn[0])) == {
        "learned = real", "predicted return (90 %)", "policy pool", "policy pool, out of distribution",
        "trained in the twin", "trained in the twin, out of distribution",
    }  # fmt: skip
    markers = [c.lines[0] for c in axes.containers]
    points = fidelity.agreement.points
    for face, wanted in (("white", False), (None, True)):
        shown = [m for m in markers if (m.get_markerfacecolor() == "white") == (face == "white")]
        assert {(x, y) for m in shown for x, y in zip(*m.get_data(), strict=True)} == {
            (point.real, point.learned) for point in points if point.supported == wanted
        }
    assert axes.get_xlim() == axes.get_ylim()


def test_the_band_covers_the_policies_inside_their_predicted_interval(drawn: list[Any]) -> None:
    fidelity = made_up.measured()
    plots.agreement_scatter(fidelity)
    (band,) = drawn[0].axes[0].collections[-1:]
    path = band.get_paths()[0]
    for point in fidelity.agreement.points:
        if point.supported:
            inside = point.low <= point.real <= point.high
            assert path.contains_point((point.real, point.learned)) == inside
    plots.agreement_scatter(fidelity.replace(return_prediction=None))
    assert "predicted return (90 %)" not in labels(drawn[1])


def test_real_returns_outside_the_interval_are_marked(drawn: list[Any]) -> None:
    fidelity = made_up.measured()
    plots.predicted_returns(fidelity)
    given = [p for p in fidelity.agreement.points if p.supported]
    outside = [p for p in given if not p.low <= p.real <= p.high]
    x, _ = series(drawn[0], "policy pool, outside the interval")
    assert sorted(x) == sorted(p.real for p in outside) and len(outside) == 2
    (bars,) = drawn[0].axes[0].collections
    assert sorted((bar[0][0], bar[1][0]) for bar in bars.get_segments()) == sorted(
        (point.low, point.high) for point in given
    )


def test_errors_are_drawn_on_logarithms_where_they_span_much(drawn: list[Any]) -> None:
    curves = error_curves(made_up.measured())
    assert curves is not None
    plots.curve(curves)
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    _, y = series(drawn[0], "twin")
    np.testing.assert_allclose(y, curves.series["twin"])
    assert "worst at 200 steps: angular velocity" in labels(drawn[0])
    # The linear model explodes: it leaves the picture instead of flattening it.
    assert axes.get_ylim()[1] < max(curves.series["linear"])
    plots.curve(ErrorCurves([1, 2], "m", {"twin": [0.0, 0.5]}))
    assert drawn[1].axes[0].get_yscale() == "linear"
    series_of = {"twin": [0.1, 0.2, None], "hold_last": [0.2, 0.3, 0.4]}
    plots.curve(ErrorCurves([1, 2, 3], "m", series_of))
    assert np.isnan(series(drawn[2], "twin")[1][2])


def test_survival_is_drawn_in_both_worlds(drawn: list[Any]) -> None:
    fidelity = made_up.measured()
    plots.survival(fidelity)
    for side in ("real", "learned"):
        x, y = series(drawn[0], side)
        assert list(x) == made_up.STEPS
        np.testing.assert_allclose(y / 100, getattr(fidelity.horizons.survival, side))


DRAWERS: list[Callable[[Fidelity], Any]] = [
    plots.agreement_scatter,
    plots.predicted_returns,
    plots.survival,
]


@pytest.mark.parametrize("draw", DRAWERS)
def test_what_was_not_measured_is_not_drawn(draw: Callable[[Fidelity], Any]) -> None:
    whole = made_up.measured()
    assert draw(Fidelity()) is None
    without = whole.replace(
        agreement=whole.agreement.replace(points=[]),
        horizons=whole.horizons.replace(survival=None),
    )
    assert draw(without) is None
    assert plots.curve(None) is None


def test_names_are_shown_as_they_stand() -> None:
    rows = [
        PolicyComparison(policy=name, real_mean=i, real_ci95=(i, i), learned_mean=i, episodes=50)
        for i, name in enumerate(["$x", "_hidden", "a" * 90, "$x$ \\alpha^", "{", "%"])
    ]
    picture = plots.scatter(rows)
    assert picture is not None
    drawing = base64.b64decode(picture.partition(",")[2]).decode()
    assert drawing.count("<!-- ") > 0 and "<!--  _hidden -->" in drawing


def log(number: int, steps: int, low: float | None, high: float | None, **other: Any) -> RoundLog:
    """Log of a round with these predicted ends."""
    tree: JSON = {
        "round": number, "real_steps": steps, "learned_steps": 1, "estimates": {}, "chosen": "p", "contender": "p",
        "predicted_return": {"mean": 50.0 - 10 * number, "low": low, "high": high}, "expected": 50.0,
        "reality": None, "seconds": {},
    }  # fmt: skip
    return RoundLog.from_json(tree | other, where="test")


def test_rounds_show_predicted_and_real_returns(drawn: list[Any]) -> None:
    reality = {"round": 0, "policy": "p", "returns": [20.0, 30.0], "predicted_return": 50.0}
    logs = [log(0, 100, None, None), log(1, 150, 10.0, 70.0, reality=reality)]
    assert plots.rounds(logs)
    assert [axis.tolist() for axis in series(drawn[0], "predicted return")] == [
        [100, 150],
        [50, 40],
    ]
    # Real evaluation episodes of the second round evaluate the policy chosen in the first.
    checks = series(drawn[0], "real evaluation episodes")
    assert [axis.tolist() for axis in checks] == [[100], [25]]
    assert plots.rounds(logs[:1]) is None


def test_the_picture_of_rounds_is_a_file() -> None:
    picture = plots.rounds_picture([log(0, 1, 0.0, 2.0), log(1, 2, 0.0, 2.0)])
    assert picture is not None
    assert picture.lstrip().startswith(b"<?xml")
    assert plots.rounds_picture([log(0, 1, 0.0, 2.0)]) is None
