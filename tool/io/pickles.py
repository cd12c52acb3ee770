"""Dicts of arrays as `np.save` pickles them: read without running what is in them, written for numpy of any year.

Python's own unpickler does the work, with the few names that such files need. None of them is what the file calls it:
each is a function below that checks what it is given. So nothing of numpy or torch is called or changed by a file, and
no array is made that another one looks into. A hostile file may take much memory or time, but it runs nothing.
"""

import gc
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
    """{key: array} -> bytes of `np.save` of it that numpy of any year reads.

    numpy 2 calls its arrays `numpy._core...`, which numpy before 1.26 lacks. In protocol 3 names are lines of text.
    """
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
    content = pickle.dumps(np.array(value, dtype=object), protocol=3)  # it begins with the only use of that name
    return stream.getvalue() + content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1)


def unpickle_dict(data):
    """bytes of `np.save(dict)` -> that dict of plain values, arrays, and lists for arrays of objects.

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
    collects = gc.isenabled()
    gc.disable()  # it would look for cycles all the time, and take more than half of it
    try:
        value = PlainUnpickler(stream, encoding="latin1").load()  # the encoding: of what Python 2 wrote
    finally:
        if collects:
            gc.enable()
    while isinstance(value, Array) and isinstance(value.values, list) and len(value.values) == 1:
        value = value.values[0]
    if not isinstance(value, dict):
        raise ValueError("not a dict")
    return {key: v.values if isinstance(v, Array) else v for key, v in value.items()}


class Type:
    """Stands for numpy's dtype of numbers, texts or objects. A file can give it a state, which changes nothing."""

    def __init__(self, code, *_):
        if not isinstance(code, str) or not re.fullmatch("b1|[iuf][1248]|U[0-9]{1,4}|O[48]?", code):
            raise ValueError("unexpected array type")
        self.dtype = np.dtype(code[:1] if code[0] == "O" else code)

    def __setstate__(self, state):
        if state[1] not in ("<", "|"):
            raise ValueError("numbers in the byte order of another machine")

    def build(self, shape, data, order="C"):
        """The array of this type and shape that is in bytes; of objects the list itself."""
        if isinstance(data, str):
            data = data.encode("latin-1")
        size, kinds = (1, list) if self.dtype.hasobject else (self.dtype.itemsize, (bytes, bytearray))
        if not isinstance(data, kinds) or not isinstance(shape, tuple) or not {int}.issuperset(map(type, shape)):
            raise ValueError("unexpected array")
        if math.prod(shape) * size != len(data):
            raise ValueError("an array of another length than it says")
        return data if kinds is list else np.ndarray(shape, self.dtype, bytearray(data), order=order)


class Array:
    """Stands for an array, a tensor or its storage. values: an array of its own, or the list of objects."""

    __slots__ = ("values",)

    def __init__(self, values=None):
        self.values = values

    def __setstate__(self, state):
        _, shape, kind, fortran, data = state
        self.values = kind.build(shape, data, "F" if fortran else "C")


def encode(text, encoding):
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("unexpected encoding")
    return text.encode("latin-1")


def storage(data):
    """bytes of `torch.save(storage)`, no zip file -> its values."""
    stream = io.BytesIO(data)
    magic, _, _, (_, kind, _, _, count, *_), _ = (StorageUnpickler(stream).load() for _ in range(5))
    if magic != TORCH_MAGIC:
        raise ValueError("a tensor of another format")
    return Array(kind().build((count,), data[stream.tell() + 8 :]))  # the eight bytes are their number, once more


def tensor(whole, offset, size, strides, *_):
    """A view of a storage's values that is no larger than they are."""
    values, numbers = whole.values, (offset, *size, *strides)
    if not all(type(n) is int and n >= 0 for n in numbers) or math.prod(size) > values.size:
        raise ValueError("a tensor larger than its storage")
    step = values.itemsize
    return Array(np.ndarray(size, values.dtype, values, offset * step, tuple(n * step for n in strides)))


class PlainUnpickler(pickle.Unpickler):
    """Knows the names of `names` and no other."""

    names = {
        ("numpy", "ndarray"): lambda *_: None,
        ("numpy", "dtype"): Type,
        ("_codecs", "encode"): encode,
        ("__builtin__", "bytes"): bytes,
        ("collections", "OrderedDict"): dict,
        ("torch._utils", "_rebuild_tensor"): tensor,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch.storage", "_load_from_bytes"): storage,
    }
    for _core in ("numpy.core", "numpy._core"):
        names[_core + ".multiarray", "_reconstruct"] = lambda *_: Array()
        names[_core + ".multiarray", "scalar"] = lambda kind, data: kind.build((), data).item()
        names[_core + ".numeric", "_frombuffer"] = lambda data, kind, *form: Array(kind.build(form[0], data, form[1]))

    def find_class(self, module, name):
        if (module, name) not in self.names:
            hint = "save tensor.numpy() instead" if module.split(".")[0] == "torch" else "which our files never do"
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}, {hint}")
        function = self.names[module, name]
        return lambda *args: function(*args)  # the file's own: a state that it gives to this one changes no other


class StorageUnpickler(PlainUnpickler):
    """Of one part of what `torch.save` wrote for a storage: plain values, and ("storage", kind, key, device, count)."""

    names = {("torch", f"{name}Storage"): (lambda code=code: Type(code)) for name, code in STORAGES.items()}

    def persistent_load(self, pid):
        return pid
