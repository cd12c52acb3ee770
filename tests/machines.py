"""Other machines, simulated: folders with a sitecustomize.py that a script finds on PYTHONPATH before anything runs."""

import os

NO_CRF = """
import sys
sys.modules["pydensecrf"] = sys.modules["pydensecrf.densecrf"] = None
"""
NO_PASSWD_ENTRY = """
import pwd
def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
"""
# What Windows lacks. Libraries of this machine may need the one or other in ways that those of Windows do not.
WINDOWS = """
import multiprocessing, multiprocessing.context, os, signal, sys
for name in ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None
for name in ("fork", "forkpty", "getuid", "geteuid", "getgid", "sched_getaffinity", "fchmod", "fchown", "chown",
             "statvfs", "killpg", "mkfifo"):
    delattr(os, name)
for name in ("sigtimedwait", "sigwait", "pthread_sigmask", "pthread_kill", "SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM"):
    delattr(signal, name)
for name in ("fork", "forkserver"):
    del multiprocessing.context._concrete_contexts[name]
multiprocessing.get_all_start_methods = lambda: ["spawn"]
multiprocessing.set_start_method("spawn")
"""


def machine(folder, code, without=(), **variables):
    """The environment of a process on another machine. code: what it does first; without: variables it lacks."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(code, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if name not in without}
    return kept | {"PYTHONPATH": str(folder)} | variables
