"""The losses of a training step: erasing, attract, repel and who is a negative, by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.aeft import AEFTNet
from models.resnet38d import ResNet38d
from models.triplet import TripletErasing, class_disjoint_partner, masked_mean


def test_erase_removes_the_peak_and_keeps_the_rest_in_proportion():
    losses = TripletErasing(high=0.6)
    cam = torch.tensor([[[[0.0, 0.25], [0.5, 1.0]], [[9.0, 0.0], [0.0, 0.0]]]])  # class 1 is not in the image
    image = torch.ones(1, 3, 2, 2)
    positive = losses.erase(image, cam, torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(positive[0, 0], torch.tensor([[0.0, 0.25], [0.5, 0.0]]), atol=2e-5, rtol=0)


def test_erase_passes_gradients_to_the_class_maps():
    cam = torch.rand(1, 1, 4, 4, requires_grad=True)
    TripletErasing().erase(torch.ones(1, 3, 8, 8), cam, torch.ones(1, 1)).sum().backward()
    assert cam.grad.abs().sum() > 0


def test_partner_shares_no_class_and_every_partner_occurs():
    label = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 1]])
    seen = {k: set() for k in range(4)}
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        partners, found = class_disjoint_partner(label, generator)
        assert found.tolist() == [True, True, True, False]  # the last image has every class
        for a, p in enumerate(partners[:3].tolist()):
            assert (label[a] * label[p]).sum() == 0
            seen[a].add(p)
    assert seen == {0: {1, 2}, 1: {0}, 2: {0}, 3: set()}


def test_masked_mean_by_hand():
    values = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]]])
    mask = torch.tensor([[[[True, False], [False, True]], [[False, False], [False, False]]]])
    assert masked_mean(values, mask).tolist() == [[2.5, 0.0]]


def repel_of(embeddings, margin):
    """TripletErasing.repel where anchors are `embeddings` and every negative is 0."""
    return TripletErasing(margin=margin).repel(embeddings, torch.zeros_like(embeddings), torch.eye(len(embeddings), 8))


def test_repel_needs_more_than_four_hard_pairs():
    distances = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.9, 0.9])
    embeddings = torch.zeros(6, 8)
    embeddings[:, 0] = distances.sqrt()
    assert repel_of(embeddings, margin=0.5).item() == 0  # four hard ones
    embeddings[4, 0] = 0.45**0.5
    expected = np.mean([0.4, 0.3, 0.2, 0.1, 0.05])
    assert repel_of(embeddings, margin=0.5).item() == pytest.approx(expected, rel=1e-4)


def test_classification_sees_the_first_samples_only():
    losses = TripletErasing(cls_batch=2)
    logits, label = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()
    expected = F.binary_cross_entropy_with_logits(logits[:2], label[:2])
    maps = torch.zeros(5, 3, 2, 2)
    terms = losses(OutputsGiven((maps, logits, maps)), torch.ones(5, 3, 2, 2), label, erase=False)
    torch.testing.assert_close(terms["cls"], expected)


def test_terms_add_up_and_the_warm_up_has_one():
    net = AEFTNet(ResNet38d(1 / 16)).eval()
    image, label = torch.randn(6, 3, 32, 32), torch.eye(6, 20)
    terms = TripletErasing(margin=50.0)(net, image, label)
    assert min(terms[k].item() for k in ("cls", "attract", "repel")) > 0
    assert terms["total"].item() == pytest.approx(sum(terms[k].item() for k in ("cls", "attract", "repel")))
    whole = TripletErasing(margin=50.0)(net, image, label.long())  # labels as most programs have them
    assert whole["cls"] == terms["cls"] and whole["attract"] == terms["attract"]
    warm_up = TripletErasing()(net, image, label, erase=False)
    assert warm_up["total"].item() == warm_up["cls"].item() and warm_up["attract"].item() == 0


class OutputsGiven(nn.Module):
    """A network that gives these outputs, one triple a forward, and keeps the images."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs, self.images = list(outputs), []

    def forward(self, image):
        self.images.append(image)
        return self.outputs[len(self.images) - 1]


def outputs(cam, logits, gpp):
    """Of one image and two classes; cam, gpp: their values everywhere on 2 x 2 cells."""
    cam, gpp = (torch.tensor([v])[:, :, None, None].expand(1, 2, 2, 2) for v in (cam, gpp))
    return cam, torch.tensor([logits]), gpp


FIRST = outputs(cam=[3.0, 9.0], logits=[0.0, 0.0], gpp=[1.0, 9.0])


ERASED = outputs(cam=[1.0, 9.0], logits=[0.0, math.log(3)], gpp=[0.5, 9.0])


def terms_of(**options):
    """The terms of one image of class 0 with these outputs -> (terms, number of forwards)."""
    net = OutputsGiven(FIRST, ERASED)
    terms = TripletErasing(**options)(net, torch.ones(1, 3, 2, 2), torch.tensor([[1.0, 0.0]]))
    return {k: v.item() for k, v in terms.items()}, len(net.images)


def test_rigid_is_the_classification_of_the_erased_image_by_hand():
    terms, forwards = terms_of(attract="rigid")
    bce = (math.log(2) + math.log(4)) / 2  # class 0: -log 1/2; class 1, absent: -log(1 - 3/4)
    assert terms["attract"] == pytest.approx(0.2 * bce) and forwards == 2
    assert terms["total"] == pytest.approx(math.log(2) + 0.2 * bce)


@pytest.mark.parametrize(("metric", "distance"), [("gpp", 0.5), ("cam", 2.0)])
def test_attract_compares_the_metrics_maps_by_hand(metric, distance):
    terms, forwards = terms_of(metric=metric)
    assert terms["attract"] == pytest.approx(0.2 * distance / 2) and forwards == 2  # the absent class counts as 0


