"""Photographs and image labels in, label masks out: all stages with a trunk that a laptop trains, in one command.

reads   --images, with --labels or --by_folder (voc12/make_dataset.py says how); --masks: masks of a few photographs
writes  OUT: data set; OUT/run: all stages; run/seg_crf/*/ID.png: masks; run/report/index.html: page; OUT/export
        python label.py --images photos --labels labels.csv --out data/mine

Settings follow the set: its photographs' size, and steps instead of epochs. The network learns from what a CRF makes of
the maps (--walk: a walk along affinities, which is no better there); masks are of network and maps together. With
--masks choose.py takes the settings from them; none is trained on. Interrupted, the same command goes on where it was.
"""

import shlex
from pathlib import Path

from engine import flags
from engine.check import duration
from engine.children import Stages, seconds_a_step
from engine.experiment import Experiment, read_chosen
from engine.recipes import OTHERS
from tool.cli import natural, positive, positive_int, run_script
from tool.crf import load_crf
from tool.io.files import UserError, read_json, read_list, write_json
from voc12.classes import load_classes
from voc12.label_writers import ENDINGS, check_names
from voc12.layout import MADE
from voc12.paths import image_path, usual_side
from voc12.photo_labels import made_of

NAME, TRUNK, BEGUN, LISTS = "run", "timm:tf_efficientnet_lite0", "begun.json", "ImageSets/Segmentation"
KEPT = ("steps", "minutes", "seed", "walk", "refine")  # flags that a run goes on with
BATCH, LEAST, MOST = 8, 120, 1200  # photographs a step; steps of the classifier
FEW = 500  # photographs below which nothing is erased: then activations grow far beyond the objects
POWER, MANY = 3, {"crf": OTHERS["dup"], "par": 8}  # of background for those and more, by --refine, without masks
SHARE, WALK_SHARE = 0.2, 0.17  # of the time of all stages that the classifier takes, about; with --walk
SIDE = 448  # pixels of the longer side beyond which photographs are trained on smaller


def get_args_parser():
    parser = flags.Parser("label.py", "Photographs and image labels in, label masks out.")
    add = parser.data
    add("--images", type=str, required=True, metavar="DIR", help="photographs, in any folders and formats")
    add("--labels", type=str, metavar="CSV", help="what each photograph shows: image,labels with ; between labels")
    add("--by_folder", action="store_true", help="a photograph shows the class that its folder is named by")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for all that is made")
    add("--masks", type=str, metavar="DIR", help="masks of some photographs, to choose settings by and to score")
    add("--negatives", type=str, metavar="DIR", help="photographs that show none of the classes")
    add("--classes", type=str, metavar="FILE", help="class names, one a line, all meant as they stand there")
    flags.add_refine(parser)
    text = "two stages more, AffinityNet and its walk: on VOC's photographs their labels have 52.6 mIoU, the CRF's 60.4"
    parser.method("--walk", action="store_true", help=text)
    parser.schedule("--minutes", type=positive, metavar="N", help="about how long all of it may take")
    parser.schedule("--steps", type=positive_int, help=f"steps of the classifier, {BATCH} photographs each")
    add = parser.run
    add("--export", type=str, nargs="+", default=[], choices=list(ENDINGS), help="formats of other tools to write")
    add("--seed", type=natural, default=0, help="seed of all trainings")
    add("--check", action="store_true", help="make the data set, say what will be done and how long it takes, and end")
    return parser


def make_set(stages, args):
    """The data set in OUT, once; UserError where it is of other photographs, labels or masks than these."""
    path = args.out / MADE
    if path.is_file():
        before, now = read_json(path).get("made_of", {}), made_of(args)
        if other := [what for what in now if before.get(what) != now[what]]:
            raise UserError(f"{args.out}: is of other {' and '.join(other)} than now; give another --out")
        return
    named = {name: getattr(args, name) for name in ("labels", "masks", "negatives", "classes")}
    source = [word for name, value in named.items() if value for word in (f"--{name}", value)]
    source += ["--by_folder"] * args.by_folder
    stages.run("data", "voc12/make_dataset.py", "--images", args.images, *source, "--val", 0, "--out", args.out)


def check_set(args):
    """UserError where the last stages could not do with the data set, said before the first."""
    for kind in args.export:
        check_names(load_classes(args.out / "classes.txt"), kind)
    if args.masks and len(read_list(args.out / LISTS / "masks.txt")) < 2:
        raise UserError(f"--masks {args.masks}: one mask; two at least are needed, and another --out")


def fit_views(paths):
    """Views that fit the photographs: ([MIN, MAX] of the longer side, crop), in pixels."""
    side = min(SIDE, usual_side(paths))
    return [round(0.6 * side), round(1.1 * side)], max(96, round(0.65 * side / 32) * 32)


def begun_with(args):
    """Steps that the classifier was begun with, None before; UserError where flags are others than then."""
    path = args.out / NAME / BEGUN
    kept = read_json(path) if path.is_file() else {"steps": None, "flags": {}}
    if other := [f"--{name}" for name, value in kept["flags"].items() if getattr(args, name) != value]:
        raise UserError(f"{args.out}: was begun with another {' '.join(other)}; give the same, or another --out")
    return kept["steps"]


