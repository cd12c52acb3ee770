"""Data sets in VOC layout, and the order of their batches.

What a training sample looks like depends on seed, epoch and image alone, and the order of samples on seed and epoch:
the number of workers changes nothing, and a run can be taken up again at any step.
"""

import zlib
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from tool.files import UserError
from tool.images import open_image


def image_path(voc12_root, image_id):
    return Path(voc12_root) / "JPEGImages" / f"{image_id}.jpg"


def mask_path(voc12_root, image_id, gt_dir="SegmentationClass"):
    return Path(voc12_root) / gt_dir / f"{image_id}.png"


def check_images(ids, voc12_root):
    """UserError where an image of the list does not exist; names the first and counts them."""
    missing = [i for i in ids if not image_path(voc12_root, i).is_file()]
    if missing:
        raise UserError(
            f"{image_path(voc12_root, missing[0])}: no such image ({len(missing)} of {len(ids)} listed images are "
            "missing); check --voc12_root and the list"
        )


def sample_rng(seed, epoch, image_id):
    """The random generator of one sample."""
    return np.random.default_rng([seed, epoch, zlib.crc32(image_id.encode())])


class TrainSet(Dataset):
    """Samples (id, image 3 x crop x crop float32, label C float32) under keys (epoch, index)."""

    def __init__(self, voc12_root, ids, labels, view, seed):
        self.root, self.ids, self.labels, self.view, self.seed = voc12_root, ids, labels, view, seed

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, key):
        epoch, index = key
        image_id = self.ids[index]
        image = open_image(image_path(self.root, image_id))
        x = self.view(image, sample_rng(self.seed, epoch, image_id))
        return image_id, x, torch.from_numpy(self.labels[image_id])


class InferenceSet(Dataset):
    """Samples (id, image H x W x 3 uint8 tensor, views, label C float32), in the order of the list."""

    def __init__(self, voc12_root, ids, labels, views):
        self.root, self.ids, self.labels, self.views = voc12_root, ids, labels, views

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        image_id = self.ids[index]
        image = open_image(image_path(self.root, image_id))
        return image_id, torch.from_numpy(np.array(image)), self.views(image), torch.from_numpy(self.labels[image_id])


class EpochBatches:
    """Batch sampler of keys (epoch, index): a fresh permutation each epoch, the incomplete last batch dropped.

    `start(epoch, batch_size, skip)` sets what the next iteration gives; `skip` batches are left out, for resuming.
    """

    def __init__(self, length, seed):
        self.length = length
        self.seed = seed
        self.start(0, 1)

    def start(self, epoch, batch_size, skip=0):
        self.epoch, self.batch_size, self.skip = epoch, batch_size, skip

    def __len__(self):
        return self.length // self.batch_size - self.skip

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        for k in range(self.skip, self.length // self.batch_size):
            yield [(self.epoch, int(i)) for i in order[k * self.batch_size : (k + 1) * self.batch_size]]


def own_generator():
    """A loader draws a seed for its workers; from the global generator that would shift the network's dropout."""
    return torch.Generator().manual_seed(0)


def train_loader(dataset, batches, num_workers, pin_memory):
    """DataLoader over EpochBatches; its workers live on from epoch to epoch."""
    return DataLoader(dataset, batch_sampler=batches, num_workers=num_workers, pin_memory=pin_memory,
                      persistent_workers=num_workers > 0, generator=own_generator())


def inference_loader(dataset, num_workers, pin_memory=False):
    """DataLoader that gives single samples, not batches: images have different sizes."""
    return DataLoader(dataset, batch_size=None, num_workers=num_workers, pin_memory=pin_memory,
                      generator=own_generator())
