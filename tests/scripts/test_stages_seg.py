"""The segmentation network's two scripts as a user runs them, on a dozen drawn images."""

import json
import shutil
import zipfile

import numpy as np
import pytest
import timm
import torch
from conftest import ROOT, load_script, prints, refused, run_here
from PIL import Image
from stage_runs import common_flags, infer_seg_flags, read_log, torchrun, train_seg_flags

from models.checkpoint import load_weights, save_weights
from models.deeplab import make_segmentation_net
from models.resnet38d import count_parameters
from tool.io.files import read_list
from tool.io.images import IGNORE, PALETTE, open_image, open_mask
from tool.io.scores import read_scores, write_scores
from tool.metrics import confusion, iou, mean_iou
from tool.par import par_scores
from tool.segmentation import multi_scale_scores, refine_scores
from voc12.paths import image_path
from voc12.transforms import InferenceViews, normalise

ARCH = "deeplab_resnet38d"
SMP = "smp:Unet:test_resnet"


def runs(script, *args):
    """Run a script that must succeed, in this process."""
    code, errors = run_here(script, *args)
    assert code == 0, errors[-2000:]


def export_flags(toy, folder):
    return ["--name", "n", "--experiment", folder, "--voc12_root", toy]


def ckpt(folder, arch=ARCH):
    return folder / "n" / "ckpt_seg" / arch.replace(":", "-")


def weights(folder, name="best.pth", arch=ARCH):
    return torch.load(ckpt(folder, arch) / name, weights_only=True)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def segmented(toy, trained, tmp_path_factory):
    """The experiment with its classifier, and a segmentation network that began with it."""
    folder = tmp_path_factory.mktemp("segmented")
    shutil.copytree(trained / "n" / "ckpt", folder / "n" / "ckpt")
    shutil.copy(trained / "n" / "settings.json", folder / "n")
    runs("train_seg.py", *train_seg_flags(toy, folder))
    return folder


@pytest.fixture
def copy(segmented, tmp_path):
    """The experiment in a folder of its own, to continue or to damage."""
    shutil.copytree(segmented / "n", tmp_path / "n")
    return tmp_path


# ---------------------------------------------------------------- training


def test_training_goes_on_from_the_classifier(segmented):
    text = (segmented / "n" / f"log_seg_{ARCH}.txt").read_text()
    assert "ckpt/003net_main.pth" in text and "best.pth is the last epoch" in text
    assert "group trunk weight" in text and "lr 0.005" in text
    assert "group scratch weight: 2 tensors" in text and "lr 0.05" in text  # tenfold
    before = torch.load(segmented / "n" / "ckpt" / "003net_main.pth", weights_only=True)
    after = weights(segmented)
    trunk = [name for name in before if name in after]
    frozen = {n for n in trunk if "bn" in n or n.startswith(("conv1a", "b2"))}
    assert len(trunk) == 228 and {n for n in trunk if torch.equal(before[n], after[n])} == frozen
    assert same(after, weights(segmented, "01.pth")) and not same(after, weights(segmented, "00.pth"))
    records = read_log(segmented / "n" / f"log_seg_{ARCH}.jsonl")
    assert [r["epoch"] for r in records] == [0, 1] and all(0 <= r["miou"] <= r["miou_present"] for r in records)
    record = json.loads((ckpt(segmented) / "run.json").read_text())
    assert record["weights"]["path"].endswith("003net_main.pth") and len(record["lists"]) == 2
    assert record["settings"]["momentum"] == 0.9 and record["summary"]["images"]["done"] == 20
    assert record["arguments"]["side"] == 64  # by which infer_seg.py --images takes its --max_side


def test_a_run_goes_on_with_the_same_masks_only(toy, copy, tmp_path):
    shutil.copytree(toy / "SegmentationClass", copy / "n" / "own")
    flags = [*train_seg_flags(toy, copy), "--epochs", 3, "--resume"]
    runs("train_seg.py", *flags, "--labels", "own", "--stop_epoch", 2)  # the same masks elsewhere
    Image.new("L", (3, 3)).save(copy / "n" / "own" / f"{read_list(toy / 'train.txt')[3]}.png")
    refused("train_seg.py", *flags, "--labels", "own", says=["not the masks of --labels", "give back the old"])


