"""Where a training stands on disk: the resume file, and how a run begins and ends."""

import json
import sys
from pathlib import Path

import torch

from tool.io.files import UserError, remove_stale, shorten
from tool.io.torch_files import read_torch, save_torch
from tool.run.log import Log, describe_groups, describe_run
from tool.run.record import remove_record, this_run, write_record
from tool.run.summary import Summary

# Settings that may change between the parts of a run without changing what it computes.
FREE_SETTINGS = {"resume", "overwrite", "num_workers", "device", "stop_epoch", "voc12_root", "on_error", "check"}


def save_resume(path, net, optimizer, progress, settings, world):
    """Everything that only resuming needs, in a file of its own, written by rank 0.

    progress: plain values (epoch, step in it, sums ...). settings: the resolved arguments.
    """
    device = next(net.parameters()).device
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    states = world.collect((torch.get_rng_state(), cuda))
    if world.main:
        state = {
            "net": net.released_state(),
            "optimizer": optimizer.state_dict(),
            "progress": progress,
            "rng": states,
            "settings": {k: v for k, v in settings.items() if k not in FREE_SETTINGS},
        }
        save_torch(state, path)


def load_resume(path, net, optimizer, settings, world, may_change=()):
    """Restore what save_resume wrote and return its progress; UserError where the settings are not the same."""
    state = read_torch(path)
    if not _is_resume_state(state):
        raise UserError(f"{path}: not a resume file of this stage; remove it to start anew")
    old = json.loads(json.dumps(state["settings"]))
    new = json.loads(json.dumps({k: v for k, v in settings.items() if k not in FREE_SETTINGS}))
    changed = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    refused = [k for k in changed if k not in may_change]
    if refused:
        k = refused[0]
        others = f" (also different: {' '.join(refused[1:])})" if refused[1:] else ""
        raise UserError(
            f"{path}: the run was started with --{k} {old.get(k)}, not {new.get(k)}{others}; "
            "resume with the same settings"
        )
    for k in changed if world.main else ():
        print(f"warning: resuming with --{k} {new.get(k)} (the run was started with {old.get(k)})", file=sys.stderr)
    rates = [group["initial_lr"] for group in optimizer.param_groups]
    try:
        net.load_released_state(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        restore_rng(state["rng"], next(net.parameters()).device, world)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:  # torch raises any of them
        raise UserError(f"{path}: does not fit this run ({shorten(error, 150)}); remove it to start anew") from None
    for group, rate in zip(optimizer.param_groups, rates):
        group["initial_lr"] = rate
    return state["progress"]


def _is_resume_state(state):
    return (
        isinstance(state, dict)
        and {"net", "optimizer", "rng"} <= set(state)
        and isinstance(state.get("settings"), dict)
        and isinstance(state.get("progress"), dict)
        and {"epoch", "step", "global_step", "sums", "lr", "seconds"} <= set(state["progress"])
    )


def restore_rng(states, device, world):
    """Random states of (CPU, GPU or None), one a rank; where ranks or devices differ from before, new ones."""
    if len(states) != world.size:
        print(
            f"warning: resuming with {world.size} processes what ran with {len(states)}: dropout draws other values",
            file=sys.stderr,
        )
        return
    cpu, cuda = states[world.rank]
    torch.set_rng_state(cpu)
    if cuda is not None and device.type == "cuda":
        torch.cuda.set_rng_state(cuda, device)


def start_or_resume(folder, resume_path, resume, overwrite, results="*.pth"):
    """Decide how a training begins: True = continue from resume_path, False = anew.

    folder: where the checkpoints go. UserError where a run is there already and neither flag was given.
    """
    folder = Path(folder)
    if resume and resume_path.is_file():
        return True
    existing = sorted(folder.glob(results))
    refuse_existing(folder, resume or overwrite, results)
    for path in sorted(existing, key=lambda path: path != resume_path):  # first: without it nothing old is continued
        path.unlink()
    return False


def start_weights(path):
    """--pretrained as a path, or None."""
    return None if path == "none" else path


def refuse_existing(folder, allowed, results="*.pth"):
    """UserError where a run is in the folder already, unless that is allowed."""
    existing = sorted(folder.glob(results))
    if existing and not allowed:
        raise UserError(
            f"{folder}: holds a run already ({existing[-1].name}); "
            "--resume continues it, --overwrite starts anew, --name gives another place"
        )


class Run:
    """One training: its folder of checkpoints, resume file, log, record (run.json) and summary.

    experiment: folder of the log; folder: of the checkpoints; args: the resolved arguments.
    """

    def __init__(self, experiment, folder, log_name, args, world, device):
        self.experiment, self.folder, self.log_name = experiment, folder, log_name
        self.args, self.settings, self.world, self.device = args, vars(args), world, device
        self.resume_path = folder / "resume.pth"
        self.log = None
        self.summary = Summary(device)

    def begin(self, net, optimizer, progress, lists, weights):
        """Continue from the resume file, or start anew with `progress`; returns where the run stands.

        lists, weights: paths of what it reads, for the record; weights may be None.
        """

        def decide():
            remove_stale(self.folder)
            resume = start_or_resume(self.folder, self.resume_path, self.args.resume, self.args.overwrite)
            if not resume:
                remove_record(self.folder)
            return resume

        if self.world.first(decide):
            progress = load_resume(self.resume_path, net, optimizer, self.settings, self.world, may_change=("epochs",))
        run = this_run(self.args, self.device, self.world.size, lists, weights)
        settings = {k: v for k, v in self.settings.items() if k not in FREE_SETTINGS}
        self.world.first(lambda: write_record(self.folder, settings, run, keep=True))
        self.log = Log(self.experiment, self.log_name, first_epoch=progress["epoch"], active=self.world.main)
        return progress

    def describe(self, script, device, optimizer, lines):
        """The first lines of the log."""
        describe_run(self.log, script, device, self.args.seed, self.settings, self.world)
        for line in lines:
            self.log.line(line)
        describe_groups(self.log, optimizer)

    def end(self, script, progress, failures, next_command):
        """The summary, to console, log and run.json."""
        stage = self.summary.stages.get("training", {"images": 0})
        self.summary.counts["done"] = stage["images"]
        self.log.line(f"done: {self.folder}, {progress['epoch']} epochs")
        self.summary.end(script, self.world, [self.folder], failures, next_command, self.log.line)
        self.log.close()
