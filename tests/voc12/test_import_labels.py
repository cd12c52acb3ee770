"""import_labels.py: what went out comes back, corrected as well, and files that are none."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import prints, refused, run_here
from label_exports import IMPORT, MASKS, NAMES, PHOTOS, SIZE, assert_same, draw, export
from PIL import Image

from tool.io.files import read_json
from tool.io.images import IGNORE, PALETTE, open_mask

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools with numpy 2


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = draw(tmp_path_factory.mktemp("imports"))
    for kind in ("coco", "cvat", "labelstudio"):
        export(place, kind)
    return place


def flags(place, file, out):
    return [file, "--labels", place / "labels", "--classes", place / "classes.txt", "--out", out]


def masks_in(folder):
    return {path.stem: open_mask(path, len(NAMES) + 1) for path in folder.glob("*.png")}


def accepted(place, out, change=lambda tasks: None):
    """What Label Studio exports where predictions were taken over; one photograph was uploaded, which gives a hash."""
    tasks = read_json(place / "labelstudio" / "x.json")
    tasks[1]["data"]["image"] = "/data/upload/1/0a1b2c3d-my_two.jpg"
    for task in tasks:
        task["annotations"] = [{"result": []}, *task.pop("predictions"), {"result": [], "was_cancelled": True}]
    change(tasks)
    out.write_text(json.dumps(tasks))
    return out


@pytest.mark.parametrize("kind", ["coco", "cvat", "labelstudio"])
def test_what_goes_out_comes_back(place, tmp_path, kind):
    files = {"coco": place / "coco" / "x.json", "cvat": place / "cvat" / "x.zip"}
    file = files.get(kind) or accepted(place, tmp_path / "done.json")
    printed = prints(IMPORT, *flags(place, file, tmp_path / "back"))
    assert_same(masks_in(tmp_path / "back"), MASKS)
    assert "wrote 3 masks" in printed and "0 of them changed" in printed
    image = Image.open(tmp_path / "back" / "my_two.png")
    assert image.mode == "P" and image.getpalette()[3:6] == PALETTE[1].tolist()


def cvat_zip(path, masks, colours, lines, members=()):
    """A zip as CVAT writes it. colours: 256 x 3; members: names of further files."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *lines]))
        for name, mask in masks.items():
            with archive.open(f"SegmentationClass/{name}.png", "w") as stream:
                Image.fromarray(colours[mask]).save(stream, "PNG")
        for name in members:
            archive.writestr(name, b"x")
    return path


def test_corrected_masks_in_colours_of_cvats_own(place, tmp_path):
    corrected, colours = MASKS | {"three": np.full(SIZE, 2, np.uint8)}, np.zeros((256, 3), np.uint8)
    colours[[0, 1, 2, IGNORE]] = [[7, 7, 7], [250, 0, 10], [1, 2, 3], [0, 0, 0]]
    lines = ["zebra:9,9,9::", f"{NAMES[1]}:1,2,3:head,tail:", "background:7,7,7::", "cat:250,0,10::", "ignored:0,0,0::"]
    masks = {Path(PHOTOS[image_id]).with_suffix("").as_posix(): mask for image_id, mask in corrected.items()}
    printed = prints(IMPORT, *flags(place, cvat_zip(tmp_path / "c.zip", masks, colours, lines), tmp_path / "back"))
    assert_same(masks_in(tmp_path / "back"), corrected)
    assert "1 of them changed" in printed and f"--corrected {tmp_path / 'back'}" in printed


def coco_json(path, annotations, name="photos/deep/one.png", size=SIZE, category="cat"):
    image = {"id": 5, "file_name": name, "width": size[1], "height": size[0]}
    entries = [
        {"id": k, "image_id": 5, "category_id": category, "segmentation": outline, "iscrowd": crowd}
        for k, (category, outline, crowd) in enumerate(annotations)
    ]
    categories = [{"id": 9, "name": category}, {"id": 3, "name": NAMES[1]}]
    path.write_text(json.dumps({"images": [image], "annotations": entries, "categories": categories}))
    return path


LARGE, SMALL = [[2, 2, 18, 2, 18, 12, 2, 12]], [[4, 4, 8, 4, 8, 8, 4, 8]]
COLUMN = {"size": list(SIZE), "counts": [0, 14, 266]}  # the first


