"""make_coco.py on small sets in COCO's format, its download from a local server, and 80 classes in all stages."""

import contextlib
import copy
import http.server
import json
import shutil
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import load_script, prints, refused, run_here, train_flags
from PIL import Image

from tool.io.files import UserError, read_list
from tool.io.images import open_mask
from voc12 import download
from voc12.classes import load_classes
from voc12.coco import box_slices, instance_mask, read_instances, read_outline, read_split, stuff_mask
from voc12.labels import load_labels

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools with numpy 2

SCRIPT = "voc12/make_coco.py"
SIZE = (12, 8)  # width, height
CATEGORIES = {90: "toothbrush", 1: "person", 7: "traffic light"}  # ids with gaps, in no order
PERSON, LIGHT, BRUSH = 1, 2, 3  # ids in masks


def box(left, top, right, bottom):
    """The polygon of a rectangle of whole pixels, right and bottom not included."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def run_lengths(left, top, right, bottom):
    """The same as COCO codes crowds: lengths of 0s and 1s in turn, down the columns."""
    inside = np.zeros(SIZE[::-1], int)
    inside[top:bottom, left:right] = 1
    flat = inside.ravel(order="F").tolist()
    counts, value = [0], 0
    for pixel in flat:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(SIZE[::-1]), "counts": counts}


def thing(image, category, segmentation, area, crowd=0):
    return {
        "image_id": image, "category_id": category, "segmentation": segmentation, "area": area, "iscrowd": crowd
    }  # fmt: skip


# the training images: 1 overlapping objects and a crowd, 2 a crowd alone, 3 nothing, 40 an object of two polygons
TRAIN = [
    thing(1, 7, box(4, 2, 6, 4), 4),  # small, listed before what it lies on
    thing(1, 1, box(2, 1, 8, 5), 24),
    thing(1, 1, run_lengths(7, 3, 12, 8), 25, crowd=1),
    thing(2, 90, run_lengths(0, 0, 4, 4), 16, crowd=1),
    thing(40, 90, [*box(0, 0, 2, 2), *box(10, 6, 12, 8)], 8),
]
VAL = [thing(5, 1, box(0, 0, 12, 4), 48), thing(5, 7, box(0, 2, 12, 6), 47.5)]


def image_entry(split, number, size=SIZE):
    return {
        "id": number, "file_name": f"COCO_{split}2014_{number:012d}.jpg", "width": size[0], "height": size[1]
    }  # fmt: skip


def instances(split, images, annotations, categories=CATEGORIES):
    return {
        "info": {},
        "images": [image_entry(split, k) for k in images],
        "annotations": [{"id": 100 + k, **entry} for k, entry in enumerate(annotations)],
        "categories": [{"id": k, "name": name, "supercategory": "x"} for k, name in categories.items()],
    }


def write_split(coco, split, data):
    for folder in (coco / f"{split}2014", coco / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)
    for k, entry in enumerate(data["images"]):
        image = Image.new("RGB", (entry["width"], entry["height"]), (50 * k % 256, 99, 20))
        image.save(coco / f"{split}2014" / entry["file_name"])
    (coco / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(data))


def write_stuff(coco):
    """COCO-Stuff's maps: category id - 1 for things, 91 and more for stuff, 255 unlabelled; parts as of 2017."""
    for part, number, rows in (
        ("train2017", 1, [0, 6, 89, 150, 255]),
        ("val2017", 40, [89, 0]),
        ("val2017", 5, [6, 100]),
    ):
        stored = np.full(SIZE[::-1], 255, np.uint8)
        stored[: len(rows)] = np.array(rows)[:, None]
        path = coco / "stuffthingmaps" / part / f"{number:012d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(stored).save(path)


@pytest.fixture
def coco(tmp_path):
    root = tmp_path / "coco"
    write_split(root, "train", instances("train", [40, 3, 2, 1], TRAIN))
    write_split(root, "val", instances("val", [6, 5], VAL))
    return root


def flags(coco, *more):
    return ["--coco", coco, "--out", coco.parent / "set", *more]


def mask_of(coco, split, number):
    path = coco.parent / "set" / "SegmentationClass" / f"COCO_{split}2014_{number:012d}.png"
    assert Image.open(path).mode == "P"
    return open_mask(path, 4)


