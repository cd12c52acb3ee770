"""Score files: {class index: H x W floats} as `np.save` of a dict or compressed, read without trusting them."""

import io
import math
import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np

from tool.io.files import UserError, write_bytes

ORIGIN_MARK = b"AEFT-origin\0"  # as a PNG text chunk has it: keyword, zero byte, text
ZIP_MAGIC = b"PK\3\4"
COMPRESSED_LIMIT = 2**28  # bytes of all maps of a file before compression: 134 million values
HEADER_ROOM = 128  # bytes of an .npy header
MAX_HEADER = 1000  # those of a foreign one: it is evaluated as Python text, which takes a thousandfold in memory


def write_scores(path, scores, compressed=False, origin=""):
    """Write {class index: H x W scores in [0, 1]}; `read_scores` reads either form.

    Plain: `np.save` of that dict with float32 maps, the format that other tools of the field read. Compressed: see
    `zip_scores`; where the maps are too large for it (COMPRESSED_LIMIT), they are written plainly. origin: 16 hex
    digits that `file_origin` gives back (tool/record.py); they stand at the end, where np.load does not look.
    """
    mark = ORIGIN_MARK + origin.encode() if origin else b""
    scores = {int(k): np.ascontiguousarray(v, dtype=np.float32) for k, v in scores.items()}
    if compressed and sum(v.nbytes // 2 + HEADER_ROOM for v in scores.values()) <= COMPRESSED_LIMIT:
        write_bytes(path, zip_scores(scores, mark))
        return
    buffer = io.BytesIO()
    np.save(buffer, scores, allow_pickle=True)
    write_bytes(path, buffer.getvalue() + mark)


def file_origin(path):
    """The `origin` that a score file or a PNG of ours was written with; None for files of other tools."""
    with open(path, "rb") as stream:
        if stream.read(8) == b"\x89PNG\r\n\x1a\n":
            tail = stream.read(4096)  # PIL puts a text chunk before the pixels
        else:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 64))
            tail = stream.read()
    found = re.search(re.escape(ORIGIN_MARK) + rb"([0-9a-f]{16})", tail)
    return found and found.group(1).decode()


def read_scores(path):
    """Read a score file, plain or compressed, without trusting it: {int: H x W float array}, all of one size, finite.

    The plain format is a pickle, which can run code; only plain dicts, ints and numpy arrays are built, anything else
    is refused. Compressed maps come out as float32. UserError names the file.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such score file; run the stage that writes it") from None
    try:
        scores = check_maps(unzip_scores(data) if data.startswith(ZIP_MAGIC) else unpickle_dict(data))
    except Exception as error:  # a broken pickle or zip raises nearly anything; none of it may escape as a traceback
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path}: not a score file of ours ({reason}); remove it and run the stage again") from None
    return scores


def unpickle_dict(data):
    """bytes of `np.save(dict)` -> that dict, not empty, of plain values and arrays; the caller checks keys and values.

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
    if not isinstance(value, dict) or not value:
        raise ValueError("not a dict, or an empty one")
    return value


def check_maps(value):
    """The dict of a score file with int keys; ValueError where it is not {class index: finite H x W floats}."""
    for key, score in value.items():
        if not isinstance(key, int | np.integer) or not 0 <= key <= 255:
            raise ValueError(f"key {key!r} is not a class index")
        if not isinstance(score, np.ndarray) or score.ndim != 2 or score.dtype.kind != "f" or not score.size:
            raise ValueError(f"class {key} is not a map of floats")
        if not np.isfinite(score).all():
            raise ValueError(f"class {key} has values that are not finite")
    if len({score.shape for score in value.values()}) > 1:
        raise ValueError("maps of different sizes")
    return {int(key): score for key, score in value.items()}


def zip_scores(scores, comment=b""):
    """{class index: H x W float32 in [0, 1]} -> bytes of a compressed score file, a tenth of the plain one or less.

    It is a .npz archive under the same name as a plain file: a member `{class index}.npy` of float16 for each map,
    deflated. Values are rounded to multiples of 1/4096, which float16 holds exactly up to 0.5, of 1/2048 above. Other
    tools read it with `{int(k): v.astype(np.float32) for k, v in np.load(path).items()}`. Same maps, same bytes.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key, score in scores.items():
            member = io.BytesIO()
            np.save(member, (np.rint(score * 4096) / 4096).astype("<f2"))
            archive.writestr(zipfile.ZipInfo(f"{key}.npy"), member.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=1)
        archive.comment = comment
    return buffer.getvalue()


def unzip_scores(data):
    """bytes of a compressed score file -> {class index: H x W float32}; `check_maps` does the rest.

    No more is unpacked than the archive says it holds, and that is at most COMPRESSED_LIMIT bytes. ValueError and what
    `zipfile` raises where it is anything else.
    """
    scores = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > COMPRESSED_LIMIT:
            raise ValueError(f"unpacked it would take more than {COMPRESSED_LIMIT >> 20} MiB")
        for member in members:
            key = member.filename.removesuffix(".npy")
            if not re.fullmatch(r"[0-9]{1,3}", key) or int(key) in scores:
                raise ValueError(f"unexpected member {member.filename!r}")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("compressed in another way than ours")
            with archive.open(member) as stream:
                scores[int(key)] = half_map(stream.read(member.file_size))
    if not scores:
        raise ValueError("an empty archive")
    return scores


def half_map(data):
    """bytes of an .npy file of H x W float16 -> H x W float32; ValueError otherwise."""
    half = plain_array(data)
    if half.ndim != 2 or not half.size or half.dtype != np.dtype("<f2"):
        raise ValueError("not a map of half precision")
    return half.astype(np.float32)


def plain_array(data):
    """bytes of an .npy file -> its array, a view of them; ValueError where they are anything else, or hold objects."""
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("another npy version than ours")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=MAX_HEADER)
    left = len(data) - stream.tell()
    if dtype.hasobject or fortran or min(shape, default=1) < 1 or math.prod(shape) * dtype.itemsize != left:
        raise ValueError("not an array as long as it says")
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape)


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


ARRAY = object()  # stands for numpy.ndarray itself, which called with a shape would allocate whatever the file says


class ScoreUnpickler(pickle._Unpickler):
    """The pure-Python unpickler (its memory follows the file's size) with four constructors and no other name.

    Nothing that a few bytes can blow up is built: no keys but numbers and texts (a tuple that holds another one twice,
    sixty times over, is never hashed to the end), no array of objects but the one that holds the whole dict (numpy
    reads past the end of a list that is shorter than the shape says, and frees arrays in arrays by recursion).
    """

    ALLOWED = {
        ("multiarray", "_reconstruct"): _empty_array,
        ("multiarray", "scalar"): _scalar,
        ("numpy", "ndarray"): ARRAY,
        ("numpy", "dtype"): _dtype,
    }
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
            return self.ALLOWED[(last, name)]
        except KeyError:
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}, which our files never do") from None
