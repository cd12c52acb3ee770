"""A segmentation network as an ONNX file, for programs without torch, with what they have to know of it.

Metadata of the file, texts: classes (JSON, background first), mean and std (of RGB in [0, 1]; the network applies them
itself), size ("any"), max_side (pixels of the longer side at which infer_seg.py --images sees larger ones), equals.
"""

import contextlib
import importlib.util
import inspect
import io
import json
import os
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

from tool.cam import MAX_SIDE, on_pixels
from tool.io.files import UserError, print_warning, remove_stale, shorten, write_bytes

OPSET = 17
TRACED, TRIED = (65, 80), ((96, 64), (33, 47))  # height, width
EQUALS = "infer_seg.py --scales 1 --no-mirror"  # whose labels are those of the largest logits
TOLERANCE = 1e-4  # between torch and onnxruntime, relative to the largest logit


class Deployed(nn.Module):
    """A segmentation network that takes an image as it is: B x 3 x H x W RGB in [0, 1] -> logits B x L x H x W."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(net.trunk, name)).view(1, 3, 1, 1))

    def forward(self, image):
        size = image.shape[-2:]
        return on_pixels(self.net, self.net((image - self.mean) / self.std), size, size)


def check_export(path):
    """UserError where a file of this name would not be taken for ONNX, or torch cannot write one here."""
    if Path(path).suffix.lower() != ".onnx":
        raise UserError(f"--out {path}: writes ONNX; choose the ending .onnx")
    if importlib.util.find_spec("onnx") is None:
        raise UserError("--out: torch needs the package onnx for that (pip install onnx)")


def export_onnx(net, path, classes=(), max_side=MAX_SIDE, write=True):
    """Write `Deployed(net)` with input "image" and output "logits", whose axes batch, height and width are free.

    classes, max_side: for the metadata; names of the labels, background first.
    UserError where the network cannot be written so; `path` is then as it was. Where onnxruntime is installed, the
    file's results are compared with torch's at other sizes than the one that was traced. write: False for all but
    the file.
    """
    was_training, device = net.training, next(net.parameters()).device
    deployed = Deployed(net.cpu().float()).eval()
    axes = {0: "batch", 2: "height", 3: "width"}
    # torch's newer exporter needs more packages; before torch 2.5 there was only this one
    options = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    options |= {"input_names": ["image"], "output_names": ["logits"], "dynamic_axes": {"image": axes, "logits": axes}}
    data = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad(), silent_stdout():
        warnings.simplefilter("ignore")
        try:
            traced = torch.rand(1, 3, *TRACED)
            torch.onnx.export(deployed, (traced,), data, opset_version=OPSET, **options)
            labels = deployed(traced).shape[1]
        except (RuntimeError, torch.onnx.OnnxExporterError) as error:
            raise UserError(f"--out {path}: this network has no ONNX form ({shorten(error, 150)})") from None
        compare(deployed, data.getvalue(), path)
    net.to(device).train(was_training)
    if write:
        remove_stale(Path(path).parent, Path(path).name)
        write_bytes(path, with_metadata(data.getvalue(), net.trunk, labels, classes, max_side))


def with_metadata(data, trunk, labels, classes, max_side):
    """The bytes of an ONNX file with the metadata, and with the number of labels, which torch loses at a resize."""
    import onnx  # `check_export`

    model = onnx.load_from_string(data)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = labels
    mean, std = (json.dumps(list(values)) for values in (trunk.mean, trunk.std))
    about = {"classes": json.dumps(list(classes)), "mean": mean, "std": std, "size": "any", "max_side": str(max_side)}
    onnx.helper.set_model_props(model, about | {"equals": EQUALS})
    return model.SerializeToString()


@contextlib.contextmanager
def silent_stdout():
    """Nothing is printed inside: torch prints the whole graph, past sys.stdout, where an export fails."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def compare(deployed, data, path):
    """UserError where onnxruntime does not compute with the bytes of an ONNX file what torch does."""
    try:
        import onnxruntime
    except ImportError:
        text = "not compared with torch's results, which needs the package onnxruntime (pip install onnxruntime)"
        print_warning(f"--out {path}: {text}")
        return
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for size in TRIED:
        image = torch.rand(2, 3, *size)
        expected = deployed(image)
        try:
            logits = torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
            difference = float((logits - expected).abs().max() / expected.abs().max())
        except Exception as error:  # onnxruntime's own, and other sizes than expected
            difference = shorten(error, 100)
        if not isinstance(difference, float) or difference > TOLERANCE:
            text = f"--out {path}: in ONNX this network gives other results than in torch"
            raise UserError(f"{text} on images of {size[1]} x {size[0]} ({difference}); its trunk cannot be exported")