def test_corrected_masks_go_to_a_tool_and_back_and_win(toy, copy, tmp_path):
    """Exported, one mask changed as in CVAT, imported, trained on; the mask that was changed is lacking in --labels."""
    ids, own = read_list(toy / "train.txt"), copy / "n" / "own"
    own.mkdir()
    for image_id in ids:
        shutil.copy(toy / "SegmentationClass" / f"{image_id}.png", own)
    place = ["--labels", own, "--out"]
    runs("voc12/export_labels.py", *place, tmp_path / "x.zip", "--images", toy / "JPEGImages", "--format", "cvat")
    with zipfile.ZipFile(tmp_path / "x.zip") as old, zipfile.ZipFile(tmp_path / "y.zip", "w") as new:
        for name in ("labelmap.txt", f"SegmentationClass/{ids[2]}.png", f"SegmentationClass/{ids[4]}.png"):
            new.writestr(name, old.read(name))
        with new.open(f"SegmentationClass/{ids[3]}.png", "w") as stream:
            Image.new("RGB", Image.open(own / f"{ids[3]}.png").size, (64, 0, 0)).save(stream, "PNG")  # a cat everywhere
    assert "3 masks" in (out := prints("voc12/import_labels.py", tmp_path / "y.zip", *place, tmp_path / "c"))
    assert "1 of them changed" in out and open_mask(tmp_path / "c" / f"{ids[3]}.png", 21).min() == 8
    (own / f"{ids[3]}.png").unlink()
    flags = [*train_seg_flags(toy, copy), "--labels", "own"]
    refused("train_seg.py", *flags, "--overwrite", says="own: nothing for 1 of 12 images")
    corrected = ["--corrected", tmp_path / "c"]
    runs("train_seg.py", *flags, *corrected, "--overwrite", "--epochs", 2, "--stop_epoch", 1)
    changed = torch.load(ckpt(copy) / "00.pth", weights_only=True)
    image = Image.open(tmp_path / "c" / f"{ids[3]}.png")
    Image.new("L", image.size, 9).save(tmp_path / "c" / f"{ids[3]}.png")
    refused("train_seg.py", *flags, *corrected, "--resume", says="pth: not the masks of --corrected that the run")
    shutil.copy(toy / "SegmentationClass" / f"{ids[3]}.png", own)
    refused("train_seg.py", *flags, "--resume", says="masks of --corrected that the run")
    runs("train_seg.py", *flags, "--overwrite", "--epochs", 2, "--stop_epoch", 1)
    assert not same(changed, weights(copy, "00.pth"))


@pytest.mark.parametrize(
    ("mask", "name", "says"),
    [
        (Image.new("L", (64, 48), 21), None, "holds id 21; ids go from 0 to 20"),
        (Image.new("L", (9, 9)), None, "but its mask has 9 x 9"),
        (Image.new("L", (64, 48)), "other", "no mask (ID.png) there of any of the 12 images"),
    ],
)
def test_corrected_masks_that_are_none(toy, copy, tmp_path, mask, name, says):
    (tmp_path / "c").mkdir()
    mask.save(tmp_path / "c" / f"{name or read_list(toy / 'train.txt')[0]}.png")
    refused("train_seg.py", *train_seg_flags(toy, copy), "--overwrite", "--corrected", tmp_path / "c", says=says)


def test_the_best_epoch_on_request(toy, copy):
    runs("train_seg.py", *train_seg_flags(toy, copy), "--select", "best", "--epochs", 4, "--keep", 1, "--overwrite")
    text = (copy / "n" / f"log_seg_{ARCH}.txt").read_text()
    records = read_log(copy / "n" / f"log_seg_{ARCH}.jsonl")
    best = max(range(4), key=lambda k: records[k]["miou"])
    assert "ground truth picks it" in text and text.count("best so far") >= 1 and len(records) == 4
    assert [p.name for p in sorted(ckpt(copy).glob("[0-9]*.pth"))] == ["03.pth"]
    assert same(weights(copy), weights(copy, "03.pth")) == (best == 3)
    resume = torch.load(ckpt(copy) / "resume.pth", weights_only=True)["progress"]
    assert resume["best"] == pytest.approx(records[best]["miou"])
    (ckpt(copy) / "best.pth").unlink()
    flags = ["--select", "best", "--epochs", 4, "--keep", 1, "--resume"]
    out = prints("train_seg.py", *train_seg_flags(toy, copy), *flags)
    assert f"--weights {ckpt(copy) / '03.pth'}" in out[out.index("next:") :]


