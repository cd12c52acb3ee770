"""make_msrc.py on a few images in MSRC-v2's colours."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from conftest import prints, refused
from PIL import Image

from tool.io.files import read_list
from tool.io.images import PALETTE, open_mask
from voc12.classes import VOC_CLASSES
from voc12.labels import load_labels, read_xml_label

SCRIPT = "voc12/make_msrc.py"
GRASS, SKY, MOUNTAIN, VOID = (0, 128, 0), (128, 128, 128), (64, 0, 0), (0, 0, 0)
# file -> [(colour, VOC's class, rows, columns)], on grass
SCENES = {
    "1_9_s": [((0, 0, 128), "cow", (2, 5), (3, 9)), (VOID, 255, (0, 1), (0, 12)), (SKY, 0, (7, 8), (0, 12))],
    "2_30_s": [((128, 0, 128), "horse", (1, 3), (0, 4)), ((0, 128, 128), "sheep", (5, 8), (2, 12))],
    "6_1_s": [((192, 128, 0), "person", (0, 2), (4, 6)), ((64, 64, 0), "person", (2, 8), (3, 8))],
    "20_123_s": [((192, 64, 0), "boat", (4, 6), (0, 2)), ((192, 0, 0), "aeroplane", (0, 1), (9, 12))],
    "4_4_s": [((64, 0, 128), "car", (0, 1), (0, 1)), ((192, 0, 128), "bicycle", (1, 2), (0, 1))],
    "5_5_s": [((0, 64, 0), "bird", (0, 1), (0, 1)), ((0, 192, 0), "chair", (1, 2), (0, 1))],
    "7_7_s": [((0, 192, 128), "cat", (0, 1), (0, 1)), ((128, 192, 128), "dog", (1, 2), (0, 1))],
    "3_3_s": [(MOUNTAIN, 0, (0, 4), (0, 12)), (VOID, 255, (4, 5), (0, 12))],  # shows none of the classes
}
IDS = ["2005_010009", "2005_020030", "2005_040004", "2005_050005", "2005_060001", "2005_070007", "2005_200123"]


def write_scene(msrc, name, parts, size=(12, 8)):
    colours = np.full((size[1], size[0], 3), GRASS, np.uint8)
    for colour, _, rows, columns in parts:
        colours[slice(*rows), slice(*columns)] = colour
    Image.fromarray(colours).save(msrc / "GroundTruth" / f"{name}_GT.bmp")
    Image.new("RGB", (12, 8), (90, 90, 90)).save(msrc / "Images" / f"{name}.bmp")


@pytest.fixture
def msrc(tmp_path):
    for name in ("Images", "GroundTruth"):
        (tmp_path / "msrc" / name).mkdir(parents=True)
    for name, parts in SCENES.items():
        write_scene(tmp_path / "msrc", name, parts)
    return tmp_path / "msrc"


def image_id(name):
    group, number, _ = name.split("_")
    return f"2005_{group.zfill(2)}{number.zfill(4)}"


def test_ids_masks_annotations_and_lists(msrc, tmp_path):
    (msrc / "Images" / "9_9_s.bmp").write_bytes((msrc / "Images" / "1_9_s.bmp").read_bytes())  # without a mask
    printed = prints(SCRIPT, "--msrc", msrc, "--out", tmp_path / "set")
    out = tmp_path / "set"
    for name in ("Main", "Segmentation"):
        assert read_list(out / "ImageSets" / name / "train.txt") == IDS
    assert not (out / "ImageSets" / "Segmentation" / "val.txt").exists()
    labels = load_labels(IDS, out, VOC_CLASSES, out / "cls_labels.npy")
    for name, parts in SCENES.items():
        if image_id(name) in IDS:
            expected = np.zeros((8, 12), np.uint8)
            for _, what, rows, columns in parts:
                expected[slice(*rows), slice(*columns)] = VOC_CLASSES.index(what) + 1 if isinstance(what, str) else what
            path = out / "SegmentationClass" / f"{image_id(name)}.png"
            assert (open_mask(path, 21) == expected).all(), name
            assert Image.open(path).getpalette() == PALETTE.ravel().tolist()
            shown = {what for _, what, _, _ in parts if isinstance(what, str)}
            xml = read_xml_label(out / "Annotations" / f"{image_id(name)}.xml", VOC_CLASSES)
            for vector in (labels[image_id(name)], xml):
                assert {VOC_CLASSES[k] for k in np.flatnonzero(vector)} == shown
            assert Image.open(out / "JPEGImages" / f"{image_id(name)}.jpg").size == (12, 8)
    assert sorted(p.stem for p in (out / "JPEGImages").iterdir()) == IDS
    assert "left out: 1 photographs of other things (2005_030003)" in printed
    assert "left out: 1 photographs without a mask (9_9_s.bmp)" in printed
    assert f"next: python train.py --name {out.name} --voc12_root {out} --trunk timm:tf_efficientnet_lite0\n" in printed


def test_boxes_go_around_all_pixels_of_a_class_and_count_from_one(msrc, tmp_path):
    prints(SCRIPT, "--msrc", msrc, "--out", tmp_path / "set")
    root = ElementTree.parse(tmp_path / "set" / "Annotations" / "2005_060001.xml").getroot()
    assert [node.text for node in root.find("size")] == ["12", "8", "3"]
    boxes = {item.findtext("name"): [int(node.text) for node in item.find("bndbox")] for item in root.iter("object")}
    assert boxes == {"person": [4, 1, 8, 8]}  # face and body together


def test_what_is_no_msrc_is_refused(msrc, tmp_path):
    write_scene(msrc, "1_9_s", SCENES["1_9_s"], size=(12, 9))
    refused(SCRIPT, "--msrc", msrc, "--out", tmp_path / "set", says="1_9_s_GT.bmp: not of the size of 1_9_s.bmp")
    (msrc / "GroundTruth" / "1_9_s_GT.bmp").write_bytes(b"BM and no more")
    refused(SCRIPT, "--msrc", msrc, "--out", tmp_path / "set", says="1_9_s_GT.bmp: unreadable image")
    (tmp_path / "none").mkdir()
    refused(SCRIPT, "--msrc", tmp_path / "none", "--out", tmp_path / "set", says="no G_I_s.bmp with G_I_s_GT.bmp there")
    assert not (tmp_path / "set").exists() and not list(tmp_path.glob(".*"))
