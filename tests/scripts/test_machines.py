"""Machines as they are: other Pythons, no compiler, few cores, no user, no readers, no /dev/shm, Windows."""

import errno
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, load_script, prints, refused, run_here, run_script, succeeds
from machines import NO_CRF, NO_PASSWD_ENTRY, WINDOWS, machine
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import engine.labelling
import voc12.data
from models.aeft import AEFTNet
from models.affinity import AffinityNet
from models.checkpoint import save_weights
from models.resnet38d import ResNet38d
from tool import crf
from tool.io.files import UserError
from tool.io.images import label_image, open_mask, save_image
from tool.io.scores import read_scores
from tool.workers import shared_memory_lacks

# ---------------------------------------------------------------- Python 3.10 to 3.13

# Of each pin that has not wheels for all of them: the versions with wheels, as `pip install --dry-run` found on PyPI.
WHEELS = {"onnxruntime": {"1.23.2": ("3.10", "3.11", "3.12", "3.13"), "1.32.0": ("3.11", "3.12", "3.13")}}

# With the Cython that pydensecrf2 pins it compiles for these alone; for others `make venv` builds it with a newer one.
BUILDS = ["3.10", "3.11", "3.12"]


def promised():
    """The Python versions of pyproject.toml."""
    wanted = re.search(r'requires-python = "(.*)"', (ROOT / "pyproject.toml").read_text())[1]
    return [f"3.{minor}" for minor in range(20) if f"3.{minor}.5" in SpecifierSet(wanted)]


def pins(version):
    """{package: version} that a Python version installs; each package once."""
    found = {}
    for name in ("requirements.txt", "requirements-dev.txt"):
        lines = [line.strip() for line in (ROOT / name).read_text().splitlines()]
        for wanted in (Requirement(line) for line in lines if line and line[0] not in "#-"):
            if wanted.marker is None or wanted.marker.evaluate({"python_version": version}):
                assert wanted.name not in found, f"{wanted.name} twice on {version}"
                (exact,) = wanted.specifier
                assert exact.operator == "=="
                found[wanted.name] = exact.version
    return found


def test_every_promised_python_has_one_pin_of_every_package_and_a_wheel_for_it():
    assert promised() == ["3.10", "3.11", "3.12", "3.13"]
    packages = {version: pins(version) for version in promised()}
    assert [version for version, found in packages.items() if "pydensecrf2" in found] == BUILDS
    assert len({frozenset(found) | {"pydensecrf2"} for found in packages.values()}) == 1
    for version, found in packages.items():
        for name, wheels in WHEELS.items():
            assert version in wheels[found[name]], f"{name} {found[name]} has no wheel for {version}"


# ---------------------------------------------------------------- three images, and networks that know nothing


@pytest.fixture(scope="module")
def three(toy, tmp_path_factory):
    """Flags of infer.py for three images and an untrained classifier, up to --experiment."""
    folder = tmp_path_factory.mktemp("three")
    torch.manual_seed(0)
    save_weights(AEFTNet(ResNet38d(0.0625)), folder / "net.pth")
    save_weights(AffinityNet(ResNet38d(0.0625)), folder / "aff.pth")
    (folder / "list.txt").write_text("\n".join((toy / "train.txt").read_text().split()[:3]))
    flags = ["--name", "n", "--voc12_root", toy, "--infer_list", folder / "list.txt", "--weights", folder / "net.pth"]
    flags += [
        "--width",
        0.0625,
        "--scales",
        1,
        "--num_workers",
        0,
        "--crf_workers",
        1,
        "--device",
        "cpu",
        "--alphas",
        2,
    ]
    return [*flags, "--experiment"]


@pytest.fixture(scope="module")
def made(three, tmp_path_factory):
    """The folder of experiments with maps and CRF scores of the three."""
    folder = tmp_path_factory.mktemp("made")
    assert "3 images done" in prints("infer.py", *three, folder, "--dict", "--crf")
    return folder


def one_photograph(toy, three, out):
    """Flags of infer.py for a photograph of no data set."""
    flags = three[: three.index("--infer_list")] + three[three.index("--infer_list") + 2 :]
    return [*flags, out.parent, "--images", next((toy / "JPEGImages").iterdir()), "--out", out, "--labels", "predicted"]


# ---------------------------------------------------------------- no compiler, so no pydensecrf


@pytest.fixture
def no_crf(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)


SAYS = ("pydensecrf", "C++ compiler", crf.INSTALL)


def test_every_script_shows_its_help_without_pydensecrf(tmp_path):
    scripts = [str(path) for path in (*ROOT.glob("*.py"), *ROOT.glob("voc12/make_*.py"))]
    assert len(scripts) > 10
    code = f"""
import runpy, sys
for script in {scripts}:
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        assert not stop.code, script
"""
    env = machine(tmp_path / "site", NO_CRF)
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.count("usage:") == len(scripts)


