"""Stage 6: label photographs with the segmentation network; it needs no image labels.

reads   experiment/NAME/ckpt_seg/{arch}/best.pth (or --weights); --voc12_root and --infer_list, or --images
writes  experiment/NAME/seg/{arch}/ID.png: H x W class ids, palette PNG with the VOC colours; with --crf also
        seg_crf/{arch}/ID.png, with --vis overlays to seg_vis/ or seg_crf_vis/; with --images all this below --out;
        --server FILE.zip: these masks as VOC's evaluation server takes them; --export FILE.onnx: the network
        python infer_seg.py --name N --infer_list voc12/val.txt
        python infer_seg.py --name N --images my_photographs --out labels

Images that are done are skipped, so a run that was cut off goes on when it is started again. Under torchrun each
process takes its share of the list.
"""

import argparse
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from models.checkpoint import load_weights
from models.deeplab import DEEPLAB, make_segmentation_net, network_settings
from models.export import check_export, export_onnx
from tool.crf import load_crf
from tool.io.files import UserError, read_list
from tool.io.server_zip import check_server_path, write_server_zip
from tool.run.arguments import (
    Parser,
    add_arch_argument,
    add_common_arguments,
    add_crf_workers_argument,
    add_data_arguments,
    add_images_arguments,
    add_trunk_arguments,
    flag,
    next_command,
    positive,
)
from tool.run.background import Background
from tool.run.check import Check, timed
from tool.run.device import choose_device, memory_format, one_thread
from tool.run.distributed import join_world
from tool.run.failures import Failures
from tool.run.inputs import Inputs
from tool.run.lock import locked
from tool.run.outputs import Output, Outputs, segmentation_job, write_labels
from tool.run.recipes import TEST_RECIPES
from tool.run.record import file_hash, folder_settings, this_run
from tool.run.script import run_script
from tool.run.summary import Summary
from tool.segmentation import CRF_ITERATIONS, CRF_PAIRWISE, MERGES, label_map, refine_scores
from voc12.classes import load_classes
from voc12.data import InferenceSet, image_path, inference_loader
from voc12.inference import find_images, network_scores, scorable_list, usable_images
from voc12.transforms import InferenceViews, look_of


def get_args_parser():
    parser = Parser("infer_seg.py", "AEFT stage 6: label photographs with the segmentation network.")
    add_common_arguments(parser)
    add_data_arguments(parser, labels=False)
    parser.add_list(parser.data, "--infer_list", "voc12/val.txt", "val", "list of images")
    add_images_arguments(parser)
    add_arch_argument(parser)
    add_trunk_arguments(parser)
    text = "a checkpoint (.pth, .safetensors) instead of the experiment's best.pth"
    parser.network.add_argument("--weights", type=str, default=None, help=text)
    add = parser.method.add_argument
    add("--scales", type=positive, nargs="+", help="sizes at which an image is seen, relative to its own")
    text = "see each of them mirrored as well"
    add("--mirror", action=argparse.BooleanOptionalAction, default=True, help=text)
    text = "how the views are merged: mean of logits, or maximum of probabilities"
    add("--merge", type=str, choices=MERGES, help=text)
    add("--crf", action="store_true", help="also write labels that a dense CRF has refined")
    text = "defaults of --scales and --merge, ours or MCTformer's; flags that are given win"
    parser.add_presets(parser.method, "--recipe", TEST_RECIPES, text)
    add = parser.run.add_argument
    add("--vis", action="store_true", help="also write overlays of the final labels")
    text = "pack the final labels of the whole list for VOC's evaluation server"
    add("--server", type=str, default=None, metavar="FILE.zip", help=text)
    text = "write the network as ONNX, for images of any size, and end"
    add("--export", type=str, default=None, metavar="FILE.onnx", help=text)
    add_crf_workers_argument(parser)
    return parser


# ---------------------------------------------------------------- plan: what is asked, what is there


def check_flags(args):
    """UserError where flags contradict each other."""
    if (args.images is None) != (args.out is None):
        raise UserError("--images PATH and --out DIR go together")
    if args.server:
        check_server_path(args.server)
    if args.export:
        check_export(args.export)
    if args.crf:
        load_crf(", or leave --crf away")


def load_net(args, num_labels, device):
    """The network with the weights of --weights or best.pth -> (network, path, settings that make its labels)."""
    default = Path(args.experiment) / args.name / "ckpt_seg" / args.arch / "best.pth"
    weights = Path(args.weights or default)
    if not weights.is_file():
        hint = "" if args.weights else f"; run train_seg.py --name {args.name} --arch {args.arch}"
        raise UserError(f"{weights}: no such checkpoint{hint}")
    network = network_settings(args.arch, vars(args) | (folder_settings(weights.parent) or {}))
    net = make_segmentation_net(**network, num_labels=num_labels)
    load_weights(net, weights, part="all")
    net = net.to(device, memory_format=memory_format(device, args.amp)).eval()
    return net, weights, network | {"weights": file_hash(weights)}


class LabelFolders:
    """The folders of a run: best labels; with a CRF refined ones; with --vis overlays of the final ones."""

    def __init__(self, args, settings):
        place = Path(args.out or Path(args.experiment) / args.name)

        def output(name, settings):
            return Output(place / name if args.images else place / name / args.arch, settings, ".png")

        final = settings | {"crf": list(CRF_PAIRWISE), "iterations": CRF_ITERATIONS} if args.crf else settings
        self.labels = output("seg", settings)
        self.refined = output("seg_crf", final) if args.crf else None
        self.overlays = output("seg_crf_vis" if args.crf else "seg_vis", final) if args.vis else None
        self.all = [folder for folder in (self.refined, self.labels, self.overlays) if folder]
        self.final = self.all[0]


