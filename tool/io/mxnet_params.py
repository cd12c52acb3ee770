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
        size = Path(path).stat().st_size
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path (pretrained/README.md: pretrained weights)") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if Path(path).is_dir():
        raise UserError(f"{path}: is a folder, not a weight file; name the file in it")
    if not Path(path).is_file():
        raise UserError(f"{path}: is not a regular file; weights are read from .pth, .safetensors or .params files")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: cannot be read; check its permissions")
    return size


# ---------------------------------------------------------------- the file format


class _Reader:
    """Takes values off a file's bytes; `at` is the byte that comes next."""

    def __init__(self, path):
        check_weight_file(path)
        self.path, self.data, self.at = path, memoryview(Path(path).read_bytes()), 0

    def fail(self, message, at=None):
        at = self.at if at is None else at
        text = f"{self.path}: at byte {at}: {message}"
        raise UserError(f"{text}; it is damaged or not an MXNet .params file, get it again (pretrained/README.md)")

    @property
    def left(self):
        return len(self.data) - self.at

    def take(self, length, what):
        if length > self.left:
            self.fail(f"the file ends inside {what} ({length} bytes needed, {self.left} left)")
        self.at += length
        return self.data[self.at - length : self.at]

    def numbers(self, code, what):
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))

    def count(self, smallest, what):
        """A uint64 number of things of at least `smallest` bytes each, which must fit the rest of the file."""
        (n,) = self.numbers("Q", f"the number of {what}")
        if n > self.left // smallest:
            self.fail(f"{n} {what} announced, more than the {self.left} bytes left can hold", self.at - 8)
        return n


def _read_shape(reader, what):
    """The record's beginning up to its dimensions -> tuple of positive ints; () only in form V3."""
    (form,) = reader.numbers("I", what)
    if form in (V2, V3):
        (storage,) = reader.numbers("i", what)
        if storage != 0:
            reader.fail(f"{what} has storage type {storage}, only dense arrays (0) are read", reader.at - 4)
    ndim, code = (*reader.numbers("I", what), "q") if form in (V1, V2, V3) else (form, "I")
    at = reader.at - 4
    if ndim > MAX_NDIM:
        reader.fail(f"{what} has neither a known form nor a number of dimensions (0x{ndim:x})", at)
    if ndim == 0 and form != V3:  # before V3 this marks an array that was never filled, and nothing follows
        reader.fail(f"{what} has no dimensions", at)
    dims = reader.numbers(f"{ndim}{code}", what)
    if any(n < 1 for n in dims):
        reader.fail(f"{what} has the shape {'x'.join(map(str, dims))}", at)
    return dims


def _read_record(reader, what):
    """One array."""
    shape = _read_shape(reader, what)
    _, _, code = reader.numbers("iii", what)  # device type and id are of no use here
    if code not in DTYPES:
        reader.fail(f"{what} has dtype {code}, known are 0 to {max(DTYPES)}", reader.at - 4)
    dtype = DTYPES[code]
    values = reader.take(math.prod(shape) * dtype.itemsize, f"the values of {what} ({shape_text(shape)})")
    return np.frombuffer(values, dtype).reshape(shape).copy()


def shape_text(shape):
    """64x3x3x3, or `scalar`."""
    return "x".join(str(n) for n in shape) or "scalar"


def quoted(name):
    """A name out of a file as one short line, whatever is in it."""
    return " ".join(repr(name).split())[:80]


def read_params(path):
    """{name: array} of an MXNet NDArray file, names as they stand in it (with or without `arg:`, `aux:`).

    Arrays are writable numpy arrays of float16/32/64, uint8, int8/32/64. UserError for a missing, truncated, corrupt
    or foreign file says what is wrong and at which byte; memory stays near twice the file's size in any case.
    """
    reader = _Reader(path)
    magic, zero = reader.numbers("QQ", "the header")
    if magic != FILE_MAGIC:
        reader.fail(f"the file begins with 0x{magic:x}, an MXNet file with 0x{FILE_MAGIC:x}", 0)
    if zero != 0:
        reader.fail("the header's second number is not 0", 8)
    count = reader.count(MIN_RECORD, "arrays")
    arrays = [_read_record(reader, f"array {k + 1} of {count}") for k in range(count)]
    names = reader.count(MIN_NAME, "names")
    if names != count:
        reader.fail(f"{count} arrays but {names} names", reader.at - 8)
    result = {}
    for k, array in enumerate(arrays):
        at, what = reader.at, f"name {k + 1} of {count}"
        try:
            name = str(reader.take(reader.count(1, f"bytes of {what}"), what), "utf-8")
        except UnicodeDecodeError:
            reader.fail(f"{what} is not text", at)
        if name in result:
            reader.fail(f"the name {quoted(name)} comes twice", at)
        result[name] = array
    if reader.left:
        reader.fail(f"{reader.left} bytes follow the last name")
    return result


# ---------------------------------------------------------------- names

BATCHNORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}
OUTER = {"conv1a_weight": "conv1a.weight"} | {f"bn7_{theirs}": f"bn7.{ours}" for theirs, ours in BATCHNORM.items()}
BLOCK_NAME = re.compile(r"(res|bn)([2-7])(?:a|b([1-9]\d*))_branch(1|2a|2b1|2b2)_(\w+)")
CLASSIFIER = "linear1000_"  # ImageNet's 1000 classes


def torch_name(name):
    """Entry of our networks that the MXNet name stands for; None for one that stands for nothing of theirs.

    res2a_branch1_weight -> b2.conv_branch1.weight, bn4b3_branch2b1_moving_var -> b4_3.bn_branch2b1.running_var.
    """
    name = re.sub("^(arg|aux):", "", name)
    if name in OUTER:
        return OUTER[name]
    found = BLOCK_NAME.fullmatch(name)
    if not found:
        return None
    kind, stage, unit, branch, value = found.groups()
    block = f"b{stage}_{unit}" if unit else f"b{stage}"
    if kind == "res":
        return f"{block}.conv_branch{branch}.weight" if value == "weight" else None
    return f"{block}.bn_branch{branch}.{BATCHNORM[value]}" if branch != "1" and value in BATCHNORM else None


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
