"""Predictor: what a user's own program gets is what infer_seg.py and infer.py write."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import run_here
from PIL import Image

from models.aeft import AEFTNet
from models.checkpoint import save_weights
from models.deeplab import make_segmentation_net
from models.predictor import Predictor
from models.resnet38d import ResNet38d
from models.trained import trained_side
from tool.io.files import UserError, write_json
from tool.io.images import open_image, open_mask
from tool.io.scores import read_scores
from tool.results import labels_of

TINY, NAMES = 1 / 16, ["cat", "dog", "x y"]
SIZES = {"small": (40, 56), "large": (100, 60)}  # height, width
TRAINED = {  # what the run.json of the classifier and of the segmentation network say: sides of 64 and of 60 pixels
    "ckpt": {"settings": {"resize": [32, 64]}},
    "ckpt_seg/deeplab_resnet38d": {"settings": {}, "arguments": {"max_side": 1024, "side": 60}},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Experiment "n" with networks of random values, two photographs, and what the scripts made of them."""
    folder = tmp_path_factory.mktemp("predictor")
    torch.manual_seed(0)
    save_weights(AEFTNet(ResNet38d(TINY), 3), folder / "n/ckpt/001net_main.pth")
    save_weights(make_segmentation_net("deeplab_resnet38d", 4, TINY), folder / "n/ckpt_seg/deeplab_resnet38d/best.pth")
    settings = {"voc12_root": "gone", "classes": "gone/classes.txt", "cls_labels": None, "width": TINY}
    write_json(folder / "n/settings.json", settings | {"class_names": NAMES})
    for place, record in TRAINED.items():
        write_json(folder / "n" / place / "run.json", record)
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name, (height, width) in SIZES.items():
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
        coarse.resize((width, height)).save(folder / "photos" / f"{name}.png")
    flags = ["--name", "n", "--experiment", folder, "--images", folder / "photos", "--out", folder / "out"]
    flags += ["--device", "cpu", "--num_workers", 0]
    code, errors = run_here("infer_seg.py", *flags, "--scales", 0.5, 1)
    assert code == 0, errors
    cam = ["--labels", "predicted", "--load_epo", 1, "--scales", 0.5, 1, "--min_score", 0.45, "--alphas", 2]
    code, errors = run_here("infer.py", *flags, *cam, "--crf_workers", 1)
    assert code == 0, errors
    return folder


def photos(place):
    return [open_image(place / "photos" / f"{name}.png") for name in SIZES]


def test_the_segmentation_network_labels_as_infer_seg_does(place):
    predictor = Predictor.load(place / "n", scales=[0.5, 1], device="cpu")
    assert predictor.classes == ("background", *NAMES)  # without the data set
    results = predictor(photos(place))
    for (name, size), (labels, scores) in zip(SIZES.items(), results):
        expected = open_mask(place / "out/seg" / f"{name}.png", 4)
        assert labels.dtype == np.uint8 and (labels == expected).all() and len(np.unique(labels)) > 1
        assert scores.dtype == np.float32 and scores.shape == (4, *(size if name == "small" else (60, 36)))
        np.testing.assert_allclose(scores.sum(0), 1, rtol=1e-5)
    assert (results[0].labels == results[0].scores.argmax(0)).all()


def test_the_classifier_sees_what_infer_does(place):
    options = {"scales": (0.5, 1), "min_score": 0.45, "threshold": 0.3}
    predictor = Predictor.load(place / "n", "cam", device="cpu", **options)
    for name, (labels, scores) in zip(SIZES, predictor(photos(place))):
        maps = read_scores(place / "out/dict" / f"{name}.npy")
        assert labels.dtype == np.uint8 and (labels == labels_of(maps, "cam", 0.3)).all()
        assert (scores[0] == np.float32(0.3)).all()
        assert scores.shape == (4, *(SIZES[name] if name == "small" else (64, 38)))
        assert {k for k in range(3) if scores[k + 1].any()} == set(maps)
        if name == "small":
            assert (labels == scores.argmax(0)).all()
            for k, one in maps.items():
                np.testing.assert_allclose(scores[k + 1], one, atol=1e-6)


