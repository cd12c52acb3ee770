"""Data sets in VOC layout, and the order of their batches.

What a training sample looks like depends on seed, epoch and image alone, and the order of samples on seed and epoch:
the number of workers changes nothing, and a run can be taken up again at any step.
"""

import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_convert, get_worker_info

from tool.affinity_labels import STRIDE, affinity_label, pair_masks, pool_scores
from tool.cam import MAX_SIDE
from tool.io.files import UserError, file_checksum, fingerprint, print_warning
from tool.io.images import check_size, fit_mask, header_size, open_image, open_mask
from tool.io.scores import read_scores
from tool.workers import follow_parent
from voc12.layout import find_labels
from voc12.paths import check_scores, image_path, true_mask
from voc12.transforms import IMAGENET, at_most, normalise, rescale

TOLERANCE = 1e-3  # of maps beyond 0 and 1: half floats are that coarse


class ImageSet(Dataset):
    """A set of the images `ids`."""

    def __len__(self):
        return len(self.ids)


class TrainingSet(ImageSet):
    """A set under keys (epoch, index)."""

    def opened(self, key):
        """-> (ID, photograph, the sample's random generator)."""
        epoch, index = key
        image_id = self.ids[index]
        rng = np.random.default_rng([self.seed, epoch, zlib.crc32(image_id.encode())])
        return image_id, open_image(image_path(self.root, image_id)), rng


class TrainSet(TrainingSet):
    """Samples (id, image 3 x crop x crop float32, label C float32) under keys (epoch, index)."""

    def __init__(self, voc12_root, ids, labels, view, seed):
        self.root, self.ids, self.labels, self.view, self.seed = voc12_root, ids, labels, view, seed

    def __getitem__(self, key):
        image_id, image, rng = self.opened(key)
        return image_id, self.view(image, rng), torch.from_numpy(self.labels[image_id])


class AffinitySet(TrainingSet):
    """Samples (id, image 3 x crop x crop float32, masks 3 x offsets x anchors uint8) under keys (epoch, index).

    masks: which pairs of cells are both background, of one class, of different classes.
    low_dir, high_dir: CRF scores with the low and the high background power; labels come from the crop alone.
    stride: pixels a cell of the network that will see them.
    """

    def __init__(self, voc12_root, ids, low_dir, high_dir, view, seed, num_labels=256, stride=STRIDE):
        self.root, self.ids, self.view, self.seed, self.num_labels = voc12_root, ids, view, seed, num_labels
        self.stride = stride
        self.dirs = Path(low_dir), Path(high_dir)

    def __getitem__(self, key):
        image_id, image, rng = self.opened(key)
        paths = [folder / f"{image_id}.npy" for folder in self.dirs]
        low, high = read_score_pair(*paths, (image.height, image.width), self.num_labels)
        both = torch.from_numpy(np.concatenate([low, high]))
        x, scores = self.view(image, both, rng)
        low, high = pool_scores(scores, self.stride).split(len(low))
        masks = np.stack(pair_masks(affinity_label(low, high)))
        return image_id, x, torch.from_numpy(masks.astype(np.uint8))


def read_score_pair(low_path, high_path, size, num_labels=256):
    """CRF scores of two alphas over the classes of either -> two (K + 1) x H x W float32, background first.

    A class that one of them lacks is 0 there. UserError where a file is broken or not of the image's size (h, w).
    """
    pair = [read_maps(path, size, num_labels, empty=False) for path in (low_path, high_path)]
    keys = sorted({0, *pair[0], *pair[1]})
    zero = np.zeros(size, np.float32)
    return tuple(np.stack([scores.get(k, zero) for k in keys]).astype(np.float32) for scores in pair)


def read_maps(path, size, num_keys, empty=True):
    """`read_scores` of an image of `size` (h, w) -> {key: H x W}; UserError also where a key is not below num_keys."""
    scores = read_scores(path, empty)
    shape = next((score.shape for score in scores.values()), tuple(size))
    if shape != tuple(size):
        text = f"{path}: scores of {shape[1]} x {shape[0]} pixels for an image of {size[1]} x {size[0]}"
        raise UserError(f"{text}; scores need the image's own size")
    if max(scores, default=-1) >= num_keys:
        raise UserError(f"{path}: holds class {max(scores)}, but there are {num_keys}; check --classes")
    return scores


