"""torchrun: N processes give the losses and weights of one, and share the images that have to be inferred."""

import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, infer_flags, prints, succeeds, train_flags
from stage_runs import (
    assert_same_losses,
    assert_same_weights,
    read_log,
    torchrun,
    torchrun_command,
    train_aff_flags,
    train_seg_flags,
)

from engine import distributed
from models.aeft import AEFTNet
from models.resnet38d import ResNet38d
from tool.io.files import UserError
from tool.io.scores import read_scores


@pytest.fixture(scope="module")
def alone(toy, trained, tmp_path_factory):
    """A fine-tuning (BatchNorm frozen, no dropout) by one process -> (folder of experiments, its flags).

    Batches of 5 and 7: no number of processes divides them. cls_batch 3: some ranks have no share in the
    classification loss of the triplet batches. A wide margin, so that more than four pairs are hard. Few steps:
    rounding differences grow with each, and at once where one turns a pixel of the erasing mask.
    """
    flags = [
        *train_flags(toy),
        "--pretrained",
        trained / "n/ckpt/003net_main.pth",
        "--no-dropout",
        "--batch_size",
        5,
        "--batch_size_triplet",
        7,
        "--cls_batch",
        3,
        "--M",
        50,
        "--epochs",
        3,
        "--T",
        1,
        "--lr",
        0.03,
    ]
    folder = tmp_path_factory.mktemp("alone")
    succeeds("train.py", "--name", "n", "--experiment", folder, *flags)
    records = read_log(folder / "n/log.jsonl")
    assert records[0]["cls"] != records[1]["cls"] and records[-1]["repel"] > 0  # it learns, and pairs are hard
    return folder, flags


