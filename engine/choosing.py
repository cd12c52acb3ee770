"""What choose.py counts on photographs with masks: confusion matrices of every setting that it tries."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from tool.io.files import UserError
from tool.io.images import open_image
from tool.metrics import ThresholdSweep, best_labels, confusion
from tool.pseudo_labels import refine_labels, stack_scores, walk_scores
from tool.workers import follow_parent, process_context
from voc12.data import Broken, in_range, read_maps
from voc12.paths import image_path, true_mask


class Masked(NamedTuple):
    """Photographs with masks and stored maps. maps: folder. num_labels: with background. max_side: the CRF's."""

    root: str
    maps: object
    num_labels: int
    max_side: int


def count_settings(image_id, masked, thresholds, alphas, refine):
    """One photograph -> (thresholds x L x L of its maps, refinements x alphas x L x L of what refines them), int64.

    refine: functions like `crf_of_large`.
    """
    photo, labels = np.array(open_image(image_path(masked.root, image_id))), masked.num_labels
    path = f"{masked.maps}/{image_id}.npy"
    cams = in_range(read_maps(path, photo.shape[:2], labels - 1), path, {path})
    truth, sweep = true_mask(masked.root, image_id, labels, photo.shape[:2]), ThresholdSweep(labels, thresholds)
    sweep.add(truth, cams)
    counts = [
        [confusion(truth, best_labels(scores), labels) for _, scores in one(photo, cams, alphas)] for one in refine
    ]
    return sweep.confusions(), np.array(counts)


def count_all(ids, processes, masked, **tried):
    """`count_settings` of all photographs, in worker processes: (ID, counts) in the order of `ids`."""
    work = partial(count_settings, masked=masked, **tried)
    with ProcessPoolExecutor(min(processes, len(ids)), process_context(), initializer=follow_parent) as pool:
        try:
            objects = 0
            for image_id, counts in zip(ids, tqdm(pool.map(work, ids), "CRF", len(ids), unit="image", disable=None)):
                objects += counts[0][0][1:].sum()
                yield image_id, counts
            if not objects:
                raise UserError(f"{masked.root}: none of {len(ids)} masks shows a class, by which one could choose")
        finally:
            pool.shutdown(cancel_futures=True)


def count_walks(net, walks, masked, dup, betas, kernel):
    """Of each photograph of a WalkSet the labels of stage 4 with each power on affinities: (ID, betas x L x L)."""
    device, said = next(net.parameters()).device, set()
    for index in tqdm(range(len(walks)), "walk", unit="image", disable=None):
        sample = walks[index]
        if isinstance(sample, Broken):
            raise UserError(sample.reason)
        image_id, photo, view, maps = sample
        keys, scores = stack_scores(in_range(maps, f"{masked.maps}/{image_id}.npy", said), dup, photo.shape[:2])
        walked = (walk_scores(net, view, scores, device, beta) for beta in betas)
        truth = true_mask(masked.root, image_id, masked.num_labels, photo.shape[:2])
        labels = (refine_labels(photo, keys, one, masked.max_side, kernel) for one in walked)
        yield image_id, np.array([confusion(truth, one, masked.num_labels) for one in labels])


def by_fold(counted, parts):
    """(ID, counts) of images -> counts of each fold added up, folds x ... parts: {ID: number of its fold}."""
    total = {}
    for image_id, counts in counted:
        total[parts[image_id]] = total.get(parts[image_id], 0) + counts
    return np.stack([total[k] for k in sorted(total)])
