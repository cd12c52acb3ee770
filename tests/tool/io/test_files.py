"""Files that are written whole or not at all."""

import pytest

from tool.io.files import UserError, atomic


def test_atomic_leaves_nothing_behind_on_failure(tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "x") as temporary:
        temporary.write_text("half")
        _ = 1 / 0
    assert [p.name for p in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_text() == "old"


def test_an_error_is_one_line_with_all_of_its_words():
    """Also where a file's name has a line break, and where a loading process hands over its traceback."""
    error = UserError("a/b\nc\u2028d.jpg: unreadable image")
    assert str(error) == "a/b\\nc\u2028d.jpg: unreadable image"
    text = f"Caught UserError in DataLoader worker process 0.\nTraceback:\n  x\ntool.io.files.UserError: {error}\n"
    assert str(UserError(text)) == str(error)
