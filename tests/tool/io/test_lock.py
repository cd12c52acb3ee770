"""One run a folder."""

import errno
import json
import multiprocessing
import os
import signal
import time

import pytest

from engine.distributed import World
from tool.io import lock
from tool.io.files import UserError
from tool.io.lock import holder_path, locked


def _hold(folder, ready):
    with locked([folder], World()):
        ready.set()
        time.sleep(60)


def test_two_runs_of_one_folder_are_refused_until_the_first_dies(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "out", ready))
    other.start()
    assert ready.wait(30)
    with pytest.raises(UserError, match=f"process {other.pid} on "):
        with locked([tmp_path / "out"], World()):
            pass
    with locked([tmp_path / "another"], World()):
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    with locked([tmp_path / "out"], World()):
        assert json.loads(holder_path(tmp_path / "out").read_text())["pid"] == os.getpid()
    assert not holder_path(tmp_path / "out").exists()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    import filelock

    def refuse(*args, **more):
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with locked([tmp_path], World()):
        pass
    assert "no locks on this file system" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EIO])
def test_a_file_system_without_locks_is_warned_of(number, tmp_path, monkeypatch, capsys):
    import fcntl

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(lock, "WAIT", 0.0)
    inside = False
    with locked([tmp_path / "out"], World()):
        inside = True
    assert inside
    assert "no locks on this file system; start one run at a time there" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EACCES])
def test_a_lock_that_another_process_has_is_still_refused(number, tmp_path, monkeypatch):
    import fcntl

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(lock, "WAIT", 0.0)
    with pytest.raises(UserError, match="another process is writing there"), locked([tmp_path / "out"], World()):
        pass


def test_a_lock_works_where_there_is_no_fcntl(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)
    with locked([tmp_path / "out"], World()):
        assert holder_path(tmp_path / "out").exists()