def test_flags_win_over_the_recipe():
    parser = load_script("train_seg.py").get_args_parser()
    ours = parser.parse_args(["--name", "n", "--labels", "x"])
    assert (ours.batch_size, ours.lr, ours.momentum, ours.wt_dec) == (10, 1e-3, 0.9, 5e-4)
    assert (ours.random_scale, ours.scale_by_batch, ours.padding, ours.msc) == ([0.5, 1.5], False, IGNORE, True)
    flags = ["--name", "n", "--labels", "x", "--recipe", "mctformer"]
    theirs = parser.parse_args(flags)
    assert (theirs.batch_size, theirs.lr, theirs.momentum, theirs.wt_dec) == (4, 7e-4, 1e-5, 0.0)
    assert (theirs.random_scale, theirs.scale_by_batch, theirs.padding, theirs.msc) == ([0.7, 1.3], True, 0, False)
    assert theirs.pretrained == "pretrained/res38_cls.pth" and not any(theirs.jitter)
    assert (ours.loss_at, ours.dropout_rates, ours.train_b2) == ("cells", [0.2, 0.2], False)
    assert (theirs.loss_at, theirs.dropout_rates, theirs.train_b2) == ("pixels", [0.3, 0.5], True)
    mixed = parser.parse_args([*flags, "--msc", "--lr", "0.5", "--padding", "255", "--pretrained", "none"])
    assert (mixed.msc, mixed.lr, mixed.padding, mixed.pretrained, mixed.batch_size) == (True, 0.5, 255, "none", 4)


def test_what_the_other_recipe_trains(toy, trained, tmp_path):
    """Of the pretrained trunk conv1a and BatchNorm stay; the dropout of b6 and b7 is AffinityNet's."""
    start = trained / "n" / "ckpt" / "003net_main.pth"
    flags = [*train_seg_flags(toy, tmp_path), "--width", 0.0625, "--recipe", "mctformer", "--pretrained", start]
    runs("train_seg.py", *flags, "--epochs", 1)
    before, after = torch.load(start, weights_only=True), weights(tmp_path)
    still = {name for name in before if name in after and torch.equal(before[name], after[name])}
    assert still == {n for n in before if n in after and ("bn" in n or n.startswith("conv1a"))}
    script = load_script("train_seg.py")
    for recipe, rates in (("mctformer", (0.3, 0.5)), ("default", (0.2, 0.2))):
        args = script.get_args_parser().parse_args(
            ["--name", "n", "--labels", "x", "--recipe", recipe, "--width", ".1"]
        )
        args.arch = ARCH
        blocks = script.build_net(args, "none", 21).trunk
        dropped = [(block.dropout_2b1.p, block.dropout_2b2.p) for block in (blocks.b6, blocks.b7)]
        assert dropped == [(rate, rate) for rate in rates]


@pytest.mark.parametrize("more", [["--recipe", "mctformer"], ["--arch", SMP, "--amp"], ["--optimizer", "adamw"]])
def test_other_recipes_and_networks(toy, copy, more):
    flags = [*train_seg_flags(toy, copy), "--pretrained", "none", "--epochs", 1, "--overwrite", *more]
    runs("train_seg.py", *flags)
    arch = more[1] if "--arch" in more else ARCH
    assert weights(copy, arch=arch).keys() == weights(copy, "00.pth", arch).keys()
    assert np.isfinite(read_log(copy / "n" / f"log_seg_{ckpt(copy, arch).name}.jsonl")[0]["total"])


def with_colons(experiment):
    """Rename what is of SMP as older versions did."""
    for path in sorted(experiment.rglob("*smp-*"), reverse=True):
        path.rename(path.with_name(path.name.replace("smp-Unet-", "smp:Unet:")))


def test_names_on_disk_have_no_colon_and_old_ones_are_found(toy, copy):
    train = [*train_seg_flags(toy, copy), "--pretrained", "none", "--arch", SMP]
    infer = ["infer_seg.py", *infer_seg_flags(toy, copy), "--arch", SMP, "--crf", "--vis", "--scales", 1]
    score = ["evaluation.py", *common_flags(toy, copy)[:6], "--task", "png", "--list", toy / "val.txt", "--dict_dir"]
    runs("train_seg.py", *train, "--stop_epoch", 1)
    name = ckpt(copy, SMP).name
    assert f"--dict_dir seg_crf/{name} " in prints(*infer)
    assert not list(copy.rglob("*:*")) and len(list(copy.glob(f"n/*/{name}"))) == 4
    scored = prints(*score, f"seg/{SMP}")
    with_colons(copy / "n")
    assert scored.splitlines()[:20] == prints(*score, f"seg/{name}").splitlines()[:20]
    assert "4 images, 4 done before" in prints(*infer)
    runs("train_seg.py", *train, "--resume")
    refused("train_seg.py", *train, "--labels", f"seg/{name}", says=f"seg/{SMP}: nothing for 12 of 12 images")
    assert not list(copy.rglob("*smp-*"))
    assert len(read_log(copy / "n" / f"log_seg_{SMP}.jsonl")) == 2


