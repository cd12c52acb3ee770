"""What all trainings share: optimiser and schedule, one epoch, and `Run`, which keeps what a run leaves on disk."""

import contextlib
import math
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from tool.io.files import UserError, remove_stale
from tool.run.check import timed
from tool.run.device import memory_format
from tool.run.failures import FAILED_FILE
from tool.run.lock import locked
from tool.run.log import Log, describe_groups, describe_run, describe_terms
from tool.run.record import remove_record, this_run, write_record
from tool.run.resume import (
    RESUME_FILE,
    Progress,
    check_begin,
    compare_data,
    compare_settings,
    delete_run,
    read_resume,
    recorded,
    restore,
    save_resume,
)
from tool.run.script import StopSignal
from tool.run.summary import Summary

POWER = 0.9  # of the poly schedule
PSA_WEIGHTS, IMAGENET_WEIGHTS = "pretrained/res38_cls.pth", "pretrained/resnet_38d.params"
BEST_FILE = "best.pth"
QUICK = 20  # seconds; a step of --check that takes less is timed a second time


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
        raise UserError(
            f"loss is not finite at step {step} ({terms}), images {' '.join(ids)}; "
            "start anew with a lower --lr, or without --amp"
        )


def check_batches(sizes, images, list_path, world):
    """UserError where a batch is larger than the list, or smaller than the number of processes."""
    if max(sizes) > images:
        raise UserError(f"{list_path}: {images} images do not fill one batch of {max(sizes)}; lower the batch size")
    if min(sizes) < world.size:
        raise UserError(
            f"a batch of {min(sizes)} images for {world.size} processes leaves some without; "
            "raise the batch size or start fewer"
        )


def classifiers(experiment):
    """Checkpoints of train.py, the newest first."""
    return sorted((Path(experiment) / "ckpt").glob("*net_main.pth"), reverse=True)


def first_weights(candidates):
    """The first path that exists; UserError where none does."""
    for path in candidates:
        if Path(path).is_file():
            return str(path)
    where = " ".join(map(str, candidates)) or "the classifier's checkpoints"
    hint = "give --pretrained FILE (a checkpoint of train.py will do) or --pretrained none"
    raise UserError(f"none of {where} is there; see pretrained/README.md, or {hint}")


def prepare_network(net, device, world, amp=False, seed=0, compiled=False):
    """Move a network to its device, in the memory format that is fast there; returns what a step runs: `net`, wrapped.

    Seeds dropout, differently on every rank.
    """
    world.prepare(net, device)
    net.to(memory_format=memory_format(device, amp))
    torch.manual_seed(seed + 1_000_003 * world.rank)
    model = world.wrap(net, device)
    return torch.compile(model) if compiled else model


# ---------------------------------------------------------------- steps and epochs


def train_step(model, criterion, batch, optimizer, progress, run):
    """One update with a batch (IDs, image B x 3 x H x W, target B x ...) -> {term: loss of the global batch, a float}.

    criterion(model, image, target, progress) -> (this rank's part of the loss to minimise, the global batch's terms as
    one tensor); `criterion.terms` names these. The gradient is that of the parts' sum over ranks.
    """
    _, image, target = batch
    image, target = image.to(run.device, non_blocking=True), target.to(run.device, non_blocking=True)
    image = image.contiguous(memory_format=memory_format(run.device, run.amp))
    with torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=run.amp):
        loss, terms = criterion(model, image, target, progress)
    optimizer.zero_grad(set_to_none=True)
    (loss * run.world.size).backward()  # DistributedDataParallel takes the mean over ranks
    optimizer.step()
    return dict(zip(criterion.terms, terms.tolist()))


