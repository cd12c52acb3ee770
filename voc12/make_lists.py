"""Image lists of PASCAL VOC 2012: train.txt, val.txt and the augmented training list, train_aug.txt.

Reads:  VOC12_ROOT/ImageSets and JPEGImages of the VOC2012 kit; SBD_ROOT, the Semantic Boundaries Dataset (as released,
        with dataset/train.txt, or as torchvision lays it out, with train.txt at its top)
Writes: OUT/train.txt, val.txt, train_aug.txt = (SBD train + SBD val + VOC train) without VOC val, one ID a line;
        with --masks also VOC12_ROOT/SegmentationClassAug/ID.png, so that evaluation.py --gt_dir can score train_aug

python voc12/make_lists.py --download
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks only in voc12/

from tool.cli import Parser, run_script
from tool.io.files import UserError, print_warning, read_list, remove_stale, write_bytes, write_text
from tool.io.images import IGNORE, label_image, save_image
from voc12.classes import VOC_CLASSES
from voc12.download import fetch
from voc12.paths import image_path

EXPECTED = {"train.txt": 1464, "val.txt": 1449, "train_aug.txt": 10582}
VOC_ARCHIVE = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"
SBD_ARCHIVE = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"


def get_args_parser():
    parser = Parser("make_lists.py", __doc__)
    add = parser.add_argument
    add("--voc12_root", default="./data/VOC2012", help="folder VOC2012 of the kit")
    add("--sbd_root", default="./data/SBD", help="folder of SBD (benchmark_RELEASE)")
    add("--out", default="voc12", help="folder to write the lists to")
    text = "train_aug.txt from ImageSets/Main/trainval without val, not the paper's set"
    add("--without_sbd", action="store_true", help=text)
    text = "fetch what is missing: VOC2012 (2 GB) into the folder above --voc12_root, SBD (1.4 GB) into --sbd_root"
    add("--download", action="store_true", help=text)
    text = "also write SegmentationClassAug: VOC's mask where there is one, else SBD's (needs scipy)"
    add("--masks", action="store_true", help=text)
    return parser


# ---------------------------------------------------------------- reading the two data sets


def kit_list(voc12_root, kind, split):
    """IDs of ImageSets/kind/split.txt; UserError where the kit lacks it."""
    path = Path(voc12_root) / "ImageSets" / kind / f"{split}.txt"
    if not path.is_file():
        raise UserError(f"{path}: no such file; --voc12_root takes the kit's folder VOC2012, --download fetches it")
    return read_list(path)


def find_sbd(root):
    """Folder under `root` with SBD's train.txt, val.txt, img and cls; None where there is none."""
    for folder in (Path(root), Path(root) / "dataset", Path(root) / "benchmark_RELEASE" / "dataset"):
        if (folder / "train.txt").is_file() and (folder / "val.txt").is_file():
            return folder
    return None


def augmented_ids(sbd_train, sbd_val, voc_train, voc_val):
    """The augmented training set: everything with a mask that is not validation, sorted, each ID once."""
    return sorted((set(sbd_train) | set(sbd_val) | set(voc_train)) - set(voc_val))


def build_lists(voc12_root, sbd):
    """{file name: IDs}, of images in JPEGImages only. sbd: SBD's folder, or None for ImageSets/Main/trainval."""
    train = kit_list(voc12_root, "Segmentation", "train")
    val = kit_list(voc12_root, "Segmentation", "val")
    if sbd is None:
        augmented = augmented_ids(kit_list(voc12_root, "Main", "trainval"), [], [], val)
    else:
        augmented = augmented_ids(read_list(sbd / "train.txt"), read_list(sbd / "val.txt"), train, val)
    photos = Path(voc12_root) / "JPEGImages"
    lists = {}
    for name, ids in {"train.txt": train, "val.txt": val, "train_aug.txt": augmented}.items():
        lists[name] = [image_id for image_id in ids if image_path(voc12_root, image_id).is_file()]
        if not lists[name]:
            raise UserError(f"{photos}: holds none of the {len(ids)} images of {name}; check --voc12_root")
        if len(lists[name]) < len(ids):
            left_out = len(ids) - len(lists[name])
            print_warning(f"{photos}: {left_out} of {len(ids)} images of {name} are not there and are left out")
    return lists


# ---------------------------------------------------------------- fetching


def require_scipy():
    try:
        import scipy.io  # noqa: F401
    except ImportError:
        text = "SBD's masks are MATLAB files, and reading them needs scipy: pip install scipy"
        raise UserError(text) from None


