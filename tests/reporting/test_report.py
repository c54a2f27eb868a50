"""Report page: self-contained, with dashes for what was not measured."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import made_up
import numpy as np
import pytest

from world_env.errors import StageError
from world_env.reporting.report import read_comparison, summary, write_report
from world_env.results import Comparison, Fidelity, Provenance
from world_env.results.error_curves import ErrorCurves
from world_env.results.fidelity import OpenLoopErrors
from world_env.results.formatting import DASH, show
from world_env.spec import EnvConfig
from world_env.types import JSON

TREE: JSON = {
    "env_id": "Some/World-v3",
    "episodes": 100,
    "rows": [
        {"policy": "random", "real_mean": 22.1, "real_ci95": [20.3, 24.0],
         "learned_mean": 23.4, "learned_ci95": [21.0, 25.9], "real_steps": 0, "episodes": 100,
         "past_threshold_share": 0.002},
        {"policy": "ppo_twin", "real_mean": 500.0, "real_ci95": [500.0, 500.0],
         "learned_mean": 493.25, "learned_ci95": [485.0, 499.5], "real_steps": 2000,
         "episodes": 100, "past_threshold_share": 0.013},
        {"policy": "ppo_real_same_steps", "real_mean": 61.8, "real_ci95": [55.0, 69.0],
         "learned_mean": 70.2, "learned_ci95": [60.1, 81.0], "real_steps": 2000, "episodes": 100,
         "past_threshold_share": 0.0},
        {"policy": "ppo_real_many_steps", "real_mean": 499.1, "real_ci95": [497.0, 500.0],
         "learned_mean": None, "learned_ci95": None, "real_steps": 200000, "episodes": 100,
         "past_threshold_share": None},
    ],
    "real_steps_by_purpose": {"collect": 1800, "validate": 200, "judge": 51234},
    "provenance": {"commit": "0123abc", "machine": "a computer", "command": "make <demo>"},
}  # fmt: skip
COMPARISON = Comparison.from_json(TREE, where="test")
HORIZON = list(range(1, 51))
CURVES = ErrorCurves(
    HORIZON,
    "standard deviations of the data",
    {
        "twin": [0.002 * h for h in HORIZON],
        "hold_last": [1.2 * (1 - 0.95**h) for h in HORIZON],
        "linear": [0.01 * 1.12**h for h in HORIZON],
    },
)
STAGES = [("collect", 1.31), ("fit", 48.2), ("learn", 71.04), ("all", 121.0)]


def one_dimension() -> Fidelity:
    """Fidelity with the errors of CURVES in its only dimension."""
    horizons = made_up.fidelity()["horizons"] | {"trusted_horizon": 50}
    horizons["observation"] |= {"steps": HORIZON, "names": ["x"], "windows": HORIZON}
    series = {"error": "twin", "hold_last": "hold_last", "linear": "linear"}
    horizons["observation"] |= {name: [CURVES.series[own]] for name, own in series.items()}
    return made_up.measured({"horizons": horizons})


def rows_where_learned_is_real() -> Comparison:
    return COMPARISON.replace(
        rows=[row.replace(learned_ci95=row.real_ci95) for row in COMPARISON.rows]
    )


def frames(n: int = 4) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (40, 90, 3), np.uint8) for _ in range(n)]


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.sources += [v for k, v in attrs if k in ("src", "href", "srcset")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    path = write_report(tmp_path / "new" / "folder", title="A world", comparison=COMPARISON,
                        fidelity=one_dimension(), stages=STAGES, frames=frames())  # fmt: skip
    text = path.read_text(encoding="utf-8")
    parser = Links()
    parser.feed(text)
    assert not parser.open
    assert len(parser.sources) == 3 + 4
    assert all(source.startswith("data:image/") for source in parser.sources)
    # What lies inside the data URIs is drawn from nothing else either.
    assert not re.search(r"@import|url\(|<script", text)
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "report.md"]


def test_both_pages_hold_the_same_table(tmp_path: Path) -> None:
    path = write_report(tmp_path, title="A <b>world</b>", comparison=COMPARISON)
    page, markdown = path.read_text("utf-8"), path.with_suffix(".md").read_text("utf-8")
    assert "<b>" not in page and "make &lt;demo&gt;" in page
    for cell in (
        "493.2 [485, 499.5]",
        "500 [500, 500]",
        "-6.75",
        "+8.4",
        "1.3 %",
        "200,000",
        "0123abc",
    ):
        assert cell in page and cell in markdown, cell
    assert "| PPO trained in the twin | 500 [500, 500] |" in markdown
    line = next(line for line in markdown.splitlines() if line.startswith("| ppo_real_many"))
    assert (
        line == f"| ppo_real_many_steps | 499.1 [497, 500] | {DASH} | {DASH} | 200,000 | {DASH} |"
    )


def test_the_markdown_page_holds_the_errors_and_says_where_the_pictures_are(
    tmp_path: Path,
) -> None:
    path = write_report(tmp_path, title="A world", comparison=COMPARISON, fidelity=one_dimension())
    lines = path.with_suffix(".md").read_text("utf-8").splitlines()
    assert "| steps | twin | last observation held | linear model |" in lines
    assert "| 10 | 0.02 | 0.482 | 0.0311 |" in lines
    assert any(line.startswith("| 50 | 0.1 |") for line in lines)
    assert (
        "Root mean square error on the validation split, in standard deviations of the data."
        in lines
    )
    assert any("Plots" in line and "`report.html`" in line for line in lines)


def test_draws_are_compared_by_their_energy_score(tmp_path: Path) -> None:
    curve = OpenLoopErrors(unit="metres", error=[0.5, 1.2], hold_last=[0.5, 1.0], windows=9)
    drawn = curve.replace(energy=[0.2, 0.6], hold_energy=[0.3, 0.9])
    pages = [
        write_report(
            tmp_path / name,
            title="t",
            comparison=COMPARISON,
            fidelity=Fidelity(open_loop=measured),
        )
        .with_suffix(".md")
        .read_text("utf-8")
        for name, measured in (("one", curve), ("two", drawn))
    ]
    text = "Open-loop error after 2 steps: 1.2 metres"
    assert f"{text}, not lower than that of holding the last observation (1)" in pages[0]
    text += ". Energy score of sampled predictions after 2 steps: 0.6, lower than that of"
    assert f"{text} holding the last observation (0.9)." in pages[1]
    assert "energy score, sampled predictions" in pages[1] and "last observation held" in pages[1]


def test_a_comparison_is_read_back_or_named(tmp_path: Path) -> None:
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(COMPARISON.to_json()))
    assert read_comparison(path) == COMPARISON
    row = TREE["rows"][0]
    bad = [TREE | {"rows": [row | {"real_ci95": [1.0]}]}, TREE | {"rows": [row | {"extra": 1}]}]
    for text in ("{", "[]", "{}", '{"rows": [3]}', *map(json.dumps, bad)):
        path.write_text(text)
        with pytest.raises(StageError, match="is not a comparison"):
            read_comparison(path)
    with pytest.raises(StageError, match="world-env compare"):
        read_comparison(tmp_path / "nowhere.json")


def test_what_was_not_measured_is_left_out_or_a_dash(tmp_path: Path) -> None:
    row = COMPARISON.rows[3].replace(policy="a|b", real_steps=None)
    path = write_report(tmp_path, title="Bare", comparison=COMPARISON.replace(rows=[row]))
    assert "<img" not in path.read_text("utf-8")
    markdown = path.with_suffix(".md").read_text("utf-8")
    assert "| a\\|b | 499.1 [497, 500] |" + f" {DASH} |" * 4 in markdown


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything that can stand on it."""
    return write_whole(tmp_path_factory.mktemp("page"))