def test_an_encoder_starts_from_timms_file(toy, copy, tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "timm.pth")
    start = ["--arch", SMP, "--pretrained", tmp_path / "timm.pth", "--epochs", 1]
    runs("train_seg.py", *train_seg_flags(toy, copy), *start)
    after, before = weights(copy, arch=SMP), torch.load(tmp_path / "timm.pth", weights_only=True)
    norms = [n for n in before if ".bn" in n]
    assert len(norms) > 20 and all(torch.equal(before[n], after[f"encoder.model.{n}"]) for n in norms)  # frozen
    assert any(n.endswith("running_mean") and value.any() for n, value in after.items() if n.startswith("decoder"))


def test_without_masks_nothing_is_scored(toy, broken, copy):
    shutil.copytree(broken / "SegmentationClass", copy / "n" / "own")
    shutil.rmtree(broken / "SegmentationClass")
    flags = [*train_seg_flags(broken, copy), "--labels", "own", "--epochs", 1, "--overwrite"]
    runs("train_seg.py", *flags)
    assert "miou" not in read_log(copy / "n" / f"log_seg_{ARCH}.jsonl")[0]
    says = ["--select best", "has no masks to choose with", "--select last needs none"]
    refused("train_seg.py", *flags, "--select", "best", says=says)


# ---------------------------------------------------------------- what bad input gets


@pytest.fixture
def own(toy, copy):
    """`copy` with masks of its own, and flags to train on them anew."""
    shutil.copytree(toy / "SegmentationClass", copy / "n" / "own")
    return copy / "n" / "own", [*train_seg_flags(toy, copy), "--labels", "own", "--overwrite"]


def test_masks_that_are_missing_are_counted(toy, own):
    folder, flags = own
    ids = read_list(toy / "train.txt")
    for image_id in ids[2:5]:
        (folder / f"{image_id}.png").unlink()
    says = ["own: nothing for 3 of 12 images of", f"first {ids[2]}", "run infer_aff.py on that list, or check --labels"]
    refused("train_seg.py", *flags, says=says)
    for image_id in ids:
        (folder / f"{image_id}.png").unlink(missing_ok=True)
    refused("train_seg.py", *flags, says=["own: nothing for 12 of 12", f"first {ids[0]}"])
    refused("train_seg.py", *flags, "--labels", "rw/02_2119", says=["n/rw/02_2119: no such folder", "infer_aff.py"])


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (lambda size: Image.new("RGB", size), ["a mask of mode RGB", "palette or grey"]),
        (lambda size: Image.new("L", size, 21), ["holds id 21", "from 0 to 20"]),
        (lambda size: Image.new("L", (9, 9)), ["but its mask has 9 x 9"]),
        (None, ["unreadable mask"]),
    ],
)
def test_a_mask_that_is_none(toy, own, mask, says):
    folder, flags = own
    image_id = read_list(toy / "train.txt")[7]
    path = folder / f"{image_id}.png"
    if mask:
        mask(Image.open(toy / "JPEGImages" / f"{image_id}.jpg").size).save(path)
    else:
        path.write_bytes(path.read_bytes()[:50])
    refused("train_seg.py", *flags, "--crop_size", 17, "--epochs", 1, says=[image_id, *says])
    code, errors = run_here("train_seg.py", *flags, "--crop_size", 17, "--epochs", 1, "--on_error", "skip")
    assert code == 0 and f"left out {image_id}" in errors
    assert image_id in (ckpt(folder.parent.parent) / "failed.txt").read_text()
    code, errors = run_here("train_seg.py", *flags, "--check")
    assert code == 2 and all(text in errors for text in says)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--arch", "deeplab_vgg"], "trunk vgg: there are resnet38d and timm:NAME"),
        (["--arch", "unet"], "there are deeplab_resnet38d, deeplab_timm:NAME, smp:ARCH:ENCODER"),
        (["--arch", "smp:Unett:resnet18"], "did you mean Unet?"),
        (["--arch", "smp:Unet:resnet1"], "timm has no such model; near: resnet18"),
        (["--arch", SMP, "--batch_size", 1], "needs at least 2 images a process"),
        (["--arch", SMP, "--checkpoint_activations", "--pretrained", "none"], "--checkpoint_activations"),
        (["--pretrained", "timm"], "timm has no weights of resnet38d"),
        (["--pretrained", "no/such.pth"], "no/such.pth: no such file"),
        (["--recipe", "best"], "invalid choice: 'best'"),
        (["--random_scale", 2, 1], "MIN must not be above MAX"),
        (["--batch_size", 13], "12 images do not fill one batch of 13"),
        (["--padding", 7], "invalid choice: 7"),
        (["--val_list", "no.txt"], "no.txt: no such list"),
        (["--jitter", 0, 0, 0, 0.6], "hue 0.6 is above 0.5"),
    ],
)
def test_flags_that_do_not_fit(toy, copy, flags, says):
    refused("train_seg.py", *train_seg_flags(toy, copy), "--overwrite", *flags, says=says)
    assert same(weights(copy), weights(copy, "01.pth"))  # nothing was deleted


