"""Lists of PASCAL VOC and SBD, the download around torchvision, and SegmentationClassAug."""

import errno
import hashlib
import importlib.util
import os
import socket
import subprocess
import sys
import tarfile
import types
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tool.cli import run_script
from tool.io.files import UserError
from tool.io.images import label_image, open_mask, save_image
from voc12 import make_lists
from voc12.make_lists import augmented_ids, find_sbd, read_sbd_mask, require_scipy

TRAIN, VAL = ["2007_000032", "2007_000039", "2009_1"], ["2007_000033", "2009_2"]
TRAINVAL = ["2008_000002", "2009_1", "2009_2", "2010_9"]
SBD_TRAIN, SBD_VAL = ["2010_3", "2009_2", "2008_000002"], ["2010_1", "2007_000032", "2007_000033"]
EVERY = sorted({*TRAIN, *VAL, *TRAINVAL, *SBD_TRAIN, *SBD_VAL})
# by hand: SBD's six and VOC's three training images, 2007_000032 twice, without 2009_2 and 2007_000033
AUGMENTED = ["2007_000032", "2007_000039", "2008_000002", "2009_1", "2010_1", "2010_3"]


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def make_kit(root, photos=EVERY):
    write_lines(root / "ImageSets" / "Segmentation" / "train.txt", TRAIN)
    write_lines(root / "ImageSets" / "Segmentation" / "val.txt", VAL)
    write_lines(root / "ImageSets" / "Main" / "trainval.txt", TRAINVAL)
    (root / "JPEGImages").mkdir()
    for image_id in photos:
        (root / "JPEGImages" / f"{image_id}.jpg").write_bytes(b"")
    return root


def make_sbd(folder):
    write_lines(folder / "train.txt", SBD_TRAIN)
    write_lines(folder / "val.txt", SBD_VAL)
    return folder


def run(*arguments, cwd, env=None, module=False):
    script = ["-m", "voc12.make_lists"] if module else [str(ROOT / "voc12" / "make_lists.py")]
    return subprocess.run(
        [sys.executable, *script, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )


def call(*arguments):
    """The script inside this process, for tests that replace torchvision or scipy."""
    run_script(make_lists.main, make_lists.get_args_parser(), [str(a) for a in arguments])


def refuse(capsys, *arguments):
    """The one line on stderr with which the script refuses."""
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1
    return lines[0]


def lines_of(path):
    return path.read_text().splitlines()


# ---------------------------------------------------------------- lists


@pytest.mark.parametrize("layout", ["SBD", "SBD/dataset", "SBD/benchmark_RELEASE/dataset"])
def test_lists_from_kit_and_sbd(tmp_path, layout):
    make_kit(tmp_path / "data" / "VOC2012")
    make_sbd(tmp_path / "data" / layout)
    done = run(cwd=tmp_path)  # with the default folders
    assert done.returncode == 0
    assert sorted(p.name for p in (tmp_path / "voc12").iterdir()) == ["train.txt", "train_aug.txt", "val.txt"]
    assert lines_of(tmp_path / "voc12" / "train.txt") == TRAIN
    assert lines_of(tmp_path / "voc12" / "val.txt") == VAL
    assert lines_of(tmp_path / "voc12" / "train_aug.txt") == AUGMENTED
    assert done.stdout.splitlines() == [
        "voc12/train.txt: 3 images (expected 1464)",
        "voc12/val.txt: 2 images (expected 1449)",
        "voc12/train_aug.txt: 6 images (expected 10582)",
    ]
    assert [line.split()[:2] for line in done.stderr.splitlines()] == [
        ["warning:", "train.txt"],
        ["warning:", "val.txt"],
        ["warning:", "train_aug.txt"],
    ]


def test_expected_counts_give_no_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_lists, "EXPECTED", {"train.txt": 3, "val.txt": 2, "train_aug.txt": 6})
    kit, sbd = make_kit(tmp_path / "voc"), make_sbd(tmp_path / "sbd")
    call("--voc12_root", kit, "--sbd_root", sbd, "--out", tmp_path / "out")
    assert capsys.readouterr().err == ""


def test_expected_counts_are_the_papers():
    assert make_lists.EXPECTED == {"train.txt": 1464, "val.txt": 1449, "train_aug.txt": 10582}


@pytest.mark.parametrize("name", ["2010_1.png", "2010_1.JPG", "2010_1.jpeg"])
def test_photographs_of_any_suffix_count(tmp_path, name):
    make_kit(tmp_path / "voc", photos=[i for i in EVERY if i != "2010_1"])
    (tmp_path / "voc" / "JPEGImages" / name).write_bytes(b"")
    call("--voc12_root", tmp_path / "voc", "--sbd_root", make_sbd(tmp_path / "sbd"), "--out", tmp_path / "out")
    assert lines_of(tmp_path / "out" / "train_aug.txt") == AUGMENTED


