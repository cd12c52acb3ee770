r"""Stage 2: class activation maps of a trained classifier ("seeds"), refined by dense CRF.

reads   --voc12_root, --infer_list, experiment/NAME/ckpt/{load_epo:03d}net_main.pth (or --weights)
writes  experiment/NAME/dict/ID.npy (--dict), crf/{alpha:02d}/ID.npy (--crf), vis/ID_CLASS.png (--vis)
        python infer.py --name N --model aeft_gpp --load_epo E --dict --crf --alphas 2 19 21 \
            --infer_list voc12/train_aug.txt
        python infer.py --name N --load_epo E --images DIR --out DIR --labels predicted --vis
        python infer.py --name N --crf        refines the maps in dict/, of this or of another method, without network

Images that are done are skipped, so a run that was cut off goes on when it is started again; those whose labels or
photographs changed are done again (inputs.tsv). Results of another epoch or other settings are refused, or replaced
with --overwrite. Under torchrun each process takes its share of the list; where one dies, the next run does its
images. While the network sees one image, processes refine those before it and a thread writes.
"""

import shlex
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from models.aeft import AEFTNet
from models.checkpoint import find_epoch, load_weights
from models.trunks import make_trunk
from tool.crf import crf_with_alphas, has_crf, load_crf
from tool.io.files import UserError, read_list
from tool.io.mxnet_params import check_weight_file
from tool.run.arguments import (
    Parser,
    add_common_arguments,
    add_crf_workers_argument,
    add_data_arguments,
    add_images_arguments,
    add_pool_argument,
    add_trunk_arguments,
    flag,
    fraction,
    natural,
    next_command,
    positive,
    power,
)
from tool.run.background import Background
from tool.run.check import Check, timed
from tool.run.device import choose_device, memory_format, one_thread
from tool.run.distributed import join_world
from tool.run.failures import Failures
from tool.run.inputs import Inputs
from tool.run.lock import locked
from tool.run.outputs import MapWriter, map_folders, plan_maps
from tool.run.record import file_hash, folder_settings, this_run
from tool.run.script import run_script
from tool.run.summary import Summary
from voc12.classes import load_classes
from voc12.data import InferenceSet, image_path, inference_loader
from voc12.inference import describe_scores, find_images, network_maps, scorable_list, stored_maps, usable_images
from voc12.labels import load_labels
from voc12.transforms import IMAGENET, InferenceViews, look_of


def get_args_parser():
    parser = Parser("infer.py", "AEFT stage 2: class activation maps and dense CRF.")
    add_common_arguments(parser)
    add_data_arguments(parser)
    parser.add_list(parser.data, "--infer_list", "voc12/train_aug.txt", "train", "list of images")
    add_images_arguments(parser)
    add = parser.data.add_argument
    text = "classes of an image: those of its label, or those that the network finds"
    add("--labels", type=str, default="given", choices=["given", "predicted"], help=text)
    add("--min_score", type=fraction, default=0.5, help="probability from which a class counts as found, 0 to 1")
    add = parser.network.add_argument
    add("--model", type=str, default="aeft_gpp", choices=["aeft_gpp"], help="network to load")
    add_trunk_arguments(parser)
    add_pool_argument(parser)
    add("--load_epo", type=natural, default=None, help="epoch of the checkpoint, from 0")
    add("--weights", type=str, default=None, help="a checkpoint file, instead of --load_epo")
    add = parser.method.add_argument
    add("--alphas", type=power, nargs="+", default=[2, 19, 21], help="background powers for CRF, 1 to 99")
    add("--scales", type=positive, nargs="+", default=[0.5, 1.0, 1.5, 2.0], help="sizes relative to the image's own")
    add = parser.run.add_argument
    add("--dict", action="store_true", help="write the class activation maps")
    add("--crf", action="store_true", help="write CRF scores, one folder an alpha")
    add("--vis", action="store_true", help="write an overlay PNG for every class of an image")
    text = "write scores as compressed half floats, about a tenth of the disk; all scripts read both"
    add("--compress", action="store_true", help=text)
    add_crf_workers_argument(parser)
    return parser


