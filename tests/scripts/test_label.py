"""label.py: photographs in nested folders and a table, to masks, a page and the files of other tools."""

import json
import shutil
import sys
import zipfile
from pathlib import Path

import datumaro
import numpy as np
import pytest
import supervision
import torch
from conftest import load_script, prints, refused, run_here
from label_studio import decode_brush
from PIL import Image
from pycocotools.coco import COCO

from engine.children import Stages
from engine.experiment import Experiment, write_chosen
from tool.io.files import UserError, read_list
from tool.io.images import label_image, open_mask, save_image
from voc12.classes import VOC_CLASSES
from voc12.labels import load_labels

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools with numpy 2

COUNT = 40
# of what label.py asks for, these alone make the test quicker
QUICKER = dict.fromkeys(("train.py", "train_aff.py", "train_seg.py"), ["--crop_size", 32])
QUICKER |= {"infer.py": ["--scales", 1], "infer_seg.py": ["--scales", 1, "--no-mirror"]}


@pytest.fixture(scope="module")
def photos(toy, tmp_path_factory):
    """The drawn dozen, small, as it is, turned and mirrored, in two folders, one in the other, and a table of their
    labels -> (folder, table)."""
    root = tmp_path_factory.mktemp("mine")
    rows = ["image,labels"]
    labels = list(load_labels(read_list(toy / "train.txt"), toy, VOC_CLASSES, None).items())
    for k in range(COUNT):
        image_id, label = labels[k % 12]
        name = f"{'deep/er' if k % 2 else 'deep'}/{k:02d}.png"
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        photo = Image.open(toy / f"JPEGImages/{image_id}.jpg").resize((32, 24))
        photo = photo.transpose(Image.Transpose(k // 12 - 1)) if k >= 12 else photo
        photo.save(root / "photos" / name)
        rows.append(f"{name},{';'.join(VOC_CLASSES[c] for c in np.nonzero(np.asarray(label))[0])}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root / "photos", root / "labels.csv"


@pytest.fixture
def here(monkeypatch):
    """Scripts run in this process, each as a user runs it -> their names, as they come."""
    ran = []

    def run(stages, stage, script, *flags):
        ran.append(script)
        code, errors = run_here(script, *flags, *QUICKER.get(script, []))
        assert code == 0, errors[-2000:]

    monkeypatch.setattr(Stages, "run", run)
    return ran


def flags(photos, out, *more):
    return ["--images", photos[0], "--labels", photos[1], "--out", out, *more]


def read_coco(out):
    """{ID: mask} of an export, as pycocotools reads it."""
    coco, found = COCO(str(out / "coco.json")), {}
    for image in coco.loadImgs(coco.getImgIds()):
        mask = found[id_of(image["file_name"])] = np.zeros((image["height"], image["width"]), np.uint8)
        for one in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            mask[coco.annToMask(one) > 0] = one["category_id"]
    return found


def read_cvat(out, names, sizes):
    """The same, of datumaro. names: of the labels; sizes: {ID: (height, width)}."""
    with zipfile.ZipFile(out / "cvat.zip") as zipped:
        zipped.extractall(out / "cvat")
    read, found = datumaro.Dataset.import_from(str(out / "cvat"), "voc_segmentation"), {}
    labels = [label.name for label in read.categories()[datumaro.AnnotationType.label]]
    for item in read:
        mask = found[id_of(item.id)] = np.zeros(sizes[id_of(item.id)], np.uint8)
        for shape in item.annotations:
            mask[shape.image > 0] = names.index(labels[shape.label])
    return found


def read_label_studio(out, names, sizes):
    found = {}
    for task in json.loads((out / "labelstudio.json").read_text()):
        image_id = id_of(task["data"]["image"].partition("=")[2])
        mask = found[image_id] = np.zeros(sizes[image_id], np.uint8)
        for region in task["predictions"][0]["result"]:
            alpha = np.reshape(decode_brush(region["value"]["rle"]), (*mask.shape, 4))[..., 3]
            mask[alpha > 0] = names.index(region["value"]["brushlabels"][0])
    return found


def read_yolo(out):
    """{ID: ids of its objects}, as supervision reads it: polygons have no holes."""
    folder = out / "yolo"
    folders = str(folder / "images/train"), str(folder / "labels/train"), str(folder / "data.yaml")
    read = supervision.DetectionDataset.from_yolo(*folders, force_masks=True)
    return {id_of(path): {k + 1 for k in found.class_id.tolist()} for path, _, found in read}


def id_of(name):
    """deep/er/03.png, or as a path below another folder -> deep__er__03."""
    return name[name.index("deep") :].removesuffix(".png").replace("/", "__")


def test_from_photographs_to_masks_a_page_and_other_tools(photos, tmp_path, here):
    torch.set_num_threads(1)
    out = tmp_path / "set"
    words = flags(photos, out, "--steps", 2)
    printed = prints("label.py", *words)
    masks = next((out / "run/seg_crf").iterdir())
    assert f"masks: {masks}\n" in printed and (out / "run/report/index.html").is_file()
    assert f"infer_seg.py --name run --experiment {out} --images DIR --out DIR --crf" in printed
    made = {path.stem: open_mask(path, 21) for path in masks.glob("*.png")}
    assert len(made) == COUNT and sum(name.startswith("deep__er__") for name in made) == COUNT // 2
    weights = next((out / "run/ckpt").glob("*net_main.pth")).stat().st_mtime_ns
    for k, (image_id, mask) in enumerate(made.items()):  # so short a training finds background alone
        mask[2:9, k % 24 : k % 24 + 7], mask[4, (k + 2) % 24], mask[12:, 20] = 1 + k % 5, 0, 1
        save_image(masks / f"{image_id}.png", label_image(mask))
    here.clear()
    prints("label.py", *words, "--export", "coco", "cvat", "yolo", "labelstudio", "yolo")  # goes on at the end
    assert "voc12/make_dataset.py" not in here and here.count("voc12/export_labels.py") == 5
    assert (out / "export/yolo.old").is_dir()  # a second time: labels may be others, what was there is kept
    assert next((out / "run/ckpt").glob("*net_main.pth")).stat().st_mtime_ns == weights
    names = ["background", *(out / "classes.txt").read_text().split("\n")]
    sizes = {image_id: mask.shape for image_id, mask in made.items()}
    readings = read_coco(out / "export"), read_cvat(out / "export", names, sizes)
    for found in (*readings, read_label_studio(out / "export", names, sizes)):
        assert found.keys() == made.keys() and all(np.array_equal(found[i], made[i]) for i in made)
    assert read_yolo(out / "export") == {i: set(np.unique(mask).tolist()) - {0} for i, mask in made.items()}


def test_a_set_that_is_there_is_gone_on_with_unless_files_are_others(photos, tmp_path, here):
    """Also where label.py ended, or was killed, behind make_dataset.py."""
    label = load_script("label.py")
    for name in ("00", "01"):
        (tmp_path / "masks/deep/er").mkdir(parents=True, exist_ok=True)
        save_image(tmp_path / f"masks/deep/{'er/' * int(name)}{name}.png", label_image(np.ones((24, 32), np.uint8)))
    (tmp_path / "photographs").symlink_to(photos[0])
    table = shutil.copy(photos[1], tmp_path)
    words = flags((photos[0], table), tmp_path / "set", "--masks", tmp_path / "masks")
    args = label.get_args_parser().parse_args([*map(str, words)])
    label.make_set(Stages(), args)
    args.images = str(tmp_path / "photographs")  # the same by another path
    label.make_set(Stages(), args)
    assert here == ["voc12/make_dataset.py"]
    save_image(tmp_path / "masks/deep/er/01.png", label_image(np.eye(24, 32, dtype=np.uint8)))
    with pytest.raises(UserError, match="set: is of other masks than now; give another --out"):
        label.make_set(Stages(), args)
    Path(table).write_text(Path(table).read_text() + "\n")
    with pytest.raises(UserError, match="set: is of other masks and labels than now"):
        label.make_set(Stages(), args)
    assert here == ["voc12/make_dataset.py"]


def test_steps_and_sizes_follow_the_set(photos, tmp_path, monkeypatch):
    label = load_script("label.py")
    monkeypatch.setattr(label, "seconds_a_step", lambda train: 0.5)
    parse = label.get_args_parser().parse_args
    base = [str(word) for word in flags(photos, tmp_path)]
    assert label.choose_steps(parse(base), [], 60) == (120, ["--epochs", 17, "--T", 17])  # nothing is erased
    assert label.choose_steps(parse(base), [], 300) == (600, ["--epochs", 16, "--T", 16])
    assert label.choose_steps(parse(base), [], 10_000) == (1200, ["--epochs", 2, "--T", 1])
    assert label.choose_steps(parse([*base, "--minutes", "20"]), [], 60)[0] == 480  # 0.2 of 1,200 s
    assert label.choose_steps(parse([*base, "--minutes", "1"]), [], 60)[0] == 120
    paths = sorted(photos[0].rglob("*.png"))
    assert label.fit_views(paths) == ([19, 35], 96)
    assert label.choose_steps(parse([*base, "--minutes", "20", "--walk"]), [], 60)[0] == 408  # 0.17 of 1,200 s


def test_with_the_walk_the_network_learns_from_its_labels(photos, tmp_path, monkeypatch):
    label = load_script("label.py")
    monkeypatch.setattr(label, "fit_views", lambda paths: ([19, 35], 96))
    stages, ran = Stages(), {}
    monkeypatch.setattr(stages, "run", lambda stage, script, *flags: ran.update({script: [*map(str, flags)]}))

    def plan(out, *more):
        ran.clear()
        args = label.get_args_parser().parse_args([*map(str, flags(photos, tmp_path / out)), *more])
        label.run_stages(stages, args, [], [])
        words = ran["train_seg.py"]
        return list(ran), words[words.index("--labels") + 1]

    assert plan("a") == (["train.py", "infer.py", "train_seg.py", "infer_seg.py"], "crf_png/03")
    with_walk = ["train.py", "infer.py", "train_aff.py", "infer_aff.py", "train_seg.py", "infer_seg.py"]
    assert plan("b", "--walk") == (with_walk, "rw/02_1204") and "--crf" in ran["infer.py"]
    assert plan("c", "--refine", "par") == (["train.py", "infer.py", "train_seg.py", "infer_seg.py"], "crf_png/03")
    for script in ("infer.py", "infer_seg.py"):
        assert ran[script][ran[script].index("--refine") + 1] == "par"
    for out in "ab":
        chosen = {"low": 1, "high": 8, "dup": 5, "alphas": [1, 5, 8]}
        write_chosen(Experiment(tmp_path / out, label.NAME), chosen, "", {})
    assert plan("a")[1] == "crf_png/05" and plan("b", "--walk")[1] == "rw/01_0805"
    with pytest.raises(UserError, match="a: was begun with another --seed --walk; give the same, or another --out"):
        plan("a", "--walk", "--seed", "2")


def test_a_budget_is_timed_once(photos, tmp_path, monkeypatch):
    label = load_script("label.py")
    seconds, stages, ran = iter([0.5, 0.7]), Stages(), []
    monkeypatch.setattr(label, "fit_views", lambda paths: ([19, 35], 96))
    monkeypatch.setattr(label, "seconds_a_step", lambda train: next(seconds))
    monkeypatch.setattr(stages, "run", lambda stage, script, *flags: ran.append(flags))
    args = label.get_args_parser().parse_args([*map(str, flags(photos, tmp_path, "--minutes", 20))])
    label.run_stages(stages, args, [], ["a"] * 16)
    first, ran[:] = ran[:], []
    label.run_stages(stages, args, [], ["a"] * 16)
    assert ran == first and ran


def renamed(photos, folder):
    """The same with the last of VOC's classes called a:1."""
    (folder / "renamed.csv").write_text(photos[1].read_text().replace(VOC_CLASSES[19], "a:1"))
    return photos[0], folder / "renamed.csv"


def test_bad_input(photos, tmp_path, capfd, monkeypatch):
    refused("label.py", "--images", photos[0], "--out", tmp_path / "x", says="--labels CSV or --by_folder")
    refused("label.py", *flags(photos, tmp_path / "x", "--steps", 3, "--minutes", 2), says="give one of them")
    assert run_here("label.py", "--images", tmp_path / "none", "--by_folder", "--out", tmp_path / "x")[0] == 2
    assert capfd.readouterr().err == f"make_dataset.py: error: {tmp_path / 'none'}: no such folder\n"
    few = tmp_path / "few"
    (few / "deep").mkdir(parents=True)
    Image.fromarray(np.ones((24, 32), np.uint8)).save(few / "deep/00.png")
    (tmp_path / "names.txt").write_text("\n".join([*VOC_CLASSES[:19], "a:1"]))
    for more, says in (
        (["--masks", few], "one mask; two at least"),
        (["--export", "cvat", "--classes", tmp_path / "names.txt"], "a:1"),
    ):
        refused("label.py", *flags(renamed(photos, tmp_path), tmp_path / "y", *more), says=says)
        assert not (tmp_path / "y/run").exists()
        shutil.rmtree(tmp_path / "y")
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    refused("label.py", *flags(photos, tmp_path / "x"), says="or give --refine par")
    assert not (tmp_path / "x").exists()
