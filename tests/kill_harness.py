"""Starts the scripts so that they can be killed at chosen moments, and compares what is left. Linux only (/proc).

`Launcher` starts a script in a fresh process: forked from a server that has imported everything (milliseconds instead
of the seconds that torch takes), or, for a run as a user starts it, with a Python of its own. Every run is a session
of its own, so that processes that outlive it are found.

A forked run can be told to send a signal (SIGKILL) to itself at its n-th *point*: just before a file below its working
directory is opened for writing, renamed or removed or a folder made, and just after one was opened, when it is empty.
Worker processes count too: one that reaches its n-th point kills the main process, and lives on as an orphan.
"""

import atexit
import contextlib
import itertools
import json
import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("train.py", "infer.py", "train_aff.py", "infer_aff.py", "evaluation.py", "train_seg.py", "infer_seg.py")
SCRIPTS += ("report.py",)
TIMES = ("seconds", "started", "finished", "images_per_second", "peak")  # names that measured values begin with
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Run:
    """One started script: its process, and the file with what it printed."""

    def __init__(self, pid, poll, log):
        self.pid, self.poll, self.log = pid, poll, log
        self.code = None

    def finished(self):
        if self.code is None:
            self.code = self.poll()
        return self.code is not None

    def wait(self, seconds=300):
        """Exit code (-9: killed); AssertionError, after ending all its processes, where it takes longer."""
        if not wait_until(self.finished, seconds):
            self.end_all()
            raise AssertionError(f"still running after {seconds} s:\n{self.output()[-2000:]}")
        return self.code

    def signal(self, number, group=False):
        """Send a signal to the main process, or to it and all its workers at once, as Ctrl-C in a terminal does."""
        if not self.finished():  # not reaped yet, so the number is still this process's
            (os.killpg if group else os.kill)(self.pid, number)

    def output(self):
        return self.log.read_text(errors="replace")

    def processes(self):
        """Process ids of this run that are alive, the main process's first."""
        return sorted(session_members(self.pid), key=lambda pid: pid != self.pid)

    def end_all(self):
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def wait_until(condition, seconds, every=0.01):
    """Poll until condition() holds; False after that many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every)
    return True


def session_members(session):
    """Ids of the processes of a session, without those that have ended and wait for their parent to notice."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            except OSError:  # ended meanwhile
                continue
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(entry))
    return found


