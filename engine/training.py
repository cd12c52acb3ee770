"""A training: `train_one_epoch` and `train_step` are what happens to a batch, `Training` is all that makes it a run.

A script builds its network, data and losses, then

    with Training(args, net, criterion, dataset, plan, validation) as run:
        for _ in run.epochs():
            losses = train_one_epoch(run)
            run.finish_epoch(losses)
"""

import contextlib
import math
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch.backends import cudnn
from tqdm import tqdm

from engine import resume
from engine.check import Check, timed
from engine.distributed import StopSignal, join_world, processes
from engine.experiment import Experiment, next_command, remember
from engine.log import Learning, Log, describe_run
from engine.recipes import AtMost
from engine.record import this_run, write_record
from engine.summary import Summary
from models.checkpoint import save_weights
from models.resnet38d import count_parameters
from tool.io.failures import FAILED_FILE, Failures
from tool.io.files import RUN_FILE, UserError, file_hash, fingerprint, print_warning, read_list, remove_stale
from tool.io.lock import locked
from voc12.data import EpochBatches, Substituting, load_samples
from voc12.paths import check_images, image_path

POWER = 0.9  # of the poly schedule
LOG_EVERY = 50  # steps; on the CPU, which nothing waits for, 1
QUICK = 20  # seconds; a step of --check that takes less is timed a second time


# ---------------------------------------------------------------- a batch, an epoch


def train_one_epoch(run):
    """The rest of the epoch that the run stands in -> {term: mean loss over the whole epoch}.

    Ends with a resume file, so that nothing of the epoch is lost while it is saved and validated; a signal ends it
    after the current step in the same way, and then the run.
    """
    run.model.train()
    for batch in run.batches():
        lr = set_learning_rate(run.optimizer, run.progress.global_step, run.planned_steps)
        run.count(batch[0], train_step(run, batch), lr)
    run.save()
    return run.progress.means()


def train_step(run, batch):
    """One update with a batch (IDs, image B x 3 x H x W, target B x ...) -> {term: loss of the global batch, a scalar}.

    run.criterion(model, image, target, run) -> (this rank's part of the loss to minimise, {term: scalar tensor, of the
    global batch}), "total" among the terms. The gradient is that of the parts' sum over ranks. The losses stay on the
    device: nothing here waits for a GPU (`Training.read_losses` does).
    """
    _, image, target = batch
    image, target = image.to(run.world.device, non_blocking=True), target.to(run.world.device, non_blocking=True)
    with alike():
        with run.world.autocast(run.args.amp):
            loss, terms = run.criterion(run.model, image, target, run)
        run.optimizer.zero_grad(set_to_none=True)
        run.scaler.scale(loss * run.world.size).backward()  # DistributedDataParallel takes the mean over ranks
    run.scaler.step(run.optimizer)
    run.scaler.update()
    return {name: term.detach().float() for name, term in terms.items()}


@contextlib.contextmanager
def alike():
    """Here cuDNN tries its algorithms and keeps the fastest: crops have one size, photographs elsewhere have many."""
    before, cudnn.benchmark = cudnn.benchmark, True
    try:
        yield
    finally:
        cudnn.benchmark = before


def numbers(steps):
    """[{term: scalar}, ...] of some steps -> [{term: number}, ...], brought from the device at once."""
    values = torch.stack([loss for losses in steps for loss in losses.values()]).tolist() if steps else []
    taken = iter(values)
    return [{name: next(taken) for name in losses} for losses in steps]


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


# ---------------------------------------------------------------- what a script says of its training


def training_ids(args):
    """IDs of --train_list; default batches are lowered to their number. UserError where a photograph is missing."""
    ids = read_list(args.train_list)
    for name, value in vars(args).items():
        if isinstance(value, AtMost):
            setattr(args, name, min(int(value), len(ids)))
    if args.on_error == "stop":
        check_images(ids, args.voc12_root)
    return ids


