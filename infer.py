r"""Stage 2: class activation maps of a trained classifier ("seeds"), refined by dense CRF.

reads   --voc12_root, --infer_list, experiment/NAME/ckpt/{load_epo:03d}net_main.pth (or --weights)
writes  experiment/NAME/dict/ID.npy (--dict), crf/{alpha:02d}/ID.npy (--crf), vis/ID_CLASS.png (--vis),
        crf_png/{alpha:02d}/ID.png (--png): what the CRF labels, for train_seg.py --labels crf_png/04
        python infer.py --name N --model aeft_gpp --load_epo E --dict --crf --alphas 2 19 21 \
            --infer_list voc12/train_aug.txt
        python infer.py --name N --load_epo E --images DIR --out DIR --labels predicted --vis
        python infer.py --name N --crf        refines the maps in dict/, of this or of another method, without network
        python infer.py --name N --mean_of A B C --dict --crf       the mean of three runs' maps is better than each

Images that are done are skipped; those whose labels or photographs changed are done again (inputs.tsv). Results of
another epoch or other settings are refused, or replaced with --overwrite.
"""

import shlex
import sys
from functools import partial
from itertools import chain

import torch
from tqdm import tqdm

from engine import flags
from engine.experiment import BELOW, Experiment, next_command
from engine.jobs import Job, crf_job, write_maps, write_overlays
from engine.labelling import Facts, Labelling
from engine.networks import load_classifier
from engine.outputs import Output
from models.classifiers import MODELS
from tool.cam import labelled_cam, predict_label
from tool.cli import fraction, natural, positive, run_script
from tool.crf import has_crf, load_crf
from tool.io.failures import FAILED_FILE, Failures
from tool.io.files import UserError, file_hash, fingerprint, folder_settings, print_warning
from voc12.classes import load_classes
from voc12.paths import check_scores, images_of, with_labels
from voc12.transforms import InferenceViews, look_of


def get_args_parser():
    parser = flags.Parser("infer.py", "AEFT stage 2: class activation maps and dense CRF.")
    flags.add_common(parser, random=False)
    flags.add_data(parser)
    parser.add_list("--infer_list", "voc12/train_aug.txt", "train", "list of images", role=flags.FREE)
    text = "classes of an image: those of its label, or those that the network finds"
    parser.data("--labels", type=str, default="given", choices=["given", "predicted"], help=text)
    text = "probability from which a class counts as found, 0 to 1"
    parser.data("--min_score", type=fraction, default=0.5, help=text)
    add = parser.network
    add("--model", remembered=str, type=str, default="aeft_gpp", choices=MODELS, help="network to load")
    flags.add_trunk(parser)
    flags.add_pool(parser)
    add("--load_epo", type=natural, default=None, help="epoch of the checkpoint, from 0")
    add("--weights", role=flags.FREE, type=str, default=None, help="a checkpoint file, instead of --load_epo")
    text = "runs below --experiment, of any method: maps are the mean of what is in their dict/, instead of a network's"
    add("--mean_of", role=flags.FREE, type=str, nargs="+", default=[], metavar="NAME", help=text)
    add = parser.method
    flags.add_crf(parser)
    add("--scales", type=positive, nargs="+", default=[0.5, 1.0, 1.5, 2.0], help="sizes relative to the image's own")
    add = parser.run
    add("--dict", action="store_true", help="write the class activation maps")
    add("--crf", action="store_true", help="write CRF scores, one folder an alpha")
    add("--vis", action="store_true", help="write an overlay PNG for every class of an image")
    text = "write scores as compressed half floats, about a tenth of the disk; all scripts read both"
    add("--compress", role=flags.RESULT, action="store_true", help=text)
    flags.add_labelling(parser)
    return parser