def test_an_encoder_whose_weights_are_not_there(toy, copy, monkeypatch):
    def offline(*args, pretrained=False, make=timm.create_model, **kwargs):
        if pretrained:
            raise OSError("no network")
        return make(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    flags = [*train_seg_flags(toy, copy), "--arch", SMP]
    refused("train_seg.py", *flags, says=["test_resnet: weights not fetched (no network)", "--pretrained takes a file"])
    assert not ckpt(copy, SMP).exists()


def test_no_start_weights_at_all(toy, copy):
    shutil.rmtree(copy / "n" / "ckpt")
    if not any((ROOT / "pretrained" / n).exists() for n in ("res38_cls.pth", "resnet_38d.params")):
        says = ["none of pretrained/res38_cls.pth pretrained/resnet_38d.params is there", "--pretrained none"]
        refused("train_seg.py", *train_seg_flags(toy, copy), "--overwrite", says=says)


# ---------------------------------------------------------------- labels


def labels(folder, name="seg"):
    """{ID: H x W} of the label images of an experiment."""
    return {p.stem: np.asarray(Image.open(p)) for p in sorted((folder / "n" / name / ARCH).glob("*.png"))}


def expected_scores(folder, photo, merge="mean", scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), mirror=True):
    net = make_segmentation_net(ARCH, 21, 0.0625)
    load_weights(net, ckpt(folder) / "best.pth", part="all")
    return multi_scale_scores(net.eval(), InferenceViews(scales, mirror)(photo), photo.size[::-1], merge).numpy()


@pytest.fixture(scope="module")
def labelled(toy, segmented, tmp_path_factory):
    """The experiment with a network that gives pixels of an image different labels, and these labels."""
    folder = tmp_path_factory.mktemp("labelled")
    shutil.copytree(segmented / "n", folder / "n")
    torch.manual_seed(0)
    net = make_segmentation_net(ARCH, 21, 0.0625)
    with torch.no_grad():
        logits = net.eval()(normalise(open_image(image_path(toy, "toy_00012")))[None])
        net.classifier.bias -= logits.mean((0, 2, 3))  # no label wins everywhere
    save_weights(net, ckpt(folder) / "best.pth")
    runs("infer_seg.py", *infer_seg_flags(toy, folder), "--crf", "--vis")
    return folder


def test_labels_are_the_networks(toy, labelled):
    plain, refined = labels(labelled), labels(labelled, "seg_crf")
    assert list(plain) == list(refined) == list(labels(labelled, "seg_crf_vis")) == read_list(toy / "val.txt")
    for image_id in list(plain)[:2]:
        photo = open_image(image_path(toy, image_id))
        scores = expected_scores(labelled, photo)
        assert np.array_equal(plain[image_id], scores.argmax(0))
        assert np.array_equal(refined[image_id], refine_scores(np.asarray(photo), scores).argmax(0))
        stored = Image.open(labelled / "n" / "seg" / ARCH / f"{image_id}.png")
        assert (stored.mode, stored.size, stored.getpalette()) == ("P", photo.size, PALETTE.ravel().tolist())
    assert all(len(np.unique(mask)) > 2 for mask in plain.values())
    assert not np.array_equal(plain[image_id], refined[image_id])