def write_whole(folder: Path) -> Path:
    return write_report(
        folder, title="T", comparison=COMPARISON, stages=STAGES, frames=frames(), fidelity=made_up.measured(),
    )  # fmt: skip


def test_a_twins_agreement_stands_on_both_pages(whole: Path) -> None:
    path = whole
    page, markdown = path.read_text("utf-8"), path.with_suffix(".md").read_text("utf-8")
    parser = Links()
    parser.feed(page)
    assert not parser.open and len(parser.sources) == 4 + 4
    for text in (
        "Learned returns of policies trained in the twin are",
        "The trusted horizon is 100 steps; an episode has up to 200",
        "Policy pool: 24 policies from 8 training runs",
        "Pearson ceiling",
        "0.998",
        "learned return - 18, ± 95",
        "91.3 %",
        "effect of other actions",
        "sac-2-1",
    ):
        assert text in page and text in markdown, text
    # What was measured by dimension takes the place of the one curve.
    assert "worst at 200 steps: angular velocity" in markdown and "200 steps: 0.457" in markdown
    assert page.index("Warnings") < page.index("<table") < page.index("Agreement")
    assert markdown.index("## Warnings") < markdown.index("PPO trained in the twin: real return")
    assert markdown.index("## Results") < markdown.index("| policy |")


