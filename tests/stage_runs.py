"""Flags of the stages on the toy set, torchrun, and what two runs have in common."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT


def torchrun_command(processes, script, *args):
    """A script as several processes on this machine."""
    options = [f"--nproc_per_node={processes}", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", "--"]
    return [sys.executable, "-m", "torch.distributed.run", *options, str(ROOT / script), *map(str, args)]


def torchrun(processes, script, *args):
    """Run a script as several processes; returns what all of them printed."""
    command = torchrun_command(processes, script, *args)
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def read_log(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same_losses(ours, theirs, terms):
    assert len(ours) == len(theirs) > 1
    for a, b in zip(ours, theirs):
        assert a.keys() == b.keys()
        for term in set(terms) & a.keys():
            tolerance = 0.1 if term == "miou" else 1e-7  # of a label map a pixel may turn
            assert a[term] == pytest.approx(b[term], rel=1e-5, abs=tolerance), (a["epoch"], term)


def assert_same_weights(ours, theirs):
    ours, theirs = (torch.load(path, weights_only=True) for path in (ours, theirs))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-5, msg=name)


POWERS = ["--low", 2, "--high", 19, "--dup", 8]


def aff_flags(toy, folder):
    return [
        "--name",
        "n",
        "--experiment",
        folder,
        *POWERS,
        "--voc12_root",
        toy,
        "--train_list",
        toy / "train.txt",
        "--width",
        0.0625,
        "--scale",
        2,
        "--num_workers",
        0,
        "--device",
        "cpu",
    ]


def train_aff_flags(toy, folder):
    return [
        *aff_flags(toy, folder),
        "--val_list",
        toy / "train.txt",
        "--val_every",
        2,
        "--pretrained",
        folder / "n" / "ckpt" / "003net_main.pth",
        "--epochs",
        2,
        "--batch_size",
        4,
        "--crop_size",
        96,
    ]


def common_flags(toy, folder):
    return ["--name", "n", "--experiment", folder, "--voc12_root", toy, "--num_workers", 0, "--device", "cpu"]


def train_seg_flags(toy, folder):
    """Two epochs on the true masks, from the experiment's classifier."""
    data = ["--train_list", toy / "train.txt", "--val_list", toy / "val.txt", "--labels", toy / "SegmentationClass"]
    return [*common_flags(toy, folder), *data, "--epochs", 2, "--batch_size", 5, "--crop_size", 49, "--lr", 0.005]


def infer_seg_flags(toy, folder):
    return [*common_flags(toy, folder), "--infer_list", toy / "val.txt", "--crf_workers", 1]


def predict_flags(trained, images, out):
    """Flags for photographs: of the experiment only its checkpoint is used."""
    common = ["--name", "n", "--experiment", trained, "--width", 0.0625, "--load_epo", 3, "--device", "cpu"]
    return [*common, "--num_workers", 0, "--crf_workers", 1, "--images", images, "--out", out, "--labels", "predicted"]
