"""Score a stage against ground truth: IoU, precision, recall and boundary IoU of every class, and their means.

reads   experiment/NAME/DICT_DIR (maps of infer.py, PNGs of infer_aff.py) or PRED_DIR, VOC12_ROOT/GT_DIR/ID.png, --list
writes  tables to the console; --json FILE.json: the result, and FILE.run.json: this run, and what made the files;
        --csv FILE: a row a class; --tex FILE: the table; --plot FILE.pdf: classes, and the curve over the thresholds
        python evaluation.py --name N --task cam --dict_dir dict
        python evaluation.py --name N --task crf --dict_dir crf/09
        python evaluation.py --name A B C --task png --dict_dir rw/02_2119
        python evaluation.py --name her=A,B ours=C,D --task png --dict_dir rw/02_2119 --tex table.tex
        python evaluation.py --pred_dir DIR --task png

cam: scores of classes; background where its threshold is at least every score. Without --threshold every threshold
of --thresholds is tried and the best one reported: chosen on the masks that it is scored with, it is an oracle.
--kfold K adds the figure without one: each K-th of the images is scored at the threshold that is best on the others.
crf: scores of background and classes, the largest wins. png: label images.

Classes absent from truth and prediction count as IoU 0 in the released mean; the mean over present classes is reported
as well. docs/metrics.md says what each figure means.
"""

from functools import partial
from pathlib import Path

from engine import flags
from engine.check import Check, timed
from engine.distributed import World
from engine.experiment import BELOW, scored_of
from engine.record import check_origins, describe_origin, now, this_run
from engine.summary import Summary, print_summary
from tool.cli import fraction, natural, run_script, several
from tool.io.files import UserError, folder_settings, portable, read_list, read_record, require_files, write_json
from tool.io.images import open_mask
from tool.metrics import RELEASED_RANGE, over_methods, split_folds, thresholds_between
from tool.results import SUFFIX, check_kind, score
from tool.tables import FIGURES, check_outputs, table, write_csv, write_plot, write_tex
from voc12.classes import BACKGROUND_NAME, load_classes
from voc12.paths import check_scores, image_path, mask_finder


def get_args_parser():
    parser = flags.Parser("evaluation.py", "Scores of class activation maps, CRF or PNG labels.")
    flags.add_experiment(parser, several=True)
    flags.add_data(parser, labels=False)
    parser.add_list("--list", "voc12/train.txt", "masks", "list of images to score")
    flags.add_truth(parser)
    parser.data("--pred_dir", help="folder of any method's files, instead of --name and --dict_dir")
    add = parser.method
    text = "what the files hold; dl is another name of png"
    add("--task", type=lambda task: "png" if task == "dl" else task, required=True, choices=sorted(SUFFIX), help=text)
    add("--dict_dir", help="folder of the files, below experiment/NAME")
    text = "score cam at this background threshold, 0 to 1, instead of searching the best (default: choose.py's)"
    add("--threshold", type=fraction, chosen=takes_chosen, help=text)
    text = "cam: also score each of K parts of the list at the threshold that is best on the other parts"
    add("--kfold", type=several, metavar="K", help=text)
    add("--seed", type=natural, default=0, help="seed of the parts of --kfold")
    add = parser.run
    add("--json", help="also write the result to this file")
    add("--csv", help="also write a table of the classes to this file")
    add("--tex", help="also write the table of the console to this file, for LaTeX with booktabs")
    add("--plot", help="also draw classes and thresholds: a .png, .pdf or .svg file")
    text = "score the folder even where its files are of several runs, or look like those of another task"
    add("--mixed_origins", action="store_true", help=text)
    flags.add_check(parser)
    return parser


def takes_chosen(first):
    """Whether choose.py's threshold is scored: of infer.py's maps, where no other choice of one is asked for."""
    asked = first.kfold or first.plot or first.thresholds is not RELEASED_RANGE  # given, be it the same
    return first.task == "cam" and Path(first.dict_dir or "") == BELOW.maps and not asked


def files_of(args):
    return [path for path in (args.json, args.csv, args.tex, args.plot) if path]


def check_args(args, ids):
    """UserError where flags contradict each other or the list."""
    if (args.name is None) == (args.pred_dir is None):
        raise UserError("give one of --name EXPERIMENT and --pred_dir DIR")
    if (args.name is None) == (args.dict_dir is not None):
        raise UserError("--name EXPERIMENT needs --dict_dir, its folder of results; --pred_dir stands for both")
    if args.name and len(set(args.name)) < len(args.name):
        raise UserError(f"--name {' '.join(args.name)}: the same experiment twice")
    for flag in ("threshold", "kfold"):
        if getattr(args, flag) is not None and args.task != "cam":
            raise UserError(f"--{flag} is for --task cam; {args.task} has a background score of its own")
    if args.kfold and args.threshold is not None:
        raise UserError("--kfold chooses thresholds, --threshold sets one; give one of them")
    if args.kfold and args.kfold > len(ids):
        raise UserError(f"--kfold {args.kfold}: {args.list} has {len(ids)} images, too few for as many parts")
    check_outputs(files_of(args), args.plot)


