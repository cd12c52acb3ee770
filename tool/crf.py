"""Dense CRF (Kraehenbuehl and Koltun, 2011) with the settings of the released code; one lattice serves all alphas.

sxy 3, compat 3 for the Gaussian; sxy 80, srgb 13, compat 10 for the bilateral term; real image colours.
"""

import numpy as np
from pydensecrf.densecrf import DenseCRF2D

MIN_PROBABILITY = 1e-5  # unary = -log of at least this


class DenseCRF:
    """The CRF of one image for a number of labels; the lattices are built once and used for every unary.

    image: H x W x 3 uint8, RGB.
    """

    def __init__(self, image, num_labels):
        image = np.array(image, dtype=np.uint8, order="C")  # a copy: pydensecrf refuses read-only arrays
        self.shape = (num_labels, *image.shape[:2])
        self.crf = DenseCRF2D(image.shape[1], image.shape[0], num_labels)
        self.crf.addPairwiseGaussian(sxy=3, compat=3)
        self.crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=10)

    def __call__(self, probabilities, iterations):
        """probabilities: labels x H x W -> the same, refined; each pixel sums to 1."""
        unary = -np.log(np.clip(probabilities, MIN_PROBABILITY, 1.0)).astype(np.float32)
        self.crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(self.shape[0], -1)))
        return np.array(self.crf.inference(iterations), dtype=np.float32).reshape(self.shape)


def background_score(cams, alpha):
    """(1 - max over classes)^alpha. cams: K x H x W in [0, 1] -> H x W."""
    return np.power(1 - cams.max(0), alpha)


def crf_with_alphas(image, cams, alphas, iterations=10):
    """Refine class activation maps, once for each background power alpha.

    image: H x W x 3 uint8 RGB. cams: {class index from 0: H x W float32 in [0, 1]}. alphas: background powers > 0.
    Returns {alpha: {0: background, c + 1: class c}} of H x W float32 maps; each pixel's values sum to 1.
    """
    keys = sorted(cams)
    stack = np.stack([cams[k] for k in keys])
    crf = DenseCRF(image, len(keys) + 1)
    results = {}
    for alpha in alphas:
        scores = crf(np.concatenate([background_score(stack, alpha)[None], stack]), iterations)
        results[alpha] = {0: scores[0], **{k + 1: score for k, score in zip(keys, scores[1:])}}
    return results
