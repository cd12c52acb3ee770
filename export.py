"""A segmentation network as an ONNX file, for programs without torch and images of any size.

reads   experiment/NAME/ckpt_seg/{arch}/best.pth (or --weights)
writes  --out FILE.onnx: image B x 3 x H x W, RGB in [0, 1] -> logits B x L x H x W
        python export.py --name N --out network.onnx
"""

from pathlib import Path

from engine.check import Check, timed
from engine.distributed import World
from engine.flags import (
    FREE,
    Parser,
    add_arch_flag,
    add_check_flag,
    add_data_flags,
    add_experiment_flags,
    add_trunk_flags,
)
from engine.networks import load_segmentation_net
from models.export import check_export, export_onnx
from tool.cli import run_script
from voc12.classes import load_classes


def get_args_parser():
    parser = Parser("export.py", "A segmentation network as an ONNX file.")
    add_experiment_flags(parser)
    add_data_flags(parser, labels=False)
    add_arch_flag(parser)
    add_trunk_flags(parser)
    text = "a checkpoint (.pth, .safetensors) instead of the experiment's best.pth"
    parser.network("--weights", role=FREE, type=str, default=None, help=text)
    parser.run("--out", type=str, required=True, metavar="FILE.onnx", help="file to write")
    add_check_flag(parser)
    return parser


def main(args):
    check_export(args.out)
    net, weights, _ = load_segmentation_net(args, len(load_classes(args.classes)) + 1)
    if args.check:
        check = Check(World(), "weights fit")
        check.disk(Path(args.out).parent, sum(x.numel() * x.element_size() for x in net.state_dict().values()))
        return check.end(timed(check.attempt, export_onnx, net, args.out, False)[1], "the ONNX file", "made once")
    export_onnx(net, args.out)
    print(f"export.py: wrote {args.out}, of {weights}")


if __name__ == "__main__":
    run_script(main, get_args_parser())