def test_labels_kept_to_those_of_the_image(toy, labelled, copy):
    """--labels given: the softmax, and the CRF, over background and the classes of the image label; another result."""
    table = {image_id: np.zeros(20, np.float32) for image_id in read_list(toy / "val.txt")}
    first, second, none, *_ = table
    table[first][[6, 14]] = table[second][2] = 1
    np.save(copy / "labels.npy", table, allow_pickle=True)
    flags = [*infer_seg_flags(toy, copy), "--labels", "given", "--cls_labels", copy / "labels.npy", "--crf"]
    shutil.copytree(labelled / "n", copy / "n", dirs_exist_ok=True)
    refused("infer_seg.py", *flags, says="other settings")
    runs("infer_seg.py", *flags, "--overwrite")
    plain, refined = labels(copy), labels(copy, "seg_crf")
    for image_id, keys in ((first, [0, 7, 15]), (second, [0, 3])):
        photo = open_image(image_path(toy, image_id))
        scores = expected_scores(labelled, photo)[keys]
        scores /= scores.sum(0)
        assert np.array_equal(plain[image_id], np.array(keys)[scores.argmax(0)])
        assert np.mean(refined[image_id] == np.array(keys)[refine_scores(np.asarray(photo), scores).argmax(0)]) > 0.999
        assert len(np.unique(plain[image_id])) > 1
    shutil.rmtree(copy / "n" / "seg_crf")
    runs("infer_seg.py", *flags, "--refine", "par")
    adapted = labels(copy, "seg_crf")[second]
    assert np.mean(adapted == np.array(keys)[par_scores(np.asarray(photo), scores).argmax(0)]) > 0.999
    assert not np.array_equal(adapted, plain[second]) and not np.array_equal(adapted, refined[second])
    assert not plain[none].any() and not refined[none].any()
    refused("infer_seg.py", *flags, "--images", toy, "--out", copy / "out", says="have no labels")

    refused("infer_seg.py", *flags, "--cams", 3, says=["dict: nothing for 4 of 4 images", "run infer.py --dict"])
    refused("infer_seg.py", *infer_seg_flags(toy, copy), "--cams", 3, says="add --labels given")
    (copy / "n/dict").mkdir(exist_ok=True)
    for image_id, label in table.items():
        size = open_image(image_path(toy, image_id)).size[::-1]
        ramp = np.linspace(0, 1, size[0] * size[1], dtype=np.float32).reshape(size)
        cams = {int(k): ramp for k in np.flatnonzero(label)}
        write_scores(copy / "n/dict" / f"{image_id}.npy", cams)
    shutil.rmtree(copy / "n" / "seg")
    runs("infer_seg.py", *flags[:-1], "--cams", 3)
    cam = read_scores(copy / "n/dict" / f"{second}.npy")[2]
    both = np.stack([(1 - cam) ** 3, cam])
    expected = np.array(keys)[(scores + both / both.sum(0)).argmax(0)]
    found = labels(copy)
    assert np.mean(found[second] == expected) > 0.999 and not np.array_equal(found[second], plain[second])
    assert not found[none].any()
    (copy / f"n/dict/{second}.npy").write_bytes(b"cut off")
    assert run_here("infer_seg.py", *flags[:-1], "--cams", 3, "--overwrite")[0] == 2
    shutil.rmtree(copy / "n" / "seg")
    _, errors = run_here("infer_seg.py", *flags[:-1], "--cams", 3, "--on_error", "skip")
    assert f"left out {second}" in errors and second not in labels(copy) and none in labels(copy)


@pytest.mark.parametrize("more", [[], ["--mirror"]])
def test_the_other_recipe_takes_the_maximum_of_views_without_mirror(toy, labelled, tmp_path, more):
    place = ["--images", toy / "JPEGImages" / "toy_00013.jpg", "--out", tmp_path, "--max_side", 0]
    runs("infer_seg.py", *infer_seg_flags(toy, labelled), *place, "--recipe", "mctformer", "--scales", 1, 1.5, *more)
    photo = open_image(toy / "JPEGImages" / "toy_00013.jpg")
    stored = np.asarray(Image.open(tmp_path / "seg" / "toy_00013.png"))
    one, other = (expected_scores(labelled, photo, "max", (1.0, 1.5), mirror).argmax(0) for mirror in (True, False))
    assert np.array_equal(stored, one if more else other) and not np.array_equal(one, other)


