"""The stages, killed anywhere and started again, end with the files of a run that nobody disturbed."""

import re
import shutil
import signal
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import infer_flags, train_flags
from kill_harness import SCRIPTS, Launcher, differences, wait_until
from PIL import Image
from stage_runs import aff_flags, infer_seg_flags, train_aff_flags, train_seg_flags

from tool.io.files import write_bytes
from tool.io.images import open_image, save_image
from tool.io.lock import holder_path
from tool.io.scores import read_scores, write_scores

KILLED = -signal.SIGKILL
TRAININGS = {"train.py": "ckpt", "train_aff.py": "ckpt_aff/aff021908", "train_seg.py": "ckpt_seg/deeplab_resnet38d"}


class Stage(NamedTuple):
    """One script on the toy data, run in the folder that holds the experiments.

    before, after: that folder before and after an undisturbed run; seconds, points: how long it was.
    """

    script: str
    args: list
    before: Path
    after: Path
    seconds: float
    points: int

    def again(self):
        """What a user types after a crash."""
        if self.script not in TRAININGS:
            return self.args
        return [*self.args, "--resume"]

    def checkpoints(self, folder):
        return folder / "e" / "n" / TRAININGS[self.script]


def stage_args(toy):
    """Arguments of the stages; every path but the data set's is relative. Loading and CRF have processes."""
    folder = Path("e")
    workers = ["--num_workers", 1]
    data = ["--name", "n", "--experiment", folder, "--voc12_root", toy]
    return {
        "train.py": ["--name", "n", "--experiment", folder, *train_flags(toy), *workers, "--val_list", toy / "val.txt"],
        "infer.py": [*infer_flags(toy, folder), *workers, "--dict", "--crf", "--vis", "--alphas", 2, 19],
        "train_aff.py": [*train_aff_flags(toy, folder), *workers, "--val_every", 4],  # inside an epoch, and at the end
        "infer_aff.py": [*aff_flags(toy, folder), *workers, "--vis"],
        "evaluation.py": [
            *data,
            "--list",
            toy / "train.txt",
            "--task",
            "cam",
            "--dict_dir",
            "dict",
            "--json",
            "e/n/result.json",
        ],
        "train_seg.py": [*train_seg_flags(toy, folder), *workers, "--labels", "rw/02_1908", "--select", "best"],
        "infer_seg.py": [*infer_seg_flags(toy, folder), *workers, "--crf", "--vis", "--server", "e/server.zip"],
        "report.py": [*data, "--list", toy / "train.txt", "--seg_list", toy / "val.txt", "--images", 6],
    }


@pytest.fixture(scope="module")
def launcher(tmp_path_factory):
    with Launcher(tmp_path_factory.mktemp("logs")) as launcher:
        yield launcher


@pytest.fixture(scope="module")
def stages(toy, launcher, tmp_path_factory):
    """{script: Stage} of undisturbed runs, one after the other."""
    root = tmp_path_factory.mktemp("reference")
    (root / "work").mkdir()
    found = {}
    for script, args in stage_args(toy).items():
        before, after = root / f"before_{script}", root / f"after_{script}"
        shutil.copytree(root / "work", before)
        started = time.monotonic()
        run = launcher.fork(script, args, root / "work")
        assert run.wait() == 0, run.output()[-2000:]
        seconds = time.monotonic() - started
        shutil.copytree(root / "work", after)
        found[script] = Stage(script, args, before, after, seconds, launcher.points(run))
    return found


def finished_outputs(folder):
    """{file of one image: when it was written}; what a restarted run must leave alone."""
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.suffix in (".npy", ".png") and p.name[0] != "."}


def image_of(path):
    return re.match(r"toy_\d+", path.name)[0]


