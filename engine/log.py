"""The log of a training: lines for people, one JSON line an epoch for programs; and whether its loss falls."""

import contextlib
import json
import math
import platform
import time
from collections import deque
from pathlib import Path

import numpy as np
import torch

from engine.recipes import LIGHT
from tool import VERSION
from tool.io.files import remove_stale, write_text

EARLY = 100  # steps by which a loss has fallen where it is going to
NEAR = 0.95  # of the loss at chance: a mean over some steps is no more exact


class Log:
    """Console and log.txt for people, log.jsonl (one line an epoch) for programs, TensorBoard where installed.

    folder: the experiment. first_epoch: lines of this epoch and later, left by an earlier try, are removed.
    active: False for ranks that write nothing.
    """

    def __init__(self, folder, name="log", first_epoch=0, active=True):
        self.active, self.writer = active, None
        if not active:
            return
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_stale(self.folder, f"{name}.*")
        self.text_path = self.folder / f"{name}.txt"
        self.json_path = self.folder / f"{name}.jsonl"
        if not first_epoch:
            write_text(self.text_path, "")
        keep = first_epoch and self.json_path.exists()
        lines = self.json_path.read_text(encoding="utf-8", errors="replace").splitlines() if keep else []
        write_text(self.json_path, "".join(f"{k}\n" for k in lines if epoch_of(k) < first_epoch))
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(self.folder / "tensorboard" / name, purge_step=first_epoch)

    def line(self, text):
        """One line to console and log.txt."""
        if not self.active:
            return
        print(text, flush=True)
        with open(self.text_path, "a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def epoch(self, record):
        """One JSON line; "epoch" is its key, the numbers also go to TensorBoard."""
        if not self.active:
            return
        with open(self.json_path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, allow_nan=False) + "\n")
        if self.writer:
            for key, value in record.items():
                if isinstance(value, int | float) and key != "epoch":
                    self.writer.add_scalar(key, value, record["epoch"])
            self.writer.flush()

    def close(self):
        if self.writer:
            self.writer.close()


def epoch_of(line):
    """Epoch of a line of log.jsonl; infinity where the line is broken, as a full disk leaves it."""
    try:
        return json.loads(line)["epoch"]
    except (ValueError, TypeError, KeyError):
        return math.inf


def describe_run(args, world, lines, optimizer):
    """The first lines of a log: version, machine, processes, settings; `lines`; parameter groups."""
    device = world.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    machine = f"torch {torch.__version__}, {device} ({name})"
    processes = f"{world.size} process{'es' if world.size > 1 else ''}"
    settings = " ".join(f"{k}={v}" for k, v in sorted(vars(args).items()))
    groups = [
        f"group {group['name']}: {len(group['params'])} tensors, {sum(p.numel() for p in group['params']):,} "
        f"values, lr {group['initial_lr']:g}, weight decay {group['weight_decay']:g}"
        for group in optimizer.param_groups
    ]
    first = f"AEFT {VERSION}, {args.script}: {machine}, {processes}, seed {args.seed}"
    return [first, f"settings: {settings}", *lines, *groups]


# ---------------------------------------------------------------- whether a classifier learns


def chance_loss(labels):
    """Binary cross entropy of always predicting the frequency of each class. labels: images x C of 0 and 1."""
    p = np.clip(np.mean(labels, axis=0), 1e-9, 1 - 1e-9)
    return float(np.mean(-p * np.log(p) - (1 - p) * np.log(1 - p)))


class Learning:
    """Looks at the classification loss `cls` of the last steps.

    chance: the loss of always predicting the frequencies, times the term's weight; 0: there is nothing to look at.
    advice: what to try where the loss stays there.
    """

    def __init__(self, chance=0.0, advice=""):
        self.chance, self.advice, self.looked = chance, advice, False
        self.last = deque(maxlen=EARLY)

    def add(self, losses):
        """Count a step. losses: {term: number}."""
        if self.chance:
            self.last.append(losses["cls"])

    def early(self, steps):
        """A warning after the first epoch that ends with EARLY steps or more, "" where there is none. steps: so far."""
        if self.looked or steps < EARLY:
            return ""
        self.looked = True
        return self.late("nothing learned yet")

    def late(self, what="has learned nothing"):
        """A warning at the end of a run, "" where the mean loss of the later half of the steps is below chance."""
        loss = np.mean(list(self.last)[len(self.last) // 2 :]) if self.last else -1
        if loss <= NEAR * self.chance:
            return ""
        known = f"{self.chance:.3f} by always predicting how frequent the classes are"
        return f"warning: {what}: classification loss {loss:.3f}, {known}; try {self.advice}"


def watch_loss(args, labels):
    """The Learning of train.py's arguments. labels: images x C of 0 and 1."""
    texts = ["pretrained weights (--pretrained)"] if args.pretrained == "none" else []
    texts += ["more epochs, or --lr a third or three times of it, and look whether the labels are right"]
    if args.optimizer == "sgd":
        texts = [f"--optimizer adamw --lr {LIGHT['lr']} --scratch_lr_mult {LIGHT['scratch_lr_mult']:g}", *texts]
    return Learning(args.W[0] * chance_loss(labels), ", then ".join(texts))
