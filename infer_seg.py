"""Stage 6: label photographs with the segmentation network; it needs no image labels.

reads   experiment/NAME/ckpt_seg/{arch}/best.pth (or --weights); --voc12_root and --infer_list, or --images
writes  experiment/NAME/seg/{arch}/ID.png: H x W class ids, palette PNG with the VOC colours; with --crf also
        seg_crf/{arch}/ID.png, with --vis overlays to seg_vis/ or seg_crf_vis/; with --images all this below --out;
        --server FILE.zip: these masks as VOC's evaluation server takes them
        python infer_seg.py --name N --infer_list voc12/val.txt
        python infer_seg.py --name N --images my_photographs --out labels

Images that are done are skipped, so a run that was cut off goes on when it is started again. Under torchrun each
process takes its share of the list.
"""

from functools import partial

import torch

from engine import flags
from engine.experiment import Experiment
from engine.jobs import Job, write_best
from engine.labelling import Facts, Labelling
from engine.networks import load_segmentation_net
from engine.outputs import Output
from engine.recipes import TEST_RECIPES
from tool.cli import positive, run_script
from tool.crf import load_crf
from tool.io.failures import FAILED_FILE, Failures
from tool.io.server_zip import check_server_path, write_server_zip
from tool.segmentation import CRF_ITERATIONS, CRF_PAIRWISE, MERGES, multi_scale_scores
from voc12.classes import load_classes
from voc12.paths import images_of
from voc12.transforms import InferenceViews, look_of


def get_args_parser():
    parser = flags.Parser("infer_seg.py", "AEFT stage 6: label photographs with the segmentation network.")
    flags.add_common(parser, random=False)
    flags.add_data(parser, labels=False)
    parser.add_list("--infer_list", "voc12/val.txt", "val", "list of images", role=flags.FREE)
    flags.add_arch(parser)
    flags.add_trunk(parser)
    text = "a checkpoint (.pth, .safetensors) instead of the experiment's best.pth"
    parser.network("--weights", role=flags.FREE, type=str, default=None, help=text)
    add = parser.method
    add("--scales", type=positive, nargs="+", help="sizes at which an image is seen, relative to its own")
    add("--mirror", action=flags.SWITCH, help="see each of them mirrored as well")
    text = "how the views are merged: mean of logits, or maximum of probabilities"
    add("--merge", type=str, choices=MERGES, help=text)
    add("--crf", role=flags.FREE, action="store_true", help="also write labels that a dense CRF has refined")
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
    refined = settings | {"crf": list(CRF_PAIRWISE[:-1]), "iterations": CRF_ITERATIONS} if args.crf else settings
    best, final = {"labels": Output(folder(), settings)}, {"labels": Output(folder(args.crf), refined)}
    if args.vis:
        (final if args.crf else best)["vis"] = Output(folder(args.crf, overlays=True), refined)
    jobs = [Job(best, partial(write_best, names=classes))]
    if args.crf:
        jobs.insert(0, Job(final, partial(write_best, names=classes, crf=True), crf=True))
    return final["labels"], jobs


def segment(args, run):
    """Run the network on every view of each image -> (ID, H x W x 3 uint8, (), scores L x h x w float32).

    h x w: the size at which it is seen, of --max_side.
    """
    views = InferenceViews(args.scales, args.mirror, look_of(run.net.trunk), args.max_side)
    for image_id, image, seen, _, size in run.seen("network", run.left, views):
        with run.inference():
            scores = multi_scale_scores(run.net, seen, size, args.merge)
        yield image_id, image, (), scores.cpu().numpy()


def main(args):
    if args.crf:
        load_crf(", or leave --crf away")
    if args.server:
        check_server_path(args.server)
    torch.manual_seed(args.seed)
    classes = load_classes(args.classes)
    net, weights, settings = load_segmentation_net(args, len(classes) + 1)
    final, jobs = build_jobs(args, args.results | settings | {"classes": list(classes)}, classes)
    failures = Failures(args.on_error, jobs[0].folder / FAILED_FILE, held=True)
    images = images_of(args, failures)
    facts = Facts(None if args.images else args.infer_list, weights)
    with Labelling(args, net, images, jobs, failures, facts) as run:
        for image_id, image, shown, scores in segment(args, run):
            run.write(image_id, image, shown, scores)
        following = run.scoring("png", final.folder.relative_to(Experiment.of(args).folder)) if facts.list else None
        masks, photographs = ({i: path(i) for i in images.ids} for path in (final.path, images.photograph))
        pack = partial(write_server_zip, args.server, masks, photographs, len(classes) + 1)
        run.when_done(following, pack if args.server else None)


if __name__ == "__main__":
    run_script(main, get_args_parser())
