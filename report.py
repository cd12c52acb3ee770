"""A page to look at: what an experiment has so far, its scores and curves, and its results image by image.

reads   experiment/NAME (every stage that is there, also one that still runs), VOC12_ROOT/JPEGImages and GT_DIR, --list
writes  experiment/NAME/report/index.html, images/*.jpg, which it shows, scores.json, by which the next page is quicker
        python report.py --name N
        python report.py --name N --images 120 --list voc12/train.txt --seg_list voc12/val.txt
        python report.py --folder DIR       results of infer.py and infer_seg.py --images PATH --out DIR; page in DIR

The page needs no network and no server. Made again it shows what a training or a long inference has come to. The
images are a third each: those with the worst and with the best IoU in their last stage, and random ones among the rest;
without masks those on which the stages disagree most, and a third random ones.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from engine import flags
from engine.distributed import World
from engine.experiment import Experiment
from engine.record import now
from engine.report.charts import threshold_chart, training_charts
from engine.report.found import find_results, find_results_of, find_stages, missing_kinds
from engine.report.gallery import Gallery, pick_images
from engine.report.page import INDEX, Cache, Pictures, render
from engine.report.scoring import Data, images_of, photographs_of, pick_folders, score_stage
from engine.summary import Summary, print_summary
from tool import VERSION
from tool.cli import fraction, natural, number, positive_int, run_script
from tool.io.files import UserError, after_id, missing_files, read_json, read_list, write_text
from tool.io.lock import hold
from tool.metrics import thresholds_between
from tool.tables import FIGURES
from tool.workers import usable_cores
from voc12.classes import BACKGROUND_NAME, load_classes
from voc12.paths import check_images, image_path, mask_finder

SHOWN = ("miou_present", "miou", "mean_precision", "mean_recall", "boundary_iou")  # of FIGURES


def get_args_parser():
    parser = flags.Parser("report.py", "A page of an experiment's scores, curves and images.")
    flags.add_experiment(parser, required=False)
    text = "results of infer.py and infer_seg.py --images PATH --out DIR, instead of those of an experiment"
    parser.run("--folder", type=Path, default=None, metavar="DIR", help=text)
    text = "folder: where its photographs are (default: what the results' run.json says)"
    parser.run("--photographs", type=str, default=None, metavar="PATH", help=text)
    flags.add_data(parser, labels=False)
    parser.add_list("--list", "voc12/train.txt", "train", "list of images to score and show")
    text = "list whose images a segmentation network is scored on, or none"
    parser.add_list("--seg_list", "voc12/val.txt", "val", text)
    flags.add_truth(parser)
    text = "background threshold of class activation maps where no mask chooses one, 0 to 1"
    parser.method("--threshold", type=fraction, default=0.2, help=text)
    add = parser.run
    text = "images to show: worst, best and random, a third each; without masks two thirds are the most disputed"
    add("--images", type=positive_int, default=60, help=text)
    side = number(int, lambda v: 64 <= v <= 4096, "a whole number from 64 to 4096")
    add("--size", type=side, default=640, help="longer side of the pictures, which a click enlarges, pixels")
    add("--seed", type=natural, default=0, help="seed of the random images")
    return parser


def find_all(args):
    """The Experiment, or what stands for it, its stages, and the Data of those with results."""
    if (args.name is None) == (args.folder is None):
        raise UserError("give either --name N or --folder DIR, the --out of infer.py --images")
    if args.folder:
        stages = find_results_of(args.folder)
        return Experiment(args.folder, ""), stages, photographs_of(args.folder, stages, args.photographs, args.classes)
    experiment = Experiment.of(args)
    stages = find_stages(experiment.folder)
    with_results = [stage for stage in stages if stage.kind.task]
    return experiment, stages, find_data(args, with_results) if with_results else Data({}, None, None, set(), ())


def find_data(args, stages):
    """Lists, masks and classes of the results of `stages`; UserError where photographs or all results are missing."""
    photographs = Path(args.voc12_root, "JPEGImages")
    if not photographs.is_dir():
        hint = "where the data set was moved, --voc12_root DIR says where it is now"
        raise UserError(f"{photographs}: no such folder of photographs; {hint}")
    segmented = [stage for stage in stages if stage.kind.is_segmentation]
    wanted = [args.list, args.seg_list] if segmented else [args.list]
    lists = {path: read_list(path) for path in wanted if path != "none"}
    if not lists:
        raise UserError(f"{args.voc12_root}: no list of images there; give one with --list FILE")
    there = dict.fromkeys(i for stage in stages for ids in lists.values() for i in images_of(stage, ids))
    if not there:
        hint = after_id(next(iter(lists.values()))[0])
        text = f"none of the images has a result in {', '.join(stage.name for stage in stages)}"
        raise UserError(f"{' and '.join(lists)}: {text}; check --list, or run these stages on it{hint}")
    check_images(list(there), args.voc12_root)
    mask = mask_finder(args.voc12_root, args.gt_dir)
    masks = {image_id: mask(image_id) for ids in lists.values() for image_id in ids}
    masked = set(masks) - set(missing_files(masks))
    names = (BACKGROUND_NAME, *load_classes(args.classes))
    return Data(lists, partial(image_path, args.voc12_root), mask, masked, names)


def make_cards(args, shown, data, folder, cache):
    """The images of the page, and the pictures they are made of. shown: what `pick_folders` gives."""
    pictures = Pictures(folder, args.size)
    picked = pick_images(shown, data, args.images, args.threshold, args.seed, cache)
    gallery = Gallery(shown, data, pictures, args.threshold)
    cards = [
        gallery.card(number, image_id, *about)
        for number, (image_id, about) in enumerate(tqdm(picked.items(), "page", unit="image", disable=None), 1)
    ]
    return cards, pictures


def class_rows(shown):
    """[(class, [(entry of `shown`, IoU or None where absent)])] of the classes that any stage or truth shows."""
    scored = [(entry, entry.result) for entry in shown if entry.result]
    names = scored[0][1]["classes"] if scored else ()
    rows = [(n, [(entry, None if n in r["absent"] else r["classes"][n]) for entry, r in scored]) for n in names]
    return [row for row in rows if any(value is not None for _, value in row[1])]


def find_charts(stages, scored):
    """[(title, charts)] of the trainings, and of the thresholds of the class activation maps."""
    charts = [(stage, training_charts(stage)) for stage in stages if stage.epochs]
    maps = [threshold_chart(entry.result) for entry in scored if entry.result and entry.result["thresholds"]]
    return charts, maps


def main(args):
    summary = Summary()
    thresholds = thresholds_between(*args.thresholds)
    experiment, stages, data = find_all(args)
    folder, with_results = experiment.report, [stage for stage in stages if stage.kind.task]
    with hold(folder):
        cache = Cache(folder)
        with summary.stage("scores"), ThreadPoolExecutor(usable_cores()) as pool:
            score = partial(score_stage, data=data, thresholds=thresholds, cache=cache)
            scored = list(pool.map(score, with_results))
        shown = pick_folders(scored)
        with summary.stage("images") as stage:
            cards, pictures = make_cards(args, shown, data, folder, cache)
            stage["images"] = len(cards)
        charts, threshold_charts = find_charts(stages, scored)
        html = render(
            name=args.name or args.folder.resolve().name,
            folder=args.folder,
            made=now(),
            version=VERSION,
            settings=read_json(experiment.settings) if experiment.settings.is_file() else {},
            root=next(iter(data.lists)) if args.folder else args.voc12_root,
            stages=stages,
            missing=[] if args.folder else missing_kinds(stages),
            scored={entry.stage.name: entry for entry in scored},
            shown=shown,
            with_results=with_results,
            data=data,
            figures={key: FIGURES[key] for key in SHOWN if any(entry.result for entry in scored)},
            found=find_results(experiment.folder),
            charts=charts,
            thresholds=threshold_charts,
            classes=class_rows(shown),
            cards=cards,
            card_classes=sorted({one["name"] for card in cards for one in card["classes"]}),
        )
        write_text(folder / INDEX, html)
        cache.write()
        pictures.remove_others()
    summary.counts["done"] = len(cards)
    print_summary("report.py", summary.collect(World()), [folder / INDEX])


if __name__ == "__main__":
    run_script(main, get_args_parser())