def test_what_is_done_is_not_done_again(toy, labelled, copy, capsys):
    shutil.rmtree(copy / "n")
    shutil.copytree(labelled / "n", copy / "n")
    (copy / "n" / "seg" / ARCH / "toy_00013.png").unlink()
    (copy / "n" / "seg_crf" / ARCH / "toy_00014.png").unlink()
    script = load_script("infer_seg.py")
    flags = [str(k) for k in infer_seg_flags(toy, copy)]
    script.run_script(script.main, script.get_args_parser(), [*flags, "--crf", "--vis"])
    assert "4 images, 2 done before" in capsys.readouterr().out
    for name in ("seg", "seg_crf"):
        ours, theirs = labels(copy, name), labels(labelled, name)
        assert ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k]) for k in ours)
    says = ["other settings", "merge mean, not max", "--overwrite"]
    refused("infer_seg.py", *flags, "--merge", "max", says=says)
    before = (copy / "n" / "seg_crf" / ARCH / "toy_00012.png").read_bytes()
    runs("infer_seg.py", *flags, "--merge", "max", "--overwrite")
    assert (copy / "n" / "seg_crf" / ARCH / "toy_00012.png").read_bytes() == before  # not asked for


def test_they_are_scored_as_label_images(toy, labelled, tmp_path):
    flags = ["--name", "n", "--experiment", labelled, "--list", toy / "val.txt", "--voc12_root", toy]
    folder = ["--dict_dir", f"seg/{ARCH}"]
    runs("evaluation.py", *flags, *folder, "--task", "png", "--json", tmp_path / "r.json")
    result = json.loads((tmp_path / "r.json").read_text())
    truth = {k: open_mask(toy / "SegmentationClass" / f"{k}.png", 21) for k in read_list(toy / "val.txt")}
    counts = sum(confusion(truth[k], mask, 21) for k, mask in labels(labelled).items())
    assert result["miou_present"] == pytest.approx(100 * mean_iou(iou(counts))[1]) and counts.sum() > 4 * 2000
    refused("evaluation.py", *flags, *folder, "--task", "cam", says="seg/deeplab_resnet38d: nothing for 4 of 4")
    refused("evaluation.py", *flags, "--dict_dir", "seg/other", "--task", "png", says="run infer_seg.py")


def test_any_photographs(toy, labelled, tmp_path):
    """Of several formats, in folders, by weights from anywhere, of another format; the data set is not needed."""
    photos = tmp_path / "photos"
    (photos / "a b").mkdir(parents=True)
    Image.new("RGBA", (31, 20), (200, 10, 10, 90)).save(photos / "a b" / "one.png")
    Image.new("L", (9, 40), 99).save(photos / "two.tif")
    net = make_segmentation_net(ARCH, 21, 0.0625)
    load_weights(net, ckpt(labelled) / "best.pth")
    save_weights(net, tmp_path / "net.safetensors")
    flags = ["--name", "x", "--experiment", tmp_path, "--images", photos, "--out", tmp_path / "out", "--device", "cpu"]
    runs("infer_seg.py", *flags, "--weights", tmp_path / "net.safetensors", "--width", 0.0625, "--num_workers", 0)
    found = {p.name: Image.open(p).size for p in (tmp_path / "out" / "seg").glob("*.png")}
    assert found == {"a_b__one.png": (31, 20), "two.png": (9, 40)} and not (tmp_path / "x").exists()


