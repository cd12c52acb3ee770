"""A segmentation network as an ONNX file, for programs without torch and images of any size.

reads   experiment/NAME/ckpt_seg/{arch}/best.pth (or --weights)
writes  --out FILE.onnx: image B x 3 x H x W, RGB in [0, 1] -> logits B x L x H x W; class names, mean and deviation
        in its metadata. Labels of the largest logits are those of infer_seg.py --scales 1 --no-mirror
        python export.py --name N --out network.onnx
"""

from functools import partial
from pathlib import Path

from engine import flags
from engine.check import Check, timed
from engine.distributed import World
from engine.networks import load_segmentation_net
from models.export import EQUALS, check_export, export_onnx
from models.trained import trained_side
from tool.cli import run_script
from voc12.classes import BACKGROUND_NAME, load_classes


def get_args_parser():
    parser = flags.Parser("export.py", "A segmentation network as an ONNX file.")
    flags.add_experiment(parser)
    flags.add_data(parser, labels=False)
    flags.add_arch(parser)
    flags.add_trunk(parser)
    text = "a checkpoint (.pth, .safetensors) instead of the experiment's best.pth"
    parser.network("--weights", role=flags.FREE, type=str, default=None, help=text)
    parser.run("--out", type=str, required=True, metavar="FILE.onnx", help="file to write")
    flags.add_check(parser)
    return parser


def main(args):
    check_export(args.out)
    names = (BACKGROUND_NAME, *load_classes(args.classes))
    net, weights, _ = load_segmentation_net(args, len(names))
    if args.check:
        check = Check(World(), "weights fit")
        check.disk({Path(args.out).parent: sum(x.numel() * x.element_size() for x in net.state_dict().values())})
        _, seconds = timed(check.attempt, partial(export_onnx, net, args.out, names, write=False))
        return check.end(seconds, "the ONNX file", "made once")
    export_onnx(net, args.out, names, trained_side(weights))
    print(f"export.py: wrote {args.out}, of {weights}; its largest logits are the labels of {EQUALS}")


if __name__ == "__main__":
    run_script(main, get_args_parser())
