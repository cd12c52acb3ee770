"""Dicts that others pickled, `np.save` of {key: array or tensor}, read without running what is in them.

What may be in such a file: numpy arrays and numbers, and tensors of torch, which carry their values as a file of
`torch.save` inside.
"""

import io
import math
import pickle
import re

import numpy as np

MAX_HEADER = 1000  # bytes of an .npy header: it is evaluated as Python text, which takes a thousandfold in memory
TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # torch.save before it wrote zip files, which it still does inside of a pickle
TORCH_VERSION = 1001
MAX_STORAGES = 16  # tensors of a file: each may be read many times over


def unpickle_dict(data):
    """bytes of `np.save(dict)` -> that dict of plain values and arrays; the caller checks keys and values.

    ValueError and what unpickling raises where it is anything else.
    """
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"npy version {version}")
    shape, _, dtype = read_header[version](stream, max_header_size=MAX_HEADER)
    if shape != () or dtype.kind != "O":
        raise ValueError("an array, not a dict")
    value = ScoreUnpickler(stream).load()
    value = value.item() if isinstance(value, np.ndarray) and value.shape == () else value
    if not isinstance(value, dict):
        raise ValueError("not a dict")
    return value


def _empty_array(cls, shape, typecode):
    """Stands in for numpy's _reconstruct: an empty array only, so that no size is taken from the file."""
    if cls is not ARRAY or not isinstance(shape, tuple) or shape not in ((0,), ()):  # an array compares by elements
        raise pickle.UnpicklingError("unexpected array constructor")
    return np.ndarray(shape, dtype="b" if shape == (0,) else object)


def _dtype(name, align=False, copy=False):
    if not isinstance(name, str) or not re.fullmatch(r"[iuf][1248]|O8", name):
        raise pickle.UnpicklingError("unexpected array type")
    return np.dtype(name)


def _scalar(dtype, data):
    if not isinstance(dtype, np.dtype) or dtype.kind not in "iu" or not isinstance(data, bytes):
        raise pickle.UnpicklingError("unexpected number")
    return np.frombuffer(data, dtype, count=1)[0]


def _no_hooks():
    """Stands in for the empty OrderedDict of a tensor's hooks."""
    return None


class _Storage:
    """The values of tensors as bytes; no array, since pickles can change arrays and others would see freed memory."""

    def __init__(self, dtype, values):
        self.dtype, self.values = dtype, values


def _tensor(storage, offset, size, strides, *_):
    """Stands in for torch's _rebuild_tensor_v2: a view of a storage's values that is no larger than they are."""
    numbers = (offset, *size, *strides)
    if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise pickle.UnpicklingError("unexpected tensor")
    step = storage.dtype.itemsize
    if len(size) > 4 or math.prod(size) * step > len(storage.values):
        raise pickle.UnpicklingError("a tensor larger than its storage")
    strides = tuple(n * step for n in strides)
    return np.ndarray(size, storage.dtype, storage.values, offset * step, strides)  # checks that it stays inside


ARRAY = object()  # stands for numpy.ndarray itself, which called with a shape would allocate whatever the file says


class Memo(list):
    """What a pickle has told to remember, numbered from 0: a third of the memory of the dict that Python takes."""

    def __setitem__(self, index, value):
        if index == len(self):
            self.append(value)
        else:
            super().__setitem__(index, value)