@pytest.mark.parametrize("processes", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_processes_train_as_one(alone, tmp_path, processes):
    folder, flags = alone
    out = torchrun(processes, "train.py", "--name", "n", "--experiment", tmp_path, *flags)
    assert f"{processes} processes" in out and out.count("epoch 0:") == 1
    assert_same_losses(
        read_log(tmp_path / "n/log.jsonl"),
        read_log(folder / "n/log.jsonl"),
        ("total", "cls", "attract", "repel", "miou"),
    )
    assert_same_weights(tmp_path / "n/ckpt/002net_main.pth", folder / "n/ckpt/002net_main.pth")


def test_a_signal_stops_all_processes_with_one_line_and_they_resume_as_one(alone, tmp_path):
    """Ctrl-C reaches torchrun, which hands it on to all: after the same step, said once."""
    folder, flags = alone
    command = ["train.py", "--name", "n", "--experiment", tmp_path, *flags]
    process = subprocess.Popen(
        torchrun_command(2, *command), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    for line in process.stdout:
        if line.startswith("epoch 0"):
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=200)
    assert process.returncode != 0 and errors.count("stopped by SIGINT") == 1, errors[-3000:]
    assert errors.count("--resume continues") == 1 and "interrupted" not in errors, errors[-3000:]
    progress = torch.load(tmp_path / "n/ckpt/resume.pth", weights_only=True)["progress"]
    assert f"at epoch {progress['epoch']}, step {progress['step']};" in errors
    torchrun(2, *command, "--resume")
    assert_same_weights(tmp_path / "n/ckpt/002net_main.pth", folder / "n/ckpt/002net_main.pth")


ARCH = "deeplab_resnet38d"
AFF = ["--epochs", 2, "--batch_size", 5, "--crop_size", 64, "--scale", 1, "--select", "last"]
OTHERS = {  # script: (flags, more of them, log, checkpoints, terms)
    "train_aff.py": (train_aff_flags, AFF, "log_aff021908.jsonl", "ckpt_aff/aff021908", ("total", "bg", "fg", "neg")),
    "train_seg.py": (train_seg_flags, ["--lr", 0.001], f"log_seg_{ARCH}.jsonl", f"ckpt_seg/{ARCH}", ("total", "miou")),
}


@pytest.mark.parametrize("script", OTHERS)
def test_processes_train_the_other_networks_as_one(toy, inferred, tmp_path, script):
    """Batches of 5, masks with different numbers of ignored pixels, no dropout."""
    make_flags, more, log, checkpoints, terms = OTHERS[script]
    for name in ("one", "two"):
        others = shutil.ignore_patterns("*aff*")  # what tests that came first trained there
        shutil.copytree(inferred / "n", tmp_path / name / "n", ignore=others)
    one, two = ([*make_flags(toy, tmp_path / name), *more, "--no-dropout"] for name in ("one", "two"))
    succeeds(script, *one)
    out = torchrun(2, script, *two)
    assert "2 processes" in out and out.count("epoch 0:") == 1
    assert_same_losses(*(read_log(tmp_path / name / "n" / log) for name in ("two", "one")), terms)
    assert_same_weights(*(tmp_path / name / "n" / checkpoints / "best.pth" for name in ("two", "one")))


def test_processes_share_the_list(toy, inferred, tmp_path):
    """infer.py by two processes writes the files of one; what a dead one left out, the next run does."""
    (tmp_path / "n").mkdir()
    (tmp_path / "n/ckpt").symlink_to(inferred / "n/ckpt")
    flags = [*infer_flags(toy, tmp_path), "--dict", "--crf", "--alphas", 2, 19]
    out = torchrun(2, "infer.py", *flags)
    assert "process 0 of 2: 6 images" in out and "process 1 of 2: 6 images" in out
    for folder in ("dict", "crf/02", "crf/19"):
        ours = sorted((tmp_path / "n" / folder).glob("*.npy"))
        assert [p.name for p in ours] == sorted(p.name for p in (inferred / "n" / folder).glob("*.npy"))
        assert len(ours) == 12
        for path in ours:
            a, b = read_scores(path), read_scores(inferred / "n" / folder / path.name)
            assert a.keys() == b.keys() and all(np.allclose(a[k], b[k], atol=1e-5) for k in a)
    for path in ours[3:6]:
        path.unlink()
    assert "9 done before" in succeeds("infer.py", *flags)
    assert len(list((tmp_path / "n/crf/19").glob("*.npy"))) == 12


def test_ranks_without_an_image_have_nothing_to_do(broken, trained, tmp_path):
    """Three processes: one image is fine, the second process's is gone, and the third has none."""
    (tmp_path / "n").mkdir()
    (tmp_path / "n/ckpt").symlink_to(trained / "n/ckpt")
    ids = (broken / "train.txt").read_text().split()[:2]
    (tmp_path / "two.txt").write_text("\n".join(ids))
    (broken / "JPEGImages" / f"{ids[1]}.jpg").unlink()
    flags = [*infer_flags(broken, tmp_path), "--infer_list", tmp_path / "two.txt", "--dict", "--crf", "--alphas", 2]
    out = torchrun(3, "infer.py", *flags, "--on_error", "skip")
    assert [out.count(f"process {k} of 3: {n} images") for k, n in ((0, 1), (1, 0), (2, 0))] == [1, 1, 1]
    assert "1 images done, 0 skipped (done before), 1 failed" in out
    for folder in ("dict", "crf/02"):
        assert [path.stem for path in (tmp_path / "n" / folder).glob("*.npy")] == ids[:1]


# ---------------------------------------------------------------- devices


def test_a_gpu_that_runs_no_kernel_is_not_taken(monkeypatch, capsys):
    """As where torch was built for other architectures: it is there, and its first kernel fails."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def fails(*_, device, **__):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore lines")

    monkeypatch.setattr(torch, "ones", fails)
    assert distributed.choose_device("auto") == torch.device("cpu")
    assert "--device auto: the CPU, as the GPU runs nothing (CUDA error: no kernel image" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"--device cpu: not available here \(CUDA error: no kernel .* device\)"):
        distributed.choose_device("cpu")


def test_a_gpu_by_its_number_is_the_only_one_that_is_opened(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(str(device)))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append("kernel"))
    monkeypatch.setattr(torch, "ones", lambda *_, device: calls.append("kernel") or torch.zeros(2))
    assert str(distributed.choose_device("cuda:1")) == "cuda:1" and calls == ["cuda:1", "kernel", "kernel"]


def test_half_precision_of_old_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert distributed.half_precision(torch.device("cuda")) == torch.float16
    assert distributed.half_precision(torch.device("cpu")) == torch.bfloat16
    world = distributed.World(device=torch.device("cuda"))
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: (device, enabled))
    assert [world.scaler(amp) for amp in (True, False)] == [("cuda", True), ("cuda", False)]
    assert distributed.World().scaler(True) == ("cpu", False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert distributed.half_precision(torch.device("cuda")) == torch.bfloat16


def test_no_thread_of_a_group_that_was_left_is_there_when_python_ends(monkeypatch):
    def threads():
        return {task.name for task in Path("/proc/self/task").iterdir() if "gloo" in (task / "comm").read_text()}

    before = threads()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    world = distributed.World(0, 2)
    model = world.prepare(torch.nn.Linear(2, 2), False, 0, False)
    model(torch.ones(1, 2)).sum().backward()
    world.leave()
    del model
    assert threads() > before
    distributed.let_go()
    assert threads() == before


@pytest.mark.parametrize("scratch", [False, True])
def test_only_batchnorm_that_trains_is_of_all_processes(monkeypatch, capsys, scratch):
    """bn8 of the classifier is in no forward."""
    net = AEFTNet(ResNet38d(1 / 16))
    if not scratch:
        net.freeze()
    monkeypatch.setattr(distributed, "DistributedDataParallel", lambda net, **_: net)
    distributed.World(0, 2).prepare(net.train(), False, 0, False)
    assert ("training BatchNorm on CPU" in capsys.readouterr().err) == scratch


def test_float16_training_scales_its_gradients_and_resumes(toy, tmp_path, monkeypatch, capsys):
    """On the CPU, as on a GPU without bfloat16: the scale is part of what resuming needs."""
    monkeypatch.setattr(distributed, "half_precision", lambda device: torch.float16)
    flags = ["--name", "n", "--experiment", tmp_path, *train_flags(toy), "--val_list", "none", "--amp", "--epochs", 2]
    prints("train.py", *flags, "--stop_epoch", 1)
    state = torch.load(tmp_path / "n/ckpt/resume.pth", weights_only=True)
    assert state["scaler"]["scale"] > 1 and state["scaler"]["_growth_tracker"] == 3
    prints("train.py", *flags, "--resume")
    after = torch.load(tmp_path / "n/ckpt/resume.pth", weights_only=True)["scaler"]
    assert after["_growth_tracker"] == 6 and after["scale"] == state["scaler"]["scale"]