def test_one_image_a_path_an_array_and_a_batch_are_alike(place):
    predictor = Predictor.load(place / "n", scales=[1], mirror=False, device="cpu")
    photo = photos(place)[0]
    labels, scores = predictor(photo)
    pixels = np.asarray(photo)
    for one in (pixels, place / "photos/small.png", str(place / "photos/small.png"), photo.convert("RGBA")):
        assert (predictor(one).scores == scores).all()
    batch = predictor(np.stack([pixels, pixels[:, ::-1]]))
    assert len(batch) == 2 and (batch[0].labels == labels).all()
    grey = predictor(pixels[..., 0]).scores
    assert (grey == predictor(np.repeat(pixels[..., :1], 3, 2)).scores).all()
    assert predictor([]) == []


def test_what_is_no_image_is_refused(place):
    predictor = Predictor.load(place / "n", scales=[1], mirror=False, device="cpu")
    for wrong, says in (
        (np.zeros((4, 5, 3)), r"\(4, 5, 3\) of float64"),
        (np.zeros((3, 4, 5), np.uint8), "H x W x 3"),
        (Image.new("I", (4, 5)), "mode I, .* give its path"),
        (None, "NoneType is no image"),
        (np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\) of uint8"),
        (place / "none.png", "no such image$"),
        (place, "no such image$"),
    ):
        with pytest.raises(UserError, match=says):
            predictor(wrong)
    for which in ("seg", "cam"):
        with pytest.raises(UserError, match="scales: none"):
            Predictor.load(place / "n", which, scales=[], device="cpu")


def test_the_exported_network_labels_as_infer_seg_does_at_one_scale(place):
    common = ["--name", "n", "--experiment", place]
    code, errors = run_here("export.py", *common, "--out", place / "net.onnx")
    assert code == 0, errors
    more = ["--images", place / "photos", "--out", place / "one", "--device", "cpu", "--num_workers", 0]
    code, errors = run_here("infer_seg.py", *common, *more, "--scales", 1, "--no-mirror", "--max_side", 0)
    assert code == 0, errors
    session = onnxruntime.InferenceSession(str(place / "net.onnx"), providers=["CPUExecutionProvider"])
    for name, photo in zip(SIZES, photos(place)):
        image = np.asarray(photo, np.float32).transpose(2, 0, 1)[None] / 255
        labels = session.run(["logits"], {"image": image})[0][0].argmax(0)
        assert (labels == open_mask(place / "one/seg" / f"{name}.png", 4)).mean() > 0.999  # a tie may turn


def test_which_network_is_taken(place, tmp_path):
    with pytest.raises(UserError, match="no network there"):
        Predictor.load(tmp_path / "n")
    with pytest.raises(UserError, match="smp-Unet-x.best.pth: no such checkpoint; which is 'seg'"):
        Predictor.load(place / "n", "smp:Unet:x")
    folder = tmp_path / "n"
    shutil.copytree(place / "n/ckpt", folder / "ckpt")
    write_json(folder / "settings.json", {"classes": str(tmp_path / "c.txt"), "width": TINY})  # of before names
    (tmp_path / "c.txt").write_text("a\nb\nc\n")
    assert Predictor.load(folder).classes == ("background", "a", "b", "c")
    assert hasattr(Predictor.load(folder), "threshold")  # the classifier's
    for arch in ("smp:A:b", "smp:C:d"):
        write_json(folder / "ckpt_seg" / arch.replace(":", "-") / "run.json", {"settings": {"arch": arch}})
        (folder / "ckpt_seg" / arch.replace(":", "-") / "best.pth").touch()
    with pytest.raises(UserError, match="several segmentation networks.*smp:"):
        Predictor.load(folder)
    (tmp_path / "c.txt").unlink()
    with pytest.raises(UserError, match="c.txt: no such file"):
        Predictor.load(folder, "cam")
    (folder / "settings.json").write_text(json.dumps([1]))
    with pytest.raises(UserError, match="not the settings"):
        Predictor.load(folder)


@pytest.mark.parametrize("settings", [{"resize": 7}, {"resize": "wide"}, {"resize": [3]}])
def test_a_damaged_record_beside_the_weights_is_refused(tmp_path, settings):
    write_json(tmp_path / "run.json", {"settings": settings})
    with pytest.raises(UserError, match="run.json is damaged"):
        trained_side(tmp_path / "best.pth")
