"""Tables of docs/results and of the main README, generated from benchmarks/results/*.json.

    python -m benchmarks.tables            # write them
    python -m benchmarks.tables --check    # exit status 1 if one is stale

Each table stands between two markers, `<!-- name:begin -->` and `<!-- name:end -->`; the text around them is written by
hand. A cell that was not measured is named as missing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from benchmarks.agreement import agreement_tables, misses_table
from benchmarks.arguments import script_parser
from benchmarks.diagnostics import alarm_table, lint_table, scales_table, uncertainty_table
from benchmarks.families import families_table, history_table
from benchmarks.learning import learning_table
from benchmarks.markdown import NOT_MEASURED
from benchmarks.refinement import refined_table
from benchmarks.returns import returns_table, toy_text_table
from benchmarks.sample_efficiency import sample_efficiency_table
from benchmarks.speed import speed_tables

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Section:
    """A function that writes Markdown, and the results files it is called with, without their suffix."""

    write: Callable[..., str]
    files: tuple[str, ...]

    def text(self, results: Path) -> str:
        """The Markdown; a sentence if a results file is missing."""
        trees = []
        for name in self.files:
            path = results / f"{name}.json"
            if not path.is_file():
                return f"{NOT_MEASURED} `benchmarks/results/{name}.json` does not exist."
            trees.append(json.loads(path.read_text(encoding="utf-8")))
        return self.write(*trees)


def _sections(module: ModuleType, *names: str, files: str = "") -> dict[str, Section]:
    """Sections by name of their markers: function "<name>_section" of the module.

    files: names of their results files, separated by spaces; empty: the name of the section.
    """
    return {
        name: Section(getattr(module, f"{name}_section"), tuple((files or name).split()))
        for name in names
    }


OPTIONAL = "README.md"
"""Page that may lack its markers: then it has nothing to check."""
PAGES: dict[str, dict[str, Section]] = {
    "README.md": {"results": Section(returns_table.summary_section, ("returns", "refined"))},
    "docs/results/returns.md": _sections(returns_table, "returns", "tuning")
    | _sections(returns_table, "pairs", "goals", files="returns")
    | _sections(returns_table, "returns_speed", files="returns_speed returns"),
    "docs/results/categories.md": _sections(toy_text_table, "toy_text"),
    "docs/results/refinement.md": _sections(refined_table, "refined")
    | _sections(refined_table, "goals", "rounds", "ablation", "tried", "missing", files="refined"),
    "docs/results/sample-efficiency.md": _sections(
        sample_efficiency_table, "sample_efficiency", "learning_curves", files="sample_efficiency"
    )
    | _sections(sample_efficiency_table, "svg_critics"),
    "docs/results/agreement.md": _sections(agreement_tables, "agreement")
    | _sections(agreement_tables, "intervals", "goals", "changes", files="agreement")
    | _sections(misses_table, "misses"),
    "docs/results/speed.md": _sections(
        speed_tables,
        *("steps_per_second", "image_steps", "gpu", "parts", "fit_speed", "ppo_speed"),
    ),
    "docs/results/families.md": _sections(families_table, "families", "one_frame")
    | _sections(history_table, "history"),
    "docs/results/diagnostics.md": _sections(lint_table, "lint")
    | _sections(alarm_table, "alarm")
    | _sections(alarm_table, "alarm_tuning", files="alarm")
    | _sections(uncertainty_table, "uncertainty")
    | _sections(scales_table, "scales"),
    "docs/results/learning.md": _sections(learning_table, "learn_table")
    | _sections(speed_tables, "svg_speed"),
}
"""Page -> name of its markers -> section."""


def render(text: str, sections: dict[str, str]) -> str:
    """Text of a page with every section between its markers replaced.

    Raises ValueError unless each pair of markers is there exactly once.
    """
    for name, section in sections.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"expected exactly one {begin} and one {end}")
        before, _, rest = text.partition(begin)
        after = rest.partition(end)[2]
        text = f"{before}{begin}\n{section}\n{end}{after}"
    return text


def main() -> int:
    """Write or check the tables; returns the exit status."""
    parser = script_parser(__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if a table is stale"
    )
    parser.add_argument(
        "--pages", type=Path, default=ROOT, help="folder of the pages (default: this checkout)"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=ROOT / "benchmarks" / "results",
        help="folder of the results files (default: benchmarks/results of this checkout)",
    )
    arguments = parser.parse_args()
    stale = False
    for name, sections in PAGES.items():
        page = arguments.pages / name
        old = page.read_text(encoding="utf-8")
        if name == OPTIONAL and not any(f"<!-- {marker}:" in old for marker in sections):
            continue
        texts = {marker: section.text(arguments.results) for marker, section in sections.items()}
        new = render(old, texts)
        if not arguments.check:
            page.write_text(new, encoding="utf-8")
        elif new != old:
            print(f"{name} is stale: run `python -m benchmarks.tables`", file=sys.stderr)
            stale = True
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
