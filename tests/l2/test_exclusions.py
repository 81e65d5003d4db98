"""Interfaces that nothing is announced on, named in a file that changes while the speaker runs."""

import pytest

from lbctl_l2.exclusions import Exclusions
from lbctl_l2.netlink import EXCLUDED


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "excluded"
    path.write_text("# the storage network\n^eth1$\n\n^lo$\n")
    return path


def test_a_setting_is_a_list_separated_by_commas_and_never_changes():
    exclusions = Exclusions("^eth1$, ^lo$")
    assert (exclusions.patterns, exclusions.look()) == (("^eth1$", "^lo$"), False)


def test_a_file_has_one_expression_per_line(file):
    assert Exclusions(f"@{file}").patterns == ("^eth1$", "^lo$")


def test_a_comma_in_a_file_is_part_of_an_expression(file):
    file.write_text("^eth[0-9]{1,2}$")
    assert Exclusions(f"@{file}").patterns == ("^eth[0-9]{1,2}$",)


def test_a_file_that_changes_is_another_list_once(file):
    exclusions = Exclusions(f"@{file}")
    assert not exclusions.look()
    file.write_text("^eth2$")
    assert (exclusions.look(), exclusions.patterns, exclusions.look()) == (True, ("^eth2$",), False)


def test_a_bad_expression_keeps_the_last_good_list_and_is_a_problem_until_it_is_mended(file, caplog):
    exclusions = Exclusions(f"@{file}")
    file.write_text("^eth2$\n(")
    assert [exclusions.look(), exclusions.look()] == [False, False]
    (problem,) = exclusions.problems
    assert (problem.reason, "'(' is not a regular expression" in problem.message) == ("bad-exclude-interfaces", True)
    assert len(caplog.records) == 1
    file.write_text("^eth2$")
    assert (exclusions.look(), exclusions.problems) == (True, ())


def test_a_mended_file_that_says_what_it_said_before_is_no_problem_either(file):
    exclusions, before = Exclusions(f"@{file}"), file.read_text()
    file.write_text("(")
    exclusions.look()
    file.write_text(before)
    assert (exclusions.look(), exclusions.problems) == (False, ())


def test_without_a_file_the_last_good_list_holds_and_before_there_was_one_the_default(file, tmp_path):
    exclusions = Exclusions(f"@{file}")
    file.unlink()
    assert not exclusions.look()
    assert exclusions.problems
    assert (exclusions.patterns, Exclusions(f"@{tmp_path}/none").patterns) == (("^eth1$", "^lo$"), EXCLUDED)


def test_what_is_no_text_is_a_problem_too(file):
    exclusions = Exclusions(f"@{file}")
    file.write_bytes(b"\xff\xfe")
    assert not exclusions.look()
    assert exclusions.problems