def train_one_epoch(model, criterion, loader, optimizer, progress, run, after_step=None):
    """The rest of epoch progress.epoch, from progress.step on -> {term: mean over the whole epoch}.

    loader: gives batches for `train_step`; its batch_sampler was started at that step. after_step(progress): called
    after every update. Ends with a resume file, so that nothing of it is lost while the epoch is saved and validated;
    a signal ends it after the current step in the same way, and then the run.
    """
    model.train()
    first, batches = progress.step, loader.batch_sampler
    bar = tqdm(
        loader,
        f"epoch {progress.epoch}",
        total=first + len(loader),
        initial=first,
        unit="step",
        disable=None if run.world.main else True,
    )
    with run.summary.stage("training") as stage:
        for batch in bar:
            progress.lr = set_learning_rate(optimizer, progress.global_step, run.planned_steps)
            losses = train_step(model, criterion, batch, optimizer, progress, run)
            check_finite(losses, progress.global_step, batch[0])
            progress.add(losses.values())
            bar.set_postfix({k: f"{v:.4f}" for k, v in losses.items()}, refresh=False)
            if after_step:
                after_step(progress)
            if run.stop.asked():
                break
        stage["images"] += batches.batch_size * (progress.step - first) if run.world.main else 0
    run.save(progress)
    return dict(zip(criterion.terms, progress.means()))