def in_range(maps, path, said):
    """{class: H x W} of a score file as float32 in [0, 1], the rest cut off. said: a set, empty until this was said."""
    low = min((float(m.min()) for m in maps.values()), default=0)
    high = max((float(m.max()) for m in maps.values()), default=0)
    if not said and (low < -TOLERANCE or high > 1 + TOLERANCE):
        said.add(path)
        print_warning(f"{path}: values from {low:.3g} to {high:.3g}; maps have 0 to 1, what is beyond is cut off")
    return {k: np.clip(m, 0, 1).astype(np.float32, copy=False) for k, m in maps.items()}


class Substituting(Dataset):
    """A training set that gives the next usable image where one is broken; `failures` notes the broken one.

    Which one that is depends on the list alone, so every process and every resumed run sees the same samples.
    """

    def __init__(self, dataset, failures):
        self.dataset, self.failures = dataset, failures

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, key):
        epoch, index = key
        for k in range(len(self)):
            at = (index + k) % len(self)
            try:
                return self.dataset[epoch, at]
            except UserError as error:
                self.failures.add(self.dataset.ids[at], error)
        raise UserError(f"no image is left: all {len(self)} failed; see {self.failures.path}")


@dataclass(frozen=True)
class Broken:
    """What a data set gives in place of a sample where the image cannot be used. reason: one line, with the file."""

    image_id: str
    reason: str


class InferenceSet(ImageSet):
    """Samples (id, image H x W x 3 uint8 tensor, views, label C float32) or Broken, in the order of the list.

    photograph: the function ID -> path. labels: {ID: C values}, or None, which then is each sample's label.
    """

    def __init__(self, photograph, ids, labels, views):
        self.photograph, self.ids, self.labels, self.views = photograph, ids, labels, views

    def __getitem__(self, index):
        image_id = self.ids[index]
        try:
            image = open_image(self.photograph(image_id))
        except UserError as error:
            return Broken(image_id, str(error))
        label = None if self.labels is None else torch.from_numpy(self.labels[image_id])
        return image_id, torch.from_numpy(np.array(image)), self.views(image), label


class WalkSet(ImageSet):
    """Samples (id, photo H x W x 3 uint8, view 3 x h x w, maps {class: H x W}) of images whose maps are stored.

    view: the photo at `scale` times its size, normalised. Broken where an image is broken, or its maps are, of another
    size than the photo, or of a class from `num_classes` on. look: AffinityNet's trunk's. max_side: see `inner_size`,
    before the scale.
    """

    def __init__(self, voc12_root, ids, dict_dir, num_classes, scale=1.0, look=IMAGENET, max_side=0):
        self.root, self.ids, self.dict_dir, self.num_classes, self.scale = voc12_root, ids, dict_dir, num_classes, scale
        self.look, self.max_side = look, max_side

    def __getitem__(self, index):
        image_id = self.ids[index]
        try:
            photo = open_image(image_path(self.root, image_id))
            maps = read_maps(self.dict_dir / f"{image_id}.npy", (photo.height, photo.width), self.num_classes)
        except UserError as error:
            return Broken(image_id, str(error))
        view = rescale(at_most(photo, self.max_side, self.look), self.scale, self.look)
        return image_id, np.array(photo), normalise(view, self.look), maps


def epoch_order(seed, epoch, length):
    """Indices of the samples of an epoch, as its batches take them."""
    return np.random.default_rng([seed, epoch]).permutation(length)


@lru_cache(maxsize=1)
def epoch_places(seed, epoch, length):
    """The place of each sample in `epoch_order`."""
    return np.argsort(epoch_order(seed, epoch, length))


