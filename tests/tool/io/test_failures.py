"""Images that are left out, and who says so."""

from types import SimpleNamespace

import pytest

from engine.distributed import World
from tool.io.failures import Failures
from tool.io.files import UserError


def test_what_all_ranks_found_beforehand_is_written_once(tmp_path, monkeypatch, capsys):
    failures = [Failures("skip", tmp_path / "failed.txt", held=True) for _ in range(2)]
    for rank, one in enumerate(failures):
        monkeypatch.setenv("RANK", str(rank))
        one.add("a", "broken")
    for rank, one in enumerate(failures):
        one.begin(SimpleNamespace(main=rank == 0, first=lambda work, main=rank == 0: work() if main else None))
    assert (tmp_path / "failed.txt").read_text() == "a\tbroken\n"
    assert capsys.readouterr().err.count("left out a") == 1


def test_failures_of_one_image_are_said_once_by_all_processes(tmp_path, capsys):
    """Workers share the file; another reason is another failure, and an ID counts once."""
    first, second = (Failures("skip", tmp_path / "failed.txt") for _ in range(2))
    for failures, reason in ((first, "cut"), (second, "cut"), (second, "gone"), (first, "gone"), (first, "cut")):
        failures.add("a", reason)
    assert (tmp_path / "failed.txt").read_text() == "a\tcut\na\tgone\n" and second.ids() == {"a"}
    assert capsys.readouterr().err.count("left out") == 2


def test_the_first_failure_ends_a_run_that_is_not_to_skip(tmp_path):
    failures = Failures("stop", tmp_path / "failed.txt")
    with pytest.raises(UserError, match="^a.jpg: cut off$"):
        failures.add("a", UserError("a.jpg: cut off"))
    assert not failures.path.exists() and failures.ids() == set()


def test_a_failure_is_one_line_whatever_its_reason_holds(tmp_path):
    failures = Failures("skip", tmp_path / "new" / "failed.txt")
    failures.add("é/a", "two\nlines\tand  tabs")
    failures.add("b", "cut")
    assert failures.lines() == ["é/a\ttwo lines and tabs", "b\tcut"] and failures.ids() == {"é/a", "b"}


def test_usable_images_are_those_without_an_error(tmp_path, capsys):
    def check(image_id):
        if image_id != "b":
            raise UserError(f"{image_id} is broken")

    failures = Failures("skip", tmp_path / "failed.txt")
    assert failures.usable(["a", "b", "c"], check) == ["b"] and failures.ids() == {"a", "c"}
    with pytest.raises(UserError, match="a is broken"):
        Failures("stop", tmp_path / "other.txt").usable(["a", "b"], check)
    capsys.readouterr()
    failures.report()
    assert capsys.readouterr().err == (
        f"warning: 2 images could not be used and are left out; see {tmp_path / 'failed.txt'}\n"
    )


def test_a_run_forgets_failures_of_an_earlier_one_and_says_nothing_without_any(tmp_path, capsys):
    (tmp_path / "failed.txt").write_text("old\tcut\n")
    failures = Failures("skip", tmp_path / "failed.txt", held=True)
    failures.add("a", "cut")
    assert failures.ids() == {"old"}  # nothing is written before the run begins
    failures.begin(World())
    assert failures.ids() == {"a"}
    failures.path.unlink()
    capsys.readouterr()
    failures.report()
    assert capsys.readouterr().err == ""
