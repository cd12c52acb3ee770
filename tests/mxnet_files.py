"""Writes MXNet NDArray files for tests, byte by byte from the format's description; the product only reads them."""

import struct

import numpy as np

FORMS = {"v3": 0xF993FACA, "v2": 0xF993FAC9, "v1": 0xF993FAC8, "oldest": None}
CODES = {"f4": 0, "f8": 1, "f2": 2, "u1": 3, "i4": 4, "i1": 5, "i8": 6}


def record(array, form="v2"):
    """One array as a record of the given form."""
    array = np.asarray(array)
    out = b"" if form == "oldest" else struct.pack("<I", FORMS[form])
    if form in ("v2", "v3"):
        out += struct.pack("<i", 0)  # dense
    out += struct.pack("<I", array.ndim)
    out += struct.pack(f"<{array.ndim}{'I' if form == 'oldest' else 'q'}", *array.shape)
    out += struct.pack("<iii", 1, 0, CODES[array.dtype.str[1:]])  # CPU, device 0
    return out + array.astype(array.dtype.newbyteorder("<")).tobytes()


def params_file(records, names):
    """A whole file of finished records and names (bytes)."""
    out = struct.pack("<QQQ", 0x112, 0, len(records)) + b"".join(records)
    out += struct.pack("<Q", len(names))
    return out + b"".join(struct.pack("<Q", len(name)) + name for name in names)


def write_params(path, arrays, form="v2"):
    """{name: array} -> file."""
    path.write_bytes(params_file([record(a, form) for a in arrays.values()], [n.encode() for n in arrays]))
    return path


def mxnet_name(entry):
    """b4_2.bn_branch2b1.running_var -> bn4b2_branch2b1_moving_var: the other direction, written independently."""
    if entry == "conv1a.weight":
        return "conv1a_weight"
    value = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
    if entry.startswith("bn7."):
        return "bn7_" + value[entry[4:]]
    block, layer, last = entry.split(".")
    unit = block[1:] + "a" if "_" not in block else block[1:].replace("_", "b")
    kind, branch = layer.split("_")
    return f"res{unit}_{branch}_weight" if kind == "conv" else f"bn{unit}_{branch}_{value[last]}"
