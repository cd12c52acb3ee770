"""Images that are left out, and who says so."""

from types import SimpleNamespace

from tool.io.failures import Failures


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
