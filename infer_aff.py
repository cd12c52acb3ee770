r"""Stage 4: pseudo labels, by a random walk of the class activation maps along AffinityNet's affinities.

reads   experiment/NAME/dict/ID.npy (infer.py --dict), ckpt_aff/aff{low:02d}{high:02d}{dup:02d}/best.pth, --voc12_root
writes  experiment/NAME/rw/{low:02d}_{high:02d}{dup:02d}/ID.png: class ids 0..K, palette PNG with the VOC colours
        python infer_aff.py --name N --low 2 --high 21 --dup 19 --train_list voc12/train_aug.txt

Images that are done are skipped; those whose photographs or maps changed are done again (inputs.tsv). Results of other
weights or settings are refused, or replaced with --overwrite. Under torchrun each process takes its share of the list;
where one dies, the next run does its images.
"""

from functools import partial

import torch

from engine import flags
from engine.experiment import Experiment
from engine.jobs import Job, pairwise, refine_walk
from engine.labelling import Facts, Labelling
from engine.networks import load_affinity_net
from engine.outputs import Output
from tool.cli import positive, positive_int, run_script
from tool.crf import load_crf
from tool.io.failures import FAILED_FILE, Failures
from tool.io.files import file_hash, folder_settings, read_list
from tool.pseudo_labels import stack_scores, walk_scores
from voc12.classes import load_classes
from voc12.data import WalkSet, in_range
from voc12.paths import Images, check_images, check_scores, image_path
from voc12.transforms import look_of


def get_args_parser():
    parser = flags.Parser("infer_aff.py", "AEFT stage 4: pseudo labels by a random walk.")
    flags.add_common(parser, random=False)
    flags.add_data(parser, labels=False)
    parser.add_list("--train_list", "voc12/train_aug.txt", "train", "list of images to label", role=flags.FREE)
    text = "an AffinityNet checkpoint, instead of best.pth"
    parser.network("--weights", role=flags.FREE, type=str, default=None, help=text)
    flags.add_trunk(parser)
    flags.add_walk(parser)
    flags.add_widths(parser)
    parser.method("--beta", chosen=True, type=positive, default=8.0, help="power on the affinities")
    parser.method("--steps", type=positive_int, default=64, help="length of the random walk")
    parser.run("--vis", action="store_true", help="also write colour overlays to rw_vis/")
    flags.add_labelling(parser, photographs=False)
    parser.ignore("val_list", "crop_size")
    return parser


def build_jobs(args, experiment, weights, classes):
    """CRF of the walked scores into the folder of the pseudo labels, and with --vis that of their overlays."""
    settings = args.results | {"weights": file_hash(weights), "classes": list(classes)}
    kernels, widths = pairwise(args)
    settings |= widths | {"maps": folder_settings(experiment.maps)}
    outputs = {"labels": Output(experiment.walk(args.powers), settings)}
    if args.vis:
        outputs["vis"] = Output(experiment.walk(args.powers, overlays=True), settings)
    return [Job(outputs, partial(refine_walk, names=classes, max_side=args.max_side, pairwise=kernels), crf=True)]


def walk(args, run, num_classes):
    """Walk the maps of each image -> (ID, H x W x 3 uint8, its classes, (keys, scores K x H x W))."""
    maps = Experiment.of(args).maps
    walks = WalkSet(args.voc12_root, run.left, maps, num_classes, args.scale, look_of(run.net.trunk), args.max_side)
    said = set()
    for image_id, photo, view, cams in run.samples("walk", walks):
        cams = in_range({k: cam.numpy() for k, cam in cams.items()}, f"{maps}/{image_id}.npy", said)
        keys, scores = stack_scores(cams, args.dup, photo.shape[:2])
        with run.inference():
            walked = walk_scores(run.net, view, scores, run.device, args.beta, args.steps)
        yield image_id, photo.numpy(), keys[1:] - 1, (keys, walked)


def main(args):
    load_crf()
    torch.manual_seed(args.seed)
    classes, experiment = load_classes(args.classes), Experiment.of(args)
    ids = read_list(args.train_list)
    if args.on_error == "stop":
        check_images(ids, args.voc12_root)
        check_scores(ids, experiment.maps, args.train_list, "run infer.py --dict")
    images = Images(ids, partial(image_path, args.voc12_root), lambda image_id: f"{experiment.maps}/{image_id}.npy")
    net, weights = load_affinity_net(args)
    jobs = build_jobs(args, experiment, weights, classes)
    failures = Failures(args.on_error, jobs[0].folder / FAILED_FILE, held=True)
    with Labelling(args, net, images, jobs, failures, Facts(args.train_list, weights)) as run:
        for image_id, photo, shown, walked in walk(args, run, len(classes)):
            run.write(image_id, photo, shown, walked)
        run.when_done(run.scoring("png", experiment.walk(args.powers).relative_to(experiment.folder)))


if __name__ == "__main__":
    run_script(main, get_args_parser())