@pytest.mark.usefixtures("no_crf")
def test_maps_are_made_without_pydensecrf_and_a_crf_is_refused_before_the_network_runs(three, tmp_path):
    refused("infer.py", *three, tmp_path, "--dict", "--crf", says=(*SAYS, "or give --refine par"))
    assert not list(tmp_path.iterdir())
    assert "3 images done" in prints("infer.py", *three, tmp_path, "--dict")
    assert len(list((tmp_path / "n" / "dict").glob("*.npy"))) == 3


@pytest.mark.usefixtures("no_crf")
def test_photographs_get_maps_without_pydensecrf(toy, three, tmp_path):
    code, errors = run_here("infer.py", *one_photograph(toy, three, tmp_path / "out"))
    assert code == 0
    assert "warning" in errors and crf.INSTALL in errors
    assert list((tmp_path / "out" / "dict").glob("*.npy")) and not (tmp_path / "out" / "crf").exists()


@pytest.mark.usefixtures("no_crf")
@pytest.mark.parametrize(
    "words", ["infer_seg.py --crf", "infer_aff.py --low 2 --high 19 --dup 8", "demo.py", "infer.py --crf --check"]
)
def test_a_crf_is_refused_before_anything_is_read(words, tmp_path):
    script, *flags = words.split()
    flags += ["--data", tmp_path / "toy"] if script == "demo.py" else []
    refused(script, "--name", "n", "--experiment", tmp_path, *flags, says=SAYS)
    assert not list(tmp_path.iterdir())


def test_a_pydensecrf_built_for_another_numpy_is_no_traceback(monkeypatch):
    class Other:
        def __getattr__(self, name):
            raise ValueError("numpy.dtype size changed, may indicate binary incompatibility")

    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", Other())
    with pytest.raises(UserError, match=f"binary incompatibility.*{crf.INSTALL}; or go without"):
        crf.load_crf("; or go without")


# ---------------------------------------------------------------- cores


def test_defaults_follow_the_usable_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for script in ("infer.py", "infer_aff.py", "infer_seg.py"):
        required = ["--low", "2", "--high", "3", "--dup", "2"] if script == "infer_aff.py" else []
        args = load_script(script).get_args_parser().parse_args(["--name", "n", *required])
        assert (args.num_workers, args.crf_workers) == (1, 1)


# ---------------------------------------------------------------- infer_aff.py loads in workers


def test_walks_are_loaded_in_worker_processes(toy, three, made, tmp_path, monkeypatch):
    asked, loader = [], engine.labelling.load_samples

    def spy(dataset, num_workers, **more):
        asked.append(num_workers)
        return loader(dataset, num_workers, **more)

    monkeypatch.setattr(engine.labelling, "load_samples", spy)
    files = Path(three[three.index("--weights") + 1]).parent
    results = []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        (folder / "n").mkdir(parents=True)
        (folder / "n" / "dict").symlink_to(made / "n" / "dict")
        flags = ["--name", "n", "--experiment", folder, "--voc12_root", toy, "--train_list", files / "list.txt"]
        flags += ["--weights", files / "aff.pth", "--width", 0.0625, "--low", 2, "--high", 19, "--dup", 8]
        flags += ["--device", "cpu", "--crf_workers", 1, "--num_workers", workers]
        assert "3 images done" in prints("infer_aff.py", *flags)
        results.append({path.name: path.read_bytes() for path in (folder / "n/rw/02_1908").glob("*.png")})
    assert asked == [0, 2]
    assert len(results[0]) == 3 and results[0] == results[1]


def test_a_broken_map_is_a_broken_sample(toy, tmp_path):
    image_id = (toy / "train.txt").read_text().split()[0]
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict" / f"{image_id}.npy").write_bytes(b"no array")
    sample = voc12.data.WalkSet(toy, [image_id], tmp_path / "dict", 20)[0]
    assert isinstance(sample, voc12.data.Broken) and sample.image_id == image_id
    assert f"{image_id}.npy" in sample.reason


# ---------------------------------------------------------------- no user


def test_a_user_without_passwd_entry_runs_scripts(tmp_path):
    env = machine(tmp_path / "site", NO_PASSWD_ENTRY, without=("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"))
    assert "usage:" in succeeds("train.py", "--help", env=env)


# ---------------------------------------------------------------- what is printed


@pytest.fixture
def masks(toy, tmp_path):
    """Flags of evaluation.py that score the true masks, with classes of other alphabets."""
    names = ["Größe", "猫", *(f"c{k}" for k in range(18))]
    for image_id in (toy / "train.txt").read_text().split():
        mask = open_mask(toy / "SegmentationClass" / f"{image_id}.png", 21)
        save_image(tmp_path / "pred" / f"{image_id}.png", label_image(np.where(mask == 255, 0, mask)))
    (tmp_path / "classes.txt").write_text("\n".join(names), encoding="utf-8")
    flags = ["--pred_dir", tmp_path / "pred", "--task", "png", "--voc12_root", toy, "--list", toy / "train.txt"]
    return [*flags, "--classes", tmp_path / "classes.txt", "--json", tmp_path / "s.json"]


