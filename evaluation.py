"""Score a stage against ground truth: mIoU and a table of all classes.

reads   experiment/NAME/DICT_DIR (maps of infer.py or PNGs of infer_aff.py), VOC12_ROOT/GT_DIR/ID.png, --list
writes  a table to the console; --json FILE.json: the result, and FILE.run.json: this run, and what made the files
        python evaluation.py --name N --task cam --dict_dir dict
        python evaluation.py --name N --task crf --dict_dir crf/09

cam: scores of classes; background where its threshold is at least every score. Without --threshold every threshold
from 0.10 to 0.34 is tried and the best one reported: chosen on the masks that it is scored with, it is an oracle.
crf: scores of background and classes, the largest wins. png: label images.

Classes absent from truth and prediction count as IoU 0 in the released mean; the mean over present classes is reported
as well.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from tool.io.files import UserError, read_list, write_json
from tool.io.images import open_mask
from tool.io.kinds import MADE_BY, SUFFIX, Notes, mask_oddities, oddities, recorded_kind, unlike
from tool.io.scores import read_scores
from tool.metrics import THRESHOLDS, ThresholdSweep, best_labels, check_size, confusion, iou, mean_iou
from tool.run.arguments import Parser, add_check_argument, add_data_arguments, add_experiment_arguments, fraction
from tool.run.check import Check, timed
from tool.run.distributed import World
from tool.run.record import check_origins, describe_origin, folder_settings, now, read_record, this_run
from tool.run.script import run_script
from tool.run.summary import Summary, print_summary
from voc12.classes import BACKGROUND_NAME, load_classes
from voc12.data import mask_path

SAMPLE = 5  # files of unknown origin that are looked at before all are scored
NEXT = {
    "cam": "infer.py --crf with several --alphas, to choose three of them",
    "crf": "train_aff.py; --dup is usually the best of the powers, --low and --high are below and above it",
    "png": "train_seg.py, with this folder as its --labels",
}


def get_args_parser():
    parser = Parser("evaluation.py", "mIoU of class activation maps, CRF or PNG labels.")
    add_experiment_arguments(parser)
    add_data_arguments(parser, labels=False)
    parser.add_list(parser.data, "--list", "voc12/train.txt", "train", "list of images to score")
    text = "folder of masks, below --voc12_root or any path"
    parser.data.add_argument("--gt_dir", type=str, default="SegmentationClass", help=text)
    add = parser.method.add_argument
    text = "what the files hold; dl is another name of png"
    add("--task", type=task_name, required=True, choices=sorted(SUFFIX), help=text)
    add("--dict_dir", type=str, required=True, help="folder of the files, below experiment/NAME")
    text = "score cam at this background threshold, 0 to 1, instead of searching the best"
    add("--threshold", type=fraction, default=None, help=text)
    add = parser.run.add_argument
    add("--json", type=str, default=None, help="also write the result to this file")
    text = "score the folder even where its files are of several runs, or look like those of another task"
    add("--mixed_origins", action="store_true", help=text)
    add_check_argument(parser)
    return parser


def task_name(text):
    return "png" if text == "dl" else text


def mask_folder(voc12_root, gt_dir):
    """--gt_dir for `mask_path`: below the data set, or, where it has no such folder, from here."""
    is_own = (Path(voc12_root) / gt_dir).is_dir() or not Path(gt_dir).is_dir()
    return gt_dir if is_own else Path(gt_dir).absolute()


def check_files(ids, folder, mask, args):
    """Every image of the list has a result and a mask, or a UserError names the stage that is missing."""
    missing = [i for i in ids if not (folder / f"{i}.{SUFFIX[args.task]}").is_file()]
    if missing:
        raise UserError(
            f"{folder}: no {args.dict_dir} for {len(missing)} of {len(ids)} images of {args.list} "
            f"(first {missing[0]}); run {stage_command(args)}"
        )
    unlabelled = [i for i in ids if not mask(i).is_file()]
    if unlabelled:
        raise UserError(
            f"{mask(unlabelled[0])}: no such mask ({len(unlabelled)} of {len(ids)} images of {args.list} have none); "
            "check --voc12_root, --gt_dir and --list"
        )


def is_segmentation(args):
    """Whether the folder is one of infer_seg.py, by its name."""
    return args.task == "png" and Path(args.dict_dir).parts[0] in ("seg", "seg_crf")


def stage_command(args):
    """The command that would make the missing files."""
    alpha = Path(args.dict_dir).name
    if is_segmentation(args):
        return "infer_seg.py"
    tail = f" --alphas {int(alpha)}" if args.task == "crf" and alpha.isdigit() else ""
    return MADE_BY[args.task] + tail


def read_keys(path, limit):
    scores = read_scores(path)
    if max(scores) >= limit:
        raise UserError(f"{path}: holds key {max(scores)}, but there are {limit} labels; check --task and --classes")
    return scores


def refuse_other_kind(ids, folder, args):
    """UserError where the folder's run.json, or a few of its files where it has none, speak of another task."""
    settings = folder_settings(folder)
    kind = recorded_kind(settings)
    if kind not in (None, args.task):
        raise UserError(f"{folder}: its run.json says that {MADE_BY[kind]} made it; score it with --task {kind}")
    if settings is None and args.task != "png" and not args.mixed_origins:
        sample = [read_scores(folder / f"{i}.npy") for i in ids[:: -(-len(ids) // SAMPLE)]]
        reason = unlike(args.task, sample)
        if reason:
            raise UserError(
                f"{folder}: not what --task {args.task} scores: {reason}; --mixed_origins scores them all the same"
            )


def read_results(ids, folder, mask, task, num_labels):
    """(truth, result) of every image: {class: H x W scores} of task cam, H x W labels of the others."""
    notes = Notes()
    for image_id in tqdm(ids, task, unit="image", disable=None):
        truth = open_mask(mask(image_id), num_labels)
        notes.add(mask(image_id), mask_oddities(truth))
        path = folder / f"{image_id}.{SUFFIX[task]}"
        if task == "png":
            result = open_mask(path, num_labels)
            if result.max() >= num_labels:
                raise UserError(f"{path}: a pseudo label has 255 (ignored) pixels; every pixel needs a class")
        else:
            result = read_keys(path, num_labels - (task == "cam"))
            notes.add(path, oddities(task, result))
        check_size(truth, next(iter(result.values())).shape if task != "png" else result.shape, path)
        yield truth, best_labels(result) if task == "crf" else result
    notes.say()


def score(ids, folder, mask, args, num_labels):
    """(thresholds, confusion matrices) of task cam, ([], one matrix) of the others; one pass over the files."""
    results = read_results(ids, folder, mask, args.task, num_labels)
    if args.task == "cam":
        thresholds = THRESHOLDS if args.threshold is None else (args.threshold,)
        sweep = ThresholdSweep(num_labels, thresholds)
        for truth, scores in results:
            sweep.add(truth, scores)
        return list(thresholds), sweep.confusions()
    return [], sum(confusion(truth, predicted, num_labels) for truth, predicted in results)


def summarise(counts, thresholds, classes, args):
    """The result as it goes to --json; IoU in percent. counts: L x L, or thresholds x L x L."""
    curve = [mean_iou(values) for values in iou(counts)] if thresholds else []
    best = int(np.argmax([a for a, _ in curve])) if thresholds else None
    values = iou(counts if best is None else counts[best])
    miou, present = mean_iou(values)
    names = (BACKGROUND_NAME, *classes)
    return {
        "list": args.list,
        "task": args.task,
        "dict_dir": args.dict_dir,
        "classes": {n: 100 * float(v) for n, v in zip(names, np.nan_to_num(values))},
        "absent": [n for n, v in zip(names, values) if np.isnan(v)],
        "miou": 100 * miou,
        "miou_present": 100 * present,
        "thresholds": thresholds,
        "miou_by_threshold": [100 * a for a, _ in curve],
        "best_threshold": None if best is None else thresholds[best],
        "oracle_threshold": args.task == "cam" and args.threshold is None,
    }


def print_table(result, images):
    absent = set(result["absent"])
    for name, value in result["classes"].items():
        print(f"  {name:<16} {'absent' if name in absent else f'{value:6.2f}'}")
    print(
        f"mIoU {result['miou']:.2f} (absent classes count as 0, as released), "
        f"{result['miou_present']:.2f} over the {len(result['classes']) - len(absent)} present classes"
    )
    print(f"scored {result['dict_dir']} on {images} images of {result['list']}")
    if result["oracle_threshold"]:
        print(
            f"threshold {result['best_threshold']:.2f} is the best of {len(result['thresholds'])} on these "
            "very masks: an oracle; --threshold scores a fixed one"
        )


def refuse_mixed(ids, folder, args):
    if not args.mixed_origins:
        check_origins(folder, [folder / f"{i}.{SUFFIX[args.task]}" for i in ids])


def check_run(check, ids, folder, mask, args, num_labels):
    """--check: every mask opens, the results are of one origin, one image is scored."""
    check.attempt(refuse_mixed, ids, folder, args)
    check.try_all(lambda i: open_mask(mask(i), num_labels).size, ids, "masks")
    if args.json:
        check.disk(Path(args.json).parent, 2**16)

    def seconds_of(image_id):
        return timed(score, [image_id], folder, mask, args, num_labels)[1]

    seconds = sum(check.try_all(seconds_of, ids[:1], "scores") or [0])
    check.end(len(ids) * seconds, len(ids), f"{seconds:.3f} s an image")


def main(args):
    summary = Summary(torch.device("cpu"))
    if args.threshold is not None and args.task != "cam":
        raise UserError(f"--threshold is for --task cam; {args.task} has a background score of its own")
    classes = load_classes(args.classes)
    ids = read_list(args.list)
    folder = Path(args.experiment) / args.name / args.dict_dir
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; run {stage_command(args)}")
    mask = partial(mask_path, args.voc12_root, gt_dir=mask_folder(args.voc12_root, args.gt_dir))
    check_files(ids, folder, mask, args)
    refuse_other_kind(ids, folder, args)
    if args.check:
        check = Check(World(), "list, masks and results are there")
        return check_run(check, ids, folder, mask, args, len(classes) + 1)
    run = this_run(args, "cpu", lists=[args.list])
    with summary.stage("scoring") as stage:
        thresholds, counts = score(ids, folder, mask, args, len(classes) + 1)
        stage["images"] = summary.counts["done"] = len(ids)
    refuse_mixed(ids, folder, args)  # last: a file that cannot be read has a clearer message than this one
    result = summarise(counts, thresholds, classes, args)
    print_table(result, len(ids))
    print(describe_origin(folder))
    ended = summary.collect(World())
    print_summary(
        "evaluation.py", ended, [args.json] if args.json else [], None if is_segmentation(args) else NEXT[args.task]
    )
    if args.json:
        record = run | {"ended": now(), "summary": ended, "results": args.json, "origin": read_record(folder)}
        write_json(args.json, result)
        if Path(args.json).is_file():  # not /dev/stdout
            write_json(Path(args.json).with_suffix(".run.json"), record)


if __name__ == "__main__":
    run_script(main, get_args_parser())
