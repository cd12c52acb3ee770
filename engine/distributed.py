"""Processes and devices. Several processes work as one: torchrun starts them, torch.distributed connects them.

Of a batch, rank r of N has the samples r, r + N, r + 2N ... What a loss needs of the others is gathered in the batch's
own order, so each rank computes the loss of the whole batch, and gradients, summed over ranks, are those of one
process. Without torchrun every method here does nothing.
"""

import atexit
import datetime
import gc
import os
import signal
import sys

import torch
import torch.distributed as dist
import torch.distributed.nn  # noqa: F401  ahead of any group: its functions' defaults keep the one that there is
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tool.cli import Interrupted
from tool.io.files import UserError, print_warning
from tool.memory import keep_freed_memory

CPU = torch.device("cpu")
TIMEOUT = datetime.timedelta(hours=12)  # a rank may wait long for another's validation or CRF; torchrun ends dead runs

# Groups that were left, kept until the process is about to end: see `let_go`.
LEFT = []


@atexit.register
def let_go():
    """End the threads of groups that were left, while Python still runs.

    Such a thread needs Python's lock to free the tensors of its last message. Once the interpreter ends, who asks for
    the lock is ended with the process (SIGABRT); and where DistributedDataParallel drops the last reference to a group,
    its destructor holds the lock while it waits for them (torch 2.12). So the networks go first, here.
    """
    if LEFT:
        gc.collect()
        LEFT.clear()


