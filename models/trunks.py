"""What the networks of the method stand on: the paper's ResNet-38, or a classifier of timm without its last layer.

A *trunk* is a module with
    out_channels, level_channels   channels of what forward gives, and of the three maps of levels
    stride                         pixels a cell
    mean, std, interpolation       of the images it is trained with: RGB in [0, 1], name of the resampling
    forward(x)                     B x 3 x H x W -> B x out_channels x ceil(H/stride) x ceil(W/stride)
    levels(x)                      -> three maps of forward's height and width, the last of them forward's
    stem_parameters()              what stays as it is while pretrained weights are fine-tuned, beside every BatchNorm
    synchronise_batchnorm()        BatchNorm over the batches of all processes
    padding(height, width)         only of one that pads images to whole cells: pixels (left, right, top, bottom);
                                   tool/cam.py: on_pixels cuts that off its maps
    checkpoint_activations         bool, may be set: compute activations again in backward, to save memory
"""

import difflib
import math
from types import MethodType

import torch
import torch.nn.functional as F
from torch import nn

from models.resnet38d import ResNet38d
from tool.io.files import UserError, shorten

FINER_STRIDE = 16  # pixels a cell of a CNN that is trained with no other choice; most have 32
TIMM = "timm:"
LEVEL_STRIDE = 8  # pixels a cell of AffinityNet's first level
TRUNKS = {"resnet38d": ResNet38d}  # made from (width, dropout); stride is an attribute of the class
SUITABLE = "CNNs (timm:resnet50) and ViTs on a grid of patches (timm:deit_small_patch16_224) can be trunks"


def make_trunk(name, width=1.0, output_stride=None, dropout=(0.2, 0.2), fetch=False):
    """The trunk of a name: one of TRUNKS, or `timm:NAME` for a classifier of timm.

    width, dropout: resnet38d's; timm's have the width of their name, and no dropout before their classifier.
    output_stride: pixels a cell, None for the trunk's own. fetch: let timm fetch its pretrained weights.
    UserError: no such name, not a trunk, or not to be had like this.
    """
    if name.startswith(TIMM):
        if width != 1:
            raise UserError(f"width {width}: is for {', '.join(TRUNKS)}; {name} has the width of its name")
        return TimmTrunk(name.removeprefix(TIMM), output_stride, fetch)
    if name not in TRUNKS:
        raise UserError(f"trunk {shorten(name, 100)}: there are {', '.join(TRUNKS)} and timm:NAME")
    if output_stride not in (None, TRUNKS[name].stride):
        raise UserError(f"output stride {output_stride}: {name} has cells of {TRUNKS[name].stride} pixels")
    if fetch:
        raise UserError(f"timm has no weights of {name}; pretrained/README.md says where they are")
    return TRUNKS[name](width, dropout)


def finer_stride(name):
    """FINER_STRIDE for a CNN of timm that can have it, None for any other trunk."""
    if not name.startswith(TIMM):
        return None
    with torch.device("meta"):
        model = create_timm(name.removeprefix(TIMM), FINER_STRIDE, fetch=False)
    stages = getattr(model, "feature_info", None) or [{"reduction": None}]
    return FINER_STRIDE if stages[-1]["reduction"] == FINER_STRIDE else None