def test_names_that_the_terminal_lacks_and_a_reader_that_leaves_end_no_run(masks, tmp_path):
    command = shlex.join(map(str, [sys.executable, ROOT / "evaluation.py", *masks]))
    env = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    words = ["bash", "-c", f"{command} | head -n 4; exit ${{PIPESTATUS[0]}}"]
    run = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "")
    assert len(run.stdout.splitlines()) == 4
    assert list(json.loads((tmp_path / "s.json").read_text())["classes"])[1:3] == ["Größe", "猫"]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_files_are_written_before_anything_is_printed(stream, masks, tmp_path, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, stream, Full())
    if stream == "stdout":
        with pytest.raises(SystemExit):
            prints_nothing("evaluation.py", masks)
    else:
        prints("evaluation.py", *masks)
    assert (tmp_path / "s.json").exists() and (tmp_path / "s.run.json").exists()


def prints_nothing(script, flags):
    """Run a script with the standard output as it is."""
    module = load_script(script)
    module.run_script(module.main, module.get_args_parser(), list(map(str, flags)))


# ---------------------------------------------------------------- /dev/shm


def test_a_loader_without_shared_memory_says_so(three, tmp_path, monkeypatch):
    def share(tensor):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", share)  # in the workers, which are forked
    says = ("/dev/shm", "--shm-size", "--num_workers 0", "run it again and it continues")
    refused("infer.py", *three, tmp_path, "--dict", "--num_workers", 1, says=says)


def test_a_bus_error_of_a_loader_is_one_of_shared_memory(three, tmp_path, monkeypatch):
    here = os.getpid()

    def dies(path):
        assert os.getpid() != here
        os.kill(os.getpid(), signal.SIGBUS)

    monkeypatch.setattr(voc12.data, "open_image", dies)
    refused("infer.py", *three, tmp_path, "--dict", "--num_workers", 1, says=("/dev/shm", "--shm-size"))


def test_a_full_shared_memory_is_told_from_other_errors(monkeypatch, tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")  # of a lock of multiprocessing
    monkeypatch.setattr("tool.workers.SHARED", tmp_path / "gone")
    assert "--shm-size" in shared_memory_lacks(full)
    monkeypatch.setattr("tool.workers.SHARED", tmp_path)  # a disk with room
    assert not shared_memory_lacks(full)
    assert not shared_memory_lacks(OSError(errno.ENOSPC, "No space left on device", "/data/x.npy"))
    assert not shared_memory_lacks(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."))


def mounts():
    """Whether this user may mount a small /dev/shm for one process."""
    small = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /dev/shm"]
    try:
        return subprocess.run(small, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not mounts(), reason="no right to mount a small /dev/shm")
def test_a_run_in_a_small_shared_memory_ends(three, tmp_path):
    command = [sys.executable, ROOT / "infer.py", *three, tmp_path, "--dict", "--num_workers", 2]
    command += ["--scales", 1, 2, 3]
    shell = f"mount -t tmpfs -o size=64k tmpfs /dev/shm && exec {shlex.join(map(str, command))}"
    run = subprocess.run(["unshare", "-m", "sh", "-c", shell], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert run.returncode == 2 and "Traceback" not in run.stderr, run.stderr[-2000:]
    assert "/dev/shm" in run.stderr and "--shm-size" in run.stderr


# ---------------------------------------------------------------- Windows


def test_windows_workers_are_spawned_and_compute_the_same(three, made, tmp_path):
    env = machine(tmp_path / "site", WINDOWS, PYTHONWARNINGS="ignore:only soft file lock")
    run = run_script("infer.py", *three, tmp_path, "--dict", "--crf", "--vis", "--num_workers", 1, env=env)
    assert run.returncode == 0 and "warning" not in run.stderr, run.stderr[-2000:]
    assert "crf: 3 images" in run.stdout and "peak memory unknown" in run.stdout
    for folder in ("dict", "crf/02"):
        for path in (made / "n" / folder).glob("*.npy"):
            mine, other = read_scores(tmp_path / "n" / folder / path.name), read_scores(path)
            assert mine.keys() == other.keys()
            assert all(np.allclose(mine[k], other[k], atol=1e-5) for k in mine)


def test_names_in_folders_have_slashes_on_windows(tmp_path, monkeypatch):
    import ntpath

    from engine import outputs

    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.npy").touch()
    monkeypatch.setattr(outputs.os, "sep", "\\")
    monkeypatch.setattr(outputs.os.path, "relpath", lambda path, start: ntpath.relpath(path, start))
    assert outputs.files_below(tmp_path) == {"a/b/c.npy"}
