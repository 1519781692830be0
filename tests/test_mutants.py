"""The planted faults keep up with the code: each still has exactly one place, and a name of its own."""

from __future__ import annotations

from tests.mutants import MUTANTS, ROOT


def test_every_fault_can_be_planted() -> None:
    sources = {mutant.file: (ROOT / mutant.file).read_text() for mutant in MUTANTS}
    lost = [mutant.what for mutant in MUTANTS if sources[mutant.file].count(mutant.before) != 1]
    assert lost == []


def test_no_two_faults_share_a_name_and_every_edit_changes_something() -> None:
    names = [mutant.what for mutant in MUTANTS]
    assert len(set(names)) == len(names)
    assert all(mutant.before != mutant.after for mutant in MUTANTS)
