"""The log of a training."""

from engine.log import Log


def test_a_broken_line_of_the_log_is_dropped(tmp_path):
    """Lines are appended, so a full disk may leave a part of the last one; resuming must not stumble over it."""
    (tmp_path / "log.jsonl").write_text('{"epoch": 0, "total": 1.5}\n{"epoch": 1, "tot')
    Log(tmp_path, first_epoch=1).close()
    assert (tmp_path / "log.jsonl").read_text() == '{"epoch": 0, "total": 1.5}\n'