def check_flags(args):
    """UserError where flags contradict each other. Photographs by --images get maps and CRF without more flags."""
    if args.images:
        args.dict = True
        args.crf = args.crf or has_crf()
    if (args.images is None) != (args.out is None):
        raise UserError("--images PATH and --out DIR go together")
    if args.images and args.labels == "given":
        raise UserError("--images: these photographs have no labels; add --labels predicted")
    if not (args.dict or args.crf or args.vis):
        raise UserError("nothing to write: give --dict, --crf or --vis")
    if args.crf:
        load_crf(", or leave --crf away")


def find_checkpoint(args):
    """Path of the weights; None where stored maps alone are used. UserError says which epochs there are."""
    given = (args.load_epo is not None) + (args.weights is not None)
    if not given and not args.dict and args.labels == "given":
        return None
    if given != 1:
        raise UserError("give one of --load_epo EPOCH and --weights FILE")
    if args.weights:
        check_weight_file(args.weights)
        return Path(args.weights)
    return find_epoch(Path(args.experiment) / args.name / "ckpt", args.load_epo)


def load_net(args, weights, num_classes, device):
    net = AEFTNet(make_trunk(args.trunk, args.width, args.output_stride), num_classes, args.pool)
    load_weights(net, weights, part="all")
    return net.to(device, memory_format=memory_format(device, args.amp)).eval()


def output_folders(args, place, weights, classes):
    """The folders below `place`, for results of these settings; without a network, of those of the stored maps."""
    stored = folder_settings(place / "dict")
    settings = {"compress": args.compress, "classes": list(classes)}
    if weights:
        settings |= {"weights": file_hash(weights), "epoch": args.load_epo, "model": args.model, "scales": args.scales}
        settings |= {key: getattr(args, key) for key in ("width", "trunk", "output_stride", "amp")}
        if args.labels == "predicted":
            settings |= {"labels": "predicted", "min_score": args.min_score}
    else:
        settings = (stored or {"maps": "of another method"}) | settings
    asked = [name for name in ("dict", "crf", "vis") if getattr(args, name)]
    if weights and stored != settings and not args.dict and any((place / "dict").rglob("*.npy")):
        text = "the maps there are not of this checkpoint and not used; without one, --crf and --vis take them"
        print(f"warning: {place / 'dict'}: {text}", file=sys.stderr)
    return map_folders(place, settings if weights else stored, settings, args.alphas, classes, asked)


def find_inputs(args, ids, locate, classes, maps, failures):
    """What the usable ones among the images are made from. maps: path of stored maps, where no network runs."""
    known = ids if args.images else usable_images(ids, args.voc12_root, failures)
    if args.labels == "predicted" or maps:
        return Inputs(known, locate, maps)
    failed = failures.add if failures.skip else None
    labels = load_labels(known, args.voc12_root, classes, args.cls_labels, failed)
    return Inputs(list(labels), locate, labels=labels)


def map_sources(args, plan, folders, net, device, failures):
    """{name: generator of (ID, photograph, maps, scores)}: of stored maps, and of the network's."""
    inputs, found = plan.outputs.inputs, args.labels == "predicted"
    look = look_of(net.trunk) if net else IMAGENET
    views = InferenceViews((*args.scales, 1.0) if found else args.scales, look=look)  # the last is to find classes in
    data = InferenceSet(inputs.locate["photograph"], plan.todo, inputs.labels, views)
    loader = inference_loader(data, min(args.num_workers, len(plan.todo)), pin_memory=device.type == "cuda")
    num_classes = len(folders.overlays.class_names)
    return {
        "from dict": stored_maps(plan.stored, inputs.locate["photograph"], folders.maps.path, num_classes, failures),
        "maps": network_maps(net, loader, device, args.amp, args.min_score if found else None, failures),
    }


