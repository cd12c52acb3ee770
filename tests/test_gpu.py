"""`make gpu` without a GPU: its tables, its comparisons (CPU with CPU), and what the scripts do for GPUs."""

import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from engine import distributed
from models.resnet38d import ResNet38d
from tests.gpu import same, scripts, speed
from tests.gpu.run import PARTS, Report, Setting, get_args_parser, main, run_part
from tool.crf import load_crf
from tool.io.files import UserError

CPU = torch.device("cpu")


def gpu(*flags):
    command = [sys.executable, "-m", "tests.gpu.run", *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)


@pytest.fixture
def setting(tmp_path):
    return Setting(CPU, True, tmp_path, time.time() + 600)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_one_line_and_no_page(tmp_path):
    result = gpu("--out", tmp_path / "gpu.md")
    assert (result.returncode, result.stdout.count("\n"), result.stderr) == (0, 1, "")
    assert "no GPU" in result.stdout and not (tmp_path / "gpu.md").exists()


def test_a_part_is_refused_that_does_not_exist():
    with pytest.raises(UserError, match="--only speeds.* rates"):
        main(get_args_parser().parse_args(["--only", "speeds"]))


def test_a_row_that_fails_or_lacks_time_leaves_the_others(tmp_path, setting):
    def broken():
        raise ValueError("a | b")

    rows = [("one", 1, lambda: ["1", "yes"]), ("two", 1, broken), ("three", 1, lambda: ["3", "NO"])]
    rows += [("four", 1e6, lambda: ["4", "yes"]), ("five", 1, lambda: ["5"])]
    report = Report(tmp_path / "page.md", "a card")
    run_part(report, setting, "Title", ("a", "b", "c"), "Words.", lambda _: rows)
    lines = (tmp_path / "page.md").read_text().splitlines()
    assert "a card" in lines[2] and lines[4:11] == [
        "## Title",
        "",
        "Words.",
        "",
        "| a | b | c |",
        "|---|---|---|",
        "| one | 1 | yes |",
    ]
    assert lines[11] == "| two | failed: ValueError: a / b | - |" and lines[12] == "| three | 3 | NO |"
    assert lines[13].startswith("| four | left out: ") and lines[14:] == ["| five | 5 | - |"]
    assert report.failed == 2


@pytest.mark.parametrize("name", ["triplet step", "AffinityNet and its loss", "pairs and random walk"])
def test_the_cpu_is_like_itself(name):
    found = same.row(same.CASES[name], CPU)
    assert found[0] == "0.0e+00" and found[1] in ("0.0e+00", "-") and found[2] == found[3] and found[4] == "yes"


@pytest.mark.parametrize("wrong", [1.001, float("nan"), 0.0])
def test_another_result_is_seen(wrong):
    calls = []

    def work(net, device):
        calls.append(device)
        return {"sum": torch.tensor([3.0, 4.0]) * (wrong if len(calls) == 2 else 1)}

    cells = same.row(lambda: (torch.nn.Linear(1, 1), work), CPU)
    assert cells[4] == "NO" and cells[0] == {1.001: "1.0e-03", 0.0: "1.0e+00"}.get(wrong, "inf")


@pytest.mark.parametrize("stage", ["train.py, triplet", "train_aff.py", "train_seg.py, three scales"])
def test_all_forms_of_a_step_have_one_loss(setting, stage):
    net, batch = speed.network(stage, setting), speed.batch_of(stage, 2, 48)

    def loss(form):
        own = same.placed(net, CPU, form == "amp").train()
        value = speed.training(stage, form, own, batch, CPU)()
        moved = any(not torch.equal(a, b) for a, b in zip(own.parameters(), net.parameters()))
        assert moved
        return float(value)

    exact = loss("published")
    assert loss("float32") == pytest.approx(exact, rel=1e-5) and exact > 0.1
    assert loss("amp") == pytest.approx(exact, rel=0.05) and loss("amp") != exact


def test_forms_of_the_maps_are_one(setting):
    net = speed.network("infer.py", setting).eval()
    views = [torch.stack([x, x.flip(-1)]) for x in (same.values(3, 24, 32), same.values(3, 48, 64))]
    ours, published = (speed.inference(form, net, views, CPU)() for form in ("float32", "published"))
    torch.testing.assert_close(ours, published, rtol=0, atol=1e-5)
    assert ours.shape == (20, 48, 64) and ours.max() > 0.9