def epochs_done(stage, folder):
    """How many epochs a killed training need not repeat; none of a run with other settings."""
    path = stage.checkpoints(folder) / "resume.pth"
    state = torch.load(path, weights_only=True) if path.exists() else {"settings": None}
    reference = torch.load(stage.checkpoints(stage.after) / "resume.pth", weights_only=True)
    return state["progress"]["epoch"] if state["settings"] == reference["settings"] else 0


def no_process_left(runs):
    """Workers of a killed run must end by themselves."""
    left = lambda: {run.log.name: run.processes() for run in runs if run.processes()}  # noqa: E731
    assert wait_until(lambda: not left(), 30, every=0.1), f"alive: {left()}"


def killed(run, seconds):
    """Kill the main process after `seconds` (None: it dies by itself) -> False where it finished before."""
    if seconds is not None:
        wait_until(run.finished, seconds)
        run.signal(signal.SIGKILL)
    assert run.wait() in (0, KILLED), run.output()[-2000:]
    return run.code == KILLED


def chain(stage, folder, start, moments, keeps=True):
    """Start, kill and start again until all moments are used or the script is done; returns the number of kills.

    start(args, moment) -> (Run, seconds after which it is killed; None: it dies by itself). Then one undisturbed run,
    which must not repeat what was finished (unless keeps is False), and the comparison.
    """
    shutil.copytree(stage.before, folder)
    runs, kills = [], 0
    for moment in moments:
        run, seconds = start(stage.again() if runs else stage.args, moment)
        runs.append(run)
        if not killed(run, seconds):
            break
        kills += 1
    if kills == len(runs):
        no_process_left(runs)
        kept = finished_outputs(folder)
        done = epochs_done(stage, folder) if stage.script in TRAININGS else 0
        runs.append(start(stage.again(), None)[0])
        assert runs[-1].wait() == 0, runs[-1].output()[-2000:]
        now = finished_outputs(folder)
        again = [p for p in kept if now.get(p) != kept[p]]
        assert not keeps or len({image_of(p) for p in again}) <= 1, again  # the one in progress may be repeated
        if stage.script in TRAININGS:
            left = range(done, epochs_done(stage, stage.after))
            assert re.findall(r"^epoch (\d+)", runs[-1].output(), re.MULTILINE) == [str(epoch) for epoch in left]
    no_process_left(runs)
    assert differences(folder, stage.after) == []
    return kills


def forked(launcher, stage, folder):
    """`start` for chain: a moment is ("seconds", s) or ("point", n)."""

    def start(args, moment):
        kind, value = moment or ("seconds", None)
        run = launcher.fork(stage.script, args, folder, point=value if kind == "point" else 0)
        return run, value if kind == "seconds" else None

    return start


def spread_points(stage, count):
    return sorted({int(k) for k in np.linspace(1, stage.points, count)})