class Phase(NamedTuple):
    """Epochs `first` to `last`, without it, whose steps are alike: batch_size images each, over all processes."""

    name: str
    first: int
    last: int
    batch_size: int
    erase: bool = False

    def steps(self, images):
        return max(0, self.last - self.first) * (images // self.batch_size)


class Validation(NamedTuple):
    """How a training is scored on a list with masks.

    score(net, world) -> {"miou", ...}, plain numbers. ids: the images'. name: the miou's; text: all of it for people,
    with {} for the numbers. every: steps between two, or None for once an epoch; first: epoch of the first. select:
    whether best.pth is the network with the best miou, chosen with ground truth; otherwise it is the last.
    """

    score: object
    ids: list
    name: str
    text: str
    every: int | None = None
    first: int = 0
    select: bool = False


class Plan(NamedTuple):
    """What a script says of its training: from what it begins, where it goes, how long it is.

    place: of engine/experiment.py. following: the script of the next stage and {flag: value} of its own, where {last}
    stands for the last epoch; weights are its checkpoint where there is no best one. data: {what it is trained on
    besides the images, in words: fingerprint}. weights: path, none or timm. line: for the log, of the network, with {}
    for its size. phases: None where all epochs are alike, with --batch_size. planned_steps: the poly schedule's, where
    that is longer than the run. checks: for --check, {what: function of an ID}. learning: what looks at the losses.
    """

    place: object
    following: tuple
    data: dict
    weights: str
    line: str
    phases: list | None = None
    planned_steps: int = 0
    checks: dict = {}
    learning: Learning = Learning()  # of nothing


# ---------------------------------------------------------------- the run


class Training:
    """One training on this machine: processes and device, its folder (which no other run can enter meanwhile), where it
    stands, checkpoints, best.pth, resume file, log, record and summary. The top of this file shows its use.
    """

    def __init__(self, args, net, criterion, dataset, plan, validation=None):
        """args: the resolved arguments, recorded and compared when the run goes on. criterion: see `train_step`."""
        self.args, self.net, self.criterion = args, net, criterion
        groups = net.param_groups(args.lr, args.wt_dec, args.scratch_lr_mult)
        self.optimizer = build_optimizer(args.optimizer, groups, args.momentum)
        self.dataset, self.validation, self.plan, self.place = dataset, validation, plan, plan.place
        phases = plan.phases or [Phase("", 0, args.epochs, args.batch_size)]
        self.phases = [phase for phase in phases if phase.first < phase.last]
        self.planned_steps = max(plan.planned_steps, sum(phase.steps(len(dataset)) for phase in self.phases))
        self.check_args()
        lines = self.describe()
        self.world = join_world(args.device)
        self.scaler = self.world.scaler(args.amp)
        self.model = self.world.prepare(net, args.amp, args.seed, args.compile)
        self.stop, self.log, self.summary = StopSignal(self.world), None, Summary()
        self.failures = Failures(args.on_error, self.place.folder / FAILED_FILE)
        self.sampler = EpochBatches(len(dataset), args.seed, self.world.rank, self.world.size)
        samples = Substituting(dataset, self.failures) if self.failures.skip else dataset
        workers = 0 if args.check else args.num_workers
        self.loader = load_samples(samples, workers, self.world.device.type == "cuda", self.sampler)
        self.progress, self.state = resume.Progress(lr=args.lr), {"settings": args.results}
        start = file_hash(plan.weights) if Path(plan.weights).is_file() else plan.weights
        self.state["data"] = {"images of --train_list": fingerprint(dataset.ids)} | plan.data | {resume.WEIGHTS: start}
        self.log_every = args.log_every or (LOG_EVERY if self.world.device.type == "cuda" else 1)
        self.unread = []  # (step, IDs, {term: scalar on the device}) of steps whose losses were not read yet
        self.written = []  # epochs of this run that have a checkpoint
        self.scores = {}  # of the last validation of this epoch
        with contextlib.ExitStack() as stack:
            if not args.check:
                stack.enter_context(locked([self.place.folder], self.world))
                if self.world.first(self.make_room):
                    state = resume.read_resume(self.resume_path)
                    self.progress = resume.Progress(**state["progress"])
                    resume.restore(self.resume_path, state, net, (self.optimizer, self.scaler), self.world)
                    self.written = state.get("checkpoints", list(range(self.progress.epoch)))
                best_is_there = self.world.first(self.write_record)
                lines = describe_run(args, self.world, lines, self.optimizer)
                self.log = Log(Experiment.of(args).folder, self.place.log, self.progress.epoch, self.world.main)
                stack.enter_context(self.stop)  # a signal then waits for a step's end
                for line in lines:
                    self.log.line(line)
                self.restore_files(best_is_there)
            self.clock = time.time()
            self.stack = stack.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        return self.stack.__exit__(*exc)

    @property
    def phase(self):
        """The phase that the run stands in."""
        return next((p for p in self.phases if p.first <= self.progress.epoch < p.last), self.phases[-1])

    def check_args(self):
        """UserError where a batch is larger than the list, or smaller than the number of processes."""
        sizes = [phase.batch_size for phase in self.phases]
        for phase in self.phases:
            if phase.batch_size > len(self.dataset):
                text = f"{len(self.dataset)} images do not fill one batch of {phase.batch_size}"
                flag = "--batch_size_triplet" if phase.erase else "--batch_size"
                raise UserError(f"{self.args.train_list}: {text}; lower {flag}")
        if min(sizes) < processes():
            raise UserError(
                f"a batch of {min(sizes)} images for {processes()} processes leaves some without; "
                "raise the batch size or start fewer"
            )

    # ------------------------------------------------------------ beginning

    def write_record(self):
        """run.json of the checkpoints, and what the experiment remembers -> whether best.pth is there. For rank 0."""
        lists = [self.args.train_list, *([self.args.val_list] if self.validation else [])]
        run = this_run(self.args, self.world, lists, self.plan.weights)
        write_record(self.place.folder, self.args.results, run, keep=True)
        if self.args.remembers:
            remember(self.args)
        return self.place.best is None or self.place.best.exists()

    def describe(self):
        """Network, data, schedule and what best.pth is, in lines for the log."""
        images = len(self.dataset)
        parts = [f"{p.steps(images)} {p.name} steps of {p.batch_size}".replace("  ", " ") for p in self.phases]
        ends = [f" until epoch {phase.last}, then " for phase in self.phases]
        text = "".join(part + end for part, end in zip(parts, [*ends[:-1], ""]))
        short = 0 < self.plan.planned_steps < self.planned_steps
        why = ", not for the released fewer, which would end before the run" if short else ""
        schedule = f"schedule: {text}; poly planned for {self.planned_steps}{why}"
        network = self.plan.line.replace("{}", f"{count_parameters(self.net):,} parameters, {images} images", 1)
        return [network, schedule, *([self.describe_best()] if self.place.best else [])]

    def describe_best(self):
        if self.validation is None:
            return "selection: best.pth is the last epoch; no ground truth is used"
        masks, every = f"the masks of {self.args.val_list}", self.validation.every
        if not self.selects:
            return f"selection: best.pth is the last epoch; {masks} are scored to be looked at"
        how = f"by {self.validation.name} on {masks}{f', every {every} steps' if every else ''}"
        return f"selection: best.pth is chosen {how}: ground truth picks it (--select last uses none)"

    @property
    def resume_path(self):
        return self.place.folder / resume.RESUME_FILE

    def make_room(self):
        """Whether the folder's run goes on; if not, nothing of one is left there. For rank 0."""
        folder, args = self.place.folder, self.args
        remove_stale(folder)
        if resume.check_begin(folder, args.resume, args.overwrite):
            state = resume.read_resume(self.resume_path)
            try:
                for line in resume.check_resumable(self.resume_path, state, self.state, args):
                    print_warning(line)
                return True
            except UserError as error:
                if not args.overwrite:
                    raise
                print_warning(f"not resumed: {error}")  # both flags: a run of other settings goes
        resume.delete_run(folder)
        for name in (RUN_FILE, FAILED_FILE):
            (folder / name).unlink(missing_ok=True)
        return False

    def restore_files(self, best_is_there):
        """Write again what the resume file has and the folder has not: the last epoch's checkpoint, best.pth."""
        progress, last = self.progress, self.place.checkpoint(self.progress.epoch - 1)
        whole = progress.epoch and not progress.step  # the network is that of the last epoch's end
        if whole and not last.exists():
            self.log.line(f"{last} was gone: written from {resume.RESUME_FILE}")
            self.write(last)
        if best_is_there:
            return
        if whole and not self.selects:
            self.write(self.place.best)
        if progress.best >= 0:
            none = f"; where none comes, the next stage takes --weights {last}" if progress.epoch else ""
            self.log.line(
                f"warning: {self.place.best} ({self.validation.name} {progress.best:.2f}) is gone and cannot be made "
                f"again; the best validation from here on takes its place{none}"
            )
            progress.best = -1.0

    @property
    def selects(self):
        """Whether best.pth is chosen by a validation."""
        return self.validation is not None and self.validation.select

    # ------------------------------------------------------------ going on

    def epochs(self):
        """The epochs that are to be done; after the last one the summary. With --check none, the check instead."""
        if self.args.check:
            return check_training(self)
        last = self.args.epochs if self.args.stop_epoch is None else min(self.args.epochs, self.args.stop_epoch)
        while self.progress.epoch < last:
            yield self.progress.epoch
        self.end()

    def batches(self):
        """The batches that are left of the epoch, with a bar; a signal ends them after the step that it came in."""
        first = self.progress.step
        self.sampler.start(self.progress.epoch, self.phase.batch_size, first)
        total, quiet = first + len(self.loader), None if self.world.main else True
        text = f"epoch {self.progress.epoch}"
        self.bar = tqdm(self.loader, text, total=total, initial=first, unit="step", disable=quiet)
        with self.summary.stage("training") as stage:
            for batch in self.bar:
                yield batch
                if self.stop.asked():
                    break
            stage["images"] += self.phase.batch_size * (self.progress.step - first) if self.world.main else 0

    def count(self, ids, losses, lr):
        """One step is done. losses: what `train_step` gives."""
        self.unread.append((self.progress.global_step, ids, losses))
        self.progress.count(lr)
        if len(self.unread) >= self.log_every:
            self.read_losses()
        validation = self.validation
        if validation and validation.every and self.progress.global_step % validation.every == 0:
            self.validate()

    def read_losses(self):
        """Add up the losses of the steps since the last reading; UserError where one is not finite."""
        unread, self.unread = self.unread, []
        for (step, ids, _), losses in zip(unread, numbers([losses for _, _, losses in unread])):
            check_finite(losses, step, ids)
            self.progress.add(losses)
            self.plan.learning.add(losses)
            self.bar.set_postfix({k: f"{v:.4f}" for k, v in losses.items()}, refresh=False)

    def gather(self, x):
        """The global batch of each rank's part of it, in its order."""
        return self.world.gather(x, total=self.phase.batch_size)

    def generator(self):
        """Random numbers of this step, the same on every rank."""
        return torch.Generator().manual_seed(self.args.seed * 1_000_003 + self.progress.global_step)

    def write(self, path):
        """The network's weights, by rank 0."""
        if self.world.main:
            save_weights(self.net, path)

    def save(self):
        """The resume file. Every rank goes on as a resumed run would, with rank 0's buffers. Then a signal ends it."""
        progress = self.progress
        self.read_losses()
        self.tick()
        self.world.share_buffers(self.net)
        state = self.state | {"checkpoints": self.written, "scaler": self.scaler.state_dict()}
        resume.save_resume(self.resume_path, self.net, self.optimizer, progress, state, self.world)
        if self.stop.asked():
            self.stop.stop(f"at epoch {progress.epoch}, step {progress.step}")

    def tick(self):
        """Count the time since the last call as spent on this epoch."""
        now = time.time()
        self.progress.seconds += now - self.clock
        self.clock = now

    def validate(self):
        """Score the network; where it is the best so far, and chosen by that, it is best.pth."""
        self.read_losses()
        was_training = self.net.training
        self.net.eval()
        with torch.no_grad(), self.world.autocast(self.args.amp):
            self.scores = self.validation.score(self.net, self.world)
        self.net.train(was_training)
        if not self.selects:
            return
        better = self.scores["miou"] > self.progress.best
        if better:
            self.progress.best = self.scores["miou"]
            self.write(self.place.best)
        best = ", best so far" if better else ""
        text = f"{self.validation.name} {self.scores['miou']:.2f}"
        self.log.line(f"step {self.progress.global_step}: {text}{best}")

    def validate_epoch(self):
        """What is validated and written at an epoch's end, best.pth included."""
        validation, progress = self.validation, self.progress
        if self.place.best and not self.selects:
            self.write(self.place.best)
        if validation is None or progress.epoch < validation.first:
            return
        last = progress.epoch == self.args.epochs - 1
        if validation.every is None or (last and progress.global_step % validation.every):
            self.validate()

    def finish_epoch(self, losses):
        """Checkpoint, validation, log, resume file; older checkpoints than --keep are deleted. losses: means."""
        progress, path = self.progress, self.place.checkpoint(self.progress.epoch)
        self.write(path)
        self.validate_epoch()
        self.tick()
        self.log_epoch(losses)
        self.written = [*(e for e in self.written if e != progress.epoch), progress.epoch]
        while self.args.keep and len(self.written) > self.args.keep:
            old = self.place.checkpoint(self.written.pop(0))
            if self.world.main:
                old.unlink(missing_ok=True)
        progress.next_epoch()
        if progress.epoch < self.args.epochs and (warning := self.plan.learning.early(progress.global_step)):
            self.log.line(warning)
        self.scores = {}
        self.save()

    def log_epoch(self, losses):
        """The epoch's line for people and its JSON line for programs."""
        progress, scores = self.progress, self.scores
        record = {
            "epoch": progress.epoch,
            "steps": progress.step,
            "global_step": progress.global_step,
            "planned_steps": self.planned_steps,
            "lr": progress.lr,
        }
        record |= losses | ({"phase": self.phase.name} if self.phase.name else {}) | scores
        record |= ({"best": progress.best} if self.selects else {}) | {"seconds": progress.seconds}
        scored = self.validation.text.format(**scores) if scores else ""
        texts = [f"{progress.step} steps", f"lr {progress.lr:.5f}", *(f"{k} {v:.4f}" for k, v in losses.items())]
        texts += [self.phase.name, scored, f"{progress.seconds:.0f} s"]
        self.log.line(f"epoch {progress.epoch}: {', '.join(filter(None, texts))}")
        self.log.epoch(record)

    def end(self):
        """The summary, to console, log and run.json."""
        stage = self.summary.stages.get("training", {"images": 0})
        self.summary.counts["done"] = stage["images"]
        last = self.place.checkpoint(self.progress.epoch - 1)  # before the first epoch, or where it was removed: none
        command = self.next_command() if last.is_file() else None
        none = "" if command else "; no checkpoint is there for the next stage"
        if command and (left := self.args.epochs - self.progress.epoch):
            command, none = None, f"; {left} are left, --resume goes on"
        self.log.line(f"done: {self.place.folder}, {self.progress.epoch} epochs{none}")
        self.summary.end(self.args.script, self.world, [self.place.folder], self.failures, command, self.log.line)
        if warning := self.plan.learning.late():
            self.log.line(warning)
        self.log.close()

    def next_command(self):
        """The command of the next stage; with the last epoch's checkpoint where there is no best one."""
        script, flags = self.plan.following
        last = self.progress.epoch - 1
        flags = {name: last if value == "{last}" else value for name, value in flags.items()}
        if self.place.best and not self.place.best.exists():
            flags["weights"] = self.place.checkpoint(last)
        return next_command(script, self.args, **flags)


# ---------------------------------------------------------------- --check


def whole_step(run, batch):
    """A step, and what a GPU has to be waited for."""
    return numbers([train_step(run, batch)])


def check_training(run):
    """--check: disk, one step of each phase, the time of all; whether a run is there already."""
    args, images = run.args, len(run.dataset)
    check = Check(run.world, f"{run.world.device} works, lists and labels are read, weights fit")
    check.images({i: image_path(args.voc12_root, i) for i in run.dataset.ids})
    for what, test in run.plan.checks.items():
        check.try_all(test, run.dataset.ids, what)
    check.attempt(resume.check_begin, run.place.folder, args.resume, args.overwrite)
    weights = sum(x.numel() * x.element_size() for x in run.net.state_dict().values())
    files = min(args.epochs, args.keep or args.epochs) + 3  # resume.pth with the optimiser; best.pth
    check.disk({run.place.folder: weights * files})
    total, texts = 0.0, []
    run.model.train()
    for phase in run.phases:
        run.progress.epoch = phase.first
        run.sampler.start(phase.first, phase.batch_size)
        try:
            batch, loading = timed(next, iter(run.loader))
        except UserError as error:
            check.problem(str(error))
            continue
        _, computing = timed(whole_step, run, batch)
        if computing < QUICK:  # the first step also gets its memory from the system, which may take as long again
            _, computing = timed(whole_step, run, batch)
        seconds = computing + loading / max(1, args.num_workers)
        total += phase.steps(images) * seconds
        texts.append(f"{phase.steps(images)} steps of {phase.batch_size} images, {seconds:.2f} s each")
    check.end(total, f"{args.epochs} epochs without validation", "; ".join(texts))
