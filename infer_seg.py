"""Stage 6: label photographs with the segmentation network; it needs no image labels, and can keep to given ones.

reads   experiment/NAME/ckpt_seg/{arch}/best.pth (or --weights), with --cams dict/ID.npy;
        --voc12_root and --infer_list, or --images
writes  experiment/NAME/seg/{arch}/ID.png: H x W class ids, palette PNG with the VOC colours; with --crf also
        seg_crf/{arch}/ID.png, with --vis overlays to seg_vis/ or seg_crf_vis/; with --images all this below --out;
        --server FILE.zip: these masks as VOC's evaluation server takes them
        python infer_seg.py --name N --infer_list voc12/val.txt
        python infer_seg.py --name N --images my_photographs --out labels
        python infer_seg.py --name N --infer_list voc12/train_aug.txt --labels given --cams 4 --crf

Images that are done are skipped, so a run that was cut off goes on when it is started again. Under torchrun each
process takes its share of the list.
"""

from functools import partial

import numpy as np
import torch

from engine import flags
from engine.experiment import Experiment
from engine.jobs import Job, scores_refinement, write_best
from engine.labelling import Facts, Labelling
from engine.networks import load_segmentation_net
from engine.outputs import Output
from engine.recipes import TEST_RECIPES
from tool.cli import positive, power, run_script
from tool.crf import load_crf
from tool.io.failures import FAILED_FILE, Failures
from tool.io.files import UserError, print_warning
from tool.io.server_zip import check_server_path, write_server_zip
from tool.segmentation import MERGES, mean_with_maps, multi_scale_scores
from voc12.classes import load_classes
from voc12.data import in_range, read_maps
from voc12.paths import check_scores, images_of, with_labels
from voc12.transforms import InferenceViews, look_of


def get_args_parser():
    parser = flags.Parser("infer_seg.py", "AEFT stage 6: label photographs with the segmentation network.")
    flags.add_common(parser, random=False)
    flags.add_data(parser)
    parser.add_list("--infer_list", "voc12/val.txt", "val", "list of images", role=flags.FREE)
    text = "classes that an image may get: any, or those of its image label, as for the images that were trained on"
    parser.data("--labels", type=str, default="any", choices=["any", "given"], help=text)
    text = (
        "with --labels given: the mean of the network's scores and of the maps in dict/, this their background's power"
    )
    parser.method("--cams", type=power, default=None, metavar="ALPHA", help=text)
    flags.add_arch(parser)
    flags.add_trunk(parser)
    text = "a checkpoint (.pth, .safetensors) instead of the experiment's best.pth"
    parser.network("--weights", role=flags.FREE, type=str, default=None, help=text)
    add = parser.method
    add("--scales", type=positive, nargs="+", help="sizes at which an image is seen, relative to its own")
    add("--mirror", action=flags.SWITCH, help="see each of them mirrored as well")
    text = "how the views are merged: mean of logits, or maximum of probabilities"
    add("--merge", type=str, choices=MERGES, help=text)
    add("--crf", role=flags.FREE, action="store_true", help="also write labels that --refine has refined")
    flags.add_refine(parser)
    text = "defaults of --scales, --mirror and --merge, ours or MCTformer's; flags that are given win"
    parser.add_presets(parser.method, "--recipe", TEST_RECIPES, text)
    parser.run("--vis", action="store_true", help="also write overlays of the final labels")
    text = "pack the final labels of the whole list for VOC's evaluation server"
    parser.run("--server", type=str, default=None, metavar="FILE.zip", help=text)
    flags.add_labelling(parser)
    return parser


def build_jobs(args, settings, classes):
    """The folder of the final labels, and the jobs: the best label; with --crf refined ones; --vis shows the final."""
    place = Experiment(args.out, "") if args.images else Experiment.of(args)
    folder = partial(place.segmented, None if args.images else args.arch)
    refine, said = scores_refinement(args) if args.crf else (None, {})
    refined = settings | said
    best, final = {"labels": Output(folder(), settings)}, {"labels": Output(folder(args.crf), refined)}
    if args.vis:
        (final if args.crf else best)["vis"] = Output(folder(args.crf, overlays=True), refined)
    jobs = [Job(best, partial(write_best, names=classes))]
    if args.crf:
        jobs.insert(0, Job(final, partial(write_best, names=classes, refine=refine), crf=True))
    return final["labels"], jobs


def segment(args, run, num_labels, maps):
    """Run the network on every view of each image -> (ID, H x W x 3 uint8, its classes, (keys, scores)).

    keys: the L label ids that it may get. scores: L x h x w float32, h x w the size at which it is seen, of --max_side.
    maps: function ID -> file of the stored maps, for --cams.
    """
    said = set()
    views = InferenceViews(args.scales, args.mirror, look_of(run.net.trunk), args.max_side)
    for image_id, image, seen, label, size in run.seen("network", run.left, views):
        shown = [] if label is None else label.nonzero().flatten().tolist()
        keys = None if label is None else [0, *(k + 1 for k in shown)]
        with run.inference():
            scores = multi_scale_scores(run.net, seen, size, args.merge, keys)
        scores = scores.cpu().numpy()
        if args.cams:
            try:
                cams = in_range(read_maps(maps(image_id), image.shape[:2], num_labels - 1), maps(image_id), said)
            except UserError as error:
                run.failures.add(image_id, error)
                continue
            scores = mean_with_maps(scores, cams, keys, args.cams)
        yield image_id, image, shown, (np.uint8(keys or range(num_labels)), scores)


def main(args):
    if args.crf and args.refine == "crf":
        load_crf(", or give --refine par")
    elif args.refine != "crf" and not args.crf:
        print_warning("--refine has no effect without --crf")
    if args.images and args.labels == "given":
        raise UserError("--images: these photographs have no labels; leave --labels given away")
    if args.cams and args.labels != "given":
        raise UserError("--cams: maps are those of the image's labels; add --labels given")
    if args.server:
        check_server_path(args.server)
    torch.manual_seed(args.seed)
    classes = load_classes(args.classes)
    net, weights, settings = load_segmentation_net(args, len(classes) + 1)
    settings = args.results | settings | {"classes": list(classes)}
    for name, value in {"labels": "any", "cams": None}.items():
        if settings[name] == value:
            del settings[name]  # as of runs before there was a choice
    final, jobs = build_jobs(args, settings, classes)
    failures = Failures(args.on_error, jobs[0].folder / FAILED_FILE, held=True)
    images = images_of(args, failures)
    if args.labels == "given":
        images = with_labels(images, args, classes, failures)
    if args.cams:
        place = Experiment.of(args).maps
        if not failures.skip:
            check_scores(images.ids, place, args.infer_list, "run infer.py --dict on that list")
        images = images._replace(maps=lambda image_id: place / f"{image_id}.npy")
    facts = Facts(None if args.images else args.infer_list, weights)
    with Labelling(args, net, images, jobs, failures, facts) as run:
        for image_id, image, shown, scores in segment(args, run, len(classes) + 1, images.maps):
            run.write(image_id, image, shown, scores)
        following = run.scoring("png", final.folder.relative_to(Experiment.of(args).folder)) if facts.list else None
        masks, photographs = ({i: path(i) for i in images.ids} for path in (final.path, images.photograph))
        pack = partial(write_server_zip, args.server, masks, photographs, len(classes) + 1)
        run.when_done(following, pack if args.server else None)


if __name__ == "__main__":
    run_script(main, get_args_parser())
