"""Image labels of a data set in VOC layout, gathered in one file (optional: where it is missing the XMLs are read).

Reads:  VOC12_ROOT/Annotations/ID.xml of the images on --list, or of all there are
Writes: --out, np.save of {ID: float32 vector, 1 where any object of the image has that class}

python voc12/make_cls_labels.py --voc12_root ./data/VOC2012 --out voc12/cls_labels.npy
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, Python looks only in voc12/

from tool.cli import Parser, run_script
from tool.io.files import print_warning, read_list
from voc12.classes import load_classes
from voc12.labels import load_training_labels, write_cls_labels
from voc12.layout import find_files


def get_args_parser():
    parser = Parser("make_cls_labels.py", __doc__)
    add = parser.add_argument
    add("--voc12_root", default="./data/VOC2012", help="data set in VOC layout")
    text = "lists of the images to take (default: every XML of Annotations)"
    add("--list", nargs="+", metavar="LIST", dest="lists", help=text)
    add("--out", default="voc12/cls_labels.npy", help="file to write")
    add("--classes", metavar="FILE", help="text file with one class name a line (default: VOC's 20)")
    return parser


def main(args):
    classes = load_classes(args.classes)
    if args.lists is None:
        hint = "--voc12_root takes a data set in VOC layout"
        ids = sorted(find_files(Path(args.voc12_root) / "Annotations", ".xml", f"no XML files there; {hint}"))
    else:
        ids = list(dict.fromkeys(image_id for path in args.lists for image_id in read_list(path)))
    labels = load_training_labels(ids, args.voc12_root, args.voc12_root, classes)
    empty = labels.without_class()
    write_cls_labels(args.out, labels)
    print(f"{args.out}: labels of {len(ids)} images, {len(classes)} classes")
    if empty:
        text = f"{len(empty)} of them show none of the classes, the first is {empty[0]}"
        print_warning(f"{text}; to the stages they are background alone")


if __name__ == "__main__":
    run_script(main, get_args_parser())