# ---------------------------------------------------------------- the data set


def test_lists_labels_and_masks_of_instances(coco):
    printed = prints(SCRIPT, *flags(coco))
    out = coco.parent / "set"
    classes = load_classes(out / "classes.txt")
    assert classes == ("person", "traffic light", "toothbrush")  # by category id
    ids = {n: read_list(out / "ImageSets" / "Segmentation" / f"{n}.txt") for n in ("train", "val")}
    assert ids == {
        "train": ["COCO_train2014_000000000001", "COCO_train2014_000000000040"],
        "val": ["COCO_val2014_000000000005"],
    }
    labels = load_labels(ids["train"] + ids["val"], out, classes, out / "cls_labels.npy")
    assert [labels[i].tolist() for i in ids["train"] + ids["val"]] == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]
    assert sorted(p.name for p in (out / "JPEGImages").iterdir()) == [f"{i}.jpg" for i in ids["train"] + ids["val"]]
    photo = out / "JPEGImages" / f"{ids['val'][0]}.jpg"
    assert photo.is_symlink() and photo.samefile(coco / "val2014" / f"{ids['val'][0]}.jpg")

    expected = np.zeros((8, 12), np.uint8)
    expected[3:8, 7:12] = 255  # the crowd, below the objects
    expected[1:5, 2:8] = PERSON
    expected[2:4, 4:6] = LIGHT
    assert (mask_of(coco, "train", 1) == expected).all()
    expected = np.zeros((8, 12), np.uint8)
    expected[:2, :2] = expected[6:, 10:] = BRUSH
    assert (mask_of(coco, "train", 40) == expected).all()
    assert mask_of(coco, "val", 5)[:, 3].tolist() == [PERSON] * 2 + [LIGHT] * 4 + [0] * 2  # 47.5 lies over 48

    assert "train: 2 of 4 images have an object (COCO 2014: 82,081 of 82,783)" in printed
    assert "val: 1 of 2 images have an object (COCO 2014: 40,137 of 40,504)" in printed
    assert f"next: python train.py --name {out.name} --voc12_root {out} --trunk timm:tf_efficientnet_lite0\n" in printed


def test_masks_of_stuff_keep_things_alone(coco):
    write_stuff(coco)
    prints(SCRIPT, *flags(coco, "--masks", "stuff"))
    assert mask_of(coco, "train", 1)[:, 0].tolist() == [PERSON, LIGHT, BRUSH, 0, 0, 0, 0, 0]
    assert mask_of(coco, "train", 40)[:3, 5].tolist() == [BRUSH, PERSON, 0]
    assert mask_of(coco, "val", 5)[:3, 5].tolist() == [LIGHT, 0, 0]


# ---------------------------------------------------------------- what is refused


def damage(coco, change, split="val"):
    """Change a JSON by a function of its contents."""
    path = coco / "annotations" / f"instances_{split}2014.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(change(copy.deepcopy(data)) or data))


def assert_refused(coco, says, *more):
    refused(SCRIPT, *flags(coco, *more), says=says)
    assert not (coco.parent / "set").exists() and not list(coco.parent.glob(".set*"))


def without(part, key=None):
    def change(data):
        if key is None:
            del data[part]
        else:
            del data[part][-1][key]
        return data

    return change


def with_value(part, key, value):
    def change(data):
        data[part][-1][key] = value
        return data

    return change