def test_images_that_the_kit_lacks_are_left_out(tmp_path):
    make_kit(tmp_path / "voc", photos=[i for i in EVERY if i not in ("2010_1", "2007_000039", "2009_2")])
    (tmp_path / "voc" / "JPEGImages" / "2010_1.txt").write_bytes(b"")
    make_sbd(tmp_path / "sbd")
    done = run("--voc12_root", "voc", "--sbd_root", "sbd", "--out", ".", cwd=tmp_path, module=False)
    assert lines_of(tmp_path / "train.txt") == ["2007_000032", "2009_1"]
    assert lines_of(tmp_path / "val.txt") == ["2007_000033"]
    # 2009_2 is in val, and stays out of training even without its photograph
    assert lines_of(tmp_path / "train_aug.txt") == ["2007_000032", "2008_000002", "2009_1", "2010_3"]
    assert "1 of 3 images of train.txt" in done.stderr and "1 of 2 images of val.txt" in done.stderr
    assert "2 of 6 images of train_aug.txt" in done.stderr


def test_without_sbd_is_another_set_and_says_so(tmp_path):
    make_kit(tmp_path / "voc")
    make_sbd(tmp_path / "data" / "SBD")  # there, but not asked for
    done = run("--voc12_root", tmp_path / "voc", "--without_sbd", "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0
    assert lines_of(tmp_path / "out" / "train_aug.txt") == ["2008_000002", "2009_1", "2010_9"]
    assert lines_of(tmp_path / "out" / "train.txt") == TRAIN
    assert "warning: train_aug.txt is VOC's trainval without val, another set than the paper's 10,582" in done.stderr


def test_runs_as_a_module(tmp_path):
    make_kit(tmp_path / "voc")
    done = run("--voc12_root", tmp_path / "voc", "--without_sbd", "--out", tmp_path / "out", cwd=ROOT, module=True)
    assert done.returncode == 0 and (tmp_path / "out" / "val.txt").is_file()


image_ids = st.lists(st.text("abc", min_size=1, max_size=3), max_size=12)


@given(image_ids, image_ids, image_ids, image_ids)
def test_augmented_set_by_brute_force(sbd_train, sbd_val, voc_train, voc_val):
    expected = []
    for image_id in sorted(sbd_train + sbd_val + voc_train):
        if image_id not in voc_val and (not expected or expected[-1] != image_id):
            expected.append(image_id)
    assert augmented_ids(sbd_train, sbd_val, voc_train, voc_val) == expected


def test_half_of_sbd_is_not_found(tmp_path):
    write_lines(tmp_path / "train.txt", SBD_TRAIN)
    assert find_sbd(tmp_path) is None
    assert find_sbd(tmp_path / "none") is None
    make_sbd(tmp_path / "dataset")
    assert find_sbd(tmp_path) == tmp_path / "dataset"


# ---------------------------------------------------------------- mistakes


def without(*names):
    def damage(root):
        for name in names:
            (root / name).unlink()

    return damage


def no_photos(root):
    for path in (root / "voc" / "JPEGImages").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "arguments", "words"),
    [
        (without("sbd/val.txt"), [], "sbd: no SBD there (train.txt, val.txt); fetch it with --download, or"),
        (without("sbd/val.txt"), [], "--without_sbd"),
        (without("voc/ImageSets/Segmentation/val.txt"), [], "val.txt: no such file; --voc12_root takes the kit's"),
        (without("voc/ImageSets/Segmentation/train.txt"), [], "train.txt: no such file"),
        (without("voc/ImageSets/Main/trainval.txt"), ["--without_sbd"], "trainval.txt: no such file"),
        (no_photos, [], "holds none of the 3 images of train.txt"),
        (lambda root: (root / "sbd" / "train.txt").write_text(""), [], "sbd/train.txt: the list is empty"),
        (lambda root: None, ["--masks", "--without_sbd"], "--masks takes the masks of SBD"),
        (lambda root: (root / "out").write_text(""), [], "out"),
    ],
)
def test_refuses_in_one_line_and_writes_nothing(tmp_path, damage, arguments, words):
    make_kit(tmp_path / "voc")
    make_sbd(tmp_path / "sbd")
    damage(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = run("--voc12_root", "voc", "--sbd_root", "sbd", "--out", "out", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("make_lists.py: error: ") and words in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


# ---------------------------------------------------------------- --download


@pytest.fixture
def torchvision_here(monkeypatch):
    """torchvision's two data sets, which unpack small trees the way the real ones do; a log of the calls."""
    datasets = pytest.importorskip("torchvision.datasets")
    calls = []

    def voc(root, year="2012", image_set="train", download=False):
        assert year == "2012" and download
        calls.append(("VOC", str(root)))
        make_kit(Path(root) / "VOCdevkit" / "VOC2012")

    def sbd(root, image_set="train", mode="boundaries", download=False):
        assert image_set in ("train", "val") and download  # train_noval's own file cannot be had any more
        calls.append(("SBD", str(root)))
        (Path(root) / "benchmark_RELEASE" / "dataset").mkdir(parents=True)
        make_sbd(Path(root))

    monkeypatch.setattr(datasets, "VOCSegmentation", voc)
    monkeypatch.setattr(datasets, "SBDataset", sbd)
    monkeypatch.setattr(make_lists, "require_scipy", lambda: None)
    return calls


def test_download_fetches_both_and_the_default_root_works(tmp_path, monkeypatch, torchvision_here):
    monkeypatch.chdir(tmp_path)
    call("--download")
    assert torchvision_here == [("VOC", "data"), ("SBD", "./data/SBD")]
    assert lines_of(tmp_path / "voc12" / "train_aug.txt") == AUGMENTED
    assert (tmp_path / "data" / "VOC2012" / "JPEGImages" / "2009_1.jpg").is_file()
    call("--download")  # what is there is not fetched again
    assert len(torchvision_here) == 2
    moved = tmp_path / "moved"
    (tmp_path / "data").rename(moved)  # the link is relative
    call("--voc12_root", moved / "VOC2012", "--sbd_root", moved / "SBD")


def test_download_fetches_only_what_is_missing(tmp_path, torchvision_here):
    make_sbd(tmp_path / "sbd")
    arguments = ["--out", tmp_path / "out", "--sbd_root", tmp_path / "sbd", "--download"]
    call("--voc12_root", tmp_path / "a" / "voc", *arguments)
    assert torchvision_here == [("VOC", str(tmp_path / "a"))]
    assert (tmp_path / "a" / "voc").is_symlink()
    call("--voc12_root", tmp_path / "b" / "voc", "--sbd_root", tmp_path / "none", "--without_sbd", *arguments)
    assert torchvision_here[1:] == [("VOC", str(tmp_path / "b"))]
    make_kit(tmp_path / "kit")
    call("--voc12_root", tmp_path / "kit", *arguments, "--sbd_root", tmp_path / "b" / "sbd")
    assert torchvision_here[2:] == [("SBD", str(tmp_path / "b" / "sbd"))]


def test_download_leaves_a_folder_alone_that_is_no_kit(tmp_path, torchvision_here, capsys):
    (tmp_path / "voc").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("voc", "dangling"):
        line = refuse(capsys, "--download", "--without_sbd", "--voc12_root", tmp_path / name, "--out", tmp_path / "out")
        assert f"{name}: is there, but is not the whole VOC2012 kit" in line
    assert torchvision_here == [] and not (tmp_path / "out").exists()


def test_download_names_the_parts_of_a_broken_sbd(tmp_path, torchvision_here, capsys):
    make_kit(tmp_path / "voc")
    (tmp_path / "sbd" / "cls").mkdir(parents=True)
    write_lines(tmp_path / "sbd" / "train.txt", SBD_TRAIN)
    line = refuse(capsys, "--download", "--voc12_root", tmp_path / "voc", "--sbd_root", tmp_path / "sbd")
    assert "remove cls, train.txt there" in line
    assert torchvision_here == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (urllib.error.URLError("no\nroute"), "<urlopen error no route>"),
        (RuntimeError("File not found or corrupted."), "File not found or corrupted."),
        (EOFError(), "EOFError"),
        (TimeoutError("timed out"), "timed out"),
    ],
)
@pytest.mark.parametrize(
    ("which", "archive", "folder"),
    [("VOCSegmentation", "VOCtrainval_11-May-2012.tar", "data"), ("SBDataset", "benchmark.tgz", "data/sbd")],
)
def test_a_failed_download_says_what_to_fetch(
    tmp_path, monkeypatch, torchvision_here, capsys, error, reason, which, archive, folder
):
    from torchvision import datasets

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, which, fail)
    line = refuse(
        capsys,
        "--download",
        "--voc12_root",
        tmp_path / "data" / "voc",
        "--sbd_root",
        tmp_path / "data" / "sbd",
        "--out",
        tmp_path / "out",
    )
    assert f"({reason})" in line and f"/{archive} by hand" in line and f"put it into {tmp_path / folder} as" in line
    assert not (tmp_path / "out").exists()


