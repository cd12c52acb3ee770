"""inputs.tsv: what results were made from."""

import os

import numpy as np

from engine.inputs import Inputs, add_inputs, inputs_path, mend_inputs, read_inputs


def test_what_has_changed_since_a_line_was_written(tmp_path):
    photo, maps = tmp_path / "photo", tmp_path / "maps"
    photo.write_bytes(b"12345")
    maps.write_bytes(b"abc")

    def now(label, with_maps=True):
        return Inputs(["i"], lambda i: photo, (lambda i: maps) if with_maps else None, label and {"i": np.array(label)})

    first = now([0, 1, 1])
    add_inputs(tmp_path, [first.line("i", first.classes["i"])])
    stored = read_inputs(tmp_path)["i"]
    assert stored[0] == "1,2" and first.compare("i", stored) is None
    assert now([1, 0, 0]).compare("i", stored) == "labels"
    assert now(None).compare("i", stored) is None  # not known beforehand: not compared
    os.utime(photo, (1, 1))
    assert now([0, 1, 1]).compare("i", stored) == "times"
    photo.write_bytes(b"12346")
    assert now([0, 1, 1]).compare("i", stored) == "photograph"
    photo.write_bytes(b"1234")
    assert now([0, 1, 1]).compare("i", stored) == "photograph"
    photo.write_bytes(b"12345")
    maps.write_bytes(b"abd")
    assert now([0, 1, 1]).compare("i", stored) == "maps"
    assert now([0, 1, 1], with_maps=False).compare("i", stored) == "times"
    maps.unlink()
    assert now([0, 1, 1]).compare("i", stored) == "times"  # its absence is said elsewhere


def test_a_file_that_is_replaced_during_a_run_counts_as_changed(tmp_path):
    photo = tmp_path / "photo"
    photo.write_bytes(b"12345")
    begun = Inputs(["i"], lambda i: photo)
    photo.write_bytes(b"67890")
    os.utime(photo, (1, 1))
    add_inputs(tmp_path, [begun.line("i", "0")])
    assert Inputs(["i"], lambda i: photo).compare("i", read_inputs(tmp_path)["i"]) == "photograph"


def test_half_a_line_of_a_full_disk_spoils_no_other(tmp_path):
    inputs_path(tmp_path).write_text("a\t1\t-\t-\nb\t2\t5:7:0")
    mend_inputs(tmp_path)
    add_inputs(tmp_path, ["c\t3\t-\t-\n", "a\t4\t-\t-\n"])
    assert read_inputs(tmp_path) == {"a": ["4", "-", "-"], "c": ["3", "-", "-"]}
