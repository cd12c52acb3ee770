"""Segmentation networks, trained on pseudo labels: DeepLab-LargeFOV on a trunk, or one of segmentation_models_pytorch.

On ResNet-38 of width 1, with 21 labels, DeepLab should have 124,042,581 parameters and 232 state entries.
"""

import difflib

import torch
import torch.nn.functional as F
from torch import nn

from models.network import TrunkNet
from models.trunks import SmpEncoder, check_timm, make_trunk, not_fetched
from tool.affinity_labels import pad_to_stride
from tool.cam import on_pixels, padding_of, upsample
from tool.io.files import UserError, shorten
from tool.io.images import IGNORE

DEEPLAB, SMP = "deeplab_", "smp:"
RESNET38D = f"{DEEPLAB}resnet38d"
ARCHITECTURES = (RESNET38D, f"{DEEPLAB}timm:NAME", f"{SMP}ARCH:ENCODER")
HIDDEN = 512  # channels of DeepLab's head
DILATION = 12  # of the head's convolutions; two of them see 49 cells: a "large field of view"
STRIDE = 8  # pixels a cell of DeepLab's trunk
MSC_SCALES = (1.0, 0.75, 0.5)  # of the multi-scale loss
LOSS_AT = ("cells", "pixels")  # where logits and labels of a loss meet
CNN = "take a CNN of timm as encoder, such as resnet50"
NOT_ANY_SIZE = ("DPT", "PAN")  # architectures that take images of one size only, or no small ones


def make_segmentation_net(arch, num_labels=21, width=1.0, output_stride=None, fetch=False, dropout=(0.2, 0.2)):
    """The network of a name: `deeplab_TRUNK` (models/trunks.py: make_trunk), or `smp:ARCH:ENCODER`.

    width, dropout: resnet38d's. output_stride: pixels a cell of DeepLab's trunk, None for 8 or, where the trunk has no
    choice, its own. fetch: let timm fetch the weights of its trunk or encoder.
    UserError: no such network, or it cannot be had like this.
    """
    if arch.startswith(DEEPLAB):
        trunk = arch.removeprefix(DEEPLAB)
        try:
            return DeepLab(make_trunk(trunk, width, output_stride or STRIDE, dropout, fetch), num_labels)
        except UserError:
            if output_stride is not None:
                raise
            return DeepLab(make_trunk(trunk, width, None, dropout, fetch), num_labels)
    if not arch.startswith(SMP) or arch.count(":") != 2:
        raise UserError(f"--arch {shorten(arch, 100)}: there are {', '.join(ARCHITECTURES)}")
    return SmpNet(*arch.split(":")[1:], num_labels, fetch)


def network_settings(arch, settings):
    """{"arch", "width", "output_stride"} for `make_segmentation_net`.

    settings: with "trunk", "width" and "output_stride" of an experiment; they hold where DeepLab stands on that trunk.
    """
    if arch != DEEPLAB + settings["trunk"]:
        return {"arch": arch, "width": 1.0, "output_stride": None}
    return {"arch": arch, "width": settings["width"], "output_stride": settings["output_stride"]}


class DeepLab(TrunkNet):
    """DeepLab-LargeFOV: image B x 3 x H x W -> logits B x L x h x w, on the trunk's cells; label 0 is background.

    Chen et al., "Semantic image segmentation with deep convolutional nets and fully connected CRFs" (ICLR 2015), with
    two dilated 3x3 convolutions as head, as weakly supervised methods on ResNet-38 have it.
    """

    def __init__(self, trunk, num_labels=21):
        super().__init__(trunk)
        self.conv_fov = nn.Conv2d(trunk.out_channels, HIDDEN, 3, padding=DILATION, dilation=DILATION)
        self.classifier = nn.Conv2d(HIDDEN, num_labels, 3, padding=DILATION, dilation=DILATION)
        for layer in (self.conv_fov, self.classifier):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, image):
        return self.classifier(F.relu(self.conv_fov(self.trunk(image))))


class SmpNet(TrunkNet):
    """A network of segmentation_models_pytorch: image B x 3 x H x W -> logits B x L x H x W; label 0 is background.

    arch: name of one of its classes; encoder: a classifier of timm. Images are padded on the right and at the bottom
    with zeros, the mean colour, to sides that the encoder takes. Entries of files have the library's own names.
    While fine-tuning, BatchNorm of the encoder is frozen; the decoder, which starts from random values, trains its own.
    """

    def __init__(self, arch, encoder, num_labels=21, fetch=False):
        model = create_smp(arch, encoder, num_labels, fetch)
        super().__init__(SmpEncoder(model.encoder))
        self.decoder, self.segmentation_head = model.decoder, model.segmentation_head
        self._try_out(f"{SMP}{arch}:{encoder}")

    def _try_out(self, name):
        """UserError where encoder and decoder do not go together, or take images of one size only."""
        side = 2 * self.trunk.stride
        try:
            with torch.no_grad():
                self.eval()(torch.zeros(1, 3, side, side - 1))
        except Exception as error:  # a network that is used as it was not meant to may raise anything
            raise UserError(f"{name}: does not run ({shorten(error, 100)}); {CNN}") from None
        self.train()

    def synchronise_batchnorm(self):
        super().synchronise_batchnorm()
        nn.SyncBatchNorm.convert_sync_batchnorm(self.decoder)

    def forward(self, image):
        height, width = image.shape[-2:]
        features = self.trunk(pad_to_stride(image, self.trunk.stride))
        return self.segmentation_head(self.decoder(features))[..., :height, :width]


