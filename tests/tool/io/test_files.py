"""Files that are written whole or not at all."""

import pytest

from tool.io.files import atomic


def test_atomic_leaves_nothing_behind_on_failure(tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "x") as temporary:
        temporary.write_text("half")
        _ = 1 / 0
    assert [p.name for p in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_text() == "old"
