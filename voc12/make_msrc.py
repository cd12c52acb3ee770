"""MSRC-v2, 591 photographs of 320 x 213 pixels with colour-coded masks, as a data set in VOC layout with VOC's classes.

Reads:  --msrc, the unpacked MSRC_ObjCategImageDatabase_v2: Images/G_I_s.bmp, GroundTruth/G_I_s_GT.bmp
Writes: OUT/JPEGImages/2005_GGIIII.jpg, SegmentationClass, Annotations, classes.txt, cls_labels.npy and
        ImageSets/Main/train.txt and Segmentation/train.txt: every photograph that shows one of the twelve classes that
        MSRC-v2 shares with VOC, and a person

python voc12/make_msrc.py --msrc MSRC_ObjCategImageDatabase_v2 --out data/msrc12
"""

import re
import sys
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks only in voc12/

from tool.cli import Parser, run_script
from tool.io.files import UserError, write_text
from tool.io.images import BACKGROUND, IGNORE, classes_in, label_image, open_image, save_image
from voc12.classes import VOC_CLASSES
from voc12.layout import annotation, check_out, new_set, print_set, write_set

VOID = (0, 0, 0)
COLOURS = {  # of the masks; every other colour is background
    (0, 0, 128): "cow",
    (128, 0, 128): "horse",
    (0, 128, 128): "sheep",
    (192, 0, 0): "aeroplane",
    (192, 128, 0): "person",  # MSRC's face
    (64, 64, 0): "person",  # MSRC's body
    (64, 0, 128): "car",
    (192, 0, 128): "bicycle",
    (0, 64, 0): "bird",
    (0, 192, 0): "chair",
    (0, 192, 128): "cat",
    (128, 192, 128): "dog",
    (192, 64, 0): "boat",
}
PHOTO = re.compile(r"(\d{1,2})_(\d{1,4})_s\.bmp", re.IGNORECASE)


def get_args_parser():
    parser = Parser("make_msrc.py", __doc__)
    add = parser.add_argument
    add("--msrc", required=True, help="folder of the unpacked MSRC-v2")
    add("--out", default="data/msrc12", help="folder to make, for --voc12_root of the stages")
    add("--overwrite", action="store_true", help="make OUT anew; the data set there is kept beside it")
    return parser


def find_pairs(msrc):
    """{ID: (photograph, mask)} of all photographs below `msrc`, sorted, and the names of those without a mask."""
    files = {path.name.lower(): path for path in sorted(Path(msrc).rglob("*")) if path.suffix.lower() == ".bmp"}
    pairs, alone = {}, []
    for name, path in files.items():
        if found := PHOTO.fullmatch(name):
            mask = files.get(f"{name.removesuffix('.bmp')}_gt.bmp")
            if mask:
                pairs[f"2005_{int(found[1]):02d}{int(found[2]):04d}"] = (path, mask)
            else:
                alone.append(path.name)
    if not pairs:
        raise UserError(f"{msrc}: no G_I_s.bmp with G_I_s_GT.bmp there; --msrc takes the unpacked MSRC-v2")
    return dict(sorted(pairs.items())), alone


def read_colours(path):
    """A colour-coded mask -> H x W uint8 with VOC's ids, 255 where it is void."""
    colours = np.asarray(open_image(path))
    mask = np.full(colours.shape[:2], BACKGROUND, np.uint8)
    mask[(colours == VOID).all(2)] = IGNORE
    for colour, name in COLOURS.items():
        mask[(colours == colour).all(2)] = VOC_CLASSES.index(name) + 1
    return mask


def boxes(mask):
    """[(class name, (xmin, ymin, xmax, ymax))], one box around all pixels of a class; VOC counts pixels from 1."""
    found = []
    for k in sorted(classes_in(mask)):
        x, y, width, height = cv2.boundingRect((mask == k).view(np.uint8))
        found.append((VOC_CLASSES[k - 1], (x + 1, y + 1, x + width, y + height)))
    return found


def write_image(folder, image_id, photo_path, mask_path):
    """Write photograph, mask and annotation -> (class indices, (w, h)); without any class nothing is written."""
    photo, mask = open_image(photo_path), read_colours(mask_path)
    if mask.shape != (photo.height, photo.width):
        raise UserError(f"{mask_path}: not of the size of {photo_path.name}; fetch MSRC-v2 again")
    objects = boxes(mask)
    if objects:
        save_image(folder / "JPEGImages" / f"{image_id}.jpg", photo, quality=95, subsampling=0)
        save_image(folder / "SegmentationClass" / f"{image_id}.png", label_image(mask))
        write_text(folder / "Annotations" / f"{image_id}.xml", annotation(image_id, photo.size, objects))
    return tuple(VOC_CLASSES.index(name) for name, _ in objects), photo.size


def main(args):
    check_out(args.out, args.overwrite)
    pairs, alone = find_pairs(args.msrc)
    with new_set(args.out, "voc12/make_msrc.py", args) as folder:
        made = {i: write_image(folder, i, *pair) for i, pair in tqdm(pairs.items(), desc="photographs", disable=None)}
        labels = {image_id: indices for image_id, (indices, _) in made.items() if indices}
        if not labels:
            raise UserError(f"{args.msrc}: none of {len(pairs)} masks has a colour of a class; fetch MSRC-v2 again")
        lists = {"train": list(labels)}
        write_set(folder, VOC_CLASSES, labels, lists)
        write_text(folder / "ImageSets" / "Main" / "train.txt", "".join(f"{image_id}\n" for image_id in labels))
    sizes = {image_id: made[image_id][1] for image_id in labels}
    others = {"photographs of other things": [i for i in made if i not in labels], "photographs without a mask": alone}
    print_set(args.out, VOC_CLASSES, labels, lists, sizes, others)


if __name__ == "__main__":
    run_script(main, get_args_parser())