BAD_JSON = {  # name -> (change, words of the message)
    "no images": (without("images"), "instances_val2014.json: lacks the key 'images'"),
    "no annotations": (without("annotations"), "lacks the key 'annotations'"),
    "no categories": (without("categories"), "lacks the key 'categories'"),
    "a list": (lambda data: [1], "lacks the key 'images'"),
    "no file name": (without("images", "file_name"), "images[1] lacks the key 'file_name'"),
    "no category name": (without("categories", "name"), "categories[2] lacks the key 'name'"),
    "an id that is a text": (with_value("annotations", "image_id", "5"), "annotations[1] lacks the key 'image_id', or"),
    "no pixels": (with_value("images", "width", 0), "has an image without any pixels"),
    "a path out of the folder": (with_value("images", "file_name", "../x.jpg"), "'../x.jpg' leads out of the folder"),
    "an unlisted image": (with_value("annotations", "image_id", 77), "annotation 101 is of an image or a"),
    "an unlisted category": (with_value("annotations", "category_id", 8), "annotation 101 is of an image or a"),
    "other categories": (with_value("categories", "name", "tree"), "other categories than in training"),
    "a name twice": (with_value("categories", "name", "person"), "1 to 254 different class names"),
    "two images of a name": (
        lambda data: with_value("annotations", "image_id", 6)(
            with_value("images", "file_name", "COCO_val2014_000000000006.jpg")(data)
        ),
        "two images are called COCO_val2014_000000000006.jpg",
    ),
    "two images of an id": (
        lambda data: data | {"images": [*data["images"], data["images"][0]]},
        "instances_val2014.json: ids of images are there twice",
    ),
    "two categories of an id": (
        lambda data: data | {"categories": [*data["categories"], data["categories"][0] | {"name": "kite"}]},
        "ids of categories are there twice",
    ),
    "an image without end": (with_value("images", "width", 10**9), "has an image of more pixels than"),
    "no objects": (lambda data: data | {"annotations": []}, "instances_val2014.json: no image has an object"),
    "a suffix that no stage reads": (
        lambda data: with_value("annotations", "image_id", 6)(with_value("images", "file_name", "x.heic")(data)),
        "x.heic: not the suffix of an image that is read",
    ),
    "a polygon far away": (with_value("annotations", "segmentation", [[0, 0, 1e9, 0, 1e9, 9]]), "101: a polygon far"),
    "a polygon without points": (with_value("annotations", "segmentation", [[]]), "annotation 101: a polygon without"),
    "a polygon of texts": (with_value("annotations", "segmentation", [["a"] * 6]), "annotation 101: could not convert"),
    "an outline that is a text": (with_value("annotations", "segmentation", "x"), "annotations[1] lacks the key 'segm"),
    "a crowd that is a text": (with_value("annotations", "iscrowd", "no"), "annotations[1] lacks the key 'iscrowd'"),
    "a code of another size": (
        with_value("annotations", "segmentation", {"size": [9, 12], "counts": [108]}), "no run-length code of 12 x 8"
    ),
    "runs beyond the image": (
        with_value("annotations", "segmentation", {"size": [8, 12], "counts": [0, 97]}), "cut off, or of another size"
    ),
    "a compressed code": (
        with_value("annotations", "segmentation", {"size": [8, 12], "counts": "zz"}), "a broken run-length code"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_annotations_are_refused(coco, name):
    change, says = BAD_JSON[name]
    damage(coco, change)
    assert_refused(coco, says)


def test_an_annotation_file_that_is_cut_off_or_missing_is_refused(coco):
    path = coco / "annotations" / "instances_train2014.json"
    path.write_text(path.read_text()[:-20])
    assert_refused(coco, "instances_train2014.json: no JSON, or cut off; fetch it again")
    path.unlink()
    assert_refused(coco, "instances_train2014.json: no such file; --download fetches it")


def test_missing_photographs_and_maps_are_refused(coco):
    assert_refused(coco, "000000000040.png: not there, nor in val2017", "--masks", "stuff")
    write_stuff(coco)
    Image.new("L", (12, 9)).save(coco / "stuffthingmaps" / "val2017" / f"{5:012d}.png")
    assert_refused(coco, "000000000005.png: not of the size of COCO_val2014_000000000005.jpg", "--masks", "stuff")
    shutil.rmtree(coco / "train2014")
    assert_refused(coco, "train2014: 2 of 2 photographs are not there (COCO_train2014_000000000001.jpg")


# ---------------------------------------------------------------- the download


class Server:
    """Archives of a folder on 127.0.0.1; `asked` has the paths that were read, `cut` those that end too soon."""

    def __init__(self, folder):
        self.asked, self.cut = [], set()
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=folder)

            def do_GET(self):
                outer.asked.append(self.path)
                if self.path in outer.cut:
                    data = (Path(folder) / self.path.strip("/")).read_bytes()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data[:-10])
                else:
                    super().do_GET()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def pack(archive, folder, names):
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as stream:
        for name in names:
            for path in sorted((folder / name).rglob("*")) if (folder / name).is_dir() else [folder / name]:
                stream.write(path, path.relative_to(folder))