class Run:
    """One training: its folder of checkpoints, which no other run can enter meanwhile, resume file, log and record.

    Use it in a `with`: `begin`, then for each epoch `train_one_epoch` and `finish_epoch`, then `end`.
    """

    def __init__(self, args, world, device, checkpoints, log_name, planned_steps):
        """args: the resolved arguments, recorded and compared when the run goes on. checkpoints: path of an epoch's
        checkpoint, its name with {} for the number. planned_steps: length of the poly schedule.
        """
        self.args, self.world, self.device, self.log_name = args, world, device, log_name
        self.folder, self.file_name, self.planned_steps = checkpoints.parent, checkpoints.name, planned_steps
        self.resume_path = self.folder / RESUME_FILE
        self.amp = args.amp
        self.last_epoch = args.epochs if args.stop_epoch is None else min(args.epochs, args.stop_epoch)
        self.written = []  # epochs of this run that have a checkpoint
        self.state = None  # of the resume file, between checking it and taking it
        self.summary = Summary(device)
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        self.stack.enter_context(locked([self.folder], self.world))
        return self

    def __exit__(self, *exc):
        return self.stack.__exit__(*exc)

    def checkpoint(self, epoch):
        """Path of an epoch's checkpoint."""
        return self.folder / self.file_name.format(epoch)

    def begin(self, net, optimizer, progress, data, lists=(), weights=None):
        """Continue from the resume file, or start anew with `progress`; returns where the run stands.

        data: {what was trained on, in words: fingerprint}; a run goes on with the same only. lists, weights: paths of
        what it reads, for the record; weights may be None. From here on the first signal waits for a step's end.
        """
        self.net, self.optimizer = net, optimizer
        self.facts = {"settings": recorded(vars(self.args)), "data": data}
        if self.world.first(self.make_room):
            progress = self.resume(progress)
        run = this_run(self.args, self.device, self.world.size, lists, weights)
        self.world.first(lambda: write_record(self.folder, self.facts["settings"], run, keep=True))
        experiment = Path(self.args.experiment) / self.args.name
        self.log = Log(experiment, self.log_name, first_epoch=progress.epoch, active=self.world.main)
        self.stop = self.stack.enter_context(StopSignal(self.world))
        self.clock = time.time()
        return progress

    def make_room(self):
        """Whether the folder's run goes on, its state then read; if not, nothing of one is left there. For rank 0."""
        remove_stale(self.folder)
        resume = check_begin(self.folder, self.args.resume, self.args.overwrite)
        if resume:
            self.state = read_resume(self.resume_path)
            try:
                for line in self.compare(self.state):
                    print(f"warning: {line}", file=sys.stderr)
            except UserError as error:
                if not self.args.overwrite:
                    raise
                print(f"warning: not resumed: {error}", file=sys.stderr)  # both flags: a run of other settings goes
                self.state, resume = None, False
        if not resume:
            delete_run(self.folder)
            remove_record(self.folder)
            (self.folder / FAILED_FILE).unlink(missing_ok=True)
        return resume

    def compare(self, state):
        """Warnings about a resume file's state; UserError where this run cannot go on from it."""
        warnings = compare_settings(self.resume_path, state["settings"], self.facts["settings"], ("epochs",))
        if "data" in state:
            compare_data(self.resume_path, state["data"], self.facts["data"])
        else:
            warnings.append(f"{self.resume_path}: of an earlier version, does not say which images and labels it is of")
        epoch, step = state["progress"]["epoch"], state["progress"]["step"]
        if (epoch, step) > (self.args.epochs, 0):
            raise UserError(
                f"{self.folder}: the run is at epoch {epoch}, step {step}, beyond --epochs {self.args.epochs}; raise "
                "--epochs, or take the checkpoints that are there"
            )
        return warnings

    def resume(self, progress):
        """Fill network and optimiser from the resume file; returns its progress."""
        state = self.state or read_resume(self.resume_path)
        self.state = None
        try:
            progress = type(progress)(**state["progress"])
        except TypeError:
            raise UserError(f"{self.resume_path}: not a resume file of this stage; --overwrite starts anew") from None
        restore(self.resume_path, state, self.net, self.optimizer, self.world)
        self.written = state.get("checkpoints", list(range(progress.epoch)))
        return progress

    def describe(self, script, lines):
        """The first lines of the log."""
        describe_run(self.log, script, self.device, self.args.seed, vars(self.args), self.world)
        for line in lines:
            self.log.line(line)
        describe_groups(self.log, self.optimizer)

    def restore_checkpoint(self, progress, save):
        """save(net, path) the last epoch's checkpoint where that file is gone and the resume file has its weights."""
        path = self.checkpoint(progress.epoch - 1)
        if progress.epoch and not progress.step and not path.exists():
            self.log.line(f"{path} was gone: written from {RESUME_FILE}")
            if self.world.main:
                save(self.net, path)

    def tick(self, progress):
        """Count the time since the last call as spent on this epoch."""
        now = time.time()
        progress.seconds += now - self.clock
        self.clock = now

    def save(self, progress):
        """The resume file. Every rank goes on as a resumed run would, with rank 0's buffers. Then a signal ends it."""
        self.tick(progress)
        self.world.share_buffers(self.net)
        facts = self.facts | {"checkpoints": self.written}
        save_resume(self.resume_path, self.net, self.optimizer, progress, facts, self.world)
        if self.stop.asked():
            self.stop.stop(f"at epoch {progress.epoch}, step {progress.step}")

    def finish_epoch(self, progress, losses, scores=None, text=""):
        """Log an epoch whose checkpoint is written, delete the checkpoints that --keep leaves out, go on to the next.

        losses: of train_one_epoch. scores: of a validation, for log.jsonl; text: the same for the line in log.txt.
        """
        self.tick(progress)
        record = {
            "epoch": progress.epoch,
            "steps": progress.step,
            "global_step": progress.global_step,
            "planned_steps": self.planned_steps,
            "lr": progress.lr,
        }
        record |= losses | (scores or {}) | {"seconds": progress.seconds}
        self.log.line(
            f"epoch {progress.epoch}: {describe_terms(record, losses)}{text and f', {text}'}, {progress.seconds:.0f} s"
        )
        self.log.epoch(record)
        self.written = [*(e for e in self.written if e != progress.epoch), progress.epoch]
        while self.args.keep and len(self.written) > self.args.keep:
            path = self.checkpoint(self.written.pop(0))
            if self.world.main:
                path.unlink(missing_ok=True)
        progress.next_epoch()
        self.save(progress)

    def end(self, script, progress, failures, next_command):
        """The summary, to console, log and run.json. next_command: of a stage that reads the last checkpoint."""
        stage = self.summary.stages.get("training", {"images": 0})
        self.summary.counts["done"] = stage["images"]
        if not self.checkpoint(progress.epoch - 1).is_file():  # before the first epoch, or it was removed meanwhile
            next_command = None
        none = "" if next_command else "; no checkpoint is there for the next stage"
        self.log.line(f"done: {self.folder}, {progress.epoch} epochs{none}")
        self.summary.end(script, self.world, [self.folder], failures, next_command, self.log.line)
        self.log.close()


