"""Model card: written with every twin, from its twin.json alone; a damaged card does no harm."""

import dataclasses
from pathlib import Path
from typing import Any

import made_up
import numpy as np
import pytest
from gymnasium import spaces

import world_env.twin.twin as twin_module
from world_env.errors import InvalidOptionError, TwinSaveError
from world_env.models.ensemble.model import EnsembleConfig
from world_env.policies.config import MixtureExploration, PolicyExploration, random_and_held
from world_env.results import Fidelity, Provenance
from world_env.results.error_curves import error_curves
from world_env.results.fidelity import ObservationErrors, OpenLoopErrors
from world_env.results.formatting import show
from world_env.spec import WorldSpec
from world_env.twin.fidelity_tables import (
    agreement_table,
    coverage_table,
    effect_table,
    error_table,
    prediction_text,
)
from world_env.twin.model_card import card_text
from world_env.twin.provenance_text import exploration_text, real_steps_text
from world_env.twin.serialization import find_twin
from world_env.twin.twin import Twin, load_cached
from world_env.types import JSON

SPEC = WorldSpec(spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(2), horizon=200)
PROVENANCE = Provenance(real_steps=3000, exploration=[{"kind": "a|b"}], seeds=[3, 4], commit="0a1b")


def twin(fidelity: Fidelity | None = None) -> Twin:
    small = EnsembleConfig(members=2, width=8, layers=1, head_width=8)
    return dataclasses.replace(
        Twin.untrained(SPEC, config=small),
        fidelity=made_up.measured() if fidelity is None else fidelity,
        provenance=PROVENANCE,
    )


def text_of(fidelity: JSON, known: tuple[str, ...] = ()) -> str:
    return card_text(
        family="ensemble",
        spec=SPEC,
        provenance=PROVENANCE,
        fidelity=made_up.measured(fidelity),
        known=known,
    )