class LabelWriter:
    """Has labels refined and written. crf: worker processes; thread: for what is only written; names: of classes."""

    def __init__(self, folders, outputs, crf, thread, names):
        self.folders, self.outputs, self.crf, self.thread, self.names = folders, outputs, crf, thread, names

    def write(self, image_id, image, scores):
        """Write what is missing for one image. image: H x W x 3 uint8; scores: L x H x W float32."""
        lacking = self.outputs.begin(image_id, ())

        def file(output):
            return (output.path(image_id), output.origin) if output in lacking else None

        labels, refined, overlay = map(file, (self.folders.labels, self.folders.refined, self.folders.overlays))
        if self.folders.refined is None:
            self.thread.submit(write_labels, image, label_map(scores), labels, overlay, self.names)
            return
        if labels:
            self.thread.submit(write_labels, image, label_map(scores), labels)
        if refined or overlay:
            self.crf.submit(segmentation_job, image, scores, refined, overlay, self.names)


def segment(args, net, todo, locate, device, failures):
    """Scores of images -> (ID, photograph H x W x 3 uint8, L x H x W float32) of each."""
    views = InferenceViews(args.scales, args.mirror, look_of(net.trunk))
    data = InferenceSet(locate, todo, None, views)
    loader = inference_loader(data, min(args.num_workers, len(todo)), pin_memory=device.type == "cuda")
    return network_scores(net, loader, device, args.amp, args.merge, failures)


# ---------------------------------------------------------------- check


def check_run(check, args, folders, outputs, scores_of):
    """--check: images, disk, and one image through network and CRF. scores_of: the function IDs -> `segment`'s."""
    for output in folders.all:
        output.check(args.overwrite)
    locate = outputs.inputs.locate["photograph"]
    sizes = check.images({image_id: locate(image_id) for image_id in outputs.left})
    check.disks({output.folder: sum(w * h for w, h in sizes.values()) / 4 for output in folders.all})
    if not sizes:
        return check.end(0, 0, "nothing to do")
    (_, image, scores), seconds = timed(next, scores_of(list(sizes)[:1]))
    crf_seconds = timed(refine_scores, image, scores)[1] if args.crf else 0.0
    text = f"network {seconds:.2f} s an image, CRF {crf_seconds:.2f} s"
    check.end(len(outputs.left) * (seconds + crf_seconds / args.crf_workers), len(outputs.left), text)


# ---------------------------------------------------------------- run


def next_stage(args, folder, ids):
    """The command that scores the labels; None where there are no masks."""
    if args.images or scorable_list(args.infer_list, ids, args.voc12_root) is None:
        return None
    words = ("--task", "png", "--dict_dir", f"{folder.parent.name}/{args.arch}", *flag("--list", args.infer_list))
    return next_command("evaluation.py", args, *words)


def main(args):
    check_flags(args)
    args.arch = args.arch or DEEPLAB + args.trunk
    classes = load_classes(args.classes)
    world, device = join_world(choose_device(args.device))
    summary = Summary(device)
    torch.manual_seed(args.seed)
    with one_thread():  # processes are forked below, and a fork does not copy torch's threads
        net, weights, settings = load_net(args, len(classes) + 1, device)
    if args.export:
        world.first(lambda: export_onnx(net, args.export))
        return print(f"infer_seg.py: wrote {args.export}")
    photographs = find_images(args.images, args.out) if args.images else None
    locate = photographs.get if photographs else partial(image_path, args.voc12_root)
    everything = list(photographs or read_list(args.infer_list))
    settings |= {"scales": args.scales, "mirror": args.mirror, "merge": args.merge, "amp": args.amp}
    folders = LabelFolders(args, settings | {"classes": list(classes)})
    failures = Failures(args.on_error, folders.final.folder / "failed.txt", held=True)
    ids = world.share(everything)
    inputs = Inputs(ids if args.images else usable_images(ids, args.voc12_root, failures), locate)
    scores_of = partial(segment, args, net, locate=locate, device=device)
    if args.check:
        check = Check(world, f"{device} works, the list is read, weights fit")
        scores_of = partial(scores_of, failures=Failures("stop", ""))
        return check_run(check, args, folders, Outputs(folders.all, inputs), scores_of)
    with ExitStack() as stack:
        stack.enter_context(locked([output.folder for output in folders.all], world))
        crf = stack.enter_context(Background(args.crf_workers if args.crf else 0))
        thread = stack.enter_context(Background())
        failures.begin(world)
        run = this_run(args, device, world.size, [] if args.images else [args.infer_list], weights)
        world.first(lambda: [output.claim(args.overwrite, run) for output in folders.all] and None)
        outputs = Outputs(folders.all, inputs)
        outputs.renew()
        place = f"{device}, process {world.rank} of {world.size}"
        print(f"infer_seg.py: {weights}, {place}: {outputs.describe()}", flush=True)
        writer = LabelWriter(folders, outputs, crf, thread, classes)
        with summary.stage("network") as stage:
            for image_id, image, scores in scores_of(list(outputs.left), failures=failures):
                writer.write(image_id, image, scores)
                stage["images"] += 1
    if args.server:
        world.collect(None)  # all have written theirs
        masks = {image_id: folders.final.path(image_id) for image_id in everything}
        photos = {image_id: locate(image_id) for image_id in everything}
        world.first(lambda: write_server_zip(args.server, masks, photos, len(classes) + 1))
    summary.counts |= {"done": stage["images"], "skipped": len(ids) - len(outputs.left)}
    summary.add("crf", crf)
    summary.add("writing", thread)
    summary.end(
        "infer_seg.py",
        world,
        [o.folder for o in folders.all],
        failures,
        next_stage(args, folders.final.folder, everything),
    )


if __name__ == "__main__":
    run_script(main, get_args_parser())
