"""docs/solvers.md has a row for whatever can be chosen by name, and no row for what cannot."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from solvers.coupling import COUPLINGS, SliceCoupling
from solvers.ode import UPDATES
from solvers.registry import SOLVERS

PAGE = (Path(__file__).parents[2] / "docs" / "solvers.md").read_text(encoding="utf-8")


def rows(heading_start: str) -> dict[str, list[str]]:
    """Cells by name of the tables under the headings that start so."""
    found = {}
    for section in PAGE.split("\n## ")[1:]:
        if section.startswith(heading_start):
            for line in section.splitlines():
                match = re.match(r"\| `(\w+)` \|", line)
                if match:
                    found[match[1]] = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    return found


def solver_rows():
    return {**rows("Samplers"), **rows("Point estimates")}


def test_every_solver_has_a_row_and_no_row_is_left_over():
    assert set(solver_rows()) == set(SOLVERS)


def test_every_coupling_and_update_has_a_row_and_no_row_is_left_over():
    assert set(rows("Couplings")) == set(COUPLINGS)
    assert set(rows("Update rules")) == set(UPDATES)


def test_rows_are_complete():
    for cells in [*solver_rows().values(), *rows("Couplings").values()]:
        assert len(cells) == 6
        assert all(cells)


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_presets_and_settings_named_on_the_page_exist(name):
    """Backticked words of a solver's row are its settings, its presets, values of its settings, or other names."""
    solver = SOLVERS[name]
    values = {str(value) for preset in solver.presets.values() for value in preset.values()}
    known = {field.name for field in dataclasses.fields(solver.settings_class)} | set(solver.presets) | values
    known |= set(SOLVERS) | {str(field.default) for field in dataclasses.fields(solver.settings_class)} | {"exact"}
    for word in re.findall(r"`(\w+)`", " ".join(solver_rows()[name])):
        assert word in known, word


def test_settings_named_in_the_couplings_table_exist():
    known = {field.name for field in dataclasses.fields(SliceCoupling)} | set(COUPLINGS) | set(SOLVERS)
    for cells in rows("Couplings").values():
        for word in re.findall(r"`(\w+)`", " ".join(cells)):
            assert word in known, word