class World:
    """This process among all of the run: `rank` of `size`; `main` is rank 0, which writes what is written once.

    device: where it computes.
    """

    def __init__(self, rank=0, size=1, device=CPU):
        self.rank, self.size, self.device = rank, size, device
        self.main = rank == 0

    def share(self, items):
        """This rank's part of a list that all ranks have."""
        return items[self.rank :: self.size]

    def gather(self, x, total):
        """The global batch of `total` samples from each rank's part of it: n x ... -> total x ..., in its order.

        Gradients reach this rank's own samples alone; the other ranks' are constants here.
        """
        if self.size == 1:
            return x
        rows = -(-total // self.size)  # of the ranks with most samples; the others pad
        padded = torch.cat([x, x.new_zeros(rows - len(x), *x.shape[1:])])
        parts = [torch.empty_like(padded, requires_grad=False) for _ in range(self.size)]
        dist.all_gather(parts, padded.detach().contiguous())
        parts[self.rank] = padded
        return torch.stack(parts, dim=1).flatten(0, 1)[:total]

    def sum(self, x):
        """Sum of a tensor or array over all ranks, without gradients."""
        if self.size == 1:
            return x
        total = torch.as_tensor(x).detach().clone()
        dist.all_reduce(total)
        return total if isinstance(x, torch.Tensor) else total.numpy()

    def sum_all(self, terms):
        """{name: scalar} summed over all ranks, without gradients."""
        return dict(zip(terms, self.sum(torch.stack([term.detach().float() for term in terms.values()]))))

    def largest(self, number):
        """The largest of a whole number of each rank; on the CPU, so that no GPU is waited for."""
        if self.size == 1:
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return value.item()

    def collect(self, value):
        """[value of rank 0, of rank 1 ...] of any plain values."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def first(self, work):
        """What work() returns on rank 0, on every rank; an error of a user's is reported once, by rank 0."""
        if self.size == 1:
            return work()
        answer = wrong = None
        if self.main:
            try:
                answer = work()
            except UserError as error:
                wrong = error
        answer, failed = self.collect((answer, wrong is not None))[0]
        if wrong:
            raise wrong
        return sys.exit(2) if failed else answer

    def share_buffers(self, net):
        """Give every rank the buffers (running statistics) of rank 0's network."""
        if self.size > 1:
            for buffer in net.buffers():
                dist.broadcast(buffer, src=0)

    def prepare(self, net, amp, seed, compiled):
        """Bring a network here, in the memory format that is fast here -> what a step runs: `net`, wrapped.

        The gradients of what is wrapped are averaged over ranks. Where BatchNorm trains, it normalises over the whole
        batch (SyncBatchNorm, which is for CUDA only). Seeds dropout, differently on every rank.
        """
        norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        # of those that train alone: bn8 of the classifier is in train mode, and in no forward
        trains = any(m.training and any(p.requires_grad for p in m.parameters()) for m in norms)
        if self.size > 1 and trains:
            if self.device.type == "cuda":
                net.synchronise_batchnorm()
            else:
                text = "training BatchNorm on CPU: each rank normalises with its own share of the batch"
                warn(f"{text}, so losses differ from those of one process")
        model = net.to(self.device, memory_format=memory_format(net, self.device, amp))
        torch.manual_seed(seed + 1_000_003 * self.rank)
        if self.size > 1:
            own = [self.device] if self.device.type == "cuda" else None
            # a step runs the network twice (image, erased image); broadcasting buffers between would undo the first run
            model = DistributedDataParallel(net, device_ids=own, broadcast_buffers=False)
        return torch.compile(model) if compiled else model

    def autocast(self, amp):
        """The context in which networks run: half precision with --amp, see `half_precision`; float32 without."""
        return torch.autocast(self.device.type, dtype=half_precision(self.device), enabled=amp)

    def scaler(self, amp):
        """What keeps small gradients from vanishing in float16; it does nothing where another precision is used."""
        scales = amp and half_precision(self.device) == torch.float16
        return torch.amp.GradScaler(self.device.type, enabled=scales)

    def leave(self):
        """End the group of processes. The gradient averaging of `prepare` may go after it."""
        if self.size > 1:
            LEFT.append(dist.group.WORLD)
            dist.destroy_process_group()


def join_world(name):
    """The World that torchrun made of us, on the device of a name, see `choose_device` (`cuda` is each rank's own GPU).

    `cuda:N` is one GPU for all processes of a machine; they speak through gloo then, since NCCL refuses to share one.
    Reads RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, which torchrun sets.
    """
    device, size = choose_device(name), processes()
    if size == 1:
        return World(device=device)
    shared = device.index is not None and local_processes() > 1
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", 0))
        if device.index is None:
            if local >= torch.cuda.device_count():
                raise UserError(f"--nproc_per_node: local rank {local}, but there are {torch.cuda.device_count()} GPUs")
            device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" and not shared else "gloo", timeout=TIMEOUT)
    return World(dist.get_rank(), size, device)


def say(text, how=print):
    """A line of a run, said by one of its processes."""
    if os.environ.get("RANK", "0") == "0":
        how(text)


def warn(text):
    say(text, print_warning)


def processes():
    """How many processes the run has."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_processes():
    """How many processes torchrun started on this machine; 1 without it. Cores are shared among them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def choose_device(name):
    """`auto`, `cpu`, `cuda`, `cuda:1` -> torch.device; UserError where it cannot be had.

    auto: a GPU that runs a kernel, else the CPU; where there is one that does not, a line says why. On the CPU this
    process keeps the memory that it frees from here on.
    """
    if name == "auto":
        reason = torch.cuda.is_available() and failure("cuda")
        if reason:
            warn(f"--device auto: the CPU, as the GPU runs nothing ({reason})")
        name = "cuda" if torch.cuda.is_available() and not reason else "cpu"
    elif reason := failure(name):
        raise UserError(f"--device {name}: not available here ({reason}); try --device cpu")
    device = torch.device(name)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def failure(name):
    """Why a device does not compute, in a line; None where it does. On that GPU alone a context is made."""
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # else pinned memory and the like would open GPU 0 as well
        (torch.ones(2, device=device) + 1).sum()  # an architecture that torch was not built for fails here, not before
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except (RuntimeError, AssertionError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None


def half_precision(device):
    """What --amp computes in: bfloat16; float16 on GPUs that have none, before Ampere, where gradients are scaled."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def memory_format(net, device, amp):
    """channels_last where convolutions are faster with it: on GPUs, in bfloat16 on CPUs, and where one is depthwise.

    That of a network's weights is enough, images become what they are. In float32 on a CPU a step of EfficientNet-Lite0
    takes three quarters of the time with it.
    """
    depthwise = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in net.modules())
    return torch.channels_last if amp or depthwise or device.type == "cuda" else torch.contiguous_format


class StopSignal:
    """SIGINT and SIGTERM as a flag that a training reads after each step; a second one ends it at once."""

    def __init__(self, world):
        self.number, self.previous, self.world = None, {}, world

    def __enter__(self):
        self.previous = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc):
        while self.previous:
            signal.signal(*self.previous.popitem())

    def _receive(self, number, frame):
        self.number = number
        self.__exit__()

    def asked(self):
        """Whether any rank was signalled: all stop after the same step."""
        self.number = self.world.largest(self.number or 0) or None
        return self.number is not None

    def stop(self, where):
        """End every rank with the exit code that shells expect (128 + signal); rank 0 says where the run stopped."""
        code = 128 + self.number
        if not self.world.main:
            sys.exit(code)
        raise Interrupted(f"stopped by {signal.Signals(self.number).name} {where}; --resume continues", code)