def test_coco_of_other_tools(place, tmp_path):
    """Polygons, a mask as a crowd, a small object on a large one, a folder in front of the name."""
    file = coco_json(tmp_path / "c.json", [(9, SMALL, 0), (3, LARGE, 0), (9, COLUMN, 1)])
    expected = np.zeros(SIZE, np.uint8)
    expected[2:12, 2:18], expected[4:8, 4:8], expected[:, 0] = 2, 1, 1
    prints(IMPORT, *flags(place, file, tmp_path / "back"))
    assert_same(masks_in(tmp_path / "back"), {"deep__one": expected})
    prints(IMPORT, file, "--classes", place / "classes.txt", "--out", tmp_path / "alone")
    assert_same(masks_in(tmp_path / "alone"), {"photos__deep__one": expected})


@pytest.mark.parametrize(
    "name", ["../../data/deep/one.png", "C:\\data\\deep\\one.png", "/home/u/deep/one.png", "deep/one.png"]
)
def test_names_of_other_machines(place, tmp_path, name):
    """A label is found by the end of the name; without labels a name that leads out of a folder is none."""
    file = coco_json(tmp_path / "c.json", [(9, LARGE, 0)], name)
    prints(IMPORT, *flags(place, file, tmp_path / "back"))
    expected = np.zeros(SIZE, np.uint8)
    expected[2:12, 2:18] = 1
    assert_same(masks_in(tmp_path / "back"), {"deep__one": expected})
    if ".." in name or ":" in name:
        alone = [file, "--classes", place / "classes.txt", "--out", tmp_path / "alone"]
        refused(IMPORT, *alone, says=[str(file), "leads out"])


@pytest.mark.parametrize("name", ["a:1.png", "b'c.png"])
def test_a_name_with_a_colon_is_no_drive(place, tmp_path, name):
    file = coco_json(tmp_path / "c.json", [(9, LARGE, 0)], name)
    prints(IMPORT, file, "--classes", place / "classes.txt", "--out", tmp_path / "alone")
    assert list(masks_in(tmp_path / "alone")) == [name.removesuffix(".png")]


def test_a_text_that_is_no_address_is_passed_over(place, tmp_path):
    file = accepted(
        place, tmp_path / "c.json", lambda tasks: [t.update(data={"n": "http://[x"} | t["data"]) for t in tasks]
    )
    prints(IMPORT, *flags(place, file, tmp_path / "back"))
    assert len(masks_in(tmp_path / "back")) == len(json.loads(file.read_text()))


def test_what_is_left_of_an_outline_is_passed_over(place, tmp_path):
    file = coco_json(tmp_path / "c.json", [(9, [[3, 3, 9, 9], *LARGE, []], 0)])
    prints(IMPORT, *flags(place, file, tmp_path / "back"))
    assert (masks_in(tmp_path / "back")["deep__one"] == 1).sum() == 16 * 10


def test_images_that_nobody_labelled_are_said(place, tmp_path):
    code, errors = run_here(IMPORT, *flags(place, coco_json(tmp_path / "c.json", []), tmp_path / "back"))
    assert code == 0 and "1 of 1 images have no annotation (photos/deep/one.png)" in errors
    assert not masks_in(tmp_path / "back")["deep__one"].any()


def test_of_label_studios_annotations_the_last_one_counts(place, tmp_path):
    def change(tasks):
        tasks[0]["annotations"] = []
        tasks[1]["annotations"].append({"result": [{"type": "choices", "value": {"choices": ["ok"]}}]})

    file = accepted(place, tmp_path / "a.json", change)
    code, errors = run_here(IMPORT, *flags(place, file, tmp_path / "back"))
    assert code == 0 and "1 of 3 tasks have no annotation" in errors
    assert_same(masks_in(tmp_path / "back"), {"my_two": np.zeros(SIZE, np.uint8), "three": MASKS["three"]})


# ---------------------------------------------------------------- bad input

ZEBRA = ["zebra:1,2,3::", "background:0,0,0::", "cat:128,0,0::"]
ALL_ZEBRA = np.full((256, 3), (1, 2, 3), np.uint8)


def broken_tasks(change):
    return lambda place, path: accepted(place, path, change)


def region_of(tasks):
    return tasks[0]["annotations"][1]["result"][0]