def test_regions_of_the_metrics_maps_by_hand():
    cam = torch.tensor([[[[0.0, 4.0], [1.0, 2.0]]]])  # maxnorm: 0, 1, 1/4, 1/2; the peak is just below 1
    gpp = torch.tensor([[[[8.0, 1.0], [4.0, -8.0]]]])
    net, label = OutputsGiven((cam, torch.zeros(1, 1), gpp)), torch.ones(1, 1)
    taken = {}
    for metric in ("gpp", "cam"):
        losses = TripletErasing(attract="none", metric=metric, low=0.3)
        losses.repel = lambda anchor, negative, *_, m=metric: taken.update({m: (anchor, negative)}) or torch.zeros(())
        losses(net, torch.ones(1, 3, 2, 2), label)
        net.images.clear()
    assert [e.item() for e in taken["gpp"]] == pytest.approx([(1 + 0.5) / 2, (1 + 1 / 8 + 0.5 - 1) / 4], rel=1e-4)
    assert [e.item() for e in taken["cam"]] == pytest.approx([(0 + 0.25) / 2, (0 + 1 + 0.25 + 0.5) / 4], rel=1e-4)


def test_an_image_without_a_class_is_a_partner_and_no_anchor():
    label = torch.tensor([[1.0, 0], [1, 1], [0, 0], [0, 0]])
    seen = {0: set(), 1: set()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        partners, found = class_disjoint_partner(label, generator)
        assert found.tolist() == [True, True, False, False]
        for a, p in enumerate(partners[:2].tolist()):
            seen[a].add(p)
    assert seen == {0: {2, 3}, 1: {2, 3}}
    assert not class_disjoint_partner(torch.zeros(3, 2))[1].any()


def test_the_losses_of_a_batch_with_an_image_without_a_class_by_hand():
    """Five images of class 0 with the same maps, then one of no class; all six have class 1 in their maps, no label."""
    cam = torch.tensor([[[0.0, 4.0], [1.0, 2.0]], [[9.0, 0.0], [0.0, 0.0]]])
    gpp = torch.tensor([[[8.0, 1.0], [4.0, -8.0]], [[1.0, 1.0], [1.0, 1.0]]])
    other = torch.tensor([[[-2.0, -2.0], [2.0, -4.0]], [[5.0, 5.0], [5.0, 5.0]]])  # of the image of no class
    maps = torch.stack([gpp] * 5 + [other])
    logits = torch.tensor([[0.0, 0.0]] * 5 + [[math.log(3), -math.log(3)]])
    label = torch.tensor([[1.0, 0.0]] * 5 + [[0.0, 0.0]])
    net = OutputsGiven((torch.stack([cam] * 6), logits, maps), (torch.stack([cam] * 6), logits, maps / 2))
    terms = TripletErasing(low=0.3)(net, torch.ones(6, 3, 2, 2), label)
    # classification: every cell of the five is -log 1/2; of the last -log(1 - 3/4) and -log(1 - 1/4)
    cls = (10 * math.log(2) + math.log(4) + math.log(4 / 3)) / 12
    assert terms["cls"].item() == pytest.approx(cls)
    # attract: mean ReLU(gpp) of class 0 is (8 + 1 + 4)/4 and half of that; the last image has 0 in both, and counts
    assert terms["attract"].item() == pytest.approx(0.2 * 5 * (13 / 8) / 12)
    # nothing of the last image is kept where it is erased
    assert net.images[1][5].abs().max() == 0 and net.images[1][0].abs().max() > 0
    # repel: each of the five has the last image as negative, compared in the anchor's class 0 alone
    anchor, negative = (1 + 0.5) / 2, (-2 - 2 + 2 - 4) / 4 / 4
    distance = (anchor - negative) ** 2
    assert distance > 0.5 and terms["repel"].item() == 0  # none is hard
    net.images.clear()
    terms = TripletErasing(low=0.3, margin=2.0)(net, torch.ones(6, 3, 2, 2), label)
    assert terms["repel"].item() == pytest.approx(0.15 * (2 - distance), rel=1e-4)


def test_repel_reaches_the_image_without_a_class():
    """Its own label would embed it as 0 and teach nothing about it."""
    torch.manual_seed(0)
    cam, maps = torch.rand(6, 2, 4, 4), torch.randn(6, 2, 4, 4, requires_grad=True)
    label = torch.tensor([[1.0, 0]] * 5 + [[0, 0]])
    losses = TripletErasing(margin=50.0)
    losses.repel(*losses.region_embeddings(cam, maps, label), label).backward()
    assert maps.grad[5, 0].abs().sum() > 0 and maps.grad[5, 1].abs().sum() == 0


@pytest.mark.parametrize("repel", [True, False])
def test_without_attract_nothing_is_erased(repel):
    terms, forwards = terms_of(attract="none", repel=repel)
    assert forwards == 1 and terms["attract"] == 0 and terms["total"] == terms["cls"]


def test_without_repel_the_other_terms_stay():
    net = AEFTNet(ResNet38d(1 / 16)).eval()
    image, label = torch.randn(6, 3, 32, 32), torch.eye(6, 20)
    whole, part = (TripletErasing(margin=50.0, repel=repel)(net, image, label) for repel in (True, False))
    assert whole["repel"] > 0 and part["repel"] == 0
    assert part["cls"] == whole["cls"] and part["attract"] == whole["attract"]


@pytest.mark.parametrize("options", [{"attract": "hard"}, {"metric": "logits"}, {"weights": (1, 2, 3, 4)}])
def test_unknown_terms_are_refused(options):
    with pytest.raises(ValueError, match=r"'hard'|'logits'|\(1, 2, 3, 4\)"):
        TripletErasing(**options)
