"""Reads MXNet's NDArray file format (`resnet_38d.params`) without MXNet, which is no longer maintained.

A file, all little-endian: uint64 0x112, uint64 0, uint64 count, `count` records, uint64 count, `count` names (uint64
length, bytes). A record comes in four forms, told apart by its first uint32: the shape, then int32 device type, int32
device id, int32 dtype, then the values.

    0xF993fac9, 0xF993faca   int32 storage type, uint32 ndim, int64 dims   (V2, V3)
    0xF993fac8               uint32 ndim, int64 dims                       (V1)
    anything else            is ndim itself, then uint32 dims              (oldest)

No number of the file is believed before it is held against what is left of the file, so memory stays below a small
multiple of the file's size whatever the bytes say.
"""

import math
import os
import re
import stat
import struct
from pathlib import Path

import numpy as np
import torch

from tool.io.files import UserError, print_warning

FILE_MAGIC = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DTYPES = dict(enumerate(np.dtype(code) for code in ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")))
MAX_NDIM = 32  # MXNet's own limit
MIN_RECORD = 21  # bytes of the smallest record: oldest form, one dimension, one value of one byte
MIN_NAME = 8  # bytes of an empty name: its length


def check_weight_file(path):
    """Size in bytes of the regular file `path`; UserError where it is missing, a folder, special or unreadable."""
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path (pretrained/README.md: pretrained weights)") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path}: is a folder, not a weight file; name the file in it")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: is not a regular file; weights are read from .pth, .safetensors or .params files")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: cannot be read; check its permissions")
    return status.st_size


# ---------------------------------------------------------------- the file format


class _Reader:
    """Takes values off an open file; `at` is the byte that comes next, `size` the file's length."""

    def __init__(self, file, path, size):
        self.file, self.path, self.size, self.at = file, path, size, 0

    def fail(self, message, at=None):
        at = self.at if at is None else at
        text = f"{self.path}: at byte {at}: {message}"
        raise UserError(f"{text}; it is damaged or not an MXNet .params file, get it again (pretrained/README.md)")

    def require(self, length, what):
        left = self.size - self.at
        if length > left:
            self.fail(f"the file ends inside {what} ({length} bytes needed, {left} left)")

    def fill(self, array, what):
        """Read into `array`, whose size was required before it was made."""
        if self.file.readinto(array) != array.nbytes:  # only if somebody shortens the file while we read
            self.fail(f"the file ends inside {what}")
        self.at += array.nbytes

    def take(self, length, what):
        self.require(length, what)
        data = self.file.read(length)
        if len(data) != length:
            self.fail(f"the file ends inside {what}")
        self.at += length
        return data

    def number(self, code, what):
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0]

    def count(self, smallest, what):
        """A uint64 number of things of at least `smallest` bytes each, which must fit the rest of the file."""
        at = self.at
        n = self.number("Q", f"the number of {what}")
        if n > (self.size - self.at) // smallest:
            self.fail(f"{n} {what} announced, more than the {self.size - self.at} bytes left can hold", at)
        return n


def _read_shape(reader, what):
    """The record's beginning up to its dimensions -> tuple of positive ints; () only in form V3."""
    at = reader.at
    form = reader.number("I", what)
    if form in (V2, V3):
        storage = reader.number("i", what)
        if storage != 0:
            reader.fail(f"{what} has storage type {storage}, only dense arrays (0) are read", reader.at - 4)
    dim_code = "q" if form in (V1, V2, V3) else "I"
    if form in (V1, V2, V3):
        at = reader.at
        ndim = reader.number("I", what)
    else:
        ndim = form
    if ndim > MAX_NDIM:
        reader.fail(f"{what} has neither a known form nor a number of dimensions (0x{ndim:x})", at)
    if ndim == 0 and form != V3:  # before V3 this marks an array that was never filled, and nothing follows
        reader.fail(f"{what} has no dimensions", at)
    dims = struct.unpack(f"<{ndim}{dim_code}", reader.take(struct.calcsize(f"<{ndim}{dim_code}"), what))
    if any(n < 1 for n in dims):
        reader.fail(f"{what} has the shape {'x'.join(map(str, dims))}", at)
    return dims


def _read_record(reader, what):
    """One array."""
    shape = _read_shape(reader, what)
    reader.take(8, what)  # device type and id, of no use here
    at = reader.at
    code = reader.number("i", what)
    if code not in DTYPES:
        reader.fail(f"{what} has dtype {code}, known are 0 to {max(DTYPES)}", at)
    reader.require(math.prod(shape) * DTYPES[code].itemsize, f"the values of {what} ({shape_text(shape)})")
    array = np.empty(shape, DTYPES[code])
    reader.fill(array, what)
    return array


