"""What is made of an image beside the network: dense CRF and files, in worker processes or in a thread.

A job's work is called with (image H x W x 3 uint8, what the stage has of it, files). files: {name of an output: (path,
origin)} of those that are to be written, with {class: path} in place of the path where an image has a file a class;
None in place of both where nothing is written and only the time counts.
"""

from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np

from engine.outputs import Output
from tool import par
from tool.crf import ITERATIONS, RELEASED, crf_of_large
from tool.io.images import IGNORE, heat_overlay, label_image, label_overlay, save_image
from tool.io.scores import write_scores
from tool.metrics import best_labels
from tool.pseudo_labels import refine_labels
from tool.segmentation import CRF_ITERATIONS, CRF_PAIRWISE, label_map, refine_scores
from tool.workers import WRITING


class Job(NamedTuple):
    """Work beside the network. outputs: {name: Output}. work: a function of below. crf: whether in worker processes."""

    outputs: dict
    work: object
    crf: bool = False

    @property
    def folder(self):
        """That of the first output."""
        return next(iter(self.outputs.values())).folder


def pairwise(args):
    """The CRF's kernels by `add_widths`, and what the settings of results say of them: nothing of the released."""
    kernels = RELEASED._replace(bilateral_sxy=args.sxy, srgb=args.srgb, side=args.sxy_side)
    names = () if kernels == RELEASED else ("sxy", "srgb", "sxy_side")
    return kernels, {name: getattr(args, name) for name in names}


def refinement(args):
    """What --refine and the widths name: a function like `crf_of_large`, and what the settings of results say of it."""
    if args.refine == "par":
        return par.par_of_large, {"refine": "par", "iterations": par.ITERATIONS, "side": par.SIDE}
    kernels, widths = pairwise(args)
    refine = partial(crf_of_large, max_side=args.max_side, pairwise=kernels)
    return refine, widths | {"iterations": ITERATIONS}


def scores_refinement(args):
    """What --refine names for a segmentation network's scores: as `refinement`, a function like `refine_scores`."""
    if args.refine == "par":
        return par.par_scores, {"refine": "par", "iterations": par.SCORES_ITERATIONS, "side": par.SCORES_SIDE}
    return refine_scores, {"crf": list(CRF_PAIRWISE[:-1]), "iterations": CRF_ITERATIONS}


def crf_job(args, place, settings, pixel_bytes):
    """The job that refines maps with --alphas and --png, and says of its results what made them.

    place: the Experiment. settings: those of the maps. pixel_bytes: of a score of a pixel.
    """
    refine, said = refinement(args)
    own, outputs = settings | said, {}
    for alpha in args.alphas if args.crf else ():
        outputs[alpha] = Output(place.crf(alpha), own | {"alpha": alpha}, ".npy", bytes_a_pixel=(pixel_bytes,) * 2)
    for alphas in args.png or ():
        made = {"png": alphas[0] if len(alphas) == 1 else list(alphas)}
        outputs[alphas] = Output(place.crf_labels(alphas), own | made)
    return Job(outputs, partial(refine_maps, compressed=args.compress, refine=refine), crf=True)


# ---------------------------------------------------------------- what jobs do


def write_maps(image, cams, files, compressed):
    """cams: {class: H x W in [0, 1]}."""
    if files["dict"]:
        path, origin = files["dict"]
        write_scores(path, cams, compressed, origin)


def write_overlays(image, cams, files):
    """One picture a class, its map over the image. cams: {class: H x W in [0, 1]}."""
    if files["vis"]:
        paths, origin = files["vis"]
        for k, cam in cams.items():
            save_image(paths[k], heat_overlay(image, cam), origin)


def refine_maps(image, cams, files, compressed, refine):
    """Dense CRF of the maps, or PAR, for every background power. refine: see `refinement`.

    files: {alpha: file of the scores, (alpha, ...): of the best labels, 255 where these alphas have not the same}.
    """
    labelled, best = [name for name in files if isinstance(name, tuple)], {}
    alphas = sorted({*chain(*labelled), *files} - {*labelled})
    for alpha, scores in refine(image, cams, alphas):
        if files.get(alpha):
            path, origin = files[alpha]
            with WRITING:
                write_scores(path, scores, compressed, origin)
        if alpha in chain(*labelled):
            best[alpha] = best_labels(scores).astype(np.uint8)
    for name in labelled:
        first, *others = (best[alpha] for alpha in name)
        sure = np.all([first == other for other in others], axis=0)
        write_labels(image, np.where(sure, first, np.uint8(IGNORE)), {"labels": files[name]}, ())


def refine_walk(image, walked, files, names, max_side=0, pairwise=RELEASED):
    """Dense CRF of walked scores, then `write_labels`. walked: (keys, scores K x H x W)."""
    write_labels(image, refine_labels(image, *walked, max_side, pairwise), files, names)


def write_best(image, scored, files, names, refine=None):
    """`write_labels` of the best of a segmentation network's scores, after `refine`, a function like `refine_scores`.

    scored: (keys, scores L x h x w), keys: the L label ids, uint8.
    """
    keys, scores = scored
    scores = refine(image, scores) if refine else scores
    write_labels(image, keys[label_map(scores, image.shape[:2])], files, names)


def write_labels(image, labels, files, names):
    """Labels H x W as a palette PNG, and as an overlay with the `names` of the classes in its legend."""
    pictures = {"labels": lambda: label_image(labels), "vis": lambda: label_overlay(image, labels, names)}
    with WRITING:
        for name, file in files.items():
            if file:
                path, origin = file
                save_image(path, pictures[name](), origin)