class Launcher:
    """Starts scripts; `logs` is the folder of what they print. Use it in a `with`."""

    def __init__(self, logs):
        self.logs = Path(logs)
        self.runs = []
        self.environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def __enter__(self):
        command = [sys.executable, str(Path(__file__).resolve())]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.environment)
        return self

    def __exit__(self, *exc):
        for run in self.runs:
            run.end_all()
        self.server.stdin.close()
        self.server.wait()

    def ask(self, request):
        self.server.stdin.write(json.dumps(request).encode() + b"\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def new_log(self, script):
        return self.logs / f"{len(self.runs):03d}_{Path(script).stem}.log"

    def fork(self, script, args, cwd, point=0, number=signal.SIGKILL, target="main"):
        """Start from the server. At `point` (0: never) the signal goes to `target`.

        target: the main process, "all" of the run, its "oldest" or its "youngest" worker process.
        """
        log = self.new_log(script)
        log.touch()
        pid = self.ask(
            {
                "script": script,
                "args": [str(a) for a in args],
                "cwd": str(cwd),
                "log": str(log),
                "point": point,
                "number": number,
                "target": target,
            }
        )
        self.runs.append(Run(pid, lambda: self.ask({"poll": pid}), log))
        return self.runs[-1]

    def spawn(self, script, args, cwd):
        """Start as a user does."""
        log = self.new_log(script)
        with open(log, "wb") as stream:
            command = [sys.executable, str(ROOT / script), *map(str, args)]
            process = subprocess.Popen(
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        self.runs.append(Run(process.pid, process.poll, log))
        return self.runs[-1]

    @staticmethod
    def points(run):
        """How many points the main process of a finished forked run had."""
        return int(run.log.with_suffix(".points").read_text())


# ---------------------------------------------------------------- what is compared


def signature(path):
    """What must be equal in a file of two runs: everything, except times and how often a run was started."""
    import torch

    if path.suffix == ".pth":
        return plain(torch.load(path, weights_only=True))
    if path.suffix == ".jsonl":
        return [plain(json.loads(line)) for line in path.read_text().splitlines()]
    if path.name.endswith("run.json"):  # the rest is when and how often it ran, on which machine
        settings = json.loads(path.read_text()).get("settings") or {}
        return {k: v for k, v in settings.items() if k not in ("resume", "overwrite")}
    if path.name == "scores.json":  # the keys hold times of files
        return {name: plain(entry["value"]) for name, entry in json.loads(path.read_text()).items()}
    if path.suffix == ".html":
        return re.sub("<time.*?</time>", "", path.read_text())
    if path.suffix == ".json":
        return plain(json.loads(path.read_text()))
    if path.name.endswith(".inputs.tsv"):  # the last line of an image counts
        return {line.split("\t")[0]: line for line in path.read_text().splitlines()}
    if path.suffix == ".txt" and path.name.startswith("log"):
        return "log"
    return path.read_bytes()


def plain(value):
    """Nested containers with tensors as bytes, so that == compares them; without times."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if not str(k).startswith(TIMES)}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "numpy"):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    return value


def tree(folder):
    """Relative paths of all files, without TensorBoard's, whose names hold the time."""
    files = (p.relative_to(folder) for p in Path(folder).rglob("*") if p.is_file())
    return sorted(p for p in files if "tensorboard" not in p.parts)


def differences(folder, reference):
    """Lines that say how the files of two folders differ; empty where they are the same."""
    here, there = tree(folder), tree(reference)
    found = [f"only in {folder}: {p}" for p in here if p not in there]
    found += [f"missing: {p}" for p in there if p not in here]
    for p in there:
        if p in here:
            try:
                same = signature(Path(folder, p)) == signature(Path(reference, p))
            except Exception as error:  # a half-written file raises nearly anything
                same, p = False, f"{p} ({type(error).__name__}: {error})"
            if not same:
                found.append(f"different: {p}")
    return found


# ---------------------------------------------------------------- the server and its children


class Points:
    """An audit hook that counts the points and sends the signal at the one that was asked for."""

    def __init__(self, folder, point, number, target):
        self.folder, self.point, self.number, self.target = f"{folder}{os.sep}", point, number, target
        self.main = os.getpid()
        self.count, self.counter = 0, itertools.count(1)

    def __call__(self, event, args):
        if event not in ("open", "os.rename", "os.remove", "os.mkdir") or isinstance(args[0], int):
            return
        if event == "open" and not args[2] & WRITING:
            return
        path = os.path.abspath(os.fsdecode(args[0]))
        if not path.startswith(self.folder) or "tensorboard" in path:
            return
        if event == "os.remove" and not os.path.lexists(path) or event == "os.mkdir" and os.path.isdir(path):
            return  # changes nothing
        self.reach()
        if event == "open":
            sys.setprofile(self.after_open)

    def after_open(self, frame, event, arg):
        """The first event outside the hook: the caller has its file."""
        if frame.f_code is not Points.__call__.__code__:
            sys.setprofile(None)
            self.reach()

    def reach(self):
        self.count = here = next(self.counter)  # at once: threads reach points beside each other
        if here != self.point:
            return
        if self.target == "all":
            os.killpg(self.main, self.number)
        elif self.target == "main":
            os.kill(self.main, self.number)
        else:
            workers = sorted(process.pid for process in multiprocessing.active_children())
            os.kill(workers[0 if self.target == "oldest" else -1], self.number)


def serve():
    """Fork at every request that is read; returns the request in the child, None at the end of the input."""
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                return request
        os.write(1, json.dumps(answer).encode() + b"\n")
    return None


def run_as_script(request):
    """In the child: become the script."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in what runs in the background
    os.chdir(request["cwd"])
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND)
    for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    sys.argv = [str(ROOT / request["script"]), *request["args"]]
    points = Points(os.getcwd(), *(request[k] for k in ("point", "number", "target")))
    atexit.register(lambda: Path(request["log"]).with_suffix(".points").write_text(str(points.count)))
    sys.addaudithook(points)
    runpy.run_path(sys.argv[0], run_name="__main__")


def import_everything():
    sys.path[0] = str(ROOT)
    for script in SCRIPTS:
        __import__(script.removesuffix(".py"))
    with contextlib.suppress(ImportError):
        __import__("torch.utils.tensorboard")


if __name__ == "__main__":
    import_everything()
    request = serve()
    if request:
        run_as_script(request)