@pytest.mark.parametrize("script", SCRIPTS)
def test_two_kills(script, stages, launcher, tmp_path):
    """One at a random change of a file, one at a random moment, then to the end."""
    stage = stages[script]
    rng = np.random.default_rng(0)
    moments = [("point", int(rng.integers(1, stage.points + 1))), ("seconds", rng.uniform(0, stage.seconds))]
    assert chain(stage, tmp_path / "w", forked(launcher, stage, tmp_path / "w"), moments) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_killed_at_random_moments(script, stages, launcher, tmp_path):
    """At least 25 kills of the script as a user starts it, more of them late, because the first seconds only import."""
    stage = stages[script]
    started = time.monotonic()
    assert launcher.spawn(script, stage.args, shutil.copytree(stage.before, tmp_path / "whole")).wait() == 0
    seconds = time.monotonic() - started
    assert differences(tmp_path / "whole", stage.after) == []
    rng = np.random.default_rng(SCRIPTS.index(script))
    kills = chains = 0
    while kills < 25:
        folder = tmp_path / f"chain_{chains}"
        start = lambda args, moment: (launcher.spawn(script, args, folder), moment)  # noqa: B023, E731
        kills += chain(stage, folder, start, seconds * (1 - rng.random(rng.integers(1, 6)) ** 2))
        chains += 1
    print(f"{script}: {kills} kills in {chains} chains, undisturbed {seconds:.1f} s")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_killed_at_changes_of_files(script, stages, launcher, tmp_path):
    """Fresh runs that die at a point, and again at a random one when they go on; the points are spread over the run."""
    stage = stages[script]
    rng = np.random.default_rng(SCRIPTS.index(script))
    kills = 0
    points = spread_points(stage, 30)
    for n in points:
        folder = tmp_path / f"point_{n}"
        moments = [("point", n), ("point", int(rng.integers(1, stage.points + 1)))]
        kills += chain(stage, folder, forked(launcher, stage, folder), moments)
        shutil.rmtree(folder)
    assert kills >= len(points)
    print(f"{script}: {kills} kills at {len(points)} of {stage.points} points")


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.py", "infer.py"])
def test_killed_while_overwriting(script, stages, launcher, tmp_path):
    """--overwrite, killed while it deletes the results that were there: nothing of them may be taken for new."""
    stage = stages[script]
    old = shutil.copytree(stage.before, tmp_path / "old")
    args = [1 if before == "--load_epo" else k for before, k in zip(["", *stage.args], stage.args)]
    args += ["--seed", 1] if script in TRAININGS else []
    assert launcher.fork(script, args, old).wait() == 0
    stage = stage._replace(before=old, args=[*stage.args, "--overwrite"])
    for n in range(1, 26):
        folder = tmp_path / f"point_{n}"
        assert chain(stage, folder, forked(launcher, stage, folder), [("point", n)], keeps=False) == 1


def stopped(run):
    """Whether a process was stopped by SIGSTOP."""
    return Path("/proc", str(run.pid), "stat").read_text().rpartition(")")[2].split()[0] in "tT"


def two_at_once(stage, launcher, folder, points):
    """A run that stands still at a point while a second one starts; returns how often the second was refused."""
    count = 0
    for n in points:
        shutil.copytree(stage.before, folder)
        first = launcher.fork(stage.script, stage.again(), folder, point=n, number=signal.SIGSTOP)
        assert wait_until(lambda: first.finished() or stopped(first), 100)  # noqa: B023
        holds = holder_path(stage.checkpoints(folder)).is_file()
        second = launcher.fork(stage.script, stage.again(), folder)
        assert second.wait() in (0, 2), second.output()[-2000:]
        assert second.code == 2 or not holds
        if second.code:
            count += 1
            assert "is writing there; wait for it or stop it" in second.output(), second.output()[-2000:]
            assert f"process {first.pid} on " in second.output() or not holds
        first.signal(signal.SIGCONT)
        assert first.wait() == 0, first.output()[-2000:]
        again = launcher.fork(stage.script, stage.again(), folder)
        assert again.wait() == 0, again.output()[-2000:]
        assert differences(folder, stage.after) == []
        no_process_left([first, second, again])
        shutil.rmtree(folder)
    return count


