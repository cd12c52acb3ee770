"""--check: disks."""

import os
import shutil
from pathlib import Path

from engine.check import Check
from engine.distributed import World


def test_a_check_sums_what_goes_to_one_disk(tmp_path, monkeypatch, capsys):
    from engine import check as module

    free = shutil._ntuple_diskusage(2**40, 2**40 - 2**30, 2**30)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: free)
    check = Check(World(), "")
    check.disk({tmp_path / "dict": 0.6 * 2**30, tmp_path / "crf/02": 0.3 * 2**30})
    assert not check.problems
    check.disk({tmp_path / "dict": 0.6 * 2**30, tmp_path / "crf/02": 0.6 * 2**30})
    assert check.problems == 1
    assert "about 1 GiB will be written" in capsys.readouterr().err


def test_each_disk_has_room_of_its_own(tmp_path, monkeypatch):
    """Two folders that fill a disk each, on two disks."""
    from engine import check as module

    free = shutil._ntuple_diskusage(2**40, 2**40 - 2**30, 2**30)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: free)
    (tmp_path / "other").mkdir()
    real = os.stat

    def stat(path, *args, **more):
        found = real(path, *args, **more)
        return os.stat_result([*found[:2], 77, *found[3:10]]) if Path(path).name == "other" else found

    monkeypatch.setattr(module.os, "stat", stat)
    check = Check(World(), "")
    check.disk({tmp_path / "dict": 0.6 * 2**30, tmp_path / "other": 0.6 * 2**30})
    assert not check.problems