def test_a_full_disk_while_fetching_is_no_failed_download(tmp_path, monkeypatch, torchvision_here, capsys):
    from torchvision import datasets

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(datasets, "VOCSegmentation", fail)
    line = refuse(capsys, "--download", "--voc12_root", tmp_path / "voc", "--without_sbd", "--out", tmp_path / "out")
    assert "No space left" in line and "by hand" not in line


def test_the_addresses_are_those_of_torchvision():
    voc = pytest.importorskip("torchvision.datasets.voc")
    from torchvision.datasets import SBDataset

    # a file put there by hand is taken only under torchvision's own name for it
    assert make_lists.VOC_ARCHIVE.rsplit("/", 1)[1] == voc.DATASET_YEAR_DICT["2012"]["filename"]
    assert make_lists.SBD_ARCHIVE.rsplit("/", 1)[1] == SBDataset.filename


def test_without_scipy_nothing_is_fetched(tmp_path, monkeypatch, torchvision_here, capsys):
    monkeypatch.setattr(make_lists, "require_scipy", require_scipy)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    folders = ["--voc12_root", tmp_path / "voc", "--sbd_root", tmp_path / "sbd", "--out", tmp_path / "out"]
    assert "pip install scipy" in refuse(capsys, "--download", *folders)
    assert torchvision_here == []
    make_kit(tmp_path / "voc")
    make_sbd(tmp_path / "sbd")
    assert "pip install scipy" in refuse(capsys, "--masks", *folders)
    assert not (tmp_path / "out").exists()


