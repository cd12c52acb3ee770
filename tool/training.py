"""What both trainings share: device, optimiser and its schedule, resuming, stopping, the log."""

import contextlib
import json
import math
import platform
import signal
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from models.checkpoint import read_torch, save_torch
from tool.files import Interrupted, UserError, write_text

VERSION = "0.1.0"
POWER = 0.9  # of the poly schedule


def choose_device(name):
    """`auto`, `cpu`, `cuda`, `cuda:1` -> torch.device; UserError where it cannot be had."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--device {name}: not available here ({reason}); try --device cpu") from None
    return device


def poly_factor(step, max_step):
    """(1 - step/max_step)^0.9, 0 from max_step on."""
    return max(0.0, 1 - step / max(1, max_step)) ** POWER


def build_optimizer(name, groups, momentum):
    """SGD or AdamW over parameter groups; remembers each group's first rate as "initial_lr"."""
    for group in groups:
        group["initial_lr"] = group["lr"]
    if name == "sgd":
        return torch.optim.SGD(groups, momentum=momentum)
    return torch.optim.AdamW(groups)


def set_learning_rate(optimizer, step, max_step):
    """Give every group its rate for this step; returns the rate of the first group."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * poly_factor(step, max_step)
    return optimizer.param_groups[0]["lr"]


def check_finite(losses, step, ids):
    """Stop a run whose loss is NaN or infinite: the step, the terms and the images."""
    if not math.isfinite(losses["total"]):
        terms = ", ".join(f"{k} {v:.4g}" for k, v in losses.items())
        raise UserError(f"loss is not finite at step {step} ({terms}), images {' '.join(ids)}; "
                        "lower --lr, or --resume from the last checkpoint without --amp")


def run_epoch(loader, step, optimizer, progress, max_step, terms, stop, after_step=None):
    """The rest of epoch progress["epoch"], from progress["step"] on; updates `progress` in place.

    loader: gives batches, of which the first element is the list of image IDs; its batch_sampler was started.
    step(batch, global_step) -> {term: float} makes one update. terms: names of the terms whose sums are kept.
    after_step(progress): called after every update. Returns False where a signal asked to stop, after that step.
    """
    done = progress["step"]
    bar = tqdm(loader, f"epoch {progress['epoch']}", total=done + len(loader), initial=done, unit="step", disable=None)
    for batch in bar:
        progress["lr"] = set_learning_rate(optimizer, progress["global_step"], max_step)
        values = step(batch, progress["global_step"])
        check_finite(values, progress["global_step"], batch[0])
        progress["step"] += 1
        progress["global_step"] += 1
        progress["sums"] = [total + values[k] for total, k in zip(progress["sums"], terms)]
        bar.set_postfix({k: f"{values[k]:.4f}" for k in terms}, refresh=False)
        if after_step:
            after_step(progress)
        if stop.number is not None:
            return False
    return True


def new_progress(terms, lr):
    """Where a run stands; what save_resume keeps beside weights and optimiser."""
    return {"epoch": 0, "step": 0, "global_step": 0, "sums": [0.0] * len(terms), "lr": lr, "seconds": 0.0}


def epoch_record(progress, max_step, terms):
    """The numbers of a finished epoch, for one JSON line: means of the terms, steps, rate."""
    means = {k: total / max(1, progress["step"]) for k, total in zip(terms, progress["sums"])}
    return {"epoch": progress["epoch"], "steps": progress["step"], "global_step": progress["global_step"],
            "planned_steps": max_step, "lr": progress["lr"]} | means


def next_epoch(progress, terms):
    progress |= {"epoch": progress["epoch"] + 1, "step": 0, "sums": [0.0] * len(terms), "seconds": 0.0}


class StopSignal:
    """SIGINT and SIGTERM as a flag that the training loop reads after each step; a second one ends at once."""

    def __init__(self):
        self.number = None
        self.previous = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number, frame):
        self.number = number
        self.restore()

    def restore(self):
        while self.previous:
            signal.signal(*self.previous.popitem())

    def __exit__(self, *exc):
        self.restore()

    def stop(self, where):
        """Raise Interrupted, with the exit code that shells expect (128 + signal)."""
        raise Interrupted(f"stopped by {signal.Signals(self.number).name} {where}; --resume continues",
                          128 + self.number)


# ---------------------------------------------------------------- resuming

# Settings that may change between the parts of a run without changing what it computes.
FREE_SETTINGS = {"resume", "overwrite", "num_workers", "device", "stop_epoch", "voc12_root", "log_every", "check"}


def save_resume(path, net, optimizer, progress, settings):
    """Everything that only resuming needs, in a file of its own.

    progress: plain values (epoch, step in it, sums ...). settings: the resolved arguments.
    """
    save_torch(
        {
            "net": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "progress": progress,
            "settings": {k: v for k, v in settings.items() if k not in FREE_SETTINGS},
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        },
        path,
    )


def load_resume(path, net, optimizer, settings, may_change=()):
    """Restore what save_resume wrote and return its progress; UserError where the settings are not the same."""
    state = read_torch(path)
    if not isinstance(state, dict) or not {"net", "optimizer", "progress", "settings", "rng"} <= set(state):
        raise UserError(f"{path}: not a resume file of this stage; remove it to start anew")
    old = json.loads(json.dumps(state["settings"]))
    new = json.loads(json.dumps({k: v for k, v in settings.items() if k not in FREE_SETTINGS}))
    changed = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    refused = [k for k in changed if k not in may_change]
    if refused:
        k = refused[0]
        others = f" (also different: {' '.join(refused[1:])})" if refused[1:] else ""
        raise UserError(f"{path}: the run was started with --{k} {old.get(k)}, not {new.get(k)}{others}; "
                        "resume with the same settings")
    for k in changed:
        print(f"warning: resuming with --{k} {new.get(k)} (the run was started with {old.get(k)})", file=sys.stderr)
    net.load_state_dict(state["net"])
    rates = [group["initial_lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state["optimizer"])
    for group, rate in zip(optimizer.param_groups, rates):
        group["initial_lr"] = rate
    torch.set_rng_state(state["rng"])
    if torch.cuda.is_available() and len(state["rng_cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["rng_cuda"])
    return state["progress"]


def start_or_resume(folder, resume_path, resume, overwrite, results="*.pth"):
    """Decide how a training begins: True = continue from resume_path, False = anew.

    folder: where the checkpoints go. UserError where a run is there already and neither flag was given.
    """
    folder = Path(folder)
    if resume and resume_path.is_file():
        return True
    existing = sorted(folder.glob(results))
    if existing and not overwrite and not resume:
        raise UserError(f"{folder}: holds a run already ({existing[-1].name}); "
                        "--resume continues it, --overwrite starts anew, --name gives another place")
    for path in existing:
        path.unlink()
    return False


# ---------------------------------------------------------------- the log


class Log:
    """Console and log.txt for people, log.jsonl (one line an epoch) for programs, TensorBoard where installed.

    folder: the experiment. first_epoch: lines of this epoch and later, left by an earlier try, are removed.
    """

    def __init__(self, folder, name="log", first_epoch=0):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.text_path = self.folder / f"{name}.txt"
        self.json_path = self.folder / f"{name}.jsonl"
        if not first_epoch:
            write_text(self.text_path, "")
        lines = self.json_path.read_text().splitlines() if first_epoch and self.json_path.exists() else []
        write_text(self.json_path, "".join(f"{k}\n" for k in lines if json.loads(k)["epoch"] < first_epoch))
        self.writer = None
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(self.folder / "tensorboard" / name, purge_step=first_epoch)

    def line(self, text):
        """One line to console and log.txt."""
        print(text, flush=True)
        with open(self.text_path, "a") as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def epoch(self, record):
        """One JSON line; "epoch" is its key, the numbers also go to TensorBoard."""
        with open(self.json_path, "a") as stream:
            stream.write(json.dumps(record, allow_nan=False) + "\n")
        if self.writer:
            for key, value in record.items():
                if isinstance(value, int | float) and key != "epoch":
                    self.writer.add_scalar(key, value, record["epoch"])
            self.writer.flush()

    def close(self):
        if self.writer:
            self.writer.close()


def describe_run(log, script, device, seed, settings):
    """The first lines of a log: version, machine, settings."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    log.line(f"AEFT {VERSION}, {script}: torch {torch.__version__}, {device} ({name}), seed {seed}")
    log.line("settings: " + " ".join(f"{k}={v}" for k, v in sorted(settings.items())))


def describe_terms(record, terms):
    """steps, rate and mean losses of an epoch's record, for the log."""
    losses = ", ".join(f"{k} {record[k]:.4f}" for k in terms)
    return f"{record['steps']} steps, lr {record['lr']:.5f}, {losses}"


def describe_groups(log, optimizer):
    """One line a parameter group: name, tensors, values, rate, decay."""
    for group in optimizer.param_groups:
        log.line(f"group {group['name']}: {len(group['params'])} tensors, {sum(p.numel() for p in group['params']):,} "
                 f"values, lr {group['initial_lr']:g}, weight decay {group['weight_decay']:g}")
