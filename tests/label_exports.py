"""Three drawn masks, their photographs and classes, for the tests of what goes to other tools and comes back."""

from pathlib import Path

import numpy as np
from conftest import prints
from PIL import Image

from tool.io.images import IGNORE, label_image

EXPORT, IMPORT = "voc12/export_labels.py", "voc12/import_labels.py"
SIZE = (14, 20)  # height, width
NAMES = ["cat", "Käfer & <co>"]
PHOTOS = {"deep__one": "deep/one.png", "my_two": "my two.jpg", "three": "three.jpg"}
OUT = {"coco": "x.json", "cvat": "x.zip", "labelstudio": "x.json", "yolo": "x"}
# (id, pixels) of the connected objects
COMPONENTS = {"deep__one": [(1, 75), (2, 1), (1, 1)], "my_two": [(2, 40)], "three": []}


def drawn():
    """{ID: mask}: a hole with a pixel in it, parts that touch at a corner, a part apart; 255; nothing."""
    one, two = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    one[1:9, 1:10], one[3:6, 3:7], one[4, 4] = 1, 0, 2
    one[9:12, 10:15], one[13, 19] = 1, 1
    two[2:12, 5:9], two[0, :], two[2:4, 9] = 2, IGNORE, IGNORE
    return {"deep__one": one, "my_two": two, "three": np.zeros(SIZE, np.uint8)}


MASKS = drawn()


def draw(place):
    """photos/, labels/ and classes.txt in a folder; returns it."""
    for image_id, name in PHOTOS.items():
        (place / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1], (90, 40, 9)).save(place / "photos" / name)
        (place / "labels").mkdir(exist_ok=True)
        label_image(MASKS[image_id]).save(place / "labels" / f"{image_id}.png")
    (place / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")
    return place


def export_flags(place, kind, **changes):
    values = {"labels": place / "labels", "images": place / "photos", "classes": place / "classes.txt"}
    values |= {"format": kind, "out": place / kind / OUT[kind]} | changes
    return [text for name, value in values.items() for text in (f"--{name}", value)]


def export(place, kind, **changes):
    """Run the script -> path of what it made."""
    prints(EXPORT, *export_flags(place, kind, **changes))
    return Path(changes.get("out", place / kind / OUT[kind]))


def assert_same(ours, theirs):
    """Of {ID: mask}."""
    assert ours.keys() == theirs.keys()
    for image_id in ours:
        assert np.array_equal(ours[image_id], theirs[image_id]), image_id