@pytest.fixture
def served(coco, tmp_path):
    """The set as archives on a server, and the script with its addresses pointed there; `coco` itself is gone."""
    write_stuff(coco)
    (coco / "annotations" / "captions_val2014.json").write_text("{}")
    site = tmp_path / "site"
    pack(site / "annotations" / "annotations_trainval2014.zip", coco, ["annotations"])
    for split in ("train", "val"):
        pack(site / "zips" / f"{split}2014.zip", coco, [f"{split}2014"])
    pack(site / "stuffthingmaps_trainval2017.zip", coco / "stuffthingmaps", ["train2017", "val2017"])
    shutil.rmtree(coco)
    script = load_script(SCRIPT)
    with Server(site) as server:
        script.COCO_ADDRESS = script.STUFF_ADDRESS = server.address
        yield script, server, coco


def fetch_all(script, coco, masks="stuff"):
    with contextlib.redirect_stdout(None):
        script.download(coco, masks)


def test_what_is_downloaded_makes_the_data_set_and_is_not_fetched_again(served):
    script, server, coco = served
    fetch_all(script, coco)
    assert not (coco / "annotations" / "captions_val2014.json").exists()
    assert not list(coco.rglob("*.part"))
    prints(SCRIPT, *flags(coco, "--masks", "stuff"))
    assert mask_of(coco, "train", 1)[:, 0].tolist() == [PERSON, LIGHT, BRUSH, 0, 0, 0, 0, 0]
    server.asked.clear()
    (coco / "val2014" / "COCO_val2014_000000000005.jpg").write_bytes(b"half")  # unpacking was killed here
    fetch_all(script, coco)
    assert server.asked == []
    assert Image.open(coco / "val2014" / "COCO_val2014_000000000005.jpg").size == SIZE
    for archive in coco.glob("*.zip"):  # they may go once they are unpacked
        archive.unlink()
    fetch_all(script, coco)
    assert server.asked == [] and not list(coco.glob("*.zip"))


def test_only_what_is_needed_and_missing_is_fetched(served):
    script, server, coco = served
    fetch_all(script, coco, masks="instances")
    assert {Path(path).name for path in server.asked} == {
        "annotations_trainval2014.zip", "train2014.zip", "val2014.zip"
    }  # fmt: skip
    size = (coco / "train2014.zip").stat().st_size
    (coco / "train2014.zip").write_bytes(b"a part of it")
    server.asked.clear()
    fetch_all(script, coco)
    assert {Path(path).name for path in server.asked} == {"train2014.zip", "stuffthingmaps_trainval2017.zip"}
    assert (coco / "train2014.zip").stat().st_size == size


def test_a_download_that_ends_too_soon_counts_for_nothing(served):
    script, server, coco = served
    server.cut.add("/zips/val2014.zip")
    for _ in range(2):
        with pytest.raises(UserError, match=r"val2014\.zip could not be fetched \(\d+ of \d+ bytes came\); fetch http"):
            fetch_all(script, coco)
        assert not (coco / "val2014.zip").exists() and not (coco / "val2014").exists()
    server.cut.clear()
    fetch_all(script, coco)
    assert (coco / "val2014").is_dir()


def test_archives_fetched_by_hand_are_unpacked_without_a_server(served, tmp_path):
    script, server, coco = served
    coco.mkdir()
    for archive in (tmp_path / "site").rglob("*.zip"):
        shutil.copy(archive, coco)
    script.COCO_ADDRESS = script.STUFF_ADDRESS = "http://127.0.0.1:9"
    fetch_all(script, coco)
    prints(SCRIPT, *flags(coco))
    data = bytearray((coco / "val2014.zip").read_bytes())
    data[60:70] = b"0123456789"
    (coco / "val2014.zip").write_bytes(data)
    shutil.rmtree(coco / "val2014")
    with pytest.raises(UserError, match=r"val2014\.zip: broken \(.*\); remove it and run this again"):
        fetch_all(script, coco)


