"""Several processes as one: torchrun starts them, torch.distributed connects them, the batch stays the global one.

Of a batch, rank r of N has the samples r, r + N, r + 2N ... What a loss needs of the others is gathered in the batch's
own order, so each rank computes the loss of the whole batch, and gradients, summed over ranks, are those of one
process. Without torchrun every method here does nothing.
"""

import datetime
import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tool.io.files import UserError, print_warning

TIMEOUT = datetime.timedelta(hours=12)  # a rank may wait long for another's validation or CRF; torchrun ends dead runs

# Groups that were left, kept to the end of the process. Where DistributedDataParallel drops the last reference to one,
# its destructor waits for a gloo thread while it holds Python's lock, and that thread may need the lock (torch 2.12).
LEFT = []


class World:
    """This process among all of the run: `rank` of `size`; `main` is rank 0, which writes what is written once."""

    def __init__(self, rank=0, size=1):
        self.rank, self.size = rank, size
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
        answer = [None, None]
        if self.main:
            try:
                answer[0] = work()
            except UserError as error:
                answer[1] = str(error)
        dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            if self.main:
                raise UserError(answer[1])
            sys.exit(2)
        return answer[0]

    def share_buffers(self, net):
        """Give every rank the buffers (running statistics) of rank 0's network."""
        if self.size > 1:
            for buffer in net.buffers():
                dist.broadcast(buffer, src=0)

    def wrap(self, net, device):
        """The network whose gradients are averaged over ranks; `net` itself for one process."""
        if self.size == 1:
            return net
        # a step runs the network twice (image, erased image); broadcasting buffers between would undo the first run
        return DistributedDataParallel(
            net, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False
        )

    def prepare(self, net, device):
        """Normalise over the whole batch where BatchNorm trains: SyncBatchNorm, which is for CUDA only."""
        trains = any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in net.modules())
        if self.size > 1 and trains:
            if device.type == "cuda":
                net.synchronise_batchnorm()
            elif self.main:
                text = "training BatchNorm on CPU: each rank normalises with its own share of the batch"
                print_warning(f"{text}, so losses differ from those of one process")
        return net.to(device)

    def leave(self):
        """End the group of processes. The gradient averaging of `wrap` may go after it."""
        if self.size > 1:
            LEFT.append(dist.group.WORLD)
            dist.destroy_process_group()


def join_world(device):
    """The World that torchrun made of us, and the device of this rank (`cuda` becomes its own GPU).

    `cuda:N` is one GPU for all processes of a machine; they speak through gloo then, since NCCL refuses to share one.
    Reads RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, which torchrun sets.
    """
    size = processes()
    if size == 1:
        return World(), device
    shared = device.index is not None and local_processes() > 1
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", 0))
        if device.index is None:
            if local >= torch.cuda.device_count():
                raise UserError(f"--nproc_per_node: local rank {local}, but there are {torch.cuda.device_count()} GPUs")
            device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" and not shared else "gloo", timeout=TIMEOUT)
    return World(dist.get_rank(), size), device


def warn(text):
    """A warning of a run, said by one of its processes."""
    if os.environ.get("RANK", "0") == "0":
        print_warning(text)


def processes():
    """How many processes the run has."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_processes():
    """How many processes torchrun started on this machine; 1 without it. Cores are shared among them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))