def download_voc(voc12_root):
    """The VOC2012 kit by torchvision, into the folder above `voc12_root`, which becomes a link to it."""
    from torchvision import datasets

    root, kit = Path(voc12_root), Path("VOCdevkit") / "VOC2012"
    if root.is_symlink() or root.exists():
        raise UserError(f"{root}: is there, but is not the whole VOC2012 kit; move it away or change --voc12_root")
    get = partial(datasets.VOCSegmentation, root.parent, year="2012", image_set="train", download=True)
    fetch("VOC2012", VOC_ARCHIVE, root.parent, get)
    try:
        root.symlink_to(kit, target_is_directory=True)
    except OSError:  # no links on this file system
        kit = root.parent / kit
        raise UserError(f"{root}: cannot be linked to {kit}; run this again with --voc12_root {kit}") from None


def download_sbd(sbd_root):
    """SBD by torchvision, into `sbd_root`."""
    from torchvision import datasets

    parts = [name for name in ("cls", "img", "inst", "train.txt", "val.txt") if (Path(sbd_root) / name).exists()]
    if parts:  # torchvision moves these there last, and stops where one exists
        raise UserError(f"{sbd_root}: holds a part of SBD only; remove {', '.join(parts)} there and run this again")
    get = partial(datasets.SBDataset, sbd_root, image_set="train", mode="segmentation", download=True)
    fetch("SBD", SBD_ARCHIVE, sbd_root, get)


# ---------------------------------------------------------------- masks


def read_sbd_mask(path):
    """Mask of an SBD file cls/ID.mat, H x W uint8 ids (0 background, 1..20 classes); UserError where it is none."""
    from scipy.io import loadmat

    try:
        mask = np.asarray(loadmat(path, variable_names=["GTcls"])["GTcls"][0]["Segmentation"][0])
        if mask.ndim != 2 or not mask.size or not np.isin(mask, [*range(len(VOC_CLASSES) + 1), IGNORE]).all():
            raise ValueError("its ids are not VOC's")
    except Exception as error:  # a broken MATLAB file raises nearly anything
        raise UserError(f"{path}: not a mask of SBD ({error}); fetch SBD again") from None
    return mask.astype(np.uint8)


def write_masks(ids, voc12_root, sbd):
    """SegmentationClassAug/ID.png where there is none: VOC's mask, the finer, else SBD's -> how many have neither."""
    folder = Path(voc12_root) / "SegmentationClassAug"
    remove_stale(folder)
    missing = 0
    for image_id in tqdm(ids, desc="masks", disable=None):
        out = folder / f"{image_id}.png"
        ours, theirs = Path(voc12_root) / "SegmentationClass" / f"{image_id}.png", sbd / "cls" / f"{image_id}.mat"
        if out.exists():
            continue
        if ours.is_file():
            write_bytes(out, ours.read_bytes())
        elif theirs.is_file():
            save_image(out, label_image(read_sbd_mask(theirs)))
        else:
            missing += 1
    return missing


def main(args):
    if args.masks and args.without_sbd:
        raise UserError("--masks takes the masks of SBD; leave --without_sbd out")
    wants_sbd = args.download and not args.without_sbd and find_sbd(args.sbd_root) is None
    if args.masks or wants_sbd:
        require_scipy()  # torchvision needs it too, and says so only after 2 GB of VOC
    kit = Path(args.voc12_root)
    is_kit = (kit / "JPEGImages").is_dir() and (kit / "ImageSets" / "Segmentation" / "val.txt").is_file()
    if args.download and not is_kit:
        download_voc(args.voc12_root)
    if wants_sbd:
        download_sbd(args.sbd_root)
    sbd = None if args.without_sbd else find_sbd(args.sbd_root)
    if sbd is None and not args.without_sbd:
        text = f"{args.sbd_root}: no SBD there (train.txt, val.txt)"
        raise UserError(f"{text}; fetch it with --download, or make another list with --without_sbd")
    lists = build_lists(args.voc12_root, sbd)
    if args.masks:
        missing = write_masks(sorted({*lists["train_aug.txt"], *lists["val.txt"]}), args.voc12_root, sbd)
        print(f"{Path(args.voc12_root) / 'SegmentationClassAug'}: masks of train_aug.txt and val.txt")
        if missing:
            print_warning(f"{missing} images have no mask, neither VOC's nor SBD's")
    for name, ids in lists.items():  # another length is no error, since subsets are in use too
        write_text(Path(args.out) / name, "".join(f"{image_id}\n" for image_id in ids))
        is_papers = name != "train_aug.txt" or sbd is not None
        print(f"{Path(args.out) / name}: {len(ids)} images{f' (expected {EXPECTED[name]})' if is_papers else ''}")
        if not is_papers:
            text = f"{name} is VOC's trainval without val, another set than the paper's {EXPECTED[name]:,} images"
            print_warning(f"{text}: results do not compare")
        elif len(ids) != EXPECTED[name]:
            print_warning(f"{name} has {len(ids)} images instead of {EXPECTED[name]}")


if __name__ == "__main__":
    run_script(main, get_args_parser())
