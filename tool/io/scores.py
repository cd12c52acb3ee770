"""Score files: {class index: H x W floats} as `np.save` of a dict or compressed, read without trusting them."""

import io
import math
import os
import re
import zipfile
from pathlib import Path

import numpy as np

from tool.io.files import UserError, write_bytes
from tool.io.pickles import MAX_HEADER, unpickle_dict

ORIGIN_MARK = b"AEFT-origin\0"  # as a PNG text chunk has it: keyword, zero byte, text
ZIP_MAGIC = (b"PK\3\4", b"PK\5\6")  # the second: of an archive without members
COMPRESSED_LIMIT = 2**28  # bytes of all maps of a file before compression: 134 million values
HEADER_ROOM = 128  # bytes of an .npy header


def write_scores(path, scores, compressed=False, origin=""):
    """Write {class index: H x W scores in [0, 1]}, {} of an image without any class; `read_scores` reads either form.

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


def read_scores(path, empty=True):
    """Read a score file, plain or compressed, without trusting it: {int: H x W float array}, all of one size, finite.

    {} of an image that shows none of the classes; refused where not `empty`, as CRF scores have a background.

    The plain format is a pickle, which can run code; only plain dicts, ints, numpy arrays and torch tensors are built,
    anything else is refused. IRN's form is read as well, see `split_stack`. Half floats, as compressed maps are, come
    out as float32. UserError names the file.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such score file; run the stage that writes it") from None
    try:
        value = unzip_scores(data) if data.startswith(ZIP_MAGIC) else unpickle_dict(data)
        scores = check_maps(split_stack(value) if "keys" in value else value)
        if not scores and not empty:
            raise ValueError("no maps")
    except Exception as error:  # a broken pickle or zip raises nearly anything; none of it may escape as a traceback
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path}: not a score file of ours ({reason}); remove it and run the stage again") from None
    return scores


def split_stack(value):
    """IRN's form of a score file -> {key: H x W}. ValueError where it is none.

    {"keys": K class indices, "high_res": K x H x W, "cam": the same at a quarter of the size, not read}. Some tools
    store the keys as IRN pads them after reading: one more than there are maps, 0 for background, then index + 1.
    """
    keys, maps = value["keys"], value.get("high_res")
    keys = np.asarray(keys) if isinstance(keys, np.ndarray) or all(type(k) is int for k in keys) else None
    if keys is None or keys.ndim != 1 or keys.dtype.kind not in "iu":
        raise ValueError("its keys are not class indices")
    if not isinstance(maps, np.ndarray) or maps.ndim != 3:
        raise ValueError("it has keys but no high_res of K x height x width")
    if len(keys) == len(maps) + 1 and keys[0] == 0:
        keys = keys[1:] - 1
    if len(keys) != len(maps) or len(set(keys.tolist())) < len(keys):
        raise ValueError(f"{len(keys)} keys, not all different, or not as many as its {len(maps)} maps")
    return dict(zip(keys.tolist(), maps))


def check_maps(value):
    """The dict of a score file with int keys; ValueError where it is not {class index: finite H x W floats}.

    Half floats become float32: nothing is lost, and arithmetic goes on in it.
    """
    for key, score in value.items():
        if not isinstance(key, int | np.integer) or not 0 <= key <= 255:
            raise ValueError(f"key {key!r} is not a class index")
        if not isinstance(score, np.ndarray) or score.ndim != 2 or score.dtype.kind != "f" or not score.size:
            raise ValueError(f"class {key} is not a map of floats")
        if not np.isfinite(score).all():
            raise ValueError(f"class {key} has values that are not finite")
    if len({score.shape for score in value.values()}) > 1:
        raise ValueError("maps of different sizes")
    return {int(k): v.astype(np.float32) if v.dtype.itemsize == 2 else v for k, v in value.items()}


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
    if not scores and data.startswith(ZIP_MAGIC[0]):
        raise ValueError("an archive that lost its members")
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
