"""What each part of the method does on photographs: the paper's tables of pooling and of erasing, on a laptop's trunk.

reads   --data: photographs and masks in VOC layout (docs/photographs.md: part of VOC, MSRC-v2), ImageNet weights
writes  EXPERIMENT/ROW_seedN: a row of the tables with one seed, all its stages; the tables of --pages, picture, curves
        make photographs DATA=data/voc6

engine/studies.py has the rows and what each set trains them with. Interrupted, it goes on where it was: what is done is
not done again, and --seeds and --rows without values write the pages from what is done.
"""

from pathlib import Path

from engine import flags
from engine.children import Runs
from engine.experiment import BELOW, Experiment
from engine.report.comparison import filled
from engine.report.study import make_parts, write_pages
from engine.studies import CRF, MEAN, METHOD, STUDIES, SURE, TRUNK, TRUTH
from tool.cli import natural, run_script, workers
from tool.crf import load_crf
from tool.io.files import UserError, read_list, require_files
from tool.metrics import split_folds
from voc12.paths import check_images, mask_path

ARCH = f"deeplab_{TRUNK}"
COMMON = f"--trunk {TRUNK} --output_stride 16 --amp --keep 1 --resume"


def get_args_parser():
    parser = flags.Parser("ablation.py", "The parts of the method on photographs.")
    add = parser.data
    add("--data", type=Path, required=True, help="photographs with masks in VOC layout")
    text = "which rows and settings (default: by the name of --data)"
    add("--study", type=str, default=None, choices=list(STUDIES), help=text)
    add = parser.method
    add("--seeds", type=natural, nargs="*", default=[0, 1, 2], help="a run of every row for each of them")
    text = "rows to run, by default all of the set; the tables show whatever has been run"
    add("--rows", type=str, nargs="*", default=None, metavar="ROW", help=text)
    add("--maps_only", action="store_true", help="no CRF, labels and segmentation networks behind the maps")
    text = "run the settings that were tried and score them on masks that are for finding settings"
    add("--tune", action="store_true", help=text)
    add = parser.run
    add("--experiment", type=Path, default=Path("experiment/photographs"), help="folder of all runs")
    pages = [Path("docs/photographs.md"), Path("README.md")]
    add("--pages", type=Path, nargs="+", default=pages, help="pages whose tables are written anew")
    add("--num_workers", type=workers, default=1, help="processes that load data")
    return parser


# ---------------------------------------------------------------- runs


def write_lists(runs, study):
    """{part: path of its list}: all to train on, tune to find settings on, report to score; val where there is one."""
    folder = runs.data / "ImageSets" / "Segmentation"
    if study.own_lists:
        lists = {part: folder / f"{part}.txt" for part in ("train_aug", "train", "val")}
        lists = {"all": lists["train_aug"], "tune": lists["train"], "report": lists["train"], "val": lists["val"]}
        ids = sorted(set().union(*map(read_list, lists.values())))
    else:
        ids = read_list(folder / "train.txt")
        parts = split_folds(ids, 3, seed=0)
        chosen = {"all": ids, "tune": [i for i in ids if parts[i] == 0], "report": [i for i in ids if parts[i] != 0]}
        lists = {name: runs.write_list(name, some) for name, some in chosen.items()}
    check_images(ids, runs.data)
    require_files({i: mask_path(runs.data, i) for i in ids}, "mask", "rows are scored on them; check --data")
    return lists


def make_maps(runs, study, lists, name, row, seed):
    """Classifier and class activation maps of a row, scored on the parts that are for settings and for tables."""
    train = [*f"{COMMON} {study.train} {row.flags}".split(), "--seed", seed, "--train_list", lists["all"]]
    seen = lists["report"] if study.own_lists else lists["all"]
    commands = [
        ["train.py", *train, "--val_list", "none" if study.own_lists else lists["tune"]],
        ["infer.py", *study.infer.split(), "--amp", "--dict", "--infer_list", seen],
    ]
    scores = {
        "report": ("cam", "dict", lists["report"], *study.thresholds.split()),
        "released": ("cam", "dict", lists["report"], "--kfold", 5),
        "tune": ("cam", "dict", lists["tune"], *study.thresholds.split()),
    }
    runs.once(name, "maps", commands, scores)


def make_crf(runs, study, lists, name, maps):
    """Dense CRF of maps, as scores and labels, scored. maps: flags of infer.py that say whose."""
    low, high, dup = study.powers
    infer = [*maps, *f"--amp --dict --crf {study.crf}".split(), "--alphas", *sorted({*study.powers})]
    command = ["infer.py", *infer, "--png", dup, f"{low}_{high}", "--infer_list", lists["all"]]
    runs.once(name, "crf", [command], {"crf": ("crf", BELOW.crf(dup), lists["report"])})


