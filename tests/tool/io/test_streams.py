"""Standard streams whose reader has gone."""

import os
import sys

from tool.io.streams import forgiving_streams


def test_a_stream_outlives_its_reader(monkeypatch):
    reading, writing = os.pipe()
    with open(writing, "w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with forgiving_streams():
            print("ä", flush=True)
            assert os.read(reading, 100) == b"\\xe4\n"
            os.close(reading)
            print("nobody reads this", flush=True)
            print("nor this")
        assert sys.stdout is stream


def test_output_that_is_closed_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it after >&-
    with forgiving_streams():
        print("nothing")
    assert sys.stdout is None
