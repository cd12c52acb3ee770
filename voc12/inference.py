"""Maps and scores of one image after the other, from a network or as they are stored, for CRF and random walk."""

import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from tool.cam import multi_scale_cam, predict_label
from tool.io.files import UserError, read_list
from tool.io.images import open_image
from tool.run.arguments import scored_list
from tool.run.device import memory_format
from tool.segmentation import multi_scale_scores
from voc12.data import Broken, check_images, mask_path, read_maps
from voc12.layout import find_photographs, fold_id, fold_names

TOLERANCE = 1e-3  # of maps beyond 0 and 1: half floats are that coarse


def find_images(images, out):
    """{ID: path} of a photograph, or of all in a folder and below it; a/b.png there has the ID a__b.

    out: a folder that is passed over, since results may go into the folder itself. UserError where there are none, or
    two of one ID.
    """
    path = Path(images)
    if path.is_file():
        return {fold_id(path.stem): path}
    return {image_id: path / name for image_id, name in fold_names(find_photographs(path, without=[out])).items()}


def usable_images(ids, voc12_root, failures, world):
    """The IDs, of this rank's share of a list, that have an image; see --on_error for the others.

    UserError where no rank has any; one that has none goes on with nothing to do.
    """
    if not failures.skip:
        check_images(ids, voc12_root)
        return ids
    usable = failures.usable(ids, lambda image_id: check_images([image_id], voc12_root))
    if not any(world.collect(len(usable))):
        count = sum(world.collect(len(ids)))

        def refuse():
            reason = failures.noted[-1].split("\t")[1]
            raise UserError(f"no image is left: all {count} failed, the last with: {reason}")

        world.first(refuse)
    return usable


def scorable_list(list_path, ids, voc12_root):
    """The list to score the results of a list with, whose images are `ids`; None where images of it have no masks."""
    scored = scored_list(list_path)
    if scored != list_path and not Path(scored).is_file():
        return None
    images = ids if scored == list_path else read_list(scored)
    return scored if all(mask_path(voc12_root, image_id).is_file() for image_id in images) else None


def network_maps(net, loader, device, amp, min_score, failures):
    """Run the network on every view -> (ID, H x W x 3 uint8, {class: H x W float32}, scores) of each image.

    loader: over an InferenceSet. min_score: None where its labels are given, scores then is None; else the classes
    are those that the network finds in the last view (`predict_label`), which is for this alone, and scores is
    {class: probability}. Broken images go to `failures`.
    """
    form = memory_format(device, amp)
    for sample in tqdm(loader, "maps", unit="image", disable=None):
        if isinstance(sample, Broken):
            failures.add(sample.image_id, sample.reason)
            continue
        image_id, image, views, label = sample
        scores = None
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
            seen = [view.to(device, non_blocking=True).contiguous(memory_format=form) for view in views]
            if min_score is not None:
                whole = seen.pop()
                label, probabilities = predict_label(net(whole[:1])[1][0], min_score)
                scores = {k: float(probabilities[k]) for k in label.nonzero().flatten().tolist()}
            cam = multi_scale_cam(net, seen, label, image.shape[:2]).cpu().numpy()
        yield image_id, image.numpy(), {k: cam[k] for k in label.nonzero().flatten().tolist()}, scores


def describe_scores(image_id, scores, classes):
    """One line: the classes that were found in an image, the surest first. scores: {class: probability}."""
    found = sorted(scores, key=scores.get, reverse=True)
    return f"{image_id}: " + ", ".join(f"{classes[k]} {scores[k]:.2f}" for k in found)


def stored_maps(ids, photograph, maps, num_classes, failures):
    """As `network_maps`, of images whose maps were written before. photograph, maps: functions ID -> path."""
    said = set()
    for image_id in tqdm(ids, "from dict", unit="image", disable=None):
        try:
            image = np.array(open_image(photograph(image_id)))
            cams = read_maps(maps(image_id), image.shape[:2], num_classes)
        except UserError as error:
            failures.add(image_id, error)
            continue
        yield image_id, image, in_range(cams, maps(image_id), said), None


def in_range(maps, path, said):
    """{class: H x W} of a score file as float32 in [0, 1]; what is beyond is cut off, with one warning a run.

    said: an empty set at first, which remembers that it was said.
    """
    low, high = min(float(m.min()) for m in maps.values()), max(float(m.max()) for m in maps.values())
    if not said and (low < -TOLERANCE or high > 1 + TOLERANCE):
        said.add(path)
        print(
            f"warning: {path}: values from {low:.3g} to {high:.3g}; maps have 0 to 1, what is beyond is cut off",
            file=sys.stderr,
        )
    return {k: np.clip(m, 0, 1).astype(np.float32, copy=False) for k, m in maps.items()}


def network_scores(net, loader, device, amp, merge, failures):
    """Run a segmentation network on every view -> (ID, H x W x 3 uint8, L x H x W float32 scores) of each image.

    loader: over an InferenceSet without labels. merge: of `multi_scale_scores`. Broken images go to `failures`.
    """
    layout = memory_format(device, amp)
    for sample in tqdm(loader, "segment", unit="image", disable=None):
        if isinstance(sample, Broken):
            failures.add(sample.image_id, sample.reason)
            continue
        image_id, image, views, _ = sample
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
            views = [view.to(device, non_blocking=True).contiguous(memory_format=layout) for view in views]
            scores = multi_scale_scores(net, views, image.shape[:2], merge)
        yield image_id, image.numpy(), scores.cpu().numpy()
