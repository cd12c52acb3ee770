"""The zip of the evaluation server."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from tool.io.files import UserError
from tool.io.images import PALETTE, label_image, save_image
from tool.io.server_zip import SERVER_FOLDER, write_server_zip
from voc12.paths import image_path


@pytest.fixture
def masks(tmp_path):
    """({ID: mask}, {ID: photograph}) of three images."""
    ids = ["2008_000006", "2008_000011", "2008_000012"]
    for image_id in ids:
        save_image(tmp_path / "JPEGImages" / f"{image_id}.jpg", Image.new("RGB", (64, 48)))
        save_image(tmp_path / "seg" / f"{image_id}.png", label_image(np.full((48, 64), 3)), "origin")
    return {i: tmp_path / "seg" / f"{i}.png" for i in ids}, {i: image_path(tmp_path, i) for i in ids}


def test_server_zip(masks, tmp_path):
    (tmp_path / ".one.zip.12.tmp").write_bytes(b"of a run that was killed")
    for name in ("one.zip", "other.zip"):
        write_server_zip(tmp_path / name, *masks, 21)
    assert not list(tmp_path.glob(".*"))
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "other.zip").read_bytes()
    assert SERVER_FOLDER == "results/VOC2012/Segmentation/comp6_test_cls"
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == [f"{SERVER_FOLDER}/{i}.png" for i in masks[0]] and archive.testzip() is None
        for name in archive.namelist():
            picture = Image.open(archive.open(name))
            assert (picture.mode, picture.size) == ("P", (64, 48))
            assert picture.getpalette() == PALETTE.ravel().tolist() and np.all(np.asarray(picture) == 3)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), r"no such mask \(1 of 3 .*no zip is written"),
        (lambda path: save_image(path, label_image(np.zeros((64, 48)))), "64 x 48 pixels, but its mask has 48 x 64"),
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "unreadable mask"),
    ],
)
def test_no_zip_of_part_of_a_list(masks, tmp_path, damage, says):
    path = list(masks[0].values())[1]
    damage(path)
    with pytest.raises(UserError, match=says) as refused:
        write_server_zip(tmp_path / "x.zip", *masks, 21)
    assert path.stem in str(refused.value) and not list(tmp_path.glob("*x.zip*"))
