"""Files of `torch.save`: written whole or not at all, read without running any code that is in them."""

import contextlib
import re
import struct
import warnings
import zipfile

import torch

from tool.io.files import UserError, atomic
from tool.io.mxnet_params import check_weight_file


class _KeepFirstError:
    """A file that accepts everything after its first failed write and keeps that error.

    torch's writer turns a failed write (full disk, Ctrl-C meanwhile) into a RuntimeError about positions; this keeps
    the real one.
    """

    def __init__(self, file):
        self.file = file
        self.error = None

    def write(self, data):
        if self.error is None:
            try:
                self.file.write(data)
            except BaseException as error:
                self.error = error
        return len(data)

    def flush(self):
        pass


def save_torch(value, path):
    """`torch.save` that leaves either the whole file or the one that was there; OSError (path, errno) on failure."""
    with atomic(path) as temporary:
        with open(temporary, "wb") as file:
            writer = _KeepFirstError(file)
            torch.save(value, writer)
            if writer.error is not None:
                with contextlib.suppress(OSError):
                    file.close()  # it flushes, and would fail again
                raise writer.error


def read_torch(path):
    """What `torch.save` wrote, on the CPU: tensors and plain containers only, no code of the file is ever run.

    UserError: missing, truncated or foreign file, or one that holds other objects.
    """
    size = check_weight_file(path)
    if size == 0:
        raise UserError(f"{path}: is empty; get or make it again")
    if _unpacked_size(path) > size:
        text = f"{path}: would unpack to {_unpacked_size(path):,} bytes"
        raise UserError(f"{text}; torch writes checkpoints that are not packed, get or make it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd about the file ends in a UserError or does not matter
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file raises nearly anything; none of it may escape as a traceback
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            text = f"{path}: refused: it wants to load {wanted[1]}, which can run code"
            raise UserError(f"{text}; save a plain state_dict with torch.save(net.state_dict(), path)") from None
        text = f"{path}: not a whole torch checkpoint ({reason_of(error)})"
        raise UserError(f"{text}; it is damaged or something else, get or make it again") from None


def _unpacked_size(path):
    """Bytes that the members of a zip file announce, a thousand times its size at worst; 0 for any other file."""
    try:
        with zipfile.ZipFile(path) as members:
            return sum(member.file_size for member in members.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, struct.error):
        return 0  # torch says what is wrong with it


def reason_of(error):
    """A few words on why a library refused a file; torch's advice to switch the check off is not repeated."""
    text = " ".join(str(error).split())
    if "weights_only" in text:
        return "it holds more than tensors and plain values"
    return f"{type(error).__name__} {text}"[:120].strip()