class BestCheckpoint:
    """best.pth: the network with the best score, validated every `every` steps; without a score the last epoch's.

    score: called without arguments, gives mIoU in percent; or None. save_weights(net, path). what: the score's name.
    """

    def __init__(self, score, every, net, run, save_weights, what="mIoU"):
        self.score, self.every, self.net, self.run, self.save_weights = score, every, net, run, save_weights
        self.what = what
        self.path = run.folder / BEST_FILE

    def save(self):
        if self.run.world.main:
            self.save_weights(self.net, self.path)

    def after_step(self, progress):
        if self.score and progress.global_step % self.every == 0:
            self.validate(progress)

    def after_epoch(self, progress, last):
        if self.score is None:
            self.save()
        elif last and progress.global_step % self.every:
            self.validate(progress)

    def validate(self, progress):
        miou = self.score()
        better = miou > progress.best
        if better:
            progress.best = miou
            self.save()
        best = ", best so far" if better else ""
        self.run.log.line(f"step {progress.global_step}: {self.what} {miou:.2f}{best}")

    def restore(self, progress):
        """Where best.pth is gone: write it again if it is the last epoch's network, else say what is lost."""
        if self.run.world.first(self.path.exists):
            return
        if self.score is None and progress.epoch and not progress.step:
            self.save()
        if progress.best >= 0:
            last = self.run.checkpoint(progress.epoch - 1)
            none = f"; where none comes, the next stage takes --weights {last}" if progress.epoch else ""
            self.run.log.line(
                f"warning: {self.path} ({self.what} {progress.best:.2f}) is gone and cannot be made again; the best "
                f"validation from here on takes its place{none}"
            )
            progress.best = -1.0


# ---------------------------------------------------------------- --check


def check_training(check, run, paths, phases, loader, model, criterion, optimizer):
    """The part of --check that all trainings share: disk, one step of each phase, the time of all.

    Also whether a run is there already that this one would need --resume or --overwrite for.
    paths: {ID: path of its photograph}. phases: (first epoch, batch size, steps) of each; those without steps are left
    out. loader: without worker processes.
    """
    args = run.args
    check.images(paths)
    check.attempt(check_begin, run.folder, args.resume, args.overwrite)
    weights = sum(x.numel() * x.element_size() for x in model.state_dict().values())
    files = min(args.epochs, args.keep or args.epochs) + 3  # resume.pth with the optimiser; best.pth
    check.disk(run.folder, weights * files)
    total, texts = 0.0, []
    model.train()
    for epoch, batch_size, steps in phases:
        if not steps:
            continue
        loader.batch_sampler.start(epoch, batch_size)
        try:
            batch, loading = timed(next, iter(loader))
        except UserError as error:
            check.problem(str(error))
            continue
        progress = Progress(epoch, sums=[0.0] * len(criterion.terms), lr=args.lr)
        step = model, criterion, batch, optimizer, progress, run
        _, computing = timed(train_step, *step)
        if computing < QUICK:  # the first step also gets its memory from the system, which may take as long again
            _, computing = timed(train_step, *step)
        seconds = computing + loading / max(1, args.num_workers)
        total += steps * seconds
        texts.append(f"{steps} steps of {batch_size} images, {seconds:.2f} s each")
    check.end(total, f"{args.epochs} epochs without validation", "; ".join(texts))