@pytest.mark.parametrize("script", TRAININGS)
def test_two_runs_at_once(script, stages, launcher, tmp_path):
    """The first is inside an epoch."""
    stage = stages[script]
    assert two_at_once(stage, launcher, tmp_path / "w", [stage.points // 2]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("script", TRAININGS)
def test_two_runs_at_many_moments(script, stages, launcher, tmp_path):
    stage = stages[script]
    assert two_at_once(stage, launcher, tmp_path / "w", spread_points(stage, 25)) >= 15


def lose_nothing(stage, launcher, folder, rounds, seed):
    """--resume on what is left of a finished run, with foreign files in it and killed anywhere: every file stays."""
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        shutil.copytree(stage.after, folder)
        place = stage.checkpoints(folder)
        checkpoints = sorted(p for p in place.glob("*.pth") if p.name != "resume.pth")
        shutil.copy(checkpoints[0], place / checkpoints[0].name.replace("00", "39", 1))
        for path in rng.permutation(checkpoints)[: rng.integers(len(checkpoints))]:
            path.unlink()
        if rng.random() < 0.5:
            (place / "resume.pth").unlink()
        logs = (folder / "e" / "n").glob("log*.jsonl")
        kept = {p: p.read_bytes() for p in [*place.glob("*.pth"), *logs]}
        for extra, point in ([[], 0], [["--epochs", 1], 0], [[], int(rng.integers(1, 30))], [[], 0]):
            run = launcher.fork(stage.script, [*stage.again(), *extra], folder, point=point)
            assert run.wait() in (0, 2, KILLED), run.output()[-2000:]
            assert {p: p.read_bytes() for p in kept if p.exists()} == kept
        assert run.code == (0 if place / "resume.pth" in kept else 2)
        shutil.rmtree(folder)


def test_resume_loses_nothing(stages, launcher, tmp_path):
    lose_nothing(stages["train.py"], launcher, tmp_path / "w", 1, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("script", TRAININGS)
def test_resume_loses_nothing_of_many_folders(script, stages, launcher, tmp_path):
    lose_nothing(stages[script], launcher, tmp_path / "w", 25, seed=2)


INFERENCES = {"infer.py": ("dict", "crf", "vis"), "infer_aff.py": ("rw", "rw_vis")}


def edit_something(rng, folder, script):
    """Other labels, another photograph or other maps of a random image; in one step, as editors save files."""
    image = rng.choice((folder / "set" / "train.txt").read_text().split())
    if script == "infer_aff.py" and rng.random() < 0.6:
        path = folder / "e/n/dict" / f"{image}.npy"
        maps = read_scores(path)
        write_scores(path, {k: v * rng.uniform(0.2, 1) for k, v in maps.items()})
    elif script == "infer.py" and rng.random() < 0.7:
        path = folder / "set" / "Annotations" / f"{image}.xml"
        name = rng.choice(["bird", "bottle", "car", "cat", "tvmonitor"])
        objects = f"<object><name>{name}</name></object></annotation>"
        write_bytes(path, re.sub("<object>.*</annotation>", objects, path.read_text(), flags=re.DOTALL).encode())
    else:
        path = folder / "set" / "JPEGImages" / f"{image}.jpg"
        pixels = np.array(open_image(path))
        save_image(path, Image.fromarray(255 - pixels))


def goes_on(run):
    """Whether a run has finished; one that stands still, perhaps again by a worker that reached its point, is woken."""
    if run.finished():
        return True
    if stopped(run):
        run.signal(signal.SIGCONT)
    return False


def edited(stage, toy, launcher, folder, rounds, rng):
    """Runs that are killed or held while inputs change, then one to the end; returns how often something changed.

    What is left must be what a run from nothing gives on the inputs as they are then.
    """
    shutil.copytree(stage.after if rng.random() < 0.5 else stage.before, folder)
    shutil.copytree(toy, folder / "set")
    args = [Path("set", k.relative_to(toy)) if isinstance(k, Path) and k.is_relative_to(toy) else k for k in stage.args]
    edits = 0
    for _ in range(rounds):
        number = rng.choice([signal.SIGKILL, signal.SIGSTOP])
        run = launcher.fork(stage.script, args, folder, point=int(rng.integers(1, stage.points)), number=int(number))
        assert wait_until(lambda: run.finished() or stopped(run), 100)  # noqa: B023
        for _ in range(rng.integers(1, 3)):
            edit_something(rng, folder, stage.script)
            edits += 1
        assert wait_until(lambda: goes_on(run), 300), run.output()[-2000:]  # noqa: B023
        assert run.code in (0, KILLED), run.output()[-2000:]
    whole = shutil.copytree(folder, folder.with_name("whole"))
    run = launcher.fork(stage.script, args, folder)
    assert run.wait() == 0, run.output()[-2000:]
    for name in INFERENCES[stage.script]:
        shutil.rmtree(whole / "e/n" / name, ignore_errors=True)
    assert launcher.fork(stage.script, args, whole).wait() == 0
    assert differences(folder, whole) == []
    again = launcher.fork(stage.script, args, folder)
    assert again.wait() == 0 and "12 done before" in again.output()
    for path in (folder, whole):
        shutil.rmtree(path)
    return edits


@pytest.mark.parametrize("script", INFERENCES)
def test_inputs_that_change_while_a_run_is_killed_or_goes_on(script, stages, toy, launcher, tmp_path):
    assert edited(stages[script], toy, launcher, tmp_path / "w", 2, np.random.default_rng(3)) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("script", INFERENCES)
def test_inputs_that_change_at_many_moments(script, stages, toy, launcher, tmp_path):
    rng = np.random.default_rng(7)
    edits = sum(edited(stages[script], toy, launcher, tmp_path / "w", 5, rng) for _ in range(25))
    print(f"{script}: {edits} changes in 125 disturbed runs")


def race(stage, launcher, folder, references, delays):
    """Two runs of different settings start into the same folders, one a little later; returns how often each won.

    references: two lists of (arguments, folder as it is after an undisturbed run of them). One run does all, the other
    is refused in one line, and what is there is of the one.
    """
    wins = [0, 0]
    for delay in delays:
        shutil.copytree(stage.before, folder)
        runs = []
        for args, _ in references:
            runs.append(launcher.fork(stage.script, args, folder))
            time.sleep(delay)
        codes = [run.wait() for run in runs]
        assert sorted(codes) == [0, 2], [run.output()[-1000:] for run in runs]
        winner, loser = codes.index(0), codes.index(2)
        wins[winner] += 1
        last = runs[loser].output().strip().splitlines()[-1]
        assert "is writing there; wait for it" in last or "holds results of other settings" in last, last
        assert differences(folder, references[winner][1]) == []
        no_process_left(runs)
        shutil.rmtree(folder)
    return wins


def racers(stage, launcher, folder):
    """Arguments and results of the stage, and of another epoch or length of the walk."""
    flag, value = ("--load_epo", 1) if stage.script == "infer.py" else ("--steps", 9)
    other = [*stage.args, flag, value]
    shutil.copytree(stage.before, folder)
    assert launcher.fork(stage.script, other, folder).wait() == 0
    return [(stage.args, stage.after), (other, folder)]


def test_two_inferences_at_once(stages, launcher, tmp_path):
    stage = stages["infer.py"]
    assert sum(race(stage, launcher, tmp_path / "w", racers(stage, launcher, tmp_path / "other"), [0.1])) == 1


@pytest.mark.slow
@pytest.mark.parametrize("script", INFERENCES)
def test_two_inferences_at_many_moments(script, stages, launcher, tmp_path):
    stage = stages[script]
    references = racers(stage, launcher, tmp_path / "other")
    delays = np.random.default_rng(5).uniform(0, 0.5, 20) ** 2
    wins = race(stage, launcher, tmp_path / "w", references, delays)
    wins = np.add(wins, race(stage, launcher, tmp_path / "w", references[::-1], delays)[::-1])
    print(f"{script}: 40 pairs of runs, won {wins}")


# ---------------------------------------------------------------- signals that ask


def asked(*short, scripts):
    """Parameters (script, signal, exit code, target) of all scripts; those that `short` does not list are slow."""
    return [
        pytest.param(
            script,
            number,
            128 + number,
            target,
            id=f"{script}-{number.name}-{target}",
            marks=[] if (script, number, target) in short else pytest.mark.slow,
        )
        for script in scripts
        for number in (signal.SIGINT, signal.SIGTERM)
        for target in ("main", "all")
    ]


@pytest.mark.parametrize(
    ("script", "number", "code", "target"),
    asked(
        ("train.py", signal.SIGINT, "all"),
        ("train.py", signal.SIGTERM, "main"),
        ("train_aff.py", signal.SIGTERM, "all"),
        ("train_seg.py", signal.SIGINT, "main"),
        scripts=TRAININGS,
    ),
)
def test_a_signal_stops_a_training_with_a_checkpoint(script, number, code, target, stages, launcher, tmp_path):
    """Also one that reaches the loading processes, as Ctrl-C in a terminal does and schedulers do."""
    stage = stages[script]
    folder = shutil.copytree(stage.before, tmp_path / "w")
    run = launcher.fork(script, stage.args, folder)
    assert wait_until(lambda: "\nepoch 0" in run.output() or run.finished(), 200)
    run.signal(number, group=target == "all")
    assert run.wait() == code, run.output()[-2000:]
    assert "Traceback" not in run.output()
    no_process_left([run])
    place = re.search(r"stopped by SIG\w+ at epoch (\d), step (\d+); --resume continues\n$", run.output())
    progress = torch.load(stage.checkpoints(folder) / "resume.pth", weights_only=True)["progress"]
    assert [progress["epoch"], progress["step"]] == [int(k) for k in place.groups()] and progress["epoch"] > 0
    run = launcher.fork(script, stage.again(), folder)
    assert run.wait() == 0, run.output()[-2000:]
    assert differences(folder, stage.after) == []


@pytest.mark.parametrize(
    ("script", "number", "code", "target"),
    asked(
        ("infer.py", signal.SIGINT, "all"),
        ("infer.py", signal.SIGTERM, "main"),
        ("infer_aff.py", signal.SIGTERM, "all"),
        scripts=("infer.py", "infer_aff.py", "evaluation.py", "infer_seg.py"),
    ),
)
def test_a_signal_stops_the_others_with_one_line(script, number, code, target, stages, launcher, tmp_path):
    stage = stages[script]
    for attempt in range(1, 7):  # a library may swallow KeyboardInterrupt, and who pressed Ctrl-C does so again
        folder = shutil.copytree(stage.before, tmp_path / f"w{attempt}")
        point = stage.points // (attempt + 1)
        run = launcher.fork(script, stage.args, folder, point=point, number=number, target=target)
        if run.wait() == code:
            break
    assert run.wait() == code, run.output()[-2000:]
    assert run.output().endswith(f"{script}: interrupted; run it again and it continues\n")
    assert "Traceback" not in run.output() and "Exception" not in run.output()
    no_process_left([run])
    assert not list(folder.rglob(".*.tmp"))
    run = launcher.fork(script, stage.args, folder)
    assert run.wait() == 0, run.output()[-2000:]
    assert differences(folder, stage.after) == []


@pytest.mark.parametrize(
    ("script", "target", "flag"),
    [
        ("train.py", "youngest", "--num_workers"),
        ("infer.py", "oldest", "--crf_workers"),
        pytest.param("infer.py", "youngest", "--num_workers", marks=pytest.mark.slow),
    ],
)
def test_a_killed_worker_ends_the_run_with_one_line(script, target, flag, stages, launcher, tmp_path):
    """Where memory is short, the system often kills a worker."""
    stage = stages[script]
    folder = shutil.copytree(stage.before, tmp_path / "w")
    run = launcher.fork(script, stage.args, folder, point=stage.points // 2, target=target)
    assert run.wait() == 2, run.output()[-2000:]
    # torch notices in a signal handler; where that falls into the forking of another worker, Python says it ignores it
    output = re.sub(r"(?s)Exception ignored in.*?\nRuntimeError: DataLoader worker[^\n]*\n", "", run.output())
    assert "Traceback" not in output and flag in output.splitlines()[-1], output[-2000:]
    no_process_left([run])
    run = launcher.fork(script, stage.again(), folder)
    assert run.wait() == 0, run.output()[-2000:]
    assert differences(folder, stage.after) == []