def test_without_a_server_it_is_said_what_to_fetch(served):
    script, _, coco = served
    script.COCO_ADDRESS = "http://127.0.0.1:9"
    says = (
        r"annotations_trainval2014\.zip could not be fetched \(.*refused.*\); fetch http://127\.0\.0\.1:9/annotations/"
    )
    with pytest.raises(UserError, match=says):
        fetch_all(script, coco)


def test_archives_cannot_write_elsewhere(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as stream:
        stream.writestr("../evil.txt", "x")
    (tmp_path / "into").mkdir()
    download.unpack(tmp_path / "x.zip", tmp_path / "into")
    assert not (tmp_path / "evil.txt").exists()


# ---------------------------------------------------------------- eighty classes


@pytest.fixture(scope="module")
def eighty(tmp_path_factory):
    """COCO's format with 80 categories of ids with gaps: 40 training images of two classes each, 4 for validation."""
    root = tmp_path_factory.mktemp("eighty")
    ids = [k for k in range(1, 91) if k % 9]  # 80 of 90
    categories = {k: f"class {k}" for k in ids}
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 4)):
        things = []
        for k in range(count):
            for category, corner in ((ids[2 * k], (4, 4)), (ids[2 * k + 1], (36, 20))):
                outline = box(*corner, corner[0] + 20, corner[1] + 20)
                things.append(thing(k, category, outline, 400))
        data = instances(split, [], things, categories)
        data["images"] = [image_entry(split, k, (64, 48)) for k in range(count)]
        write_split(root / "coco", split, data)
        for k in range(count):
            photo = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).resize((64, 48))
            photo.save(root / "coco" / f"{split}2014" / f"COCO_{split}2014_{k:012d}.jpg")
    prints(SCRIPT, "--coco", root / "coco", "--out", root / "set")
    return root / "set"


def test_eighty_classes_go_through_all_five_stages(eighty, tmp_path):
    lists = eighty / "ImageSets" / "Segmentation"
    name = ["--name", "c", "--experiment", tmp_path]
    labels = ["--classes", eighty / "classes.txt", "--cls_labels", eighty / "cls_labels.npy"]
    data = ["--voc12_root", eighty, "--device", "cpu", "--num_workers", 0]
    short = train_flags(eighty)
    short[short.index("--epochs") + 1], short[short.index("--T") + 1] = 2, 1
    short[short.index("--batch_size") + 1] = 8
    for flag, path in (("--train_list", lists / "train.txt"), ("--val_list", lists / "val.txt")):
        short[short.index(flag) + 1] = path
    some = tmp_path / "some.txt"  # maps and labels of some images will do
    some.write_text("".join(f"{i}\n" for i in read_list(lists / "train.txt")[:8]))
    width, walk = ["--width", 0.0625], ["--low", 2, "--high", 19, "--dup", 19]
    crf = ["--dict", "--crf", "--alphas", 2, 19]

    def stage(script, *arguments):
        code, errors = run_here(script, *name, *arguments)
        assert code == 0, errors[-2000:]

    stage("train.py", *short, *labels)
    stage("infer.py", *data, *labels, *width, *crf, "--load_epo", 1, "--infer_list", some)
    affinity = ["--train_list", some, "--val_list", some, "--epochs", 1, "--batch_size", 4, "--crop_size", 48]
    stage("train_aff.py", *data, *labels[:2], *width, *walk, *affinity, "--pretrained", "none")
    stage("infer_aff.py", *data, *labels[:2], *width, *walk, "--train_list", some)
    for task, folder in (("cam", "dict"), ("crf", "crf/19"), ("png", "rw/02_1919")):
        score = ["--voc12_root", eighty, *labels[:2], "--task", task, "--dict_dir", folder, "--list", some]
        stage("evaluation.py", *score, "--json", tmp_path / f"{task}.json")
        scores = json.loads((tmp_path / f"{task}.json").read_text())
        assert list(scores["classes"]) == ["background", *load_classes(eighty / "classes.txt")]
    classes = load_classes(eighty / "classes.txt")
    for image_id, label in load_labels(read_list(some), eighty, classes, eighty / "cls_labels.npy").items():
        walked = open_mask(tmp_path / "c" / "rw" / "02_1919" / f"{image_id}.png", 81)
        assert set(np.unique(walked)) <= {0, *(np.flatnonzero(label) + 1)}


