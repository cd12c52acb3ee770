"""The ONNX file of a network."""

import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from models.deeplab import make_segmentation_net
from models.export import export_onnx
from tool.io.files import UserError

TINY = 1 / 16


SMP = "smp:DeepLabV3Plus:test_resnet"


@pytest.mark.parametrize("arch", ["deeplab_resnet38d", SMP])
def test_onnx_computes_what_torch_does(arch, tmp_path):
    torch.manual_seed(0)
    names = ["background", "a", "b", "ü", "d"]
    net = make_segmentation_net(arch, 5, TINY if arch.endswith("38d") else 1.0)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):  # as after training
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    (tmp_path / ".net.onnx.12.tmp").write_bytes(b"of a run that was killed")
    export_onnx(net, tmp_path / "net.onnx", names)
    assert net.training and [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == names and json.loads(about["mean"]) == list(net.trunk.mean)
    assert about["size"] == "any" and about["equals"] == "infer_seg.py --scales 1 --no-mirror"
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert session.get_outputs()[0].shape == ["batch", 5, "height", "width"]
    net.eval()
    for batch, height, width in ((1, 72, 100), (2, 41, 30)):
        image = torch.rand(batch, 3, height, width)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (net.trunk.mean, net.trunk.std))
        with torch.no_grad():
            logits = net((image - mean) / std)
            logits = nn.functional.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
        result = session.run(["logits"], {"image": image.numpy()})[0]
        np.testing.assert_allclose(result, logits.numpy(), atol=1e-4 * float(logits.abs().max()))


def test_without_onnxruntime_the_export_says_that_nothing_was_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    export_onnx(make_segmentation_net("deeplab_resnet38d", 5, TINY), tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").stat().st_size > 1000
    assert "net.onnx: not compared with torch's results, which needs the package onnxruntime" in capsys.readouterr().err


def test_what_has_no_onnx_form_is_said_in_one_line(tmp_path, capfd):
    net = make_segmentation_net("smp:UPerNet:test_resnet", 2)
    with pytest.raises(UserError, match="this network has no ONNX form"):
        export_onnx(net, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir()) and capfd.readouterr().out == ""