class TimmTrunk(nn.Module):
    """A classifier of timm up to what it pools: after the last norm and activation (timm's `forward_features`).

    name: a CNN's, or a ViT's: its tokens of patches become a map, the class token is dropped, position embeddings
    are interpolated. A CNN that rounds up takes images of any size as they are. Where sides have to be multiples of
    the stride (patches, ConvNeXt), images are padded on all sides with zeros, the mean colour.
    """

    def __init__(self, name, output_stride=None, fetch=False):
        super().__init__()
        self.name = TIMM + name
        self.model = create_timm(name, output_stride, fetch)
        depthwise_in_float32(self.model)
        config = self.model.pretrained_cfg
        self.mean, self.std, self.interpolation = tuple(config["mean"]), tuple(config["std"]), config["interpolation"]
        strides = [info["reduction"] for info in getattr(self.model, "feature_info", [])] or [LEVEL_STRIDE]
        self.stride, self.level_indices = strides[-1], choose_levels(strides)
        self.tokens, self.rounds_up = False, True
        self.checkpointing = False
        with torch.enable_grad():
            self._try_out()
        if output_stride not in (None, self.stride):
            raise UserError(f"{self.name}: output stride {output_stride}: its cells have {self.stride} pixels")

    def _try_out(self):
        """Find out what the model is, on images of 4 x 4 cells. UserError where it gives no map of features."""
        self.model.eval()
        side = 4 * self.stride
        try:
            self.tokens = self.model.forward_features(torch.zeros(1, 3, side, side)).ndim == 3
            out = self(torch.zeros(1, 3, side, side))
            if out.shape[2:] != (4, 4):
                raise ValueError(f"{out.shape[2]} x {out.shape[3]} cells of {side} x {side} pixels")
            out.sum().backward()
        except Exception as error:  # a model that is used as it was not meant to may raise anything
            raise UserError(f"{self.name}: gives no map of features ({shorten(error, 100)}); {SUITABLE}") from None
        self.out_channels = out.shape[1]
        for parameter in self.model.parameters():
            # a norm after the pooling is left over; processes would wait for its gradients for ever
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        try:
            with torch.no_grad():
                self.rounds_up = self(torch.zeros(1, 3, side - 1, side // 2 + 1)).shape[2:] == (4, 3)
        except Exception:
            self.rounds_up = False
        self.model.train()

    @property
    def level_channels(self):
        if not hasattr(self.model, "forward_intermediates"):
            raise UserError(f"{self.name}: gives no maps of its stages, which AffinityNet needs; take another trunk")
        return *(self.model.feature_info[k]["num_chs"] for k in self.level_indices), self.out_channels

    @property
    def checkpoint_activations(self):
        return self.checkpointing

    @checkpoint_activations.setter
    def checkpoint_activations(self, wanted):
        # BatchNorm that trains sees a batch twice then (timm's recomputation does not know of running statistics)
        if wanted != self.checkpointing:
            try:
                self.model.set_grad_checkpointing(wanted)
            except (AssertionError, AttributeError):
                raise UserError(f"{self.name}: cannot compute activations again; --checkpoint_activations") from None
            self.checkpointing = wanted

    def stem_parameters(self):
        """What stands before the first stage or block, by timm's own grouping."""
        from timm.models import group_parameters

        names = group_parameters(self.model, self.model.group_matcher(coarse=True))[0]
        return [self.model.get_parameter(name) for name in names]

    def synchronise_batchnorm(self):
        from timm.layers import convert_sync_batchnorm  # torch's would lose the activations that timm puts into norms

        self.model = convert_sync_batchnorm(self.model)

    def forward(self, x):
        x = self._padded(x)
        return self._map(self.model.forward_features(x), x)

    def levels(self, x):
        """x: B x 3 x H x W -> three maps of forward's height and width; see `choose_levels`."""
        x = self._padded(x)
        options = {"norm": True} if self.tokens else {}  # as the output is
        out, maps = self.model.forward_intermediates(x, indices=sorted({*self.level_indices}), **options)
        out = self._map(out, x)
        first, second = (F.adaptive_avg_pool2d(level, out.shape[2:]) for level in (maps[0], maps[-1]))
        return first, second, out

    def padding(self, height, width):
        """Pixels that `forward` adds to an image on its (left, right, top, bottom)."""
        if self.rounds_up:
            return 0, 0, 0, 0
        down, right = -height % self.stride, -width % self.stride
        return right // 2, right - right // 2, down // 2, down - down // 2

    def _padded(self, x):
        return x if self.rounds_up else F.pad(x, self.padding(*x.shape[2:]))

    def _map(self, features, x):
        """What the model gives for x -> B x C x h x w."""
        if self.tokens:
            patches = features[:, getattr(self.model, "num_prefix_tokens", 0) :]
            features = patches.unflatten(1, [side // self.stride for side in x.shape[2:]])
        if self.tokens or getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            features = features.permute(0, 3, 1, 2)
        return features


class SmpEncoder(nn.Module):
    """The encoder of a network of segmentation_models_pytorch, a classifier of timm, as a trunk that gives its stages.

    encoder: a TimmUniversalEncoder of that library. forward(x) -> list of maps. All of it is fine-tuned, but for
    BatchNorm.
    """

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        depthwise_in_float32(encoder)
        self.stride = encoder.output_stride
        config = encoder.model.pretrained_cfg
        self.mean, self.std, self.interpolation = tuple(config["mean"]), tuple(config["std"]), config["interpolation"]

    @property
    def model(self):
        """timm's own."""
        return self.encoder.model

    @property
    def checkpoint_activations(self):
        return False

    @checkpoint_activations.setter
    def checkpoint_activations(self, wanted):
        if wanted:
            raise UserError("--checkpoint_activations: an encoder of segmentation_models_pytorch cannot do that")

    def stem_parameters(self):
        return ()

    def synchronise_batchnorm(self):
        from timm.layers import convert_sync_batchnorm  # see TimmTrunk

        self.encoder = convert_sync_batchnorm(self.encoder)

    def forward(self, x):
        return self.encoder(x)


def depthwise_in_float32(model):
    """Let depthwise convolutions of a CPU compute in float32 under autocast too.

    In bfloat16 their backward takes two to five times as long there (torch 2.12, AVX-512), more than all else gains.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            module.forward = MethodType(_convolve_in_float32, module)  # a method, so that a deep copy has its own


def _convolve_in_float32(conv, x):
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return type(conv).forward(conv, x)
    with torch.autocast("cpu", enabled=False):
        return type(conv).forward(conv, x.float())


def choose_levels(strides):
    """Which stages AffinityNet reads beside the output, from the stride of each -> two indices.

    The first of 8 pixels a cell, or nearest to it, and the one after it: in a network of one stage a stride, that is
    before dilation, what ResNet-38's levels are. A ViT has one stride: a third and two thirds of its blocks.
    """
    if len(set(strides)) == 1:
        return len(strides) // 3, 2 * len(strides) // 3
    first = min(range(len(strides)), key=lambda k: abs(math.log2(strides[k] / LEVEL_STRIDE)))
    return first, min(first + 1, len(strides) - 1)


def check_timm(name, fetch):
    """UserError where timm has no model of this name, or none of the training after its dot, or no weights to fetch."""
    import timm  # takes seconds, and resnet38d needs none of it

    known, _, tag = name.partition(".")
    if not timm.is_model(known):
        near = difflib.get_close_matches(known, timm.list_models(), 3)
        raise UserError(f"timm:{shorten(name, 100)}: timm has no such model{'; near: ' * bool(near)}{', '.join(near)}")
    tags = [trained.partition(".")[2] for trained in timm.list_pretrained(f"{known}.*")]
    if tag and tag not in tags:
        raise UserError(f"timm:{shorten(name, 100)}: there is no such training of it; there are {', '.join(tags)}")
    if fetch and not tags:
        raise UserError(f"timm:{name}: timm has no weights of it; give --pretrained FILE or none")


def not_fetched(name, error):
    """The UserError for weights that timm could not fetch."""
    return UserError(f"timm:{name}: weights not fetched ({shorten(error, 150)}); --pretrained takes a file")


def create_timm(name, output_stride, fetch):
    """timm's model without its last layer. UserError: unknown, for images of one size, or weights not to be had."""
    import timm

    check_timm(name, fetch)
    config = timm.get_pretrained_cfg(name)
    options = {"output_stride": output_stride}
    if config is not None and config.fixed_input_size:
        options = {"dynamic_img_size": True}
    try:
        return timm.create_model(name, pretrained=fetch, num_classes=0, **options)
    except (TypeError, AssertionError, NotImplementedError):
        if "dynamic_img_size" in options:
            raise UserError(f"timm:{name}: takes images of one size only; {SUITABLE}") from None
        if output_stride is None:
            raise
    except Exception as error:
        if not fetch:
            raise
        raise not_fetched(name, error) from None
    return create_timm(name, None, fetch)  # it has no choice of strides
