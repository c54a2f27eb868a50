"""Tables of docs/results and of the main README, generated from benchmarks/results/*.json.

    python -m benchmarks.tables            # write them
    python -m benchmarks.tables --check    # exit status 1 if one is stale

Each table stands between two markers, `<!-- name:begin -->` and `<!-- name:end -->`; the text around them is written by
hand. A cell that was not measured is named as missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.agreement import agreement_tables, misses_table
from benchmarks.diagnostics import alarm_table, lint_table, scales_table, uncertainty_table
from benchmarks.families import families_table
from benchmarks.learning import learning_table
from benchmarks.markdown import NOT_MEASURED
from benchmarks.refinement import refined_table
from benchmarks.returns import returns_table
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


def _of(write: Callable[..., str], *files: str) -> Section:
    return Section(write, files)


OPTIONAL = "README.md"
"""Page that may lack its markers: then it has nothing to check."""
PAGES: dict[str, dict[str, Section]] = {
    "README.md": {"results": _of(returns_table.summary_section, "returns", "refined")},
    "docs/results/returns.md": {
        "returns": _of(returns_table.returns_section, "returns"),
        "pairs": _of(returns_table.pairs_section, "returns"),
        "goals": _of(returns_table.goals_section, "returns"),
        "returns_speed": _of(returns_table.repeated_section, "returns_speed", "returns"),
        "tuning": _of(returns_table.tuning_section, "tuning"),
    },
    "docs/results/refinement.md": {
        "refined": _of(refined_table.refined_section, "refined"),
        "goals": _of(refined_table.goals_section, "refined"),
        "rounds": _of(refined_table.rounds_section, "refined"),
        "ablation": _of(refined_table.ablation_section, "refined"),
        "tried": _of(refined_table.tried_section, "refined"),
        "missing": _of(refined_table.missing_section, "refined"),
    },
    "docs/results/agreement.md": {
        "agreement": _of(agreement_tables.agreement_section, "agreement"),
        "intervals": _of(agreement_tables.intervals_section, "agreement"),
        "goals": _of(agreement_tables.goals_section, "agreement"),
        "changes": _of(agreement_tables.changes_section, "agreement"),
        "misses": _of(misses_table.misses_section, "misses"),
    },
    "docs/results/speed.md": {
        "steps_per_second": _of(speed_tables.steps_section, "steps_per_second"),
        "image_steps": _of(speed_tables.image_section, "image_steps"),
        "gpu": _of(speed_tables.gpu_section, "gpu"),
        "parts": _of(speed_tables.parts_section, "parts"),
        "fit_speed": _of(speed_tables.fit_section, "fit_speed"),
        "ppo_speed": _of(speed_tables.ppo_section, "ppo_speed"),
    },
    "docs/results/families.md": {
        "families": _of(families_table.families_section, "families"),
        "one_frame": _of(families_table.one_frame_section, "one_frame"),
    },
    "docs/results/diagnostics.md": {
        "lint": _of(lint_table.lint_section, "lint"),
        "alarm": _of(alarm_table.alarm_section, "alarm"),
        "alarm_tuning": _of(alarm_table.tuning_section, "alarm"),
        "uncertainty": _of(uncertainty_table.uncertainty_section, "uncertainty"),
        "scales": _of(scales_table.scales_section, "scales"),
    },
    "docs/results/learning.md": {
        "learn_table": _of(learning_table.learning_section, "learn_table")
    },
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
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