def result_folders(args, ids, hint):
    """{experiment, or --pred_dir: folder of its results}; UserError where one is not there, or lacks images."""
    if args.pred_dir:
        folders = {args.pred_dir: Path(args.pred_dir)}
    else:
        folders = {name: portable(Path(args.experiment) / name / args.dict_dir) for name in args.name}
    for folder in folders.values():
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; {hint}")
        check_scores(ids, folder, args.list, hint, SUFFIX[args.task])
    return folders


def refuse_mixed(ids, folder, args):
    if not args.mixed_origins:
        check_origins(folder, [folder / f"{i}.{SUFFIX[args.task]}" for i in ids])


def check_run(ids, folders, mask, args, scoring, num_labels):
    """--check: every mask opens, the results are of one origin, one image of each is scored."""
    check = Check(World(), "list, masks and results are there")
    check.try_all(lambda i: open_mask(mask(i), num_labels).size, ids, "masks")
    for path in files_of(args):
        check.disk({Path(path).parent: 2**16})
    for folder in folders:
        check.attempt(refuse_mixed, ids, folder, args)
    seconds = sum(filter(None, check.try_all(lambda folder: timed(scoring, ids[:1], folder)[1], folders, "scores")))
    check.end(len(ids) * seconds, len(ids), f"{seconds:.3f} s an image")


def write(result, results, record, args):
    """The files that were asked for. result: as --json shows it; results: {name: result}."""
    if args.csv:
        write_csv(args.csv, results, args.methods)
    if args.tex:
        write_tex(args.tex, result)
    if args.plot:
        write_plot(args.plot, results, args.methods)
    if args.json:
        write_json(args.json, result)
        if Path(args.json).is_file():  # not /dev/stdout
            write_json(Path(args.json).with_suffix(".run.json"), record | {"results": args.json})


def main(args):
    summary = Summary()
    ids = read_list(args.list)
    check_args(args, ids)
    names = (BACKGROUND_NAME, *load_classes(args.classes))
    made, following = scored_of(args.task, args.dict_dir) if args.name else (None, None)
    hint = f"run {made}" if made else "check --pred_dir, --task and --list"
    folders = result_folders(args, ids, hint)
    mask = mask_finder(args.voc12_root, args.gt_dir)
    require_files({i: mask(i) for i in ids}, "mask", "check --voc12_root, --gt_dir and --list")
    for folder in folders.values():
        check_kind(ids, folder, args.task, folder_settings(folder), forced=args.mixed_origins)
    tried = thresholds_between(*args.thresholds) if args.threshold is None else (args.threshold,)
    thresholds = tried if args.task == "cam" else ()
    photo = partial(image_path, args.voc12_root)
    scoring = partial(score, mask=mask, task=args.task, thresholds=thresholds, names=names, photo=photo)
    if args.check:
        return check_run(ids, list(folders.values()), mask, args, scoring, len(names))
    run = this_run(args, World(), [args.list])
    parts = split_folds(ids, args.kfold, args.seed) if args.kfold else None
    about = {"list": args.list, "task": args.task, "dict_dir": args.dict_dir or args.pred_dir}
    results = {}
    with summary.stage("scoring") as stage:
        for name, folder in folders.items():
            results[name] = about | scoring(ids, folder, parts=parts)
            stage["images"] += len(ids)
            refuse_mixed(ids, folder, args)  # last: a file that cannot be read has a clearer message than this one
    summary.counts["done"] = stage["images"]
    result, origin = results[name], read_record(folder)
    if args.methods or len(results) > 1:
        result = about | {"experiments": results} | over_methods(results, args.methods, FIGURES)
        origin = {name: read_record(folder) for name, folder in folders.items()}
    ended = summary.collect(World())
    write(result, results, run | {"ended": now(), "summary": ended, "origin": origin}, args)
    scored = f"scored {about['dict_dir']} on {len(ids)} images of {args.list}"
    print(table(result), scored, *map(describe_origin, folders.values()), sep="\n")
    print_summary("evaluation.py", ended, files_of(args), following)


if __name__ == "__main__":
    run_script(main, get_args_parser())