def pack(archive, tree, top):
    """A tar of `tree` under the name `top`; returns its MD5."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz" if archive.suffix == ".tgz" else "w") as tar:
        tar.add(tree, top)
    return hashlib.md5(archive.read_bytes()).hexdigest()


def test_archives_fetched_by_hand_are_unpacked_by_the_real_torchvision(tmp_path, monkeypatch):
    voc = pytest.importorskip("torchvision.datasets.voc")
    from torchvision.datasets import SBDataset

    if importlib.util.find_spec("scipy") is None:  # torchvision looks for it, and reads no mask here
        monkeypatch.setitem(sys.modules, "scipy", types.ModuleType("scipy"))
        monkeypatch.setitem(sys.modules, "scipy.io", types.ModuleType("scipy.io"))
        sys.modules["scipy"].io = sys.modules["scipy.io"]
        sys.modules["scipy.io"].loadmat = None
    release = make_sbd(tmp_path / "made" / "sbd")
    for name in ("cls", "img", "inst"):
        (release / name).mkdir()
    monkeypatch.chdir(tmp_path)
    voc_md5 = pack(Path("data/VOCtrainval_11-May-2012.tar"), make_kit(tmp_path / "made" / "voc"), "VOCdevkit/VOC2012")
    monkeypatch.setitem(voc.DATASET_YEAR_DICT["2012"], "md5", voc_md5)
    monkeypatch.setattr(SBDataset, "md5", pack(Path("data/SBD/benchmark.tgz"), release, "benchmark_RELEASE/dataset"))
    call("--download")
    assert lines_of(Path("voc12/train_aug.txt")) == AUGMENTED
    assert Path("data/VOC2012/JPEGImages/2009_1.jpg").is_file() and Path("data/SBD/cls").is_dir()


def test_the_real_torchvision_without_a_network(tmp_path):
    pytest.importorskip("torchvision")
    with socket.socket() as closed:  # bound, and not listening: whoever connects is turned away
        closed.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
        done = run(
            "--download",
            "--without_sbd",
            "--voc12_root",
            "data/VOC2012",
            cwd=tmp_path,
            env={"http_proxy": proxy, "https_proxy": proxy, "no_proxy": ""},
        )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "VOC2012 could not be fetched" in done.stderr and "put it into data as it is" in done.stderr
    assert not (tmp_path / "voc12").exists() and not (tmp_path / "data" / "VOC2012").exists()


# ---------------------------------------------------------------- --masks


@pytest.fixture
def with_masks(tmp_path):
    """A kit with masks of id 1 for VOC's images, and SBD with a file for each of its own."""
    make_kit(tmp_path / "voc")
    for image_id in (*TRAIN, *VAL):
        save_image(tmp_path / "voc" / "SegmentationClass" / f"{image_id}.png", label_image(np.full((2, 3), 1)))
    make_sbd(tmp_path / "sbd")
    (tmp_path / "sbd" / "cls").mkdir()
    for image_id in (*SBD_TRAIN, *SBD_VAL):
        (tmp_path / "sbd" / "cls" / f"{image_id}.mat").write_text(image_id)
    return ["--masks", "--voc12_root", tmp_path / "voc", "--sbd_root", tmp_path / "sbd", "--out", tmp_path / "out"]