def create_smp(arch, encoder, num_labels, fetch):
    """segmentation_models_pytorch's model. UserError: unknown, does not fit together, or weights not to be had."""
    try:
        import segmentation_models_pytorch as smp  # takes seconds, and DeepLab needs none of it
    except ImportError:
        raise UserError(f"--arch {SMP}{arch}: needs the package segmentation_models_pytorch") from None

    classes = {kind.__name__: kind for kind in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    known = [name for name in classes if name not in NOT_ANY_SIZE]
    if arch not in known:
        near = difflib.get_close_matches(arch, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise UserError(f"--arch {SMP}{shorten(arch, 50)}: no such architecture; {hint}")
    encoder = encoder.removeprefix("tu-")  # as the library calls encoders of timm
    check_timm(encoder, fetch)
    weights = "imagenet" if fetch else None
    try:
        return classes[arch](encoder_name=f"tu-{encoder}", encoder_weights=weights, classes=num_labels)
    except Exception as error:  # timm and the library raise nearly anything
        if fetch:
            create_smp(arch, encoder, num_labels, fetch=False)  # says what is wrong with the two, where that is it
            raise not_fetched(encoder, error) from None
        raise UserError(f"{SMP}{arch}:{encoder}: cannot be built ({shorten(error, 100)}); {CNN}") from None


# ---------------------------------------------------------------- the loss


def label_loss(logits, label, over_all=lambda x: x):
    """Cross entropy of logits B x L x h x w, mean over the pixels that count; 0 where none does.

    label: B x H x W ids, 255 ignored; brought to h x w by the nearest pixel. over_all: with several processes, what
    sums a tensor over them (World.sum); the results of all then sum to the loss of the global batch.
    """
    label = nearest(label, logits.shape[-2:]).long()
    loss = F.cross_entropy(logits.float(), label, ignore_index=IGNORE, reduction="sum")
    pixels = over_all((label != IGNORE).sum())
    return loss / pixels.clamp(min=1)


def nearest(label, size):
    """B x H x W ids -> float32, at `size` (h, w): of the pixel nearest to the middle of each of its own."""
    return F.interpolate(label[:, None].float(), size, mode="nearest-exact")[:, 0]


def pyramid_logits(net, image, scales=MSC_SCALES):
    """Logits of an image at several sizes, and their maximum: a list, len(scales) + 1 long, of one where scales is.

    image: B x 3 x H x W; the first scale gives the cells of the maximum, to which the others are brought.
    """
    views = [upsample(image, scaled(image, scale)) for scale in scales]
    pyramid = [net(view) for view in views]
    if len(pyramid) == 1:
        return pyramid
    first, size = pyramid[0], views[0].shape[-2:]
    rest = zip(pyramid[1:], views[1:])
    others = [on_cells(net, logits.float(), view.shape[-2:], first, size) for logits, view in rest]
    # in float32 also under autocast: where two scales round to one value, half of the gradient would go astray
    return [*pyramid, torch.stack([first.float(), *others]).amax(0)]


def on_cells(net, logits, seen, first, size):
    """Logits of a view of `seen` (H, W) on the cells of `first`, logits of one of `size`; of padded views by pixels."""
    padding = padding_of(net, *size)
    if any((*padding, *padding_of(net, *seen))):
        logits = F.pad(on_pixels(net, logits, seen, size), padding, mode="replicate")
    return upsample(logits, first.shape[-2:])


def scaled(image, scale):
    """(height, width) of an image ... x H x W, times `scale`."""
    return [max(1, round(side * scale)) for side in image.shape[-2:]]


def multi_scale_loss(net, image, label, scales=MSC_SCALES, over_all=lambda x: x, at="cells"):
    """The sum of `label_loss` over `pyramid_logits`, as DeepLabV2 is trained (Chen et al., TPAMI 2018).

    at: one of LOSS_AT: labels are brought to the logits' cells, or logits to the labels' pixels.
    """
    sizes = [scaled(image, scale) for scale in (*scales, scales[0])]  # the last one for the maximum
    loss = 0
    for logits, seen in zip(pyramid_logits(net, image, scales), sizes):
        target, padding = label, padding_of(net, *seen)
        if at == "pixels":
            logits = on_pixels(net, logits.float(), seen, label.shape[-2:])
        elif any(padding):  # what the network adds to the image counts for nothing
            target = F.pad(nearest(label, seen), padding, value=IGNORE)
        loss = loss + label_loss(logits, target, over_all)
    return loss
