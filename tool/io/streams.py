"""What is printed must not end a run: characters that a terminal cannot show, and `| head`, which stops reading."""

import contextlib
import errno
import os
import sys

CLOSED = (errno.EPIPE, errno.EINVAL)  # the other end of a pipe is gone; EINVAL on Windows


@contextlib.contextmanager
def forgiving_streams():
    """Inside, print() replaces what the encoding lacks by escapes, and goes nowhere once nobody reads it."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = mine = [stream and Forgiving(stream) for stream in before]
    try:
        yield
    finally:
        for stream in filter(None, mine):
            stream.flush()
        sys.stdout, sys.stderr = before


class Forgiving:
    """A text stream that outlives its reader."""

    def __init__(self, stream):
        self.stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        return self._try(self.stream.write, text)

    def flush(self):
        return self._try(self.stream.flush)

    def _try(self, work, *arguments):
        try:
            return work(*arguments)
        except OSError as error:
            if error.errno not in CLOSED:
                raise
            with open(os.devnull, "wb") as nothing:  # what is still in the buffer goes there, too
                os.dup2(nothing.fileno(), self.stream.fileno())