def section(card: str, title: str) -> str:
    return card.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_saved_twin_has_a_card_of_what_is_loaded_again(tmp_path: Path) -> None:
    folder = twin().save(tmp_path / "twin")
    assert (folder / "card.md").read_text(encoding="utf-8") == Twin.load(folder).card()
    twin(Fidelity()).save(folder)
    assert "No policy pool was evaluated" in (folder / "card.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("damage", ["missing", "garbage", "folder", "link"])
def test_a_card_is_never_in_the_way(tmp_path: Path, damage: str) -> None:
    folder = twin().save(tmp_path / "twin")
    path = folder / "card.md"
    path.unlink()
    if damage == "garbage":
        path.write_bytes(b"\xff\x00")
    elif damage == "folder":
        (path / "below").mkdir(parents=True)
    elif damage == "link":
        path.symlink_to(tmp_path / "nowhere")
    first = load_cached(folder)
    assert first.fingerprint() == Twin.load(folder).fingerprint() == twin().fingerprint()
    twin().save(folder)
    assert path.read_text(encoding="utf-8").startswith("# Twin of")
    assert not (tmp_path / "nowhere").exists()


def test_a_card_that_cannot_be_written_leaves_the_old_twin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = twin().save(tmp_path / "twin")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write = twin_module.write_bytes

    def full(path: Path, blob: bytes) -> None:
        if path.name == "card.md":
            raise OSError(28, "No space left on device")
        write(path, blob)

    monkeypatch.setattr(twin_module, "write_bytes", full)
    with pytest.raises(TwinSaveError, match="No space left"):
        twin(Fidelity()).save(folder)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bundled_card_says_what_its_twin_says(bundled: list[str]) -> None:
    for name in bundled:
        folder = find_twin(name)
        wanted = Twin.load(name).card()
        stale = f"{name}: the card is stale; Twin.load({name!r}).save(FOLDER) writes it"
        assert (folder / "card.md").read_text(encoding="utf-8") == wanted, stale


def test_a_card_has_its_sections_in_order() -> None:
    card = text_of(made_up.fidelity(), known=("reward",))
    titles = [line[3:] for line in card.splitlines() if line.startswith("## ")]
    assert titles == [
        *("Warnings", "Real and learned returns", "Data", "Agreement over a policy pool"),
        *("Predicted return", "Open-loop accuracy", "Out-of-scope uses"),
    ]
    data = section(card, "Data")
    for cell in ("3,000", "{'kind': 'a\\|b'}", "3, 4", "0a1b", "200 steps", "reward"):
        assert f"| {cell} |" in data, cell
    assert "load is constant" in data
    assert "100 steps; an episode has up to 200." in section(card, "Open-loop accuracy")
    assert "Learned returns of policies trained in the twin are" in section(card, "Warnings")


def test_agreement_stands_beside_its_ceiling() -> None:
    fidelity = made_up.fidelity()
    fidelity["agreement"]["evaluation"] |= {
        "pearson": 0.98, "pearson_ci95": [0.95, 0.99], "ceiling": 0.998, "bias": -3.0,
        "bias_fraction": -0.012, "spearman": None,
    }  # fmt: skip
    head, *rows = agreement_table(made_up.measured(fidelity))
    assert head == [
        *("measure", "evaluation", "evaluation, with interval", "optimisation"),
        "optimisation, with interval",
    ]  # fmt: skip
    cells = {row[0]: row[1] for row in rows}
    assert cells["policies"] == "24 (8 training runs)"
    assert cells["Pearson correlation [95 %]"] == "0.980 [0.950, 0.990]"
    assert cells["Pearson ceiling"] == "0.998"
    assert cells["bias (of the range)"] == "-3 (-1.2 %)"
    assert cells["Spearman correlation"] == "–"  # noqa: RUF001
    order = [row[0] for row in rows]
    assert order.index("Pearson ceiling") == order.index("Pearson correlation [95 %]") + 1


def test_a_part_that_is_the_whole_is_not_shown_twice() -> None:
    fidelity = made_up.fidelity()
    fidelity["agreement"]["evaluation"]["supported"]["policies"] = 24
    fidelity["agreement"]["optimisation"] = None
    assert agreement_table(made_up.measured(fidelity))[0] == ["measure", "evaluation"]


def test_a_predicted_return_shows_its_width_and_its_measured_coverage() -> None:
    fidelity = made_up.fidelity()
    text = prediction_text(made_up.measured(fidelity))
    assert "learned return - 18, ± 95 (90 % interval)." in text
    assert "17 % of the pool's range" in text and "at most 3 % of their steps" in text
    assert "Calibrated on 23 policies from 8 training runs." in text
    assert coverage_table(made_up.measured(fidelity))[1] == [
        "evaluation",
        "23 (8 training runs)",
        "90 %",
        "91.3 %",
    ]
    fidelity["return_prediction"] |= {
        "bias": -4.0,
        "coverage": {},
        "width_fraction": None,
    }
    assert prediction_text(made_up.measured(fidelity)).startswith(
        "Predicted real return: learned return + 4, ± 95 (90 % interval). Valid"
    )
    fidelity["return_prediction"] |= {"bias_per_share": -250.0}
    assert prediction_text(made_up.measured(fidelity)).startswith(
        "Predicted real return: learned return + 4 + 2.5 for each percent of steps out of distribution, ± 95 ("
    )
    assert coverage_table(made_up.measured(fidelity)) == []


def test_dimensions_are_taken_together_and_the_worst_is_named() -> None:
    tree = made_up.fidelity()["horizons"] | {
        "observation": {
            "steps": [1, 10],
            "unit": "metres",
            "names": ["x", "y", "z"],
            "windows": [9, 9],
            "error": [[3.0, 1.0], [4.0, 7.0], [0.0, 0.0]],
            "hold_last": [[1.0, None]] * 3,
            "linear": None,
        }
    }
    fidelity = made_up.measured(made_up.fidelity() | {"horizons": tree})
    curves = error_curves(fidelity)
    assert curves is not None and curves.steps == [1, 10] and curves.unit == "metres"
    np.testing.assert_allclose(curves.series["twin"], [np.sqrt(25 / 3), np.sqrt(50 / 3)])
    assert curves.series["worst"] == [4.0, 7.0] and curves.worst_name == "y"
    assert curves.series["median"] == [3.0, 1.0]
    assert curves.series["hold_last"] == [1.0, None] and "linear" not in curves.series
    table = error_table(curves)
    assert table[0][3] == "worst at 10 steps: y" and table[2][0] == "10"


@pytest.mark.parametrize(
    "bad",
    [{"steps": [1]}, {"error": [[1.0], [1.0, 2.0]]}, {"windows": []}, {"linear": [[1.0, 2.0]]}],
)
def test_curves_that_do_not_fit_together_are_refused(bad: JSON) -> None:
    two = {"steps": [1, 10], "unit": "m", "names": ["x", "y"], "windows": [9, 9], "linear": None}
    two |= {"error": [[1.0, 2.0]] * 2, "hold_last": [[1.0, 2.0]] * 2}
    assert ObservationErrors.from_json(two, where="here").names == ["x", "y"]
    with pytest.raises(InvalidOptionError, match=r"here: .* entries, expected"):
        ObservationErrors.from_json(two | bad, where="here")


def test_errors_of_each_step_are_the_curves_without_dimensions() -> None:
    curve = OpenLoopErrors(unit="metres", error=[0.1, 0.2], hold_last=[0.3, None], windows=9)
    curves = error_curves(Fidelity(open_loop=curve))
    assert curves is not None and curves.steps == [1, 2] and curves.sampled is None
    assert curves.series == {"twin": [0.1, 0.2], "hold_last": [0.3, None]}
    drawn = curve.replace(energy=[0.05, 0.1], hold_energy=[0.2, None])
    curves = error_curves(Fidelity(open_loop=drawn))
    assert curves is not None and curves.sampled == (1, 0.05, 0.2)
    assert list(curves.series) == ["twin", "energy", "hold_energy", "hold_last"]
    assert error_curves(Fidelity()) is None


def test_the_error_of_an_effect_is_a_share_of_the_effect() -> None:
    assert effect_table(made_up.measured())[1:] == [
        ["1", "0.11", "0.4 %"],
        ["5", "0.6", "3 %"],
        ["20", "1.1", "20 %"],
    ]


def test_numbers_of_any_kind_are_shown() -> None:
    assert [show(v) for v in (None, float("nan"), float("-inf"))] == ["–"] * 3  # noqa: RUF001
    assert show(np.float32(0.5)) == "0.5"


def test_cells_and_bullets_stay_in_their_line() -> None:
    fidelity = made_up.fidelity()
    fidelity["notes"] = ["one\n\ntwo"]
    fidelity["comparison"][0]["policy"] = "c|d\ne"
    card = text_of(fidelity)
    assert "\n- one two\n" in card and "| c\\|d e | -1,166 [" in card
    assert "\n\n\n" not in card and "<" not in card


def test_a_twin_that_was_not_measured_has_a_card() -> None:
    assert text_of({}).count("\n## ") == 7


def test_the_warnings_of_the_comparison_are_the_first_of_a_card() -> None:
    fidelity = made_up.fidelity()
    fidelity["comparison"][0] |= {"learned_ci95": [-900.0, -800.0], "past_threshold_share": 0.5}
    found = [line for line in section(text_of(fidelity), "Warnings").splitlines() if line]
    assert found[0].startswith(
        "- The 95 % intervals of real and learned return do not overlap: random"
    )
    assert found[1].startswith("- More than 20 % of the learned steps are out of distribution")
    assert "| random actions | -1,166 [-1,218, -1,112] |" in section(
        text_of(fidelity), "Real and learned returns"
    )


@pytest.mark.parametrize(
    ("recorded", "text"),
    [
        ({"kind": "random"}, "uniform random actions"),
        ({"kind": "held", "steps": 30.0}, "random actions held for 30 steps on average"),
        (
            {"kind": "policy", "path": "some/where/mine", "deterministic": True},
            'deterministic actions of the policy "mine"',
        ),
        (
            {"kind": "policy", "path": "selected", "deterministic": False},
            "actions of the previous round's policy",
        ),
        (
            {"kind": "stuck_sensors", "path": "newest", "share": 0.5},
            "actions of the previous round's newest policy with 50 % of the observation dimensions stuck",
        ),
        (
            [{"kind": "random"}, {"kind": "policy", "path": "newest", "deterministic": False}],
            "uniform random actions; then actions of the previous round's newest policy",
        ),
        (
            [
                random_and_held(5).to_json(),
                MixtureExploration(
                    parts=(PolicyExploration(path="selected"), PolicyExploration(path="fresh")),
                    weights=(1, 3),
                ).to_json(),
            ],
            "50 % uniform random actions, 50 % random actions held for 5 steps on average; then 25 % actions of the "
            'previous round\'s policy, 75 % actions of the policy "fresh"',
        ),
        ({"kind": "dance"}, "{'kind': 'dance'}"),
    ],
)
def test_an_exploration_is_described_in_words(recorded: Any, text: str) -> None:
    assert (
        exploration_text(
            Provenance(exploration=recorded if isinstance(recorded, list) else [recorded])
        )
        == text
    )


def test_provenance_of_the_data_set_completes_that_of_the_twin() -> None:
    # As `collect` and `fit` record it, one after the other.
    provenance = Provenance(
        real_steps={"collect": 2000, "validate": 450},
        episodes=1200,
        stages={
            "data": {"exploration": {"kind": "held", "steps": 5}, "seed": 7},
            "fit": {"seed": 0},
        },
    )
    card = card_text(family="ensemble", spec=SPEC, provenance=provenance, fidelity=Fidelity())
    for line in (
        "| real environment steps | 2,450 (collect 2,000, validate 450) |",
        "| exploration | random actions held for 5 steps on average |",
        "| seeds | 7 |",
        "| episodes | 1,200 |",
    ):
        assert line in section(card, "Data")
    assert real_steps_text(Provenance(real_steps={"collect": 2000})) == "2,000"
    minari = Provenance(stages={"data": {"minari": "pen/human-v2"}})
    assert exploration_text(minari) == "Minari dataset pen/human-v2"
    own = Provenance(stages={"data": {"exploration": "by hand"}})
    assert exploration_text(own) == "by hand"
    assert exploration_text(Provenance()) is None


def test_what_a_card_cannot_encode_is_replaced(tmp_path: Path) -> None:
    folder = twin(Fidelity(notes=["\ud800"])).save(tmp_path / "twin")
    assert "- ?" in (folder / "card.md").read_text(encoding="utf-8")