def make_labels(runs, study, lists, name, seed):
    """AffinityNet and walk behind the CRF of a run, scored."""
    low, high, dup = study.powers
    powers = ["--low", low, "--high", high, "--dup", dup]
    aff = [*powers, *f"--val_list none --select last --amp --resume {study.aff}".split(), "--seed", seed]
    commands = [
        ["train_aff.py", *aff, "--train_list", lists["all"]],
        ["infer_aff.py", *powers, *f"{study.walk} {study.crf} --amp".split(), "--train_list", lists["all"]],
    ]
    runs.once(name, "labels", commands, {"labels": ("png", BELOW.walk(study.powers), lists["report"])})


def segment(runs, study, lists, name, labels, seed):
    """The segmentation network on labels, scored on photographs that it never saw: val, or a seeded fifth."""
    train_list, test_list = lists["all"], lists.get("val")
    if test_list is None:
        ids = read_list(lists["all"])
        parts = split_folds(ids, 5, seed)
        train_list = runs.write_list(f"seg_train_seed{seed}", [i for i in ids if parts[i] != 0])
        test_list = runs.write_list(f"seg_test_seed{seed}", [i for i in ids if parts[i] == 0])
    train = [*f"{COMMON} --val_list none --pretrained imagenet {study.seg}".split(), "--seed", seed, "--labels", labels]
    commands = [
        ["train_seg.py", *train, "--train_list", train_list],
        ["infer_seg.py", *f"{study.infer_seg} --amp".split(), "--infer_list", test_list],
    ]
    runs.once(name, "segmentation", commands, {"seg": ("png", f"seg/{ARCH}", test_list)})


def run_stages(runs, study, lists, seed):
    """What is behind the maps of the method: CRF, AffinityNet, walk; networks on their labels and on true masks."""
    name, (low, high, dup) = f"{METHOD}_seed{seed}", study.powers
    make_crf(runs, study, lists, name, study.infer.split())
    place = Experiment(runs.folder, name)
    networks = {
        TRUTH: runs.data / "SegmentationClass",
        CRF: place.crf_labels([dup]),
        SURE: place.crf_labels([low, high]),
    }
    for row, labels in networks.items():
        segment(runs, study, lists, f"{row}_seed{seed}", labels.resolve(), seed)
    make_labels(runs, study, lists, name, seed)
    segment(runs, study, lists, name, BELOW.walk(study.powers), seed)


def run_together(runs, study, lists, seeds):
    """Once for all seeds: how many masks choose the settings of the first; CRF of the mean of the method's maps, and
    networks, one a seed, on what two powers agree on there."""
    of, name = [f"{METHOD}_seed{seed}" for seed in seeds], f"{MEAN}_seed{seeds[0]}"
    runs.once(of[0], "masks", [["choose.py", *study.curve.split(), "--list", lists["tune"]]], {})
    if len(seeds) == 1:
        return  # the mean is that seed's maps, whose CRF and network are there
    make_crf(runs, study, lists, name, ["--mean_of", *of])
    labels = Experiment(runs.folder, name).crf_labels(study.powers[:2]).resolve()
    for seed in seeds:
        segment(runs, study, lists, f"{MEAN}_seed{seed}", labels, seed)


def main(args):
    name = args.study or args.data.resolve().name
    if name not in STUDIES:
        raise UserError(f"--data {args.data}: no settings for a set of this name; --study takes {', '.join(STUDIES)}")
    study = STUDIES[name]
    chosen = list(study.rows) if args.rows is None else args.rows
    if unknown := [row for row in chosen if row not in study.rows]:
        raise UserError(f"--rows {unknown[0]}: not one of {', '.join(study.rows)}")
    for page in args.pages:
        filled(page, make_parts(study, args.experiment))  # is there, and has places
    labelled = METHOD in chosen and not args.maps_only
    if labelled:
        load_crf()
    runs = Runs(args.experiment, args.data, args.num_workers)
    lists = write_lists(runs, study)
    for row in study.tried if args.tune else ():
        make_maps(runs, study, lists, f"{row}_seed{args.seeds[0]}", study.tried[row], args.seeds[0])
    for seed in args.seeds:
        for row in chosen:
            make_maps(runs, study, lists, f"{row}_seed{seed}", study.rows[row], seed)
        if labelled:
            run_stages(runs, study, lists, seed)
    if labelled and args.seeds:
        run_together(runs, study, lists, args.seeds)
    write_pages(study, runs, args.pages, read_list(lists["report"]))


if __name__ == "__main__":
    run_script(main, get_args_parser())
