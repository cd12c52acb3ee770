"""Where a training stands on disk: its progress, the resume file, and whether it may begin or go on."""

import json
from dataclasses import asdict, dataclass, field

import torch

from tool.io.files import UserError, print_warning, shorten
from tool.io.torch_files import read_torch, save_torch

RESUME_FILE = "resume.pth"
WEIGHTS = "weights of --pretrained"  # of what a run reads; resume files of earlier versions do not say which


@dataclass
class Progress:
    """What a training has done: `epoch` whole epochs and `step` steps of the next; kept in the resume file as a dict.

    sums: losses of this epoch's steps added up, a number for each of `terms`. lr: rate of the last step.
    seconds: spent on this epoch. best: highest score of the validations that choose a checkpoint, -1 before the first.
    """

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    sums: list = field(default_factory=list)
    lr: float = 0.0
    seconds: float = 0.0
    best: float = -1.0
    terms: list = field(default_factory=list)

    def count(self, lr):
        """One step is done."""
        self.step, self.global_step, self.lr = self.step + 1, self.global_step + 1, lr

    def add(self, losses):
        """Add the losses of a step, {term: number}."""
        self.terms = list(losses)
        self.sums = [total + value for total, value in zip(self.sums or [0.0] * len(losses), losses.values())]

    def means(self):
        """{term: mean loss} of the epoch so far."""
        return {term: total / max(1, self.step) for term, total in zip(self.terms, self.sums)}

    def next_epoch(self):
        self.epoch, self.step, self.sums, self.seconds = self.epoch + 1, 0, [0.0] * len(self.sums), 0.0


# ---------------------------------------------------------------- the resume file


def save_resume(path, net, optimizer, progress, facts, world):
    """Everything that only resuming needs, in a file of its own, written by rank 0.

    facts: plain values to be compared when the run goes on, {"settings", "data", "checkpoints"}.
    """
    device = next(net.parameters()).device
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    states = world.collect((torch.get_rng_state(), cuda))
    if world.main:
        state = {"net": net.released_state(), "optimizer": optimizer.state_dict(), "progress": asdict(progress)}
        save_torch(state | {"rng": states} | facts, path)


def read_resume(path):
    """What save_resume wrote; UserError where the file is anything else."""
    state = read_torch(path)
    if not _is_resume_state(state):
        raise UserError(f"{path}: not a resume file of this stage; --overwrite starts anew")
    return state


def _is_resume_state(state):
    try:
        progress = Progress(**state["progress"])
        counts = [progress.epoch, progress.step, progress.global_step, *state.get("checkpoints", [])]
        whole = {"net", "optimizer", "rng"} <= set(state) and {"sums", "lr", "seconds"} <= set(state["progress"])
        dicts = isinstance(state["settings"], dict) and isinstance(state.get("data", {}), dict)
    except (AttributeError, LookupError, TypeError):
        return False
    return whole and dicts and all(type(count) is int and count >= 0 for count in counts)


def check_resumable(path, state, facts, args):
    """Warnings about a resume file's state; UserError where this run cannot go on from it. facts: see `save_resume`."""
    old = {k: v for k, v in state["settings"].items() if k in args.results or k not in args.roles}
    warnings = compare_settings(path, old, facts["settings"])
    if "data" in state:
        compare_data(path, state["data"], facts["data"])
    else:
        warnings.append(f"{path}: of an earlier version, does not say which images and labels it is of")
    epoch, step = state["progress"]["epoch"], state["progress"]["step"]
    if (epoch, step) > (args.epochs, 0):
        raise UserError(
            f"{path.parent}: the run is at epoch {epoch}, step {step}, beyond --epochs {args.epochs}; raise --epochs, "
            "or take the checkpoints that are there"
        )
    return warnings


def compare_settings(path, old, new):
    """UserError where a run would go on with other settings; a warning, returned, about other --epochs."""
    old, new = json.loads(json.dumps(old)), json.loads(json.dumps(new))
    if unknown := sorted(old.keys() ^ new.keys()):
        raise UserError(
            f"{path}: written by another version, which differs in --{unknown[0]}; finish the run with that version, "
            "or --overwrite starts anew"
        )
    changed = [k for k in sorted(old) if old[k] != new[k]]
    if refused := [k for k in changed if k != "epochs"]:
        k, *more = refused
        others = f" (also different: {' '.join(more)})" if more else ""
        raise UserError(
            f"{path}: the run was started with --{k} {old[k]}, not {new[k]}{others}; resume with the same settings, "
            "or --overwrite starts anew"
        )
    return [f"resuming with --{k} {new[k]} (the run was started with {old[k]})" for k in changed]


def compare_data(path, old, new):
    """UserError where a run would go on with other data. old, new: {what it is, in words: fingerprint}."""
    old = {WEIGHTS: new.get(WEIGHTS)} | old
    changed = [what for what in old | new if old.get(what) != new.get(what)]
    if changed:
        raise UserError(
            f"{path}: not the {' and '.join(changed)} that the run was started with; give back the old, or "
            "--overwrite starts anew"
        )


def restore(path, state, net, updating, world):
    """Fill network, optimiser and random states from a resume file's state; UserError where they do not fit.

    updating: (optimizer, GradScaler).
    """
    optimizer, scaler = updating
    rates = [group["initial_lr"] for group in optimizer.param_groups]
    try:
        net.load_released_state(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        restore_rng(state["rng"], next(net.parameters()).device, world)
        scaler.load_state_dict(state.get("scaler") or scaler.state_dict())
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:  # torch raises any of them
        raise UserError(f"{path}: does not fit this run ({shorten(error, 150)}); --overwrite starts anew") from None
    for group, rate in zip(optimizer.param_groups, rates):
        group["initial_lr"] = rate


def restore_rng(states, device, world):
    """Random states of (CPU, GPU or None), one a rank; where ranks or devices differ from before, new ones."""
    if len(states) != world.size:
        text = f"resuming with {world.size} processes what ran with {len(states)}: dropout draws other values"
        return print_warning(text)
    cpu, cuda = states[world.rank]
    torch.set_rng_state(cpu)
    if cuda is not None and device.type == "cuda":
        torch.cuda.set_rng_state(cuda, device)


# ---------------------------------------------------------------- beginning


def check_begin(folder, resume, overwrite):
    """Whether the run in `folder` is to be continued, which needs its resume file; False = a new one begins.

    UserError where checkpoints are there that may neither be continued nor deleted.
    """
    found = sorted(folder.glob("*.pth"))
    can_resume = (folder / RESUME_FILE).is_file()
    if resume and can_resume:
        return True
    if overwrite or not found:
        return False
    last = [path.name for path in found if path.name != RESUME_FILE][-1:] or [RESUME_FILE]
    if can_resume:
        raise UserError(
            f"{folder}: holds a run already ({last[0]}); "
            "--resume continues it, --overwrite starts anew, --name gives another place"
        )
    others = f" and {len(found) - 1} more" if len(found) > 1 else ""
    raise UserError(
        f"{folder}: holds checkpoints ({last[0]}{others}) and no {RESUME_FILE}, so there is no run to continue; "
        "--overwrite deletes them and starts anew, another --name keeps them"
    )


def delete_run(folder):
    """--overwrite: delete the checkpoints of a folder, and say which.

    The resume file goes first: after a kill in between nothing is taken for a run that could go on.
    """
    found = sorted(folder.glob("*.pth"), key=lambda path: (path.name != RESUME_FILE, path))
    if found:
        names = shorten(" ".join(path.name for path in found), 400)
        print_warning(f"--overwrite deletes from {folder}: {names}")
    for path in found:
        path.unlink()
