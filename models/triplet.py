"""Adversarial erasing with a triplet: the training step of AEFT (paper, section 3.3).

Classic erasing hides what the classifier already found and asks for the same labels, which are wrong once the whole
object is gone. Here the erased image is a *positive* of the image (pull their class embeddings together) and an image
without a common class is a *negative* (push apart), so over-erasing costs nothing it should not.

Released behaviour kept here: the classification loss sees the first `cls_batch` samples only, also when the batch is
larger; the repel term is added only when more than 4 pairs are hard. Mended: an image without a class-disjoint
partner is left out (released misaligns anchors and negatives there); every term is reported by itself (released adds
them up in place, so its logged classification loss is the total).

An image that shows none of the classes (released has none) is classified like any other, has 0 for both embeddings of
attract, and is no anchor, as it has no class to anchor. It is a negative of every image with a class; there it is
embedded in the anchor's classes, in its own it would be 0 whatever it shows.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from models.resnet38d import running_statistics_kept
from tool.cam import EPS, maxnorm, on_pixels

MIN_HARD_PAIRS = 4  # the repel term needs more hard pairs than this (released)
ATTRACT = ("soft", "rigid", "none")
METRICS = ("gpp", "cam")


def class_disjoint_partner(label, generator=None):
    """For each image with a class, a uniformly random image of the batch that shares none with it.

    label: B x C of 0 and 1. generator: a CPU torch.Generator, None for the global one.
    Returns (partners, found): B int64 indices, and B bool, false for images without a partner, whose
    index says nothing.
    """
    # all of it where the labels are, and masks instead of a list of those with a partner: nothing waits for a GPU
    label = label.detach().float()
    disjoint = ((label @ label.T) == 0) & has_class(label)  # B x B
    draw = torch.rand(disjoint.shape, generator=generator).to(label.device, non_blocking=True)
    best, partners = draw.masked_fill(~disjoint, -1.0).max(dim=1)
    return partners, best >= 0


class TripletErasing:
    """One training step's losses.

    high: activation from which a pixel is erased; low: activation below which a cell counts as not the object.
    margin: squared distance beyond which an anchor and its negative are left alone.
    weights: factors on classification, attract and repel. cls_batch: samples that the classification loss sees.

    What the paper compares: attract "soft" (its method), "rigid" (classic erasing: the positive image is classified
    with the labels of the image) or "none"; repel or not; metric: embeddings of "gpp" or of "cam".
    """

    def __init__(
        self,
        high=0.6,
        low=0.2,
        margin=0.5,
        weights=(1.0, 0.2, 0.15),
        cls_batch=8,
        attract="soft",
        repel=True,
        metric="gpp",
    ):
        if attract not in ATTRACT or metric not in METRICS or len(weights) > len(TERMS):
            raise ValueError(f"attract {attract!r} of {ATTRACT}, metric {metric!r} of {METRICS}, weights {weights}")
        self.attraction, self.repels, self.metric = attract, repel, metric
        self.high = high
        self.low = low
        self.margin = margin
        self.weights = {name: weight for name, (_, weight) in TERMS.items()} | dict(zip(TERMS, weights))
        self.cls_batch = cls_batch

    def __call__(self, net, image, label, erase=True, generator=None, gather=lambda x: x):
        """image: B x 3 x H x W; label: B x C of 0 and 1; erase False is the warm-up (classification alone).

        gather: with several processes, what makes the global batch of each one's part (World.gather); which samples
        are classified, which negatives there are and how many pairs are hard is then decided over all of it.
        Returns {"total"} and a scalar tensor for each of TERMS with its weight in it: total is their sum.
        """
        label, (cam, logits, gpp) = label.to(image.dtype), net(image)
        seen = Seen(label, cam, logits, self.embedded(cam, gpp), None, gather, generator)
        names = [name for name in TERMS if name == "cls" or erase]
        if erase and self.attraction != "none":
            with running_statistics_kept(net):
                cam_positive, logits_positive, gpp_positive = net(self.erase(image, cam, label, net))
            seen = seen._replace(erased=(logits_positive, self.embedded(cam_positive, gpp_positive)))
        losses = dict.fromkeys(TERMS, logits.new_zeros((), dtype=torch.float32))
        for name in names:
            losses[name] = self.weights[name] * TERMS[name][0](self, seen)
        return {"total": sum(losses.values())} | losses

    def embedded(self, cam, gpp):
        """The maps that embeddings are taken from."""
        return cam if self.metric == "cam" else gpp

    def erase(self, image, cam, label, net=None):
        """The positive image: what is most active is removed, the rest kept in proportion to its activation.

        Soft, so gradients flow to the class maps through the activation f. net: whose maps these are, where it may pad
        images. Returns B x 3 x H x W.
        """
        size = image.shape[-2:]
        activation = maxnorm(on_pixels(net, F.relu(cam), size, size))  # B x C x H x W
        f = (activation * label[:, :, None, None]).amax(dim=1, keepdim=True)  # B x 1 x H x W
        return image * f * (f < self.high)

    def repel(self, e_background, e_object, label, generator=None):
        """Hinge on the squared distance between each anchor and the object embedding of a class-disjoint image.

        e_background, e_object: B x C, what `region_embeddings` gives.
        """
        partners, found = class_disjoint_partner(label, generator)
        negatives = e_object[partners] * torch.where(has_class(label[partners]), 1, label)
        distance = (e_background - negatives).square().sum(dim=1)  # B
        hard = found & (distance < self.margin)
        pairs = hard.sum()
        mean = torch.where(hard, self.margin - distance, 0).sum() / pairs.clamp(min=1)
        return torch.where(pairs > MIN_HARD_PAIRS, mean, 0)

    def region_embeddings(self, cam, maps, label):
        """Class embeddings of two regions of each image: where activation is below `low`, and where it is below 1.

        Each is the mean of the range-normalised maps (gpp) over the cells of its region, a class at a time.
        Returns two B x C tensors, 0 for classes that the image does not have; where it has none, the second holds all
        classes, over all cells.
        """
        m = maxnorm(cam) * label[:, :, None, None]
        g = maps / (maps.abs().amax((2, 3), keepdim=True) + EPS)
        own = torch.where(has_class(label), label, 1)
        return masked_mean(g, m < self.low) * label, masked_mean(g, m < 1) * own


def has_class(label):
    """B x C of 0 and 1 -> B x 1 bool."""
    return label.any(dim=1, keepdim=True)


# ---------------------------------------------------------------- the terms


class Seen(NamedTuple):
    """A batch as the terms see it, this process's part: label B x C, cam and maps B x C x h x w, logits B x C.

    maps: those that embeddings are taken from. erased: (logits, maps) of the erased images, None where nothing is
    erased. gather: makes the global batch of a part. generator: draws random numbers that all processes share.
    """

    label: torch.Tensor
    cam: torch.Tensor
    logits: torch.Tensor
    maps: torch.Tensor
    erased: tuple | None
    gather: object
    generator: object


def classification(losses, seen):
    """Binary cross entropy of the first `cls_batch` samples."""
    logits, label = seen.gather(seen.logits), seen.gather(seen.label)
    return F.binary_cross_entropy_with_logits(logits[: losses.cls_batch], label[: losses.cls_batch])


def attraction(losses, seen):
    """Mean L1 distance between class embeddings of image and positive image, B x C, the mean positive evidence of each
    class that the image has; 0 where nothing is erased.

    Or rigid, in its place: binary cross entropy of the positive images with the labels of their images. That is what
    classic erasing asks for, also where the whole object is gone.
    """
    if seen.erased is None:
        return seen.cam.new_zeros(())
    logits, maps = seen.erased
    if losses.attraction == "rigid":
        return F.binary_cross_entropy_with_logits(seen.gather(logits), seen.gather(seen.label))
    anchor, positive = (seen.gather(F.relu(one).mean((2, 3)) * seen.label) for one in (seen.maps, maps))
    return F.l1_loss(positive, anchor)


def repulsion(losses, seen):
    if not losses.repels:
        return seen.cam.new_zeros(())
    regions = (seen.gather(e) for e in losses.region_embeddings(seen.cam, seen.maps, seen.label))
    return losses.repel(*regions, seen.gather(seen.label), seen.generator)


# {name: (function of the TripletErasing and what is Seen -> scalar, weight where none is given)}; all but the first
# need an image that is erased, or at least the epochs in which images are
TERMS = {"cls": (classification, 1.0), "attract": (attraction, 0.2), "repel": (repulsion, 0.15)}


def masked_mean(values, mask):
    """Mean over space where mask is true, 0 where it is nowhere; B x C x h x w twice -> B x C."""
    return (values * mask).sum((2, 3)) / mask.sum((2, 3)).clamp(min=1)
