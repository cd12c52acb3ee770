"""Validation while training: networks that see colours have scores that are known beforehand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from engine.distributed import World
from models.affinity import AffinityNet
from tool.crf import RELEASED
from tool.io.files import UserError
from tool.io.images import label_image, save_image
from tool.io.scores import write_scores
from tool.pseudo_labels import stack_scores, walk_scores
from voc12.data import WalkSet
from voc12.labels import load_labels, write_cls_labels
from voc12.transforms import IMAGENET
from voc12.validation import cam_sweep, segmentation_score, walk_score

IDS, CLASSES = ["one", "two", "three"], ("red", "blue")
COLOURS = np.array([[20, 20, 20], [250, 20, 20], [20, 20, 250]], np.uint8)


class Colours(nn.Module):
    """Two class maps, red and blue above the dark background; the scores of three labels."""

    def __init__(self):
        super().__init__()
        self.trunk = SimpleNamespace(mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bicubic")
        self.one = nn.Parameter(torch.ones(1))

    def class_maps(self, image):
        return self.one * (image[:, [0, 2]] - 0.2)

    def forward(self, image):
        return torch.cat([torch.full_like(image[:, :1], 0.5), image[:, [0, 2]]], 1)


def photograph(labels):
    return Image.fromarray(COLOURS[labels])


@pytest.fixture
def root(tmp_path):
    """Squares of one class on background; the mask of "three" says blue where its photograph is red."""
    for k, image_id in enumerate(IDS):
        labels = np.zeros((16, 24), np.uint8)
        labels[:8, :8] = 1 + k % 2
        save_image(tmp_path / "JPEGImages" / f"{image_id}.jpg", photograph(labels))
        if image_id == "three":
            labels[:8, :8] = 2
        save_image(tmp_path / "SegmentationClass" / f"{image_id}.png", label_image(labels))
    write_cls_labels(tmp_path / "labels.npy", {i: np.eye(2, dtype=np.float32)[k % 2] for k, i in enumerate(IDS)})
    return tmp_path


def labels_of(root):
    return load_labels(IDS, root, CLASSES, root / "labels.npy")


def walks_of(root):
    for k, image_id in enumerate(IDS):
        maps = np.zeros((16, 24), np.float32)
        maps[:8, :8] = 0.9
        write_scores(root / "dict" / f"{image_id}.npy", {k % 2: maps})
    return WalkSet(root, IDS, root / "dict", 2, look=IMAGENET)


# red: 64 of the 128 pixels that either side calls red; blue: 64 of 128
BY_HAND = {"miou": pytest.approx(100 * (1 + 1 / 2 + 1 / 2) / 3), "miou_present": pytest.approx(100 * 2 / 3)}


def test_a_segmentation_network_by_hand(root):
    assert segmentation_score(Colours(), World(), root, IDS, 3, 0, 0) == BY_HAND
    assert segmentation_score(Colours(), World(), root, IDS[:2], 3, 0, 0) == {"miou": 100, "miou_present": 100}
    scores = segmentation_score(Colours(), World(), root, IDS[:1], 3, 0, 0)  # nothing is blue
    assert scores == {"miou": pytest.approx(200 / 3), "miou_present": 100}


def test_class_activation_maps_by_hand(root):
    scores = cam_sweep(Colours(), World(), root, labels_of(root), 0)
    assert scores.pop("threshold") in np.round(np.arange(0.1, 0.35, 0.01), 2) and scores == BY_HAND


def test_maps_of_other_methods_are_walked_within_0_and_1(root, capsys):
    """As infer_aff.py walks them; what lies beyond is said once."""
    net, walks = AffinityNet(1 / 16).eval(), walks_of(root)
    expected = walk_score(net, World(), walks, 2, 0)
    for k, image_id in enumerate(IDS):
        maps = np.full((16, 24), -9, np.float32)
        maps[:8, :8] = 0.9
        write_scores(root / "dict" / f"{image_id}.npy", {k % 2: maps})
    assert walk_score(net, World(), walks, 2, 0) == expected
    assert capsys.readouterr().err.count("what is beyond is cut off") == 1


@pytest.mark.parametrize("crf", [False, True])
def test_a_walk_is_scored_by_its_best_label(root, crf, monkeypatch):
    """Against the walk of each image by itself; a CRF comes after it."""
    torch.manual_seed(0)
    net, walks = AffinityNet(1 / 16).eval(), walks_of(root)
    refined = []

    def refine(photo, keys, walked, pairwise):
        assert pairwise is RELEASED
        refined.append(photo.shape)
        return keys[np.zeros(walked.shape[1:], int)]  # all is background

    monkeypatch.setattr("voc12.validation.refine_labels", refine)
    with torch.no_grad():
        scores = walk_score(net, World(), walks, 2, 0, RELEASED if crf else None)
        counts = np.zeros((3, 3))
        for k, image_id in enumerate(IDS):
            truth = np.array(Image.open(root / "SegmentationClass" / f"{image_id}.png"))
            _, photo, view, maps = walks[k]
            keys, stacked = stack_scores(maps, 2, photo.shape[:2])
            labels = 0 * truth if crf else keys[walk_scores(net, view, stacked, "cpu").argmax(0)]
            np.add.at(counts, (truth, labels), 1)
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    assert scores["miou"] == pytest.approx(100 * (counts.diagonal() / np.maximum(union, 1)).mean())
    assert refined == ([(16, 24, 3)] * 3 if crf else [])


class Part(World):
    """One of two processes; `sums` has what it would have shared."""

    def __init__(self, rank):
        super().__init__(rank, 2)
        self.sums = []

    def sum(self, x):
        self.sums.append(x)
        return x


@pytest.mark.parametrize("kind", ["maps", "walk", "segmentation"])
def test_processes_share_the_images_and_their_counts_add_up(root, kind):
    torch.manual_seed(0)
    net = AffinityNet(1 / 16).eval() if kind == "walk" else Colours()
    walks = walks_of(root)

    def counts(world):
        with torch.no_grad():
            if kind == "maps":
                cam_sweep(net, world, root, labels_of(root), 0)
            elif kind == "walk":
                walk_score(net, world, walks, 2, 0)
            else:
                segmentation_score(net, world, root, IDS, 3, 0, 0)
        (found,) = world.sums
        return found

    whole = Part(0)
    whole.share = lambda items: items
    parts = [counts(Part(rank)) for rank in (0, 1)]
    assert np.array_equal(sum(parts), counts(whole)) and all(part.sum() for part in parts)


def test_a_broken_file_ends_a_validation(root):
    walks = walks_of(root)
    (root / "dict" / "two.npy").write_bytes(b"")
    with pytest.raises(UserError, match="two.npy"):
        walk_score(AffinityNet(1 / 16).eval(), World(), walks, 2, 0)
    (root / "JPEGImages" / "two.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="two.jpg"):
        cam_sweep(Colours(), World(), root, labels_of(root), 0)
    with pytest.raises(UserError, match="two.jpg"):
        segmentation_score(Colours(), World(), root, IDS, 3, 0, 0)