def test_the_servers_zip(toy, copy, tmp_path):
    flags = infer_seg_flags(toy, copy)
    for name in ("one.zip", "two.zip"):
        runs("infer_seg.py", *flags, "--server", tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        names = [f"results/VOC2012/Segmentation/comp6_test_cls/{i}.png" for i in read_list(toy / "val.txt")]
        assert archive.namelist() == names
        assert archive.read(names[1]) == (copy / "n" / "seg" / ARCH / "toy_00013.png").read_bytes()


def test_no_zip_without_all_images(broken, copy, tmp_path):
    (broken / "JPEGImages" / "toy_00014.jpg").write_bytes(b"no photograph")
    flags = [*infer_seg_flags(broken, copy), "--server", tmp_path / "x.zip"]
    refused("infer_seg.py", *flags, says=["toy_00014.jpg: unreadable image"])
    says = ["toy_00014.png: no such mask (1 of 4", "no zip is written"]
    refused("infer_seg.py", *flags, "--on_error", "skip", says=says)
    assert not list(tmp_path.glob("*.zip")) and len(labels(copy)) == 3
    assert "toy_00014" in (copy / "n" / "seg" / ARCH / "failed.txt").read_text()


def test_export_writes_the_network_alone(toy, copy, tmp_path):
    before = sorted(copy.rglob("*"))
    runs("export.py", *export_flags(toy, copy), "--out", tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").stat().st_size > 4 * count_parameters(make_segmentation_net(ARCH, 21, 0.0625))
    assert [p for p in sorted(copy.rglob("*")) if p not in before] == [tmp_path / "net.onnx"]


@pytest.mark.parametrize("there", [False, True])
def test_check_of_an_export_writes_nothing(toy, copy, there):
    path = copy / ("." if there else "new") / "net.onnx"
    if there:
        path.write_bytes(b"of yesterday")
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*")}
    out = prints("export.py", *export_flags(toy, copy), "--out", path, "--check")
    assert "all is well" in out and "MiB will be written" in out
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*")} == before


def test_check_of_an_export_that_cannot_be(toy, tmp_path):
    """A network without ONNX form, as the export itself says."""
    arch = "smp:UPerNet:test_resnet"
    save_weights(make_segmentation_net(arch, 21), tmp_path / "net.pth")
    flags = [*export_flags(toy, tmp_path), "--arch", arch, "--weights", tmp_path / "net.pth", "--check"]
    code, errors = run_here("export.py", *flags, "--out", tmp_path / "net.onnx")
    assert code == 2 and "this network has no ONNX form" in errors and "--check found 1 problem," in errors


def test_an_export_has_the_ending_of_onnx(toy, copy):
    code, errors = run_here("export.py", *export_flags(toy, copy), "--out", "x.pb")
    assert code == 2 and "--out x.pb: writes ONNX" in errors


def test_processes_share_the_list(toy, labelled, copy, tmp_path):
    shutil.copy(ckpt(labelled) / "best.pth", ckpt(copy))
    out = torchrun(2, "infer_seg.py", *infer_seg_flags(toy, copy), "--server", tmp_path / "two.zip")
    assert "process 0 of 2: 2 images" in out and "process 1 of 2: 2 images" in out and out.count("wrote") == 1
    ours, theirs = labels(copy), labels(labelled)
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k]) for k in ours)
    with zipfile.ZipFile(tmp_path / "two.zip") as archive:
        assert len(archive.namelist()) == 4


def test_check_of_inference_writes_nothing(toy, copy, tmp_path, capsys):
    before = sorted(copy.rglob("*"))
    script = load_script("infer_seg.py")
    flags = [*infer_seg_flags(toy, copy), "--crf", "--check"]
    script.run_script(script.main, script.get_args_parser(), [str(k) for k in flags])
    out = capsys.readouterr().out
    assert "images: all 4 can be read" in out and "CRF 0." in out and "all is well" in out
    assert sorted(copy.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["--arch", SMP],
            ["ckpt_seg/smp-Unet-test_resnet/best.pth: no such checkpoint", f"--arch {SMP} --labels LABELS"],
        ),
        (["--weights", "no.pth"], ["no.pth: no such checkpoint"]),
        (["--images", "x"], ["--images PATH and --out DIR go together"]),
        (["--images", "x", "--out", "y"], ["x: no such folder"]),
        (["--server", "x.tar"], ["--server x.tar: the server takes a .zip"]),
        (["--merge", "median"], ["invalid choice: 'median'"]),
        (["--scales", 0], ["'0' is not a number above 0"]),
        (["--infer_list", "no.txt"], ["no.txt: no such list"]),
    ],
)
def test_flags_of_inference_that_do_not_fit(toy, copy, flags, says):
    refused("infer_seg.py", *infer_seg_flags(toy, copy), *flags, says=says)
    assert not (copy / "n" / "seg").exists()


def test_a_checkpoint_of_another_network(toy, copy, tmp_path):
    flags = infer_seg_flags(toy, copy)
    classifier = copy / "n" / "ckpt" / "003net_main.pth"
    says = ["does not fit the network", "conv_fov.weight is missing"]
    refused("infer_seg.py", *flags, "--weights", classifier, says=says)
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    (copy / "n" / "settings.json").unlink()
    says = ["classifier.weight is 21x512x3x3 in the file and 4x512x3x3", "--classes?"]
    refused("infer_seg.py", *flags, "--classes", tmp_path / "three.txt", says=says)
