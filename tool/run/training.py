"""What both trainings share: device, optimiser and its schedule, the loop, stopping after a step."""

import math
import signal
import time

import torch
from tqdm import tqdm

from tool.io.files import UserError
from tool.run.device import memory_format
from tool.run.distributed import World
from tool.run.log import describe_terms
from tool.run.resume import save_resume
from tool.run.script import Interrupted

POWER = 0.9  # of the poly schedule


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
            "lower --lr, or --resume from the last checkpoint without --amp"
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


def prepare_network(net, args, device, world):
    """Network and optimiser as they train: (what a step runs, optimiser)."""
    net.trunk.checkpoint_activations = args.checkpoint_activations
    world.prepare(net, device)
    net.to(memory_format=memory_format(device, args.amp))
    optimizer = build_optimizer(
        args.optimizer, net.param_groups(args.lr, args.wt_dec, args.scratch_lr_mult), args.momentum
    )
    torch.manual_seed(args.seed + 1_000_003 * world.rank)  # ranks drop different channels
    model = world.wrap(net, device)
    return torch.compile(model) if args.compile else model, optimizer


def update(optimizer, loss, world):
    """One step of the optimiser. loss: each rank's part; the gradient is that of their sum over ranks."""
    optimizer.zero_grad(set_to_none=True)
    (loss * world.size).backward()  # DistributedDataParallel takes the mean over ranks
    optimizer.step()


def run_epoch(loader, step, optimizer, progress, max_step, terms, stop, after_step=None, world=None):
    """The rest of epoch progress["epoch"], from progress["step"] on; updates `progress` in place.

    loader: gives batches, of which the first element is the list of image IDs; its batch_sampler was started.
    step(batch, progress) -> {term: float} makes one update. terms: names of the terms whose sums are kept.
    after_step(progress): called after every update. Returns False where a signal asked to stop, after that step.
    """
    done = progress["step"]
    bar = tqdm(
        loader,
        f"epoch {progress['epoch']}",
        total=done + len(loader),
        initial=done,
        unit="step",
        disable=None if world.main else True,
    )
    for batch in bar:
        progress["lr"] = set_learning_rate(optimizer, progress["global_step"], max_step)
        values = step(batch, progress)
        check_finite(values, progress["global_step"], batch[0])
        progress["step"] += 1
        progress["global_step"] += 1
        progress["sums"] = [total + values[k] for total, k in zip(progress["sums"], terms)]
        bar.set_postfix({k: f"{values[k]:.4f}" for k in terms}, refresh=False)
        if after_step:
            after_step(progress)
        if stop.asked():
            return False
    return True


def fit(
    model,
    net,
    loader,
    optimizer,
    step,
    finish,
    progress,
    run,
    *,
    epochs,
    stop_epoch,
    max_step,
    batch_size,
    terms,
    after_step=None,
):
    """All epochs that are left, each followed by a resume file; a signal ends it after the current step.

    model: what `step` runs, `net` in its wrappings. batch_size(epoch): of the global batch.
    finish(progress) -> (numbers for the epoch's record, text for its line), after it saved weights and validated.
    stop_epoch: end before this epoch, None for the last.
    """
    last = epochs if stop_epoch is None else min(epochs, stop_epoch)
    with StopSignal(run.world) as stop:
        while progress["epoch"] < last:
            started = time.time()
            model.train()
            size, first = batch_size(progress["epoch"]), progress["step"]
            loader.batch_sampler.start(progress["epoch"], size, first)
            with run.summary.stage("training") as stage:
                done = run_epoch(loader, step, optimizer, progress, max_step, terms, stop, after_step, run.world)
                stage["images"] += size * (progress["step"] - first) if run.world.main else 0
            run.world.share_buffers(net)
            if done:
                record = epoch_record(progress, max_step, terms)
                more, text = finish(progress)
                record |= more | {"seconds": progress["seconds"] + time.time() - started}
                run.log.line(
                    f"epoch {record['epoch']}: {describe_terms(record, terms)}{text}, {record['seconds']:.0f} s"
                )
                run.log.epoch(record)
                next_epoch(progress, terms)
            else:
                progress["seconds"] += time.time() - started
            save_resume(run.resume_path, net, optimizer, progress, run.settings, run.world)
            if stop.number is not None:
                stop.stop(f"at epoch {progress['epoch']}, step {progress['step']}")


def new_progress(terms, lr):
    """Where a run stands; what save_resume keeps beside weights and optimiser."""
    return {"epoch": 0, "step": 0, "global_step": 0, "sums": [0.0] * len(terms), "lr": lr, "seconds": 0.0}


def epoch_record(progress, max_step, terms):
    """The numbers of a finished epoch, for one JSON line: means of the terms, steps, rate."""
    means = {k: total / max(1, progress["step"]) for k, total in zip(terms, progress["sums"])}
    return {
        "epoch": progress["epoch"],
        "steps": progress["step"],
        "global_step": progress["global_step"],
        "planned_steps": max_step,
        "lr": progress["lr"],
    } | means


def next_epoch(progress, terms):
    progress |= {"epoch": progress["epoch"] + 1, "step": 0, "sums": [0.0] * len(terms), "seconds": 0.0}


class StopSignal:
    """SIGINT and SIGTERM as a flag that the training loop reads after each step; a second one ends at once."""

    def __init__(self, world=None):
        self.number = None
        self.previous = {}
        self.world = world or World()

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number, frame):
        self.number = number
        self.restore()

    def asked(self):
        """Whether any rank was signalled: all stop after the same step."""
        numbers = [n for n in self.world.collect(self.number) if n is not None]
        self.number = numbers[0] if numbers else None
        return bool(numbers)

    def restore(self):
        while self.previous:
            signal.signal(*self.previous.popitem())

    def __exit__(self, *exc):
        self.restore()

    def stop(self, where):
        """Raise Interrupted, with the exit code that shells expect (128 + signal)."""
        raise Interrupted(
            f"stopped by {signal.Signals(self.number).name} {where}; --resume continues", 128 + self.number
        )