def check_run(check, args, plan, folders, net, device):
    """--check: images, disk, and one image through network and CRF."""
    for output in folders.asked:
        output.check(args.overwrite)
    locate = plan.outputs.inputs.locate["photograph"]
    sizes = check.images({image_id: locate(image_id) for image_id in plan.outputs.left})
    check.disks(folders.disk_needed(plan.outputs, sizes, args.compress))
    usable = plan._replace(stored=[i for i in plan.stored if i in sizes], todo=[i for i in plan.todo if i in sizes])
    first = usable._replace(stored=usable.stored[:1], todo=usable.todo[:1])
    seconds, crf_seconds = {}, 0.0
    for name, maps in map_sources(args, first, folders, net, device, Failures("stop", "")).items():
        sample, seconds[name] = timed(next, maps, None)
        if sample and args.crf:
            _, crf_seconds = timed(crf_with_alphas, sample[1], sample[2], args.alphas)
    share = crf_seconds / args.crf_workers
    both = seconds["maps"] + share if device.type == "cpu" else max(seconds["maps"], share)  # they share cores there
    text = f"network {seconds['maps']:.2f} s an image, CRF {crf_seconds:.2f} s"
    check.end(both * len(usable.todo) + share * len(usable.stored), len(plan.outputs.left), text)


def next_stage(args, ids):
    """The command that comes next; None where that is not ours to say."""
    if args.images:
        return None
    scored = scorable_list(args.infer_list, ids, args.voc12_root)
    if scored and (args.crf or args.dict):
        result = ("crf", "--dict_dir", f"crf/{args.alphas[0]:02d}") if args.crf else ("cam", "--dict_dir", "dict")
        return next_command("evaluation.py", args, "--task", *result, *flag("--list", scored))
    alphas = sorted(set(args.alphas))
    if args.crf and len(alphas) > 2:
        powers = ("--low", alphas[0], "--high", alphas[-1], "--dup", alphas[len(alphas) // 2])
        return next_command("train_aff.py", args, *powers, *flag("--train_list", args.infer_list), "--val_list", "none")
    more = ["--dict", "--crf"] if args.weights or args.load_epo is not None else ["--crf"]
    return None if args.crf else shlex.join(["python", *sys.argv, *more])


def main(args):
    check_flags(args)
    classes, weights = load_classes(args.classes), find_checkpoint(args)
    photographs = find_images(args.images, args.out) if args.images else None
    locate = photographs.get if photographs else partial(image_path, args.voc12_root)
    everything = list(photographs or read_list(args.infer_list))
    world, device = join_world(choose_device(args.device))
    summary = Summary(device)
    torch.manual_seed(args.seed)
    folders = output_folders(args, Path(args.out or Path(args.experiment) / args.name), weights, classes)
    failures = Failures(args.on_error, folders.asked[0].folder / "failed.txt", held=True)
    stored = None if weights else folders.maps.path
    inputs = find_inputs(args, world.share(everything), locate, classes, stored, failures)
    with one_thread():  # processes are forked below, and a fork does not copy torch's threads
        net = load_net(args, weights, len(classes), device) if weights else None
    if args.check:
        check = Check(world, f"{device} works, list and labels are read, weights fit")
        return check_run(check, args, plan_maps(folders, inputs, weights, failures), folders, net, device)
    with ExitStack() as stack:
        stack.enter_context(locked([output.folder for output in folders.asked], world))
        crf = stack.enter_context(Background(args.crf_workers if args.crf else 0))
        thread = stack.enter_context(Background())
        failures.begin(world)
        run = this_run(args, device, world.size, [] if args.images else [args.infer_list], weights)
        world.first(lambda: [output.claim(args.overwrite, run) for output in folders.asked] and None)
        plan = plan_maps(folders, inputs, weights, failures)
        plan.outputs.renew()
        text = f"{plan.outputs.describe()}, {len(plan.stored)} from stored maps, {len(plan.todo)} through the network"
        print(
            f"infer.py: {weights or 'stored maps'}, {device}, process {world.rank} of {world.size}: {text}", flush=True
        )
        writer = MapWriter(folders, plan.outputs, crf, thread, args.compress)
        for name, maps in map_sources(args, plan, folders, net, device, failures).items():
            with summary.stage(name) as stage:
                for image_id, image, cams, scores in maps:
                    if scores:
                        tqdm.write(describe_scores(image_id, scores, classes))
                    writer.write(image_id, image, cams)
                    stage["images"] += 1
    summary.counts["done"] = sum(stage["images"] for stage in summary.stages.values())
    summary.counts["skipped"] = len(inputs.classes) - len(plan.outputs.left)
    summary.add("crf", crf)
    summary.add("writing", thread)
    summary.end("infer.py", world, [output.folder for output in folders.asked], failures, next_stage(args, everything))


if __name__ == "__main__":
    run_script(main, get_args_parser())
