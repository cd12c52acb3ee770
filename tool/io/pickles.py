"""Dicts of arrays as `np.save` pickles them: read without running what is in them, written for numpy of any year.

Python's own unpickler does the work, with the few names that such files need. None of them is what it is called in the
file: each stands for a function below that checks what it is given, or for a value. So nothing of numpy or torch is
ever called or changed by a file, and no array is made that others share. A hostile file may take much memory or time,
as with any unpickler; it runs nothing.
"""

import io
import math
import pickle
import re

import numpy as np

MAX_HEADER = 1000  # bytes of an .npy header: it is evaluated as Python text, which takes a thousandfold in memory
TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # torch.save before it wrote zip files, which it still does inside of a pickle
STORAGES = {"Half": "f2", "Float": "f4", "Double": "f8", "Bool": "b1", "Byte": "u1", "Char": "i1", "Short": "i2"}
STORAGES |= {"Int": "i4", "Long": "i8"}


def pickle_dict(value):
    """{key: array} -> bytes of `np.save` of it, which numpy reads from 1.19 on, and older ones.

    numpy 2 names its arrays `numpy._core...`, which those before 1.26 lack. Protocol 3 has names as lines of text.
    """
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
    content = pickle.dumps(np.array(value, dtype=object), protocol=3)  # it begins with the one use of that name
    return stream.getvalue() + content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1)


def unpickle_dict(data):
    """bytes of `np.save(dict)` -> that dict, not empty, of plain values, arrays, and lists for arrays of objects.

    The caller checks keys and values. ValueError and what unpickling raises where it is anything else.
    """
    stream = io.BufferedReader(io.BytesIO(data))  # the unpickler reads ahead where it can peek
    version = np.lib.format.read_magic(stream)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"npy version {version}")
    shape, _, dtype = read_header[version](stream, max_header_size=MAX_HEADER)
    if math.prod(shape) != 1 or dtype.kind != "O":
        raise ValueError("an array, not a dict")
    value = PlainUnpickler(stream, encoding="latin1").load()  # the encoding: of texts and bytes that Python 2 wrote
    while isinstance(value, Array) and isinstance(value.values, list) and len(value.values) == 1:
        value = value.values[0]
    if not isinstance(value, dict) or not value:
        raise ValueError("not a dict, or an empty one")
    return {key: v.values if isinstance(v, Array) else v for key, v in value.items()}


class Fixed:
    """Base of all that names and functions give to a file: what has a __setstate__ is not changed in another way."""

    __slots__ = ()

    def __setstate__(self, state):
        raise pickle.UnpicklingError("unexpected state")


class Type(Fixed):
    """Stands for numpy's dtype of numbers, texts or objects, and for a kind of torch's storages."""

    __slots__ = ("dtype",)

    def __init__(self, code, *_):
        if not isinstance(code, str) or not re.fullmatch("b1|[iuf][1248]|U[0-9]{1,4}|O[48]?", code):
            raise pickle.UnpicklingError("unexpected array type")
        self.dtype = np.dtype(code[:1] if code[0] == "O" else code)

    def __setstate__(self, state):
        if state[1] not in ("<", "|"):
            raise pickle.UnpicklingError("numbers in the byte order of another machine")

    def array(self, shape, data, order="C"):
        """The array of this type and shape that is in bytes; of objects the list itself."""
        if isinstance(data, str):
            data = data.encode("latin-1")
        size, kinds = (1, list) if self.dtype.hasobject else (self.dtype.itemsize, (bytes, bytearray))
        if not isinstance(data, kinds) or not isinstance(shape, tuple) or not {int}.issuperset(map(type, shape)):
            raise pickle.UnpicklingError("unexpected array")
        if math.prod(shape) * size != len(data):
            raise pickle.UnpicklingError("an array of another length than it says")
        return data if kinds is list else np.ndarray(shape, self.dtype, bytearray(data), order=order)


class Array(Fixed):
    """Stands for an array, a tensor or its storage. values: an array of its own, or the list of objects."""

    __slots__ = ("values",)

    def __init__(self, values=None):
        self.values = values

    def __setstate__(self, state):
        _, shape, kind, fortran, data = state
        self.values = kind.array(shape, data, "F" if fortran else "C")


def scalar(kind, data):
    return kind.array((), data).item()


def from_buffer(data, kind, shape, order, *_):
    return Array(kind.array(shape, data, order))


def encode(text, encoding):
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("unexpected encoding")
    return text.encode("latin-1")


def storage(data):
    """bytes of `torch.save(storage)`, not of a zip file -> its values."""
    stream = io.BytesIO(data)
    magic, _, _, (_, kind, _, _, count, *_), _ = (StorageUnpickler(stream).load() for _ in range(5))
    if magic != TORCH_MAGIC:
        raise pickle.UnpicklingError("a tensor of another format")
    return Array(kind.array((count,), data[stream.tell() + 8 :]))  # the eight bytes are their number, once more


def tensor(values, offset, size, strides, *_):
    """A view of a storage's values that is no larger than they are."""
    values, numbers = values.values, (offset, *size, *strides)
    if not all(type(n) is int and n >= 0 for n in numbers) or math.prod(size) > values.size:
        raise pickle.UnpicklingError("a tensor larger than its storage")
    step = values.itemsize
    return Array(np.ndarray(size, values.dtype, values, offset * step, tuple(n * step for n in strides)))


class Name(Fixed):
    """Stands for a function or a class of a file; it can be called."""

    __slots__ = ("function",)

    def __init__(self, function):
        self.function = function

    def __call__(self, *args):
        return self.function(*args)


class PlainUnpickler(pickle.Unpickler):
    """Knows the names of `names` and refuses every other."""

    names = {
        ("numpy", "ndarray"): Fixed(),
        ("numpy", "dtype"): Name(Type),
        ("_codecs", "encode"): Name(encode),
        ("__builtin__", "bytes"): Name(bytes),
        ("collections", "OrderedDict"): Name(dict),
        ("torch._utils", "_rebuild_tensor"): Name(tensor),
        ("torch._utils", "_rebuild_tensor_v2"): Name(tensor),
        ("torch.storage", "_load_from_bytes"): Name(storage),
    }
    for _core in ("numpy.core", "numpy._core"):
        names[_core + ".multiarray", "_reconstruct"] = Name(lambda *_: Array())
        names[_core + ".multiarray", "scalar"] = Name(scalar)
        names[_core + ".numeric", "_frombuffer"] = Name(from_buffer)

    def find_class(self, module, name):
        if (module, name) not in self.names:
            hint = "save tensor.numpy() instead" if module.split(".")[0] == "torch" else "which our files never do"
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}, {hint}")
        return self.names[module, name]


class StorageUnpickler(PlainUnpickler):
    """Of one part of what `torch.save` wrote for a storage: plain values, and ("storage", kind, key, device, count)."""

    names = {("torch", f"{name}Storage"): Type(code) for name, code in STORAGES.items()}

    def persistent_load(self, pid):
        return pid
