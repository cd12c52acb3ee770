"""Fixtures that several tests share: a toy data set, small networks, and scripts run as a user runs them."""

import contextlib
import importlib.util
import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision.transforms.functional  # noqa: F401  loaded by a view's constructor, which hypothesis would find slow
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
pytest.register_assert_rewrite("stage_runs")

# `make test` gives the same answer each time; the campaigns of `make test-long` have seeds of their own.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


def run_script(script, *args, cwd=ROOT, timeout=400, env=None):
    """Run one of the scripts in a process of its own -> CompletedProcess with text output."""
    command = [sys.executable, str(ROOT / script), *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, env=env)


def succeeds(script, *args, **options):
    """Run a script that must succeed; returns its standard output."""
    result = run_script(script, *args, **options)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def load_script(script):
    """A script as a module."""
    path = ROOT / script
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_here(script, *args):
    """Run a script inside this process -> (exit code, stderr). As a user runs it, without the seconds of importing."""
    module = load_script(script)
    errors = io.StringIO()
    code = 0
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            module.run_script(module.main, module.get_args_parser(), [str(a) for a in args])
        except SystemExit as stop:
            code = stop.code
    return code, errors.getvalue()


def prints(script, *args):
    """Run a script inside this process, which must succeed; returns its standard output."""
    module = load_script(script)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        module.run_script(module.main, module.get_args_parser(), [str(a) for a in args])
    return printed.getvalue()


def refused(script, *args, says=()):
    """Run a script that must refuse its input: exit code 2, one line that holds every string of `says`."""
    code, errors = run_here(script, *args)
    assert code == 2, (code, errors[-2000:])
    assert "Traceback" not in errors
    lines = [line for line in errors.strip().splitlines() if "error:" in line]
    assert len(lines) == 1, errors
    for text in [says] if isinstance(says, str) else says:
        assert text in lines[0], lines[0]
    return lines[0]


@pytest.fixture(autouse=True)
def threads_as_at_the_start():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A dozen drawn images in VOC layout, 64 x 48 pixels."""
    root = tmp_path_factory.mktemp("data") / "toy"
    succeeds("voc12/make_toy.py", "--out", root, "--images", 12, "--val_images", 4, "--size", 64, 48)
    return root


def train_flags(toy):
    """Flags that make train.py a matter of seconds on the dozen."""
    return [
        "--voc12_root",
        toy,
        "--train_list",
        toy / "train.txt",
        "--val_list",
        toy / "train.txt",
        "--pretrained",
        "none",
        "--width",
        0.0625,
        "--epochs",
        4,
        "--T",
        2,
        "--batch_size",
        4,
        "--batch_size_triplet",
        6,
        "--crop_size",
        48,
        "--resize",
        48,
        72,
        "--num_workers",
        0,
        "--device",
        "cpu",
    ]


@pytest.fixture
def toy_flags(toy):
    return train_flags(toy)


@pytest.fixture(scope="session")
def trained(toy, tmp_path_factory):
    """Experiment "n", four epochs at once -> the folder of experiments."""
    folder = tmp_path_factory.mktemp("experiments")
    succeeds("train.py", "--name", "n", "--experiment", folder, *train_flags(toy))
    return folder


def infer_flags(toy, folder, epoch=3):
    return [
        "--name",
        "n",
        "--experiment",
        folder,
        "--voc12_root",
        toy,
        "--infer_list",
        toy / "train.txt",
        "--width",
        0.0625,
        "--load_epo",
        epoch,
        "--num_workers",
        0,
        "--device",
        "cpu",
        "--crf_workers",
        2,
    ]


@pytest.fixture(scope="session")
def inferred(toy, trained):
    """`trained`, with maps and CRF scores of alphas 2 and 19."""
    out = succeeds("infer.py", *infer_flags(toy, trained), "--dict", "--crf", "--vis", "--alphas", 2, 19)
    assert "12 through the network" in out
    return trained


@pytest.fixture
def broken(toy, tmp_path):
    """A copy of the toy set to damage."""
    shutil.copytree(toy, tmp_path / "set")
    return tmp_path / "set"


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window, where Debian's packages chromium and chromium-driver are installed."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no Chromium with its driver here: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield window
    window.quit()
