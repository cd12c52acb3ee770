"""Quality while training, on a list with masks: of class activation maps, AffinityNet's walk, and segmentation."""

from functools import partial

import numpy as np
import torch
from torch.utils.data import Subset
from tqdm import tqdm

from tool.cam import multi_scale_cam
from tool.io.files import UserError, missing_files, read_list, require_files
from tool.io.images import open_mask
from tool.metrics import ThresholdSweep, check_size, confusion, iou, mean_iou
from tool.pseudo_labels import stack_scores, walk_scores
from tool.segmentation import label_map, multi_scale_scores
from voc12.data import Broken, InferenceSet, check_scores, image_path, inference_loader, mask_path, mask_paths
from voc12.labels import load_labels
from voc12.transforms import InferenceViews, look_of


@torch.no_grad()
def cam_sweep(net, voc12_root, list_path, classes, cls_labels, device, num_workers, world):
    """Best CAM mIoU over the thresholds: {"miou", "miou_present"} in percent, and "threshold"; ranks share the list.

    The threshold is chosen on the masks it is scored with: an oracle, as released.
    """
    ids = world.share(read_list(list_path))
    labels = load_labels(ids, voc12_root, classes, cls_labels)
    views = InferenceViews((1.0,), mirror=False, look=look_of(net.trunk))
    loader = inference_loader(InferenceSet(partial(image_path, voc12_root), ids, labels, views), num_workers)
    sweep = ThresholdSweep(len(classes) + 1)
    was_training = net.training
    net.eval()
    for sample in tqdm(loader, "validate", unit="image", disable=None if world.main else True, leave=False):
        if isinstance(sample, Broken):
            raise UserError(sample.reason)
        image_id, image, views, label = sample
        cam = multi_scale_cam(net, [v.to(device) for v in views], label, image.shape[:2]).cpu().numpy()
        truth = open_mask(mask_path(voc12_root, image_id), len(classes) + 1)
        check_size(truth, image.shape[:2], image_id)
        sweep.add(truth, {int(k): cam[k] for k in np.flatnonzero(label.numpy())})
    net.train(was_training)
    sweep.histogram = world.sum(sweep.histogram)
    mious, present = sweep.mious()
    best = int(np.argmax(mious))
    return {"miou": 100 * mious[best], "miou_present": 100 * present[best], "threshold": float(sweep.thresholds[best])}


def masked_ids(list_path, voc12_root):
    """IDs of a list with masks; None where there is no list, or none of its masks.

    No mask at all means a data set without masks, which is fine; some missing masks are a mistake.
    """
    if list_path == "none":
        return None
    ids = read_list(list_path)
    masks = mask_paths(voc12_root, ids)
    if len(missing_files(masks)) == len(masks):
        return None
    require_files(masks, "mask", f"mend {list_path}, or use --val_list none")
    return ids


def can_validate(select, list_path, voc12_root, dict_dir):
    """Whether the best AffinityNet can be chosen with ground truth: wanted, and there are masks and maps for the list.

    See `masked_ids`; some missing maps are a mistake, too.
    """
    ids = masked_ids(list_path, voc12_root) if select == "best" else None
    if ids is None:
        return False
    check_scores(ids, dict_dir, list_path, "run infer.py --dict on that list, or use --select last")
    return True


@torch.no_grad()
def walk_miou(net, walks, dup, device, world):
    """mIoU (percent, absent classes as 0, as released) of the walked maps' best label, without CRF; ranks share it.

    walks: WalkSet of a list with masks; dup: background power of the maps.
    """
    num_labels = walks.num_classes + 1
    counts = np.zeros((num_labels, num_labels), dtype=np.int64)
    was_training = net.training
    net.eval()
    mine = world.share(range(len(walks)))
    for index in tqdm(mine, "validate", unit="image", disable=None if world.main else True, leave=False):
        sample = walks[index]
        if isinstance(sample, Broken):
            raise UserError(sample.reason)
        image_id, _, view, maps = sample
        keys, scores = stack_scores(maps, dup)
        predicted = keys[walk_scores(net, view, scores, device).argmax(0)]
        truth = open_mask(mask_path(walks.root, image_id), num_labels)
        check_size(truth, predicted.shape, image_id)
        counts += confusion(truth, predicted, num_labels)
    net.train(was_training)
    return 100 * mean_iou(iou(world.sum(counts)))[0]


class SegmentationScore:
    """mIoU of a segmentation network's labels at an image's own size; ranks share the images.

    samples: MaskedSet. Calling it gives mIoU in percent, absent classes as 0; `scores` keeps that as "miou", and the
    mean over present classes as "miou_present".
    """

    def __init__(self, net, samples, device, num_workers, world):
        self.net, self.samples, self.device, self.world = net, samples, device, world
        self.scores = {}
        self.loader = inference_loader(Subset(samples, world.share(range(len(samples)))), num_workers)

    @torch.no_grad()
    def __call__(self):
        counts = np.zeros((self.samples.num_labels,) * 2, dtype=np.int64)
        was_training = self.net.training
        self.net.eval()
        bar = tqdm(self.loader, "validate", unit="image", disable=None if self.world.main else True, leave=False)
        for view, truth in bar:
            scores = multi_scale_scores(self.net, [view[None].to(self.device)], truth.shape)
            counts += confusion(truth.numpy(), label_map(scores.cpu()), len(counts))
        self.net.train(was_training)
        miou, present = mean_iou(iou(self.world.sum(counts)))
        self.scores = {"miou": 100 * miou, "miou_present": 100 * present}
        return self.scores["miou"]
