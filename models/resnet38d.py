"""ResNet-38, the wide pre-activation trunk with output stride 8 (Wu et al., "Wider or Deeper", 2016).

Both networks of the method stand on it: the classifier (models/aeft.py) and AffinityNet (models/affinity.py).
"""

import contextlib

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from tool.io.files import UserError
from tool.io.images import MEAN, STD

STEM = ("conv1a", "b2", "b2_1", "b2_2")  # what fine-tuning leaves as it is (released)


class Conv1x1(nn.Conv2d):
    """1x1 convolution without bias whose stride is taken by slicing before the product.

    Same parameters and result as `nn.Conv2d(cin, cout, 1, stride, bias=False)`. A strided 1x1 convolution in
    channels_last crashes in the CPU backward of torch 2.12 for few channels; slicing never reaches that kernel.
    """

    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__(in_channels, out_channels, 1, bias=False)
        self.step = stride

    def forward(self, x):
        if self.step > 1:
            x = x[:, :, :: self.step, :: self.step]
        return super().forward(x)


def conv3x3(in_channels, out_channels, stride=1, dilation=1):
    """3x3 convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=dilation, dilation=dilation, bias=False)


class Block(nn.Module):
    """BN-ReLU-conv3x3-BN-ReLU-conv3x3 plus shortcut; x: B x cin x h x w -> B x cout x h/stride x w/stride.

    Where stride or width changes the shortcut is a 1x1 convolution of the first BN-ReLU, else the input itself.
    `return_preact=True` also returns that first BN-ReLU (B x cin x h x w), which AffinityNet reads.
    """

    def __init__(self, in_channels, mid_channels, out_channels, stride=1, dilation=1, first_dilation=None):
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(in_channels)
        self.conv_branch2a = conv3x3(in_channels, mid_channels, stride, first_dilation or dilation)
        self.bn_branch2b1 = nn.BatchNorm2d(mid_channels)
        self.conv_branch2b1 = conv3x3(mid_channels, out_channels, 1, dilation)
        self.has_projection = in_channels != out_channels or stride != 1
        if self.has_projection:
            self.conv_branch1 = Conv1x1(in_channels, out_channels, stride)

    def forward(self, x, return_preact=False):
        preact = F.relu(self.bn_branch2a(x))
        shortcut = self.conv_branch1(preact) if self.has_projection else x
        y = self.conv_branch2a(preact)
        y = self.conv_branch2b1(F.relu(self.bn_branch2b1(y)))
        y = y + shortcut
        return (y, preact) if return_preact else y


class Bottleneck(nn.Module):
    """BN-ReLU-1x1(cout/4)-BN-ReLU-drop-3x3(cout/2, dilated)-BN-ReLU-drop-1x1(cout), always with a 1x1 shortcut.

    x: B x cin x h x w -> B x cout x h x w. Dropout drops whole channels (Dropout2d).
    """

    def __init__(self, in_channels, out_channels, dilation, dropout):
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(in_channels)
        self.conv_branch2a = Conv1x1(in_channels, out_channels // 4)
        self.bn_branch2b1 = nn.BatchNorm2d(out_channels // 4)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = conv3x3(out_channels // 4, out_channels // 2, 1, dilation)
        self.bn_branch2b2 = nn.BatchNorm2d(out_channels // 2)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = Conv1x1(out_channels // 2, out_channels)
        self.conv_branch1 = Conv1x1(in_channels, out_channels)

    def forward(self, x, return_preact=False):
        preact = F.relu(self.bn_branch2a(x))
        y = self.conv_branch2a(preact)
        y = self.conv_branch2b1(self.dropout_2b1(F.relu(self.bn_branch2b1(y))))
        y = self.conv_branch2b2(self.dropout_2b2(F.relu(self.bn_branch2b2(y))))
        y = y + self.conv_branch1(preact)
        return (y, preact) if return_preact else y


class ResNet38d(nn.Module):
    """The trunk.

    width: scales every channel count (64 ... 4096); 1.0 is the paper's net. At least 1/16, so every layer has 4.
    dropout: probabilities in b6 and b7; (0.2, 0.2) in the classifier, (0.3, 0.5) in AffinityNet.
    forward: B x 3 x H x W, ImageNet-normalised -> B x out_channels x ceil(H/8) x ceil(W/8), after bn7 and ReLU.
    """

    stride = 8  # pixels a cell
    mean, std, interpolation = MEAN, STD, "bicubic"  # of the images it is trained with

    def __init__(self, width=1.0, dropout=(0.2, 0.2)):
        super().__init__()
        if width < 1 / 16:
            raise UserError(f"width {width} is below 1/16: layers would have fewer than 4 channels")

        def c(n):
            return int(n * width)

        self.conv1a = conv3x3(3, c(64))
        self.b2 = Block(c(64), c(128), c(128), stride=2)
        self.b2_1 = Block(c(128), c(128), c(128))
        self.b2_2 = Block(c(128), c(128), c(128))
        self.b3 = Block(c(128), c(256), c(256), stride=2)
        self.b3_1 = Block(c(256), c(256), c(256))
        self.b3_2 = Block(c(256), c(256), c(256))
        self.b4 = Block(c(256), c(512), c(512), stride=2)
        for k in range(1, 6):
            self.add_module(f"b4_{k}", Block(c(512), c(512), c(512)))
        self.b5 = Block(c(512), c(512), c(1024), first_dilation=1, dilation=2)
        self.b5_1 = Block(c(1024), c(512), c(1024), dilation=2)
        self.b5_2 = Block(c(1024), c(512), c(1024), dilation=2)
        self.b6 = Bottleneck(c(1024), c(2048), dilation=4, dropout=dropout[0])
        self.b7 = Bottleneck(c(2048), c(4096), dilation=4, dropout=dropout[1])
        self.bn7 = nn.BatchNorm2d(c(4096))
        self.stem = STEM  # names of the layers that fine-tuning leaves as they are
        self.checkpoint_activations = False  # compute a block's activations again in backward, to save memory
        self.level_channels = (c(512), c(1024), c(4096))
        self.out_channels = c(4096)
        for module in self.modules():  # matters from scratch only; pretrained weights replace it
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def stem_parameters(self):
        for name in self.stem:
            yield from getattr(self, name).parameters()

    def synchronise_batchnorm(self):
        nn.SyncBatchNorm.convert_sync_batchnorm(self)

    def levels(self, x):
        """x: B x 3 x H x W -> (b5's preact B x 512 x h x w, b6's B x 1024 x h x w, output B x 4096 x h x w)."""
        x = self.conv1a(x)
        for name, block in self.named_children():
            if name.startswith(("b2", "b3", "b4")):
                x = self._run(block, x)
        x, level4 = self._run(self.b5, x, return_preact=True)
        x = self._run(self.b5_2, self._run(self.b5_1, x))
        x, level5 = self._run(self.b6, x, return_preact=True)
        x = F.relu(self.bn7(self._run(self.b7, x)))
        return level4, level5, x

    def _run(self, block, x, **options):
        if not (self.checkpoint_activations and torch.is_grad_enabled()):
            return block(x, **options)
        # the second forward must not move running statistics a second time
        contexts = contextlib.nullcontext(), running_statistics_kept(block)
        return checkpoint(block, x, use_reentrant=False, context_fn=lambda: contexts, **options)

    def forward(self, x):
        return self.levels(x)[-1]


@contextlib.contextmanager
def running_statistics_kept(net):
    """BatchNorm's running statistics do not move inside. Matters where BatchNorm trains, from scratch.

    They are what inference normalises with. Erased images are not what it will see, and a forward that only restores
    activations would count its batch twice.
    """
    layers = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.training]
    before = [(layer.momentum, layer.num_batches_tracked.clone()) for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 0.0
        yield
    finally:
        for layer, (momentum, batches) in zip(layers, before):
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(batches)


def count_parameters(net):
    """Number of learned values of a network."""
    return sum(p.numel() for p in net.parameters())
