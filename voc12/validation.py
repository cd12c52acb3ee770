"""Quality while training, on a list with masks: of class activation maps, AffinityNet's walk, and segmentation.

Each scores a network that is in eval mode, called without gradients; the processes of `world` share the images.
"""

from functools import partial

import numpy as np
from torch.utils.data import Subset
from tqdm import tqdm

from tool.cam import MAX_SIDE, inner_size, labelled_cam
from tool.io.files import UserError
from tool.metrics import ThresholdSweep, best_threshold, confusion, mean_ious
from tool.pseudo_labels import refine_labels, stack_scores, walk_scores
from tool.segmentation import label_map, multi_scale_scores
from voc12.data import Broken, InferenceSet, MaskedSet, in_range, load_samples
from voc12.paths import image_path, true_mask
from voc12.transforms import InferenceViews, look_of


def each_sample(dataset, world, num_workers):
    """The samples of a data set, with a bar; UserError where one is Broken."""
    loader = load_samples(dataset, num_workers)
    for sample in tqdm(loader, "validate", unit="image", disable=None if world.main else True, leave=False):
        if isinstance(sample, Broken):
            raise UserError(sample.reason)
        yield sample


def cam_sweep(net, world, voc12_root, labels, num_workers):
    """Best CAM mIoU over the thresholds: {"miou", "miou_present"} in percent, and "threshold".

    labels: {ID: C values}. The threshold is chosen on the masks it is scored with: an oracle, as released.
    """
    ids, num_labels = world.share(list(labels)), labels.matrix.shape[1] + 1
    views = InferenceViews((1.0,), mirror=False, look=look_of(net.trunk), max_side=MAX_SIDE)
    dataset = InferenceSet(partial(image_path, voc12_root), ids, labels, views)
    sweep = ThresholdSweep(num_labels)
    for image_id, image, views, label in each_sample(dataset, world, num_workers):
        size = image.shape[:2]
        cams = labelled_cam(net, [v.to(world.device) for v in views], label, inner_size(size, MAX_SIDE), size)
        sweep.add(true_mask(voc12_root, image_id, num_labels, size), cams)
    sweep.histogram = world.sum(sweep.histogram)
    counts = sweep.confusions()
    best = best_threshold(counts)
    return mean_ious(counts[best]) | {"threshold": float(sweep.thresholds[best])}


def walk_score(net, world, walks, dup, num_workers, kernels=None):
    """`mean_ious` of the walked maps' best label.

    walks: WalkSet of a list with masks; dup: background power of the maps. kernels: of one CRF iteration on the walked
    ones, as released, which takes longer than a GPU takes for the walk; None: there is none.
    """
    num_labels = walks.num_classes + 1
    counts = np.zeros((num_labels, num_labels), dtype=np.int64)
    said = set()
    share = Subset(walks, world.share(range(len(walks))))
    for image_id, photo, view, maps in each_sample(share, world, num_workers):
        maps = in_range({k: m.numpy() for k, m in maps.items()}, f"{walks.dict_dir}/{image_id}.npy", said)
        keys, stack = stack_scores(maps, dup, photo.shape[:2])
        walked = walk_scores(net, view, stack, world.device)
        if kernels:
            predicted = refine_labels(photo.numpy(), keys, walked, pairwise=kernels)
        else:
            predicted = keys[walked.argmax(0)]
        counts += confusion(true_mask(walks.root, image_id, num_labels, predicted.shape), predicted, num_labels)
    return mean_ious(world.sum(counts))


def segmentation_score(net, world, voc12_root, ids, num_labels, num_workers, max_side):
    """`mean_ious` of a segmentation network's labels at an image's own size."""
    samples = MaskedSet(voc12_root, world.share(ids), num_labels, look_of(net.trunk), max_side)
    counts = np.zeros((num_labels, num_labels), dtype=np.int64)
    for view, truth in each_sample(samples, world, num_workers):
        scores = multi_scale_scores(net, [view[None].to(world.device)], view.shape[-2:])
        counts += confusion(truth.numpy(), label_map(scores, truth.shape), num_labels)
    return mean_ious(world.sum(counts))