BAD_FILES = {
    "nothing": (lambda place, path: path, "no such file; FILE is a zip of CVAT"),
    "no format": (lambda place, path: path.write_text("x") and path, "neither a zip nor JSON"),
    "cut off": (
        lambda place, path: path.write_bytes((place / "cvat" / "x.zip").read_bytes()[:-40]) and path,
        "neither a zip nor JSON",
    ),
    "damaged": (
        lambda place, path: (
            path.write_bytes((place / "cvat" / "x.zip").read_bytes().replace(b"cat:128,0,0", b"cat:128,0,1")) and path
        ),
        "broken or encrypted (Bad CRC-32",
    ),
    "other JSON": (lambda place, path: path.write_text('{"a": 1}') and path, "lacks the key 'images'"),
    "JSON-MIN": (lambda place, path: path.write_text('[{"image": "x.jpg", "label": []}]') and path, "not as JSON-MIN"),
    "another zip": (lambda place, path: cvat_zip(path, {}, ALL_ZEBRA, ZEBRA), 'export as "Segmentation mask 1.1"'),
    "a zip that leads out": (
        lambda place, path: cvat_zip(
            path, {"three": MASKS["three"]}, PALETTE, ZEBRA, ["SegmentationClass/../../a.png"]
        ),
        "'SegmentationClass/../../a.png' leads out",
    ),
    "a label map that is none": (
        lambda place, path: cvat_zip(path, {"three": MASKS["three"]}, PALETTE, ["cat"]),
        "labelmap.txt: line 2: 'cat': needs name:r,g,b::",
    ),
    "a colour": (
        lambda place, path: cvat_zip(path, {"three": MASKS["three"] + 9}, PALETTE, ZEBRA),
        "three.png: the colour 192,0,0 is that of no label, which is no class; colours are those of labelmap.txt",
    ),
    "a class": (
        lambda place, path: cvat_zip(path, {"three": MASKS["three"]}, ALL_ZEBRA, ZEBRA),
        "three.png: the colour 1,2,3 is that of zebra, which is no class",
    ),
    "a size": (
        lambda place, path: cvat_zip(path, {"three": np.zeros((9, 7), np.uint8)}, PALETTE, ZEBRA),
        "three.png: 7 x 9 pixels, but",
    ),
    "a photograph": (
        lambda place, path: cvat_zip(path, {"four": MASKS["three"]}, PALETTE, ZEBRA),
        "four.png: of a photograph that has no label in --labels (deep__one, my_two, three)",
    ),
    "two masks": (
        lambda place, path: cvat_zip(path, {"a/three": MASKS["three"], "three": MASKS["three"]}, PALETTE, ZEBRA),
        "three.png and a/three.png are both of three",
    ),
    "class of COCO": (lambda place, path: coco_json(path, [(9, SMALL, 0)], category="zebra"), "class 'zebra' is not"),
    "size of COCO": (lambda place, path: coco_json(path, [(9, SMALL, 0)], size=(9, 9)), "9 x 9 pixels, but"),
    "a box": (lambda place, path: coco_json(path, [(9, [], 0)]), "annotation 0: no outline, a box alone"),
    "a code": (
        lambda place, path: coco_json(path, [(9, COLUMN | {"counts": [9]}, 0)]),
        "annotation 0: a run-length code that is cut off",
    ),
    "a brush": (
        broken_tasks(lambda tasks: region_of(tasks)["value"].update(rle=[0, 0])),
        "deep/one.png: a broken brush",
    ),
    "a region of no label": (
        broken_tasks(lambda tasks: region_of(tasks)["value"].update(brushlabels=[])),
        "deep/one.png: a region without a label; give it one, or delete it",
    ),
    "a brush of no label": (
        broken_tasks(lambda tasks: region_of(tasks).update(type="brush")),
        "deep/one.png: a region without a label; give it one, or delete it",
    ),
    "an image that is none": (
        lambda place, path: cvat_zip(path, {}, PALETTE, ZEBRA, ["SegmentationClass/three.png"]),
        "SegmentationClass/three.png: no image, or broken; export it again",
    ),
    "size of a brush": (
        broken_tasks(lambda tasks: region_of(tasks).update(original_width=7)),
        "deep/one.png: no brush of 7 x 14 pixels",
    ),
    "no brush": (
        broken_tasks(lambda tasks: region_of(tasks)["value"].pop("rle")),
        "a region of type brushlabels; only brushes are read",
    ),
    "class of a brush": (
        broken_tasks(lambda tasks: region_of(tasks)["value"].update(brushlabels=["zebra"])),
        "deep/one.png: class 'zebra' is not in --classes",
    ),
    "a photograph without a name": (
        broken_tasks(lambda tasks: tasks[0]["data"].update(image="/.jpg")),
        "names no photograph",
    ),
    "another task": (broken_tasks(lambda tasks: tasks[2]["data"].update(image="no photograph")), "task 3 is no task"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_are_none(place, tmp_path, name):
    make, says = BAD_FILES[name]
    refused(IMPORT, *flags(place, make(place, tmp_path / "file"), tmp_path / "out"), says=["file: ", says])
    assert {path.name for path in tmp_path.iterdir()} <= {"file"} and not (tmp_path.parent / "a.png").exists()