def test_a_page_without_a_twin_has_the_warnings_of_its_comparison_alone(tmp_path: Path) -> None:
    path = write_report(tmp_path, title="T", comparison=COMPARISON)
    text = path.read_text("utf-8") + path.with_suffix(".md").read_text("utf-8")
    assert "No policy pool" not in text and "Agreement" not in text
    path = write_report(tmp_path, title="T", comparison=rows_where_learned_is_real())
    text = path.read_text("utf-8") + path.with_suffix(".md").read_text("utf-8")
    assert "Warnings" not in text


def test_a_twin_that_was_only_fitted_says_that_no_pool_judged_it(tmp_path: Path) -> None:
    curve = OpenLoopErrors(unit="metres", error=[0.1, 0.2], hold_last=[0.3, 0.4], windows=9)
    fidelity = Fidelity(open_loop=curve)
    path = write_report(tmp_path, title="T", comparison=COMPARISON, fidelity=fidelity)
    markdown = path.with_suffix(".md").read_text("utf-8")
    assert "- No policy pool was evaluated" in markdown
    assert "| 2 | 0.2 | 0.4 |" in markdown and "split, in metres." in markdown
    assert "Agreement" not in markdown


def test_a_twin_without_faults_says_that_none_was_found(tmp_path: Path) -> None:
    tree = made_up.fidelity()
    tree["horizons"] = None
    tree["agreement"]["optimisation"]["bias"] = -1.0
    fidelity = made_up.measured(tree)
    path = write_report(
        tmp_path, title="T", comparison=rows_where_learned_is_real(), fidelity=fidelity
    )
    for page in (path, path.with_suffix(".md")):
        assert "No warning rule applies." in page.read_text("utf-8")


def test_wide_tables_are_stacked_on_a_phone(whole: Path) -> None:
    page = whole.read_text("utf-8")
    wide = [
        table for table in re.findall(r"<table.*?</table>", page, re.S) if table.count("<th>") > 3
    ]
    assert len(wide) == 5
    for table in wide:
        assert table.startswith('<table class="stacked">')
        heads = re.findall(r"<th>(.*?)</th>", table)
        first = re.findall(r'<td data-head="(.*?)">', table)[: len(heads)]
        assert first == heads
    assert ".stacked thead { display: none; }" in page.partition("@media (max-width")[2]


def test_the_summary_begins_with_the_policy_trained_in_the_twin() -> None:
    assert summary(COMPARISON, CURVES) == [
        "PPO trained in the twin: real return 500 [500, 500], learned return 493.2 [485, 499.5].",
        "Return gap (learned minus real): -6.75; the 95 % intervals do not overlap.",
        "Baselines, real return: PPO trained in the real environment, same steps 61.8 [55, 69]; random actions 22.1 "
        "[20.3, 24].",
        "Open-loop error after 50 steps: 0.1 standard deviations of the data, lower than that of holding the last "
        "observation (1.11).",
    ]
    rows = COMPARISON.rows
    worse = COMPARISON.replace(rows=[*(row.replace(real_mean=1.0) for row in rows[:2]), *rows[2:]])
    assert summary(worse, None)[0].startswith("PPO trained in the twin: real return 1 [")
    assert summary(COMPARISON.replace(rows=rows[3:]), None) == [
        "ppo_real_many_steps: real return 499.1 [497, 500].",
        "This policy was not evaluated in the twin.",
        "The open-loop error of the twin was not measured.",
    ]
    exact = COMPARISON.replace(rows=[rows[1].replace(learned_mean=500.0)])
    assert summary(exact, None)[1] == "Return gap (learned minus real): 0."
    near = COMPARISON.replace(rows=rows[:1])
    assert "+1.3; the 95 % intervals overlap." in summary(near, None)[1]