def check_args(args):
    """UserError where flags contradict each other. Photographs by --images get maps and CRF without more flags."""
    if args.images:
        args.dict = True
        args.crf = args.crf or args.refine == "par" or has_crf()
    if args.images and args.labels == "given":
        raise UserError("--images: these photographs have no labels; add --labels predicted")
    if args.png == []:
        args.png = [(sorted(args.alphas)[len(args.alphas) // 2],)]
    if args.name in args.mean_of:
        raise UserError(f"--mean_of {args.name}: is the run itself; give the mean another --name")
    if not (args.dict or args.crf or args.vis or args.png):
        raise UserError("nothing to write: give --dict, --crf, --png or --vis")
    if (args.crf or args.png) and args.refine == "crf":
        load_crf(", or give --refine par")


def build_jobs(args, weights, classes):
    """The folder of the maps, and the jobs for what was asked for. Without a network results are of the stored maps."""
    place = Experiment(args.out, "") if args.images else Experiment.of(args)
    own = {"compress": args.compress, "classes": list(classes)}
    stored = mean_settings(args) | own if args.mean_of else folder_settings(place.maps)
    crf_side = {} if stored and stored.get("max_side") == args.max_side else {"crf_max_side": args.max_side}
    settings = (stored or {"maps": "of another method"}) | own | crf_side
    if weights:
        settings = args.results | own | {"weights": file_hash(weights)}
        settings["epoch"] = settings.pop("load_epo")
        if args.labels == "given":
            del settings["labels"], settings["min_score"]
        if stored != settings and not args.dict and any(place.maps.rglob("*.npy")):
            text = "the maps there are not of this checkpoint and not used; without one, --crf and --vis take them"
            print_warning(f"{place.maps}: {text}")
    size = 4 / 8 if args.compress else 4
    maps = Output(place.maps, settings if weights else stored, ".npy", bytes_a_pixel=(0, size))
    overlays = Output(place.overlays, settings, class_names=classes, bytes_a_pixel=(0, 2))
    jobs = [
        (args.dict, Job({"dict": maps}, partial(write_maps, compressed=args.compress))),
        (args.crf or args.png, crf_job(args, place, settings, size)),
        (args.vis, Job({"vis": overlays}, write_overlays)),
    ]
    return maps, [job for wanted, job in jobs if wanted]


def mean_settings(args):
    """What is said of the mean of other runs' maps: the names of these runs and what made their maps."""
    made = [folder_settings(folder) for folder in mean_folders(args)]
    return {"mean_of": args.mean_of, "made": [one and fingerprint(one) for one in made]}


def mean_folders(args):
    """Where the maps of --mean_of lie."""
    return [Experiment(args.experiment, name).maps for name in args.mean_of]


def network_maps(args, run, ids, classes):
    """Run the network on every view of each image -> (ID, H x W x 3 uint8, its classes, {class: H x W float32}).

    Classes are those of the image's label, or those that the network finds in the last view, which is for this alone.
    """
    found = args.labels == "predicted"
    scales = (*args.scales, 1.0) if found else args.scales
    views = InferenceViews(scales, look=look_of(run.net.trunk), max_side=args.max_side) if run.net else None
    for image_id, image, seen, label, size in run.seen("maps", ids, views):
        with run.inference():
            if found:
                label, scores = predict_label(run.net(seen.pop()[:1])[1][0], args.min_score)
            cams = labelled_cam(run.net, seen, label, size, image.shape[:2])
        shown = label.nonzero().flatten().tolist()
        if found:
            surest = sorted(shown, key=lambda k: -scores[k])
            tqdm.write(f"{image_id}: " + ", ".join(f"{classes[k]} {scores[k]:.2f}" for k in surest))
        yield image_id, image, shown, cams


def next_stage(args, run):
    """The command that comes next; None where that is not ours to say."""
    scored = run.scoring("crf", BELOW.crf(args.alphas[0])) if args.crf else args.dict and run.scoring("cam", "dict")
    if args.images or scored or (args.crf and (len(args.alphas) < 3 or len(set(args.alphas)) < 2)):
        return scored or None
    if not args.crf:
        return shlex.join(["python", *sys.argv, *["--dict"] * (args.dict < bool(run.net or args.mean_of)), "--crf"])
    low, *middle, high = sorted(args.alphas)
    powers = {"low": low, "high": high, "dup": middle[len(middle) // 2]}
    return next_command("train_aff.py", args, **powers, train_list=args.infer_list, val_list="none")


def main(args):
    check_args(args)
    torch.manual_seed(args.seed)
    classes = load_classes(args.classes)
    net, weights = load_classifier(args, len(classes))
    maps, jobs = build_jobs(args, weights, classes)
    failures = Failures(args.on_error, jobs[0].folder / FAILED_FILE, held=True)
    images = images_of(args, failures)
    if weights and args.labels == "given":
        images = with_labels(images, args, classes, failures)
    elif not args.mean_of:
        images = images._replace(maps=maps.path)
    for folder in () if failures.skip else mean_folders(args):
        check_scores(images.ids, folder, args.infer_list, "run infer.py --dict of that run")
    facts = Facts(None if args.images else args.infer_list, weights, maps, len(classes), mean_folders(args))
    with Labelling(args, net, images, jobs, failures, facts) as run:
        samples = chain(run.stored(), network_maps(args, run, run.todo, classes) if net else ())
        for image_id, image, shown, cams in samples:
            run.write(image_id, image, shown, cams)
        run.when_done(next_stage(args, run))


if __name__ == "__main__":
    run_script(main, get_args_parser())