@pytest.fixture
def sbd_masks(monkeypatch):
    """SBD files read as masks of id 20; the IDs that were read."""
    read = []

    def read_mask(path):
        read.append(path.read_text())
        return np.full((2, 3), 20, dtype=np.uint8)

    monkeypatch.setattr(make_lists, "require_scipy", lambda: None)
    monkeypatch.setattr(make_lists, "read_sbd_mask", read_mask)
    return read


def test_vocs_masks_take_precedence(tmp_path, with_masks, sbd_masks, capsys):
    call(*with_masks)
    folder = tmp_path / "voc" / "SegmentationClassAug"
    ids = {p.stem: int(open_mask(p, 21)[0, 0]) for p in folder.iterdir()}
    # train_aug and val; 2007_000032, 2007_000033 and 2009_2 have a mask of either kind
    assert ids == {**dict.fromkeys((*TRAIN, *VAL), 1), "2008_000002": 20, "2010_1": 20, "2010_3": 20}
    assert sorted(sbd_masks) == ["2008_000002", "2010_1", "2010_3"]
    source = tmp_path / "voc" / "SegmentationClass" / "2009_1.png"
    assert (folder / "2009_1.png").read_bytes() == source.read_bytes()
    assert "no mask" not in capsys.readouterr().err
    assert lines_of(tmp_path / "out" / "train_aug.txt") == AUGMENTED


def test_masks_that_are_there_stay_and_missing_ones_are_counted(tmp_path, with_masks, sbd_masks, capsys):
    folder = tmp_path / "voc" / "SegmentationClassAug"
    save_image(folder / "2010_1.png", label_image(np.full((2, 3), 7)))
    (folder / ".2010_3.png.1.tmp").write_text("left by a killed run")
    (tmp_path / "sbd" / "cls" / "2010_3.mat").unlink()
    call(*with_masks)
    assert sbd_masks == ["2008_000002"]
    assert open_mask(folder / "2010_1.png", 21)[0, 0] == 7
    assert "warning: 1 images have no mask" in capsys.readouterr().err
    assert sorted(p.name for p in folder.iterdir()) == sorted(f"{i}.png" for i in {*AUGMENTED, *VAL} - {"2010_3"})


def test_sbd_file_to_palette_png(tmp_path, with_masks):
    savemat = pytest.importorskip("scipy.io").savemat
    mask = np.array([[0, 1, 20], [15, 255, 0]], dtype=np.uint8)
    for image_id in ("2008_000002", "2010_1", "2010_3"):
        struct = {"Segmentation": mask, "CategoriesPresent": np.array([[1], [15], [20]], dtype=np.uint8)}
        savemat(tmp_path / "sbd" / "cls" / f"{image_id}.mat", {"GTcls": struct})
    np.testing.assert_array_equal(read_sbd_mask(tmp_path / "sbd" / "cls" / "2010_1.mat"), mask)
    call(*with_masks)
    with Image.open(tmp_path / "voc" / "SegmentationClassAug" / "2010_1.png") as image:
        assert image.mode == "P" and image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), mask)
        colours = np.asarray(image.convert("RGB"))
    assert colours[0].tolist() == [[0, 0, 0], [128, 0, 0], [0, 64, 128]]  # background, aeroplane, tvmonitor
    assert colours[1, 0].tolist() == [192, 128, 128]  # person


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not MATLAB",
        {"other": np.zeros((2, 2))},
        {"GTcls": np.zeros((2, 2))},
        {"GTcls": {"Segmentation": np.full((2, 2), 21)}},
        {"GTcls": {"Segmentation": np.full((2, 2), 0.5)}},
        {"GTcls": {"Segmentation": np.zeros((2, 2, 2))}},
        {"GTcls": {"Segmentation": np.zeros((0, 0))}},
    ],
)
def test_broken_sbd_files_are_named(tmp_path, content):
    savemat = pytest.importorskip("scipy.io").savemat
    path = tmp_path / "a.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        savemat(path, content)
    with pytest.raises(UserError, match=r"a\.mat: not a mask of SBD"):
        read_sbd_mask(path)


def test_a_broken_sbd_file_stops_before_the_lists(tmp_path, with_masks, capsys):
    pytest.importorskip("scipy.io")
    line = refuse(capsys, *with_masks)  # its .mat files hold text
    assert "2008_000002.mat: not a mask of SBD" in line
    assert not (tmp_path / "out").exists()