def test_a_comparison_that_contradicts_the_twin_is_the_first_warning(tmp_path: Path) -> None:
    row = COMPARISON.rows[1].replace(
        real_mean=-8969.0, real_ci95=(-9100.0, -8800.0), learned_mean=-531.0, learned_ci95=(-600.0, -480.0),
        past_threshold_share=0.71,
    )  # fmt: skip
    comparison = COMPARISON.replace(rows=[row])
    for fidelity in (None, Fidelity(), Fidelity(comparison=COMPARISON.rows)):
        path = write_report(tmp_path, title="T", comparison=comparison, fidelity=fidelity)
        page, markdown = path.read_text("utf-8"), path.with_suffix(".md").read_text("utf-8")
        first, second = re.findall(r'<li class="urgent">(.*?)</li>', page)
        assert "do not overlap: PPO trained in the twin (real -8,969" in first
        assert "out of distribution" in second and "(71 %)" in second
        assert page.index(first) < page.index("Results") < page.index("<table")
        assert (
            markdown.index(f"- {first}")
            < markdown.index(f"- {second}")
            < markdown.index("| policy")
        )


def test_provenance_is_described_in_words(tmp_path: Path) -> None:
    provenance = Provenance(
        exploration=[
            {"kind": "random"},
            {"kind": "policy", "path": "selected", "deterministic": False},
        ],
        real_steps=2000,
        real=EnvConfig("Some/World-v3"),
        seeds=[3],
        commit="0123abc",
        trained_on=["a"] * 90,
        stages={"fit": {"family": "ensemble", "model": {}}},
    )
    path = write_report(tmp_path, title="T", comparison=COMPARISON, provenance=provenance)
    for text in (path.read_text("utf-8"), path.with_suffix(".md").read_text("utf-8")):
        assert "kind" not in text and "previous round" in text
        assert "2,000" in text and "90 entries" in text and "family: ensemble" in text
    markdown = path.with_suffix(".md").read_text("utf-8")
    assert "| judge | final evaluation of the policies | 51,234 |" in markdown
    assert (
        markdown.index("- seeds: 3")
        < markdown.index("## Other settings")
        < markdown.index("- fit:")
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, DASH), (float("nan"), DASH), (2000, "2,000"), (-146.26, "-146.3"), (0.01234, "0.0123"),
     (0, "0"), (93.456, "93.5"), (12345.6, "12,346"), (485.0, "485")],
)  # fmt: skip
def test_numbers_are_shown_with_the_decimals_that_help(value: float | None, text: str) -> None:
    assert show(value) == text


def test_the_same_input_writes_the_same_page(whole: Path, tmp_path: Path) -> None:
    again = write_whole(tmp_path)
    for suffix in (".html", ".md"):
        assert whole.with_suffix(suffix).read_bytes() == again.with_suffix(suffix).read_bytes()


def test_bad_input_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"no rows.*run `world-env compare` first"):
        write_report(tmp_path, title="T", comparison=COMPARISON.replace(rows=[]))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StageError, match=r"cannot write .*report\.md"):
        write_report(tmp_path / "file", title="T", comparison=COMPARISON)


def test_the_page_shows_judging_beside_all_other_real_steps(tmp_path: Path) -> None:
    steps = {row.policy: 1_000 * i for i, row in enumerate(COMPARISON.rows, 1)}
    path = write_report(
        tmp_path, title="A world", comparison=COMPARISON.replace(judging_steps=steps)
    )
    lines = path.with_suffix(".md").read_text("utf-8").splitlines()
    assert any(
        "| return gap | real steps | judging steps | out of distribution |" in line
        for line in lines
    )
    assert any(line.startswith("| random actions |") and "| 0 | 1,000 |" in line for line in lines)
    assert "| judge | final evaluation of the policies | 51,234 |" in lines
    assert "| sum | without the final evaluation | 2,000 |" in lines
    assert "| sum | all real environment steps | 53,234 |" in lines
    page = path.read_text("utf-8")
    assert ">judging steps<" in page and "53,234" in page
    # Where it is not known, the column is absent.
    path = write_report(tmp_path, title="A world", comparison=COMPARISON)
    assert "judging steps" not in path.with_suffix(".md").read_text("utf-8")