def choose_steps(args, train, count):
    """Epochs of the classifier, for a number of steps that follows from the set, --steps or --minutes -> flags."""
    kept, share = begun_with(args), WALK_SHARE if args.walk else SHARE
    steps = kept or args.steps or min(MOST, max(LEAST, 2 * count))
    if args.check or (args.minutes and not kept):
        seconds = seconds_a_step([*train, "--epochs", 2, "--T", 2 if count < FEW else 1])
        if args.minutes and not kept:
            steps = min(MOST, max(LEAST, round(args.minutes * 60 * share / seconds)))
        text = f"about {duration(steps * seconds / share)} for all stages, {steps} steps of the classifier"
        print(f"label.py: {text} ({seconds:.2f} s each)", flush=True)
    epochs = max(2, epochs_of(steps, count))
    return steps, ["--epochs", epochs, "--T", epochs if count < FEW else epochs // 2]


def epochs_of(steps, count):
    """Epochs over so many photographs that make about so many steps."""
    return max(1, round(steps / max(1, count // BATCH)))


def run_stages(stages, args, common, ids):
    """Every stage from the classifier to masks of the segmentation network; each goes on where it was."""
    (low, high), crop = fit_views([image_path(args.out, image_id) for image_id in ids])
    shared = [*common, "--crop_size", crop, "--seed", args.seed, "--val_list", "none", "--amp", "--resume"]
    train = [*shared, "--trunk", TRUNK, "--resize", low, high, "--keep", 1]
    steps, epochs = choose_steps(args, train, len(ids))
    if args.check:
        return
    write_json(args.out / NAME / BEGUN, {"steps": steps, "flags": {name: getattr(args, name) for name in KEPT}})
    stages.run("train", "train.py", *train, *epochs)
    seen = ["--refine", args.refine, "--max_side", high]
    infer = [*common, *seen, "--load_epo", epochs[1] - 1, "--amp"]
    if args.masks:
        stages.run("infer", "infer.py", *infer, "--dict")
        stages.run("choose", "choose.py", *common, *seen, "--list", args.out / LISTS / "masks.txt")
    chosen = read_chosen(experiment := Experiment(args.out, NAME))[0]
    power = chosen.get("dup", POWER if len(ids) < FEW else MANY[args.refine])
    if args.walk:
        low, dup, high_power = chosen.get("alphas", OTHERS["alphas"])
        stages.run("infer", "infer.py", *infer, "--dict", "--crf")
        half = ["--epochs", epochs_of(max(1, steps // 2), len(ids)), "--select", "last", "--keep", 1]
        stages.run("train_aff", "train_aff.py", *shared, *half, "--max_side", high)
        stages.run("infer_aff", "infer_aff.py", *common, "--max_side", high, "--amp")
        labels = experiment.walk((low, high_power, dup))
    else:
        stages.run("infer", "infer.py", *infer, "--dict", "--png", power)
        labels = experiment.crf_labels((power,))
    own = ["--epochs", epochs_of(min(MOST, 2 * steps), len(ids)), "--labels", labels.relative_to(experiment.folder)]
    stages.run("train_seg", "train_seg.py", *shared, *own, "--keep", 1, "--max_side", high)
    final = [*seen, "--labels", "given", "--cams", power, "--scales", 0.5, 1, 1.5, "--crf", "--amp", "--infer_list"]
    stages.run("infer_seg", "infer_seg.py", *common, *final, args.out / LISTS / "train.txt")


def main(args):
    if bool(args.labels) == args.by_folder:
        raise UserError("give --labels CSV or --by_folder: what do the photographs show?")
    if args.steps and args.minutes:
        raise UserError("--steps and --minutes both say how long to train; give one of them")
    if args.walk or args.refine == "crf":
        load_crf(", or give --refine par" * (not args.walk))
    make_set(stages := Stages(), args)
    check_set(args)
    common = ["--name", NAME, "--experiment", args.out, "--voc12_root", args.out]
    run_stages(stages, args, common, read_list(args.out / LISTS / "train.txt"))
    if args.check:
        return
    masks = Experiment(args.out, NAME).segmented(f"deeplab_{TRUNK}", crf=True)
    if args.masks:
        scored = ["--task", "png", "--dict_dir", masks.relative_to(args.out / NAME), "--list"]
        stages.run("evaluation", "evaluation.py", *common, *scored, args.out / LISTS / "masks.txt")
    stages.run("report", "report.py", *common)
    for kind in args.export:
        out = args.out / f"export/{kind}{ENDINGS[kind] or ''}"
        own = ["--labels", masks, "--images", args.out / "JPEGImages", "--classes", args.out / "classes.txt"]
        stages.run("export", "voc12/export_labels.py", *own, "--format", kind, "--out", out, "--overwrite")
    print(f"\nmasks: {masks}\na page to look at: {args.out / NAME / 'report/index.html'}")
    more = f"--crf{' --refine par' * (args.refine == 'par')}"
    command = f"python infer_seg.py --name {NAME} --experiment {shlex.quote(str(args.out))}"
    print(f"new photographs: {command} --images DIR --out DIR {more}")


if __name__ == "__main__":
    run_script(main, get_args_parser())