def test_cells_of_a_row():
    measured = iter([(0.5, 2.0), None, (1.0, 3.25)])
    found = iter([])

    def make_step(form, net):
        return form

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "measure", lambda step, device: next(measured))
        found = speed.compared(ResNet38d(1 / 16), 8, make_step, CPU)
    expected = ["500 ms, 16.0 images/s, 2.0 GiB", "out of memory", "1000 ms, 8.0 images/s, 3.2 GiB", "2.00 times", "-"]
    assert found == expected


def test_synchronisations_are_counted_by_line():
    modes = []

    def step():
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)

    found = speed.synchronisations(step, modes.append)
    assert list(found.values()) == [3] and next(iter(found)).startswith("test_gpu.py:") and modes == ["warn", "default"]


def test_losses_of_two_trainings_are_compared(setting):
    one = scripts.Scripts(setting)
    for name, total in (("a", 1.0), ("b", 1.0005), ("c", 1.01)):
        (setting.folder / name).mkdir()
        line = json.dumps({"total": total, "cls": 1.0, "attract": 0.0, "repel": 0.0, "miou": 3.0})
        (setting.folder / name / "log.jsonl").write_text(f"{line}\n")
    assert one.same_losses(2.0, "a", "a") == ["2", "equal losses", "yes"]
    assert one.same_losses(2.0, "b", "a") == ["2", "losses differ by 5.0e-04", "yes"]
    assert one.same_losses(2.0, "c", "a")[2] == "NO"


def test_a_script_that_stops_says_why(setting):
    with pytest.raises(RuntimeError, match=r"infer.py: error: .*nothing to write"):
        scripts.Scripts(setting).run("infer.py --infer_list none")


@pytest.mark.slow
def test_all_of_it_on_a_cpu(tmp_path):
    """Two processes, resuming, every stage, with tiny networks."""
    result = gpu("--device", "cpu", "--tiny", "--minutes", 20, "--out", tmp_path / "gpu.md")
    page = (tmp_path / "gpu.md").read_text()
    assert result.returncode == 0, page + result.stderr[-3000:]
    assert "failed" not in page and "left out: 1" not in page and page.count("\n## ") == len(PARTS)


# ---------------------------------------------------------------- what the code does for GPUs


@pytest.mark.parametrize(
    ("device", "local", "backend", "own"),
    [
        ("cuda", "2", "cpu:gloo,cuda:nccl", "cuda:1"),
        ("cuda:0", "2", "gloo", "cuda:0"),
        ("cuda:0", "1", "cpu:gloo,cuda:nccl", "cuda:0"),
        ("cpu", "2", "gloo", "cpu"),
    ],
)
def test_processes_that_share_a_gpu_speak_through_gloo(monkeypatch, device, local, backend, own):
    """NCCL refuses two processes on one GPU; one process a machine, or a GPU each, keeps it."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": local}.items():
        monkeypatch.setenv(name, value)
    asked = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    fake = SimpleNamespace(init_process_group=lambda name, timeout: asked.append(name), get_rank=lambda: 1)
    monkeypatch.setattr(distributed, "dist", fake)
    monkeypatch.setattr(distributed, "choose_device", torch.device)
    world = distributed.join_world(device)
    device = world.device
    assert (asked, str(device), world.rank, world.size) == ([backend], own, 1, 2)


def test_without_pydensecrf_trainings_start_and_a_crf_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.delitem(sys.modules, "pydensecrf.densecrf", raising=False)
    with pytest.raises(UserError, match="pydensecrf2"):
        load_crf()
    code = (
        "import sys; sys.modules['pydensecrf'] = None; import train, infer, train_aff, infer_aff, train_seg, infer_seg"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_makefile_has_it():
    result = subprocess.run(["make", "-n", "gpu"], cwd=ROOT, capture_output=True, text=True)
    assert "-m tests.gpu.run" in result.stdout and Path(ROOT / "tests/gpu/run.py").is_file()