class EpochBatches:
    """Batch sampler of keys (epoch, index): a fresh permutation each epoch, the incomplete last batch dropped.

    `start(epoch, batch_size, skip)` sets what the next iteration gives; `skip` batches are left out, for resuming.
    Of `size` processes, this is number `rank`: batch_size is the global one, and every size-th sample of it is ours.
    """

    def __init__(self, length, seed, rank=0, size=1):
        self.length = length
        self.seed = seed
        self.rank, self.size = rank, size
        self.start(0, 1)

    def start(self, epoch, batch_size, skip=0):
        self.epoch, self.batch_size, self.skip = epoch, batch_size, skip

    def __len__(self):
        return self.length // self.batch_size - self.skip

    def __iter__(self):
        order = epoch_order(self.seed, self.epoch, self.length)
        for k in range(self.skip, self.length // self.batch_size):
            batch = order[k * self.batch_size : (k + 1) * self.batch_size]
            yield [(self.epoch, int(i)) for i in batch[self.rank :: self.size]]


def load_samples(dataset, num_workers, pin_memory=False, batches=None):
    """DataLoader over EpochBatches, whose workers live on from epoch to epoch; without of single samples, since images
    have different sizes."""
    options = {"batch_size": None, "collate_fn": hand_over}
    if batches is not None:
        options = {"batch_sampler": batches, "persistent_workers": num_workers > 0}
    # a loader draws a seed for its workers; from the global generator that would shift the network's dropout
    options |= {"generator": torch.Generator().manual_seed(0), "worker_init_fn": follow_parent}
    return DataLoader(dataset, num_workers=num_workers, pin_memory=pin_memory, **options)


def hand_over(sample):
    """A sample as tensors, which a worker process puts into shared memory here and now.

    Here a full /dev/shm is an error that reaches the parent. In the thread of the queue, where torch would do it, the
    sample is dropped and the parent waits for it for ever.
    """
    sample = default_convert(sample)
    if get_worker_info():
        share_tensors(sample)
    return sample


def share_tensors(value):
    if isinstance(value, torch.Tensor):
        value.share_memory_()
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            share_tensors(part)


# ---------------------------------------------------------------- the segmentation network


class SegSet(TrainingSet):
    """Samples (id, image 3 x crop x crop float32, label crop x crop uint8 with 255 ignored) under keys (epoch, index).

    labels_dir: folder of label masks, ID.png. num_labels: ids are below it, or 255. batch_size: where given, the images
    of a batch are scaled by one factor, not each by its own.
    UserError where a photograph or a mask is broken, or the two are not of one size.
    """

    def __init__(self, voc12_root, ids, labels_dir, num_labels, view, seed, batch_size=None):
        self.root, self.ids, self.view, self.seed = voc12_root, ids, view, seed
        self.labels, self.corrected = {i: Path(labels_dir) / f"{i}.png" for i in ids}, {}
        self.num_labels, self.batch_size = num_labels, batch_size

    def correct(self, folder):
        """Let a folder's masks, ID.png, win over those that are there (None: none do); UserError where none fits."""
        if folder is None:
            return
        found = find_labels(folder)
        self.corrected = {i: found[i] for i in self.ids if i in found}
        if not self.corrected:
            raise UserError(f"--corrected {folder}: no mask (ID.png) there of any of the {len(self)} images")
        if len(found) > len(self.corrected):
            print_warning(f"{folder}: {len(found) - len(self.corrected)} masks there are of no image of the list")

    def require(self, folder, list_path):
        """UserError where the folder of labels lacks some that are not corrected, or a corrected one cannot be used."""
        rest = [image_id for image_id in self.ids if image_id not in self.corrected]
        check_scores(rest, folder, list_path, "run infer_aff.py on that list, or check --labels", suffix="png")
        for image_id in self.corrected:
            self.check(image_id)

    def __getitem__(self, key):
        image_id, image, rng = self.opened(key)
        x, label = self.view(image, self.label(image_id, image.size), rng, self.batch_rng(*key))
        return image_id, x, label

    def label(self, image_id, size):
        """The mask of an image of `size` (w, h), H x W uint8."""
        path = image_path(self.root, image_id)
        label = fit_mask(
            open_mask(self.corrected.get(image_id, self.labels[image_id]), self.num_labels), size[::-1], path
        )
        check_size(label, size[::-1], path)
        return label

    def check(self, image_id):
        """UserError where the mask of an image cannot be used."""
        self.label(image_id, header_size(image_path(self.root, image_id)))

    def fingerprint(self):
        """16 hex digits that stand for the sizes of the masks' files."""
        return fingerprint([path.stat().st_size if path.is_file() else None for path in self.labels.values()])

    def corrections(self):
        """{what they are, in words: fingerprint of their contents} of corrected masks; {} without any."""
        sums = [[image_id, file_checksum(path)] for image_id, path in self.corrected.items()]
        return {"masks of --corrected": fingerprint(sums)} if sums else {}

    def batch_rng(self, epoch, index):
        """The random generator that the images of a batch share; None where there is no such."""
        if self.batch_size is None:
            return None
        place = epoch_places(self.seed, epoch, len(self))[index]
        return np.random.default_rng([self.seed, epoch, place // self.batch_size])


class MaskedSet(ImageSet):
    """Samples (photograph 3 x h x w float32, true labels H x W uint8), for validation. max_side: see `inner_size`."""

    def __init__(self, voc12_root, ids, num_labels, look, max_side=MAX_SIDE):
        self.root, self.ids, self.num_labels, self.look, self.max_side = voc12_root, ids, num_labels, look, max_side

    def __getitem__(self, index):
        image_id = self.ids[index]
        photo = open_image(image_path(self.root, image_id))
        truth = true_mask(self.root, image_id, self.num_labels, photo.size[::-1])
        return normalise(at_most(photo, self.max_side, self.look), self.look), torch.from_numpy(truth)