class PlainUnpickler(pickle._Unpickler):
    """The pure-Python unpickler (its memory follows the file's size), which knows no name but those of NAMES.

    Nothing that a few bytes can blow up is built: no keys but numbers and texts (a tuple that holds another one twice,
    sixty times over, is never hashed to the end), no array of objects but the one that holds the whole dict (numpy
    reads past the end of a list that is shorter than the shape says, and frees arrays in arrays by recursion).
    """

    NAMES = {}  # {(module, name): what stands for it}
    REFUSED = (
        "BYTEARRAY8",
        "NEXT_BUFFER",
        "READONLY_BUFFER",
        "PERSID",
        "BINPERSID",
        "EXT1",
        "EXT2",
        "EXT4",
        "INST",
        "OBJ",
        "NEWOBJ",
        "NEWOBJ_EX",
        "EMPTY_SET",
        "ADDITEMS",
        "FROZENSET",
    )
    dispatch = dict(pickle._Unpickler.dispatch)
    for _name in REFUSED:
        dispatch.pop(getattr(pickle, _name)[0], None)

    def __init__(self, stream):
        super().__init__(stream)
        self.memo = Memo()
        self.boxed = False  # whether the array of the dict has come

    def _check_items(self, target, keys):
        if not isinstance(target, dict):  # an array would turn any nest of lists into one, however large
            raise pickle.UnpicklingError("unexpected assignment")
        if not all(isinstance(key, int | str | np.integer) for key in keys):
            raise pickle.UnpicklingError("a key that is neither a number nor a text")

    def load_dict(self):
        self._check_items({}, self.stack[::2])
        super().load_dict()

    def load_setitem(self):
        self._check_items(self.stack[-3], self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self):
        self._check_items(self.metastack[-1][-1], self.stack[::2])
        super().load_setitems()

    def load_build(self):
        target, state = self.stack[-2:]
        if isinstance(target, np.dtype):  # one of numpy's own, which no state changes; it names the byte order
            if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|"):
                raise pickle.UnpicklingError("numbers in the byte order of another machine")
        elif isinstance(target, np.ndarray) and isinstance(state, tuple) and len(state) == 5:
            shape, data = state[1], state[-1]
            if isinstance(data, list) and len(data) == 1 and isinstance(shape, tuple) and not shape and not self.boxed:
                self.boxed = True
            elif not isinstance(data, bytes):
                raise pickle.UnpicklingError("unexpected array")
        else:
            raise pickle.UnpicklingError("unexpected state")
        super().load_build()

    for _code, _method in (
        (pickle.DICT, load_dict),
        (pickle.SETITEM, load_setitem),
        (pickle.SETITEMS, load_setitems),
        (pickle.BUILD, load_build),
    ):
        dispatch[_code[0]] = _method

    def find_class(self, module, name):
        last = module.removeprefix("numpy._core.").removeprefix("numpy.core.")
        try:
            return self.NAMES[(last, name)]
        except KeyError:
            hint = "save tensor.numpy() instead" if module.split(".")[0] == "torch" else "which our files never do"
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}, {hint}") from None


class StorageUnpickler(PlainUnpickler):
    """Of one part of what `torch.save` wrote for a storage: plain values, and the storage's kind and length."""

    KINDS = {"Half": "f2", "Float": "f4", "Double": "f8", "Byte": "u1", "Char": "i1", "Short": "i2", "Int": "i4"}
    NAMES = {("torch", f"{name}Storage"): np.dtype(code) for name, code in (KINDS | {"Long": "i8"}).items()}
    dispatch = PlainUnpickler.dispatch | {pickle.BINPERSID[0]: pickle._Unpickler.load_binpersid}

    def persistent_load(self, pid):
        """("storage", kind, key, device, number of values, None)."""
        if not isinstance(pid, tuple) or len(pid) != 6 or not isinstance(pid[1], np.dtype):
            raise pickle.UnpicklingError("unexpected storage of a tensor")
        return pid


class ScoreUnpickler(PlainUnpickler):
    """Of a whole dict: numpy's constructors and those of torch's tensors, all of them our own stand-ins."""

    NAMES = {
        ("multiarray", "_reconstruct"): _empty_array,
        ("multiarray", "scalar"): _scalar,
        ("numpy", "ndarray"): ARRAY,
        ("numpy", "dtype"): _dtype,
        ("collections", "OrderedDict"): _no_hooks,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    }

    def __init__(self, stream):
        super().__init__(stream)
        self.storages = 0

    def find_class(self, module, name):
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return self._storage
        return super().find_class(module, name)

    def _storage(self, data):
        """Stands in for torch's _load_from_bytes: bytes of `torch.save(storage)` -> its values."""
        self.storages += 1
        if not isinstance(data, bytes) or self.storages > MAX_STORAGES:
            raise pickle.UnpicklingError("unexpected tensor, or more of them than a score file has")
        stream = io.BytesIO(data)
        magic, version, _, storage, keys = (StorageUnpickler(stream).load() for _ in range(5))
        if magic != TORCH_MAGIC or version != TORCH_VERSION or not isinstance(storage, tuple):
            raise pickle.UnpicklingError("a tensor of another format")
        dtype, count = storage[1], storage[4]
        values = data[stream.tell() + 8 :]  # the eight bytes are their number, once more
        if not isinstance(keys, list) or len(keys) != 1 or type(count) is not int:
            raise pickle.UnpicklingError("unexpected storage of a tensor")
        if len(values) != count * dtype.itemsize:
            raise pickle.UnpicklingError("a tensor of another length than it says")
        return _Storage(dtype, values)
