"""One run an output folder: a lock that its process takes along when it dies, however it dies."""

import contextlib
import errno
import os
import socket
import sys
from pathlib import Path

import filelock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from tool.io.files import UserError, print_warning, read_json, write_json

WAIT = 3.0  # seconds: worker processes outlive a killed run by up to half a second, and hold its lock until then


def lock_path(folder):
    """The file that is locked: beside the folder, so that the folder holds results alone."""
    return Path(folder).with_name(f".{Path(folder).name}.lock")


def holder_path(folder):
    """The file that says who holds the lock, while someone does."""
    return Path(folder).with_name(f".{Path(folder).name}.lock.json")


@contextlib.contextmanager
def locked(folders, world):
    """Hold every folder of `folders` while inside; ranks of one run share the lock, which rank 0 takes.

    UserError with the other's process id where another run has one of them. Where a file system has no locks, a
    warning says so and the run goes on without.
    """
    with contextlib.ExitStack() as stack:
        world.first(lambda: [stack.enter_context(hold(Path(folder))) for folder in folders])
        yield


@contextlib.contextmanager
def hold(folder):
    """The lock of one folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(lock_path(folder))
    try:
        acquire(lock)
    except filelock.Timeout:
        try:
            who = "{command}, process {pid} on {host},".format(**read_json(holder_path(folder)))
        except (UserError, KeyError, TypeError):
            who = "another process"
        raise UserError(f"{folder}: {who} is writing there; wait for it or stop it, then run this again") from None
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:  # the folder cannot be written to
            raise
        print_warning(f"{folder}: no locks on this file system; start one run at a time there")
        yield
        return
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "command": Path(sys.argv[0]).name}
    try:
        write_json(holder_path(folder), holder)
        yield
    finally:
        with contextlib.suppress(OSError):
            holder_path(folder).unlink(missing_ok=True)
        lock.release()


def acquire(lock):
    """Take a lock; filelock.Timeout where another process has it, NotImplementedError where there are no locks."""
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:  # filelock takes nearly every error of the system for another's lock
        if not has_locks(lock.lock_file):
            raise NotImplementedError from None
        lock.acquire(timeout=WAIT, poll_interval=0.1)


def has_locks(path):
    """Whether the file system can lock this file, which is there, or says that another process has locked it."""
    if fcntl is None:
        return True
    with open(path, "ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
    return True