# ---------------------------------------------------------------- annotations, one by one


def coco_file(path, *annotations, categories=None):
    data = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 6, "width": 8}],
        "annotations": [{"id": k, "image_id": 1, "category_id": 3} | more for k, more in enumerate(annotations)],
        "categories": categories or [{"id": 3, "name": "cat"}],
    }
    path.write_text(json.dumps(data))
    return read_instances(path)


def test_coco_without_crowds_and_outlines(tmp_path):
    """A box without an outline is 255 where no outline is; without a box nothing else is known."""
    outline = {"segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]}
    coco = coco_file(tmp_path / "x.json", outline, {"segmentation": [], "bbox": [1, 1, 3.5, 2]})
    mask = instance_mask(coco, coco.imgs[1], "x")
    by_hand = np.zeros((6, 8), int)
    by_hand[1:3, 1:5] = 255
    by_hand[:2, :2] = 1
    assert np.array_equal(mask, by_hand)
    coco = coco_file(tmp_path / "x.json", outline, {"segmentation": None, "iscrowd": 0})
    mask = instance_mask(coco, coco.imgs[1], "x")
    assert (mask[:2, :2] == 1).all() and (mask == 255).sum() == 48 - 4


OUTLINE = [[1, 1, 4, 1, 4, 4, 1, 4]]  # x and y from 1 to 4


def test_labels_of_a_file_are_those_of_objects_and_crowds_are_none(tmp_path):
    data = {
        "images": [{"id": k, "file_name": f"{k}.jpg", "height": 6, "width": 8} for k in (2, 1, 3, 4)],
        "annotations": [
            {"id": 1, "image_id": 2, "category_id": 9},
            {"id": 2, "image_id": 2, "category_id": 4},
            {"id": 3, "image_id": 2, "category_id": 9},
            {"id": 4, "image_id": 1, "category_id": 4, "iscrowd": 1},
            {"id": 5, "image_id": 3, "category_id": 9},
        ],
        "categories": [{"id": 9, "name": " dog "}, {"id": 4, "name": "cat"}],
    }
    (tmp_path / "x.json").write_text(json.dumps(data))
    split = read_split(tmp_path / "x.json")
    assert split.classes == ("cat", "dog")  # in the order of the categories' ids
    assert split.labels == {"2.jpg": (0, 1), "3.jpg": (1,)} and split.sizes["2.jpg"] == (8, 6) and split.total == 4
    data["images"][1]["file_name"] = "2.jpg"
    data["annotations"][3]["iscrowd"] = 0
    (tmp_path / "x.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="two images are called 2.jpg"):
        read_split(tmp_path / "x.json")


def test_small_objects_lie_on_large_ones_and_crowds_below_all(tmp_path):
    small = {"segmentation": [[2, 2, 4, 2, 4, 4, 2, 4]], "area": 4, "category_id": 4}
    large = {"segmentation": [[0, 0, 5, 0, 5, 5, 0, 5]], "area": 25}
    crowd = {"segmentation": {"counts": [0, 6 * 8], "size": [6, 8]}, "iscrowd": 1, "area": 48}
    classes = [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}]
    by_hand = np.full((6, 8), 255)
    by_hand[:5, :5] = 1
    by_hand[2:4, 2:4] = 2
    for order in ([small, large, crowd], [crowd, large, small]):
        coco = coco_file(tmp_path / "x.json", *order, categories=classes)
        assert np.array_equal(instance_mask(coco, coco.imgs[1], "x"), by_hand)

    for order in ([small, large], [large, small]):  # without their sizes pixels are counted
        coco = coco_file(tmp_path / "x.json", *({**one, "area": None} for one in order), categories=classes)
        assert np.array_equal(instance_mask(coco, coco.imgs[1], "x"), np.where(by_hand == 255, 0, by_hand))


def test_numbers_and_ids_as_tools_write_them(tmp_path):
    coco = coco_file(tmp_path / "x.json", {"segmentation": OUTLINE, "category_id": 3.0, "iscrowd": 0.0})
    data = coco.dataset
    data["images"][0] |= {"width": 8.0, "height": 6.0}
    del data["annotations"][0]["id"]
    (tmp_path / "x.json").write_text(json.dumps(data))
    again = read_instances(tmp_path / "x.json")
    by_hand = np.zeros((6, 8), int)
    by_hand[1:4, 1:4] = 1
    assert np.array_equal(instance_mask(again, again.imgs[1], "x"), by_hand)
    data["images"][0]["width"] = 8.5
    (tmp_path / "x.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"images\[0\] lacks the key 'width', or it is of another type"):
        read_instances(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("outline", "says"),
    [
        ([[1, 1, 4, 1, 4, 3]], None),
        ([[1, 1]], "without points"),
        ([[1, 1, 4, 3]], "fewer than three"),  # pycocotools would draw a box
        ([[1, 1, 4, 1, 4]], "no list of points"),
        ([[1, 1, 4, 3], [1, 1, 4, 1, 4, 3], []], None),
        ([[1, 1, 4, 1, 99, 4]], "far out of the image"),
        ({"counts": [48], "size": [6, 8]}, None),
        ({"counts": [40], "size": [6, 8]}, "another size"),
        ({"counts": [-1, 49], "size": [6, 8]}, "broken"),
        ({"counts": [48], "size": [8, 6]}, "no run-length code of 8 x 6"),
        ({"counts": "x9", "size": [6, 8]}, "broken"),
        ({"counts": "`1", "size": [6, 8]}, None),
    ],
)
def test_outlines_that_code_in_c_must_not_see(tmp_path, outline, says):
    coco = coco_file(tmp_path / "x.json", {"segmentation": outline})
    if says is None:
        assert read_outline(coco, coco.anns[0], (6, 8)).shape == (6, 8)
    else:
        with pytest.raises(ValueError, match=says):
            read_outline(coco, coco.anns[0], (6, 8))


def test_a_broken_outline_names_its_annotation(tmp_path):
    coco = coco_file(tmp_path / "x.json", {"segmentation": OUTLINE}, {"segmentation": [[1, 1]]})
    with pytest.raises(UserError, match=r"x.json: annotation 1: .*without points, or .*fetch the file again"):
        instance_mask(coco, coco.imgs[1], "x.json")


def test_boxes_are_rounded_outwards():
    cells = np.zeros((6, 8), bool)
    boxes = (([1.5, 2, 2, 1.2], (2, 4), (1, 4)), ([0, 0, 99, 1], (0, 1), (0, 8)), (None, (0, 6), (0, 8)))
    for box, rows, columns in boxes:
        there = cells.copy()
        there[box_slices(box)] = True
        by_hand = cells.copy()
        by_hand[slice(*rows), slice(*columns)] = True
        assert np.array_equal(there, by_hand)


@pytest.mark.parametrize("part", ["train", "val"])
def test_things_of_stuff_maps_and_nothing_else(tmp_path, part):
    """A map has category - 1: 2 is our cat, the others are background, 255 too."""
    coco, folder = coco_file(tmp_path / "x.json"), tmp_path / f"{part}2017"
    folder.mkdir()
    values = np.zeros((6, 8), np.uint8)
    values[0, :4] = [2, 3, 100, 255]
    Image.fromarray(values).save(folder / "000000000001.png")
    mask = stuff_mask(coco, coco.imgs[1], tmp_path)
    assert mask[0].tolist() == [1] + [0] * 7 and not mask[1:].any()
    Image.fromarray(values.T.copy()).save(folder / "000000000001.png")
    with pytest.raises(UserError, match="not of the size of a.jpg"):
        stuff_mask(coco, coco.imgs[1], tmp_path)
    (folder / "000000000001.png").unlink()
    with pytest.raises(UserError, match="train2017/000000000001.png: not there, nor in val2017"):
        stuff_mask(coco, coco.imgs[1], tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no JSON, or cut off"),
        ("[]", "lacks the key 'images'"),
        ('{"images": [{"id": "1"}], "annotations": [], "categories": []}', "images.0. lacks the key 'id'"),
    ],
)
def test_files_that_are_none(tmp_path, text, says):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=says):
        read_instances(tmp_path / "x.json")
    with pytest.raises(UserError, match="no such file; --download"):
        read_instances(tmp_path / "y.json")
