"""CAM quality while training: single-scale maps of a list with masks, scored at every background threshold."""

import numpy as np
import torch
from tqdm import tqdm

from tool.cam import multi_scale_cam
from tool.files import read_list
from tool.images import open_mask
from tool.metrics import ThresholdSweep, check_size
from voc12.data import InferenceSet, inference_loader, mask_path
from voc12.labels import load_labels
from voc12.transforms import InferenceViews


@torch.no_grad()
def cam_sweep(net, voc12_root, list_path, classes, cls_labels, device, num_workers):
    """Best CAM mIoU over the thresholds: {"miou", "miou_present"} in percent, and "threshold".

    The threshold is chosen on the masks it is scored with: an oracle, as released.
    """
    ids = read_list(list_path)
    labels = load_labels(ids, voc12_root, classes, cls_labels)
    loader = inference_loader(InferenceSet(voc12_root, ids, labels, InferenceViews((1.0,), mirror=False)), num_workers)
    sweep = ThresholdSweep(len(classes) + 1)
    was_training = net.training
    net.eval()
    for image_id, image, views, label in tqdm(loader, "validate", unit="image", disable=None, leave=False):
        cam = multi_scale_cam(net, [v.to(device) for v in views], label, image.shape[:2]).cpu().numpy()
        truth = open_mask(mask_path(voc12_root, image_id), len(classes) + 1)
        check_size(truth, image.shape[:2], image_id)
        sweep.add(truth, {int(k): cam[k] for k in np.flatnonzero(label.numpy())})
    net.train(was_training)
    mious, present = sweep.mious()
    best = int(np.argmax(mious))
    return {"miou": 100 * mious[best], "miou_present": 100 * present[best], "threshold": float(sweep.thresholds[best])}
