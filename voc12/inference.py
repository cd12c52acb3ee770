"""Maps and scores of one image after the other, from a network or as they are stored, for CRF and random walk."""

import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from tool.cam import inner_size, labelled_cam, predict_label
from tool.io.files import UserError, read_list
from tool.io.images import open_image
from tool.run.arguments import scored_list
from tool.run.device import memory_format
from tool.segmentation import multi_scale_scores
from voc12.data import Broken, check_images, mask_path, read_maps, require_images
from voc12.layout import find_photographs, fold_id, fold_names, say_turned

TOLERANCE = 1e-3  # of maps beyond 0 and 1: half floats are that coarse


def find_images(images, out):
    """{ID: path} of a photograph, or of all in a folder and below it; a/b.png there has the ID a__b.

    out: a folder that is passed over, since results may go into the folder itself. UserError where there are none, or
    two of one ID.
    """
    path = Path(images)
    if path.is_file():
        found = {fold_id(path.stem): path}
    else:
        names = fold_names(find_photographs(path, without=[out]))
        found = {image_id: path / name for image_id, name in names.items()}
    say_turned(found.values())
    return found


def usable_images(ids, voc12_root, failures):
    """The IDs that have an image; see --on_error for the others."""
    if not failures.skip:
        check_images(ids, voc12_root)
        return ids
    return failures.usable(ids, lambda image_id: require_images([image_id], voc12_root))


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
    form, larger = memory_format(device, amp), Larger(loader.dataset.views.max_side)
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
            cams = labelled_cam(net, seen, label, larger.inner(image_id, image.shape[:2]), image.shape[:2])
        yield image_id, image.numpy(), cams, scores
    larger.say()


class Larger:
    """Photographs that --max_side brings down: the first one is said at once, how many there were at the end."""

    def __init__(self, max_side):
        self.max_side, self.count = max_side, 0

    def inner(self, image_id, size):
        """`inner_size` of a photograph of `size` (h, w), which is counted."""
        seen = inner_size(size, self.max_side)
        if seen != tuple(size):
            self.count += 1
            if self.count == 1:
                tqdm.write(
                    f"{image_id}: {size[1]} x {size[0]} pixels, seen at {seen[1]} x {seen[0]} (--max_side "
                    f"{self.max_side}, as all that are larger); results have its own size",
                    file=sys.stderr,
                )
        return seen

    def say(self):
        if self.count:
            print(f"{self.count} photographs were larger than --max_side {self.max_side}", file=sys.stderr)


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
    """Run a segmentation network on every view -> (ID, H x W x 3 uint8, L x h x w float32 scores) of each image.

    h x w: the size at which it is seen (`inner_size`). loader: over an InferenceSet without labels. merge: of
    `multi_scale_scores`. Broken images go to `failures`.
    """
    layout, larger = memory_format(device, amp), Larger(loader.dataset.views.max_side)
    for sample in tqdm(loader, "segment", unit="image", disable=None):
        if isinstance(sample, Broken):
            failures.add(sample.image_id, sample.reason)
            continue
        image_id, image, views, _ = sample
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
            views = [view.to(device, non_blocking=True).contiguous(memory_format=layout) for view in views]
            scores = multi_scale_scores(net, views, larger.inner(image_id, image.shape[:2]), merge)
        yield image_id, image.numpy(), scores.cpu().numpy()
    larger.say()