def shape_text(shape):
    """64x3x3x3, or `scalar`."""
    return "x".join(str(n) for n in shape) or "scalar"


def quoted(name):
    """A name out of a file as one short line, whatever is in it."""
    return " ".join(repr(name).split())[:80]


def _read_name(reader, what):
    at = reader.at
    name = reader.take(reader.count(1, f"bytes of {what}"), what)
    try:
        return name.decode()
    except UnicodeDecodeError:
        reader.fail(f"{what} is not text", at)


def read_params(path):
    """{name: array} of an MXNet NDArray file, names as they stand in it (with or without `arg:`, `aux:`).

    Arrays are writable numpy arrays of float16/32/64, uint8, int8/32/64. UserError for a missing, truncated, corrupt
    or foreign file says what is wrong and at which byte; memory stays near the file's size in any case.
    """
    size = check_weight_file(path)
    with open(path, "rb") as file:
        reader = _Reader(file, path, size)
        magic = reader.number("Q", "the header")
        if magic != FILE_MAGIC:
            reader.fail(f"the file begins with 0x{magic:x}, an MXNet file with 0x{FILE_MAGIC:x}", 0)
        if reader.number("Q", "the header") != 0:
            reader.fail("the header's second number is not 0", 8)
        count = reader.count(MIN_RECORD, "arrays")
        arrays = [_read_record(reader, f"array {k + 1} of {count}") for k in range(count)]
        at = reader.at
        names = reader.count(MIN_NAME, "names")
        if names != count:
            reader.fail(f"{count} arrays but {names} names", at)
        result = {}
        for k, array in enumerate(arrays):
            at = reader.at
            name = _read_name(reader, f"name {k + 1} of {count}")
            if name in result:
                reader.fail(f"the name {quoted(name)} comes twice", at)
            result[name] = array
        if reader.at != size:
            reader.fail(f"{size - reader.at} bytes follow the last name")
    return result


# ---------------------------------------------------------------- names

BATCHNORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}
BLOCK_NAME = re.compile(
    r"(?:res(?P<res>[2-7](?:a|b[1-9]\d*))_branch(?P<conv>1|2a|2b1|2b2)_weight"
    r"|bn(?P<bn>[2-7](?:a|b[1-9]\d*))_branch(?P<norm>2a|2b1|2b2)_(?P<value>gamma|beta|moving_mean|moving_var))"
)
CLASSIFIER = "linear1000_"  # ImageNet's 1000 classes


def torch_name(name):
    """Entry of our networks that the MXNet name stands for; None for one that stands for nothing of theirs.

    res2a_branch1_weight -> b2.conv_branch1.weight, bn4b3_branch2b1_moving_var -> b4_3.bn_branch2b1.running_var.
    """
    name = re.sub("^(arg|aux):", "", name)
    if name == "conv1a_weight":
        return "conv1a.weight"
    if name.startswith("bn7_") and name[4:] in BATCHNORM:
        return f"bn7.{BATCHNORM[name[4:]]}"
    match = BLOCK_NAME.fullmatch(name)
    if not match:
        return None
    stage, unit = (match["res"] or match["bn"])[0], (match["res"] or match["bn"])[1:]
    block = f"b{stage}" if unit == "a" else f"b{stage}_{unit[1:]}"
    if match["res"]:
        return f"{block}.conv_branch{match['conv']}.weight"
    return f"{block}.bn_branch{match['norm']}.{BATCHNORM[match['value']]}"


def to_state_dict(arrays, source="MXNet parameters"):
    """{MXNet name: array} -> {entry of ResNet-38: tensor}; tensors share the arrays' memory.

    ImageNet's classifier (linear1000_*) is dropped; other names that ResNet-38 has no place for are left out with a
    warning, since whoever loads the result checks that it is complete. `source` is named in messages.
    UserError: nothing of ResNet-38 in it, or two names for one entry (arg:x and x).
    """
    state, unknown = {}, []
    for name, array in arrays.items():
        if re.sub("^(arg|aux):", "", name).startswith(CLASSIFIER):
            continue
        entry = torch_name(name)
        if entry is None:
            unknown.append(name)
        elif entry in state:
            raise UserError(f"{source}: two arrays stand for {entry}, one of them {quoted(name)}; get the file again")
        else:
            state[entry] = torch.from_numpy(array)
    if not state:
        raise UserError(f"{source}: no array of ResNet-38 in it; see pretrained/README.md for the right file")
    if unknown:
        print_warning(f"{source}: {len(unknown)} arrays not of ResNet-38 left out, first {quoted(unknown[0])}")
    return state
