"""Dense CRF (Kraehenbuehl and Koltun, 2011) with real image colours; one lattice serves all alphas."""

import sys
from typing import NamedTuple

import cv2
import numpy as np

from tool.cam import inner_size
from tool.io.files import UserError, print_warning

INSTALL = "pip install pydensecrf2"
if sys.version_info >= (3, 13):  # for which the Cython that it asks for is too old
    INSTALL = "pip install cython setuptools wheel, then pip install --no-build-isolation pydensecrf2"
ITERATIONS = 10  # of the maps' CRF; that of the walk has its own
MIN_PROBABILITY = 1e-5  # unary = -log of at least this
SMALLEST_SHARE = 1e-20  # of a unary in the softmax over several
TOGETHER_VALUES = 2**23  # labels x pixels refined at once: 32 MiB of float32 in each of some six buffers


class Pairwise(NamedTuple):
    """The two kernels: a Gaussian of position, and a bilateral one of position and colour; widths s, weights compat.

    side: pixels of the longer side of an image for which widths in position are meant, see `at`; 0: of every image.
    """

    sxy: float
    compat: float
    bilateral_sxy: float
    srgb: float
    bilateral_compat: float
    side: int = 0

    def at(self, size):
        """The kernels for an image of `size` (h, w), widths in position in proportion to its longer side."""
        factor = max(size) / self.side if self.side else 1
        return self._replace(sxy=self.sxy * factor, bilateral_sxy=self.bilateral_sxy * factor)


RELEASED = Pairwise(sxy=3, compat=3, bilateral_sxy=80, srgb=13, bilateral_compat=10)


def load_crf(otherwise=""):
    """pydensecrf's class, to be loaded before long work that needs it; UserError without, which ends in `otherwise`."""
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except (ImportError, ValueError) as error:  # the latter: built for another numpy
        text = f"a CRF needs pydensecrf, which does not load here ({error})"
        raise UserError(f"{text}; install a C++ compiler, then {INSTALL}{otherwise}") from None
    return DenseCRF2D


def has_crf():
    """Whether `load_crf` works; a warning says why not."""
    try:
        load_crf()
    except UserError as error:
        print_warning(f"left away: {error}")
        return False
    return True


class DenseCRF:
    """The CRF of one image; the lattices are built once and used for every unary.

    image: H x W x 3 uint8, RGB. num_labels: how many a unary has. unaries: how many `together` refines.
    """

    def __init__(self, image, num_labels, unaries=1, pairwise=RELEASED):
        image = np.array(image, dtype=np.uint8, order="C")  # a copy: pydensecrf refuses read-only arrays
        self.shape = (num_labels, *image.shape[:2])
        self.unaries, pairwise = unaries, pairwise.at(image.shape[:2])
        self.crf = load_crf()(image.shape[1], image.shape[0], unaries * num_labels)
        self.crf.addPairwiseGaussian(sxy=pairwise.sxy, compat=pairwise.compat)
        self.crf.addPairwiseBilateral(
            sxy=pairwise.bilateral_sxy, srgb=pairwise.srgb, rgbim=image, compat=pairwise.bilateral_compat
        )

    def _set(self, probabilities):
        unary = -np.log(np.clip(probabilities, MIN_PROBABILITY, 1.0)).astype(np.float32)
        self.crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(self.unaries * self.shape[0], -1)))

    def __call__(self, probabilities, iterations):
        """probabilities: labels x H x W -> the same, refined; each pixel sums to 1."""
        self._set(probabilities)
        return np.array(self.crf.inference(iterations), dtype=np.float32).reshape(self.shape)

    def together(self, probabilities, iterations):
        """probabilities: unaries x labels x H x W -> the same, refined; each pixel of a unary sums to 1.

        Messages of one label never reach another, only the softmax binds labels. pydensecrf takes it over the labels
        of all unaries; divided by the sum over its own labels, each unary has what it would have had alone. Filtering
        nine values on a lattice takes half the time of filtering three, three times.
        Returns None where a unary's share of the common softmax is too small for float32.
        """
        self._set(probabilities)
        state = self.crf.startInference()  # (Q, buffer, buffer)
        q = np.asarray(state[0])  # a view, labels of all unaries x pixels
        for step in range(iterations + 1):
            if step:
                self.crf.stepInference(*state)
            for part in np.split(q, self.unaries):
                total = sum(part[1:], part[0])  # row by row: ten times as fast as sum(0) and one division
                if total.min() < SMALLEST_SHARE:
                    return None
                for row in part:
                    row /= total
        return np.array(q, order="C").reshape(self.unaries, *self.shape)


def refine(image, probabilities, iterations, pairwise=RELEASED):
    """Refine several unaries of one image: H x W x 3 uint8, unaries x labels x H x W -> the same, on one lattice."""
    unaries, labels = probabilities.shape[:2]
    if unaries > 1 and probabilities.size <= TOGETHER_VALUES:
        result = DenseCRF(image, labels, unaries, pairwise).together(probabilities, iterations)
        if result is not None:
            return result
    crf = DenseCRF(image, labels, pairwise=pairwise)
    return np.stack([crf(unary, iterations) for unary in probabilities])


def background_score(cams, alpha):
    """(1 - max over classes)^alpha. cams: K x H x W in [0, 1] -> H x W; 1 without any class."""
    return np.power(1 - cams.max(0, initial=0), alpha)


def fit(array, size):
    """H x W (x 3) array at `size` (h, w): averaged where that is smaller, bilinear where it is larger."""
    if array.shape[:2] == tuple(size):
        return array
    method = cv2.INTER_AREA if size[0] < array.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(array, tuple(size)[::-1], interpolation=method)


def crf_of_large(image, cams, alphas, max_side, pairwise=RELEASED):
    """`crf_with_alphas` at most `max_side` pixels long, see `inner_size`: gives (alpha, maps of the image's own size).

    One alpha at a time: those of a phone's photograph take 50 MB a label.
    """
    size = image.shape[:2]
    seen = inner_size(size, max_side)
    small = {k: fit(cam, seen) for k, cam in cams.items()}
    for alpha, scores in crf_with_alphas(fit(image, seen), small, alphas, pairwise=pairwise).items():
        yield alpha, {key: fit(score, size) for key, score in scores.items()}


def crf_with_alphas(image, cams, alphas, iterations=ITERATIONS, pairwise=RELEASED):
    """Refine class activation maps, once for each background power alpha.

    image: H x W x 3 uint8 RGB. cams: {class index from 0: H x W float32 in [0, 1]}. alphas: background powers > 0.
    Returns {alpha: {0: background, c + 1: class c}} of H x W float32 maps; each pixel's values sum to 1. Without any
    class the background is 1 everywhere.
    """
    if not cams or not len(alphas):
        return {alpha: {0: np.ones(image.shape[:2], np.float32)} for alpha in alphas}
    keys = sorted(cams)
    stack = np.stack([cams[k] for k in keys])
    unaries = np.stack([np.concatenate([background_score(stack, alpha)[None], stack]) for alpha in alphas])
    labels = (0, *(k + 1 for k in keys))
    refined = refine(image, unaries, iterations, pairwise)
    return {alpha: dict(zip(labels, scores)) for alpha, scores in zip(alphas, refined)}
