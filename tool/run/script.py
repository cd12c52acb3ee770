"""How every script runs: arguments in, `main(args)`, and one line instead of a traceback for a user's mistake."""

import errno
import re
import signal
import sys
from pathlib import Path

from tool.io.files import CONTROL, UserError, shorten
from tool.io.streams import forgiving_streams
from tool.run.arguments import Parser
from tool.run.settings import fill_defaults
from tool.workers import shared_memory_lacks

DISK_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.EFBIG,
)
NO_MEMORY = "out of memory|not enough memory|can't allocate memory|Storage size calculation overflowed"


class Interrupted(Exception):
    """SIGINT or SIGTERM ended a run after its current step; `code` is the exit code (130 or 143)."""

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


class StopSignal:
    """SIGINT and SIGTERM as a flag that a training reads after each step; a second one ends it at once."""

    def __init__(self, world):
        self.number = None
        self.previous = {}
        self.world = world

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number, frame):
        self.number = number
        self.restore()

    def asked(self):
        """Whether any rank was signalled: all stop after the same step."""
        numbers = [n for n in self.world.collect(self.number) if n is not None]
        self.number = numbers[0] if numbers else None
        return bool(numbers)

    def restore(self):
        while self.previous:
            signal.signal(*self.previous.popitem())

    def __exit__(self, *exc):
        self.restore()

    def stop(self, where):
        """End every rank with the exit code that shells expect (128 + signal); rank 0 says where the run stopped."""
        code = 128 + self.number
        if not self.world.main:
            sys.exit(code)
        raise Interrupted(f"stopped by {signal.Signals(self.number).name} {where}; --resume continues", code)


class Terminated(KeyboardInterrupt):
    """SIGTERM, to be handled as Ctrl-C is: like that, no `except Exception` swallows it."""


def raise_terminated(number, frame):
    raise Terminated


@forgiving_streams()
def run_script(main, parser, argv=None):
    """Parse the arguments, call main(args); a user's mistake becomes one line on stderr and exit code 2.

    SIGINT and SIGTERM end it with one line and exit code 130 or 143, as shells expect.
    """
    is_stage = isinstance(parser, Parser) and any(action.dest == "voc12_root" for action in parser._actions)
    args, given = parser.parse_given(argv) if is_stage else (parser.parse_args(argv), set())
    check_texts(parser, args)
    previous = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        if is_stage:
            fill_defaults(parser, args, given)
        main(args)
    except UserError as error:
        fail(parser, error)
    except Interrupted as stop:
        print(f"{Path(parser.prog).name}: {stop}", file=sys.stderr)
        sys.exit(stop.code)
    except KeyboardInterrupt as stop:
        print(f"{Path(parser.prog).name}: interrupted; {how_to_go_on(parser)}", file=sys.stderr)
        sys.exit(143 if isinstance(stop, Terminated) else 130)
    except OSError as error:
        if shared := shared_memory_lacks(error):
            fail(parser, f"{shared}; {how_to_go_on(parser)}")
        if error.errno not in DISK_ERRORS and error.filename is None:  # with a name it is about a file of the user's
            raise
        fail(parser, explain_os_error(error, how_to_go_on(parser)))
    except (MemoryError, RuntimeError) as error:  # torch has no types of its own for those that are meant here
        if shared := shared_memory_lacks(error):
            fail(parser, f"{shared}; {how_to_go_on(parser)}")
        if isinstance(error, MemoryError) or re.search(NO_MEMORY, str(error)):
            fail(
                parser,
                f"not enough memory ({shorten(error, 200) or 'MemoryError'}); lower the batch, crop, image or "
                "network size, or the number of processes",
            )
        if "DataLoader worker" not in str(error):
            raise
        fail(
            parser,
            "a process that loads data was killed, probably for lack of memory; with fewer --num_workers "
            f"{how_to_go_on(parser)}",
        )
    finally:
        signal.signal(signal.SIGTERM, previous)


def check_texts(parser, args):
    """Refuse values that can only be an accident: empty ones (--weights "$UNSET"), and what is no text."""
    flags = {action.dest: action.option_strings[0] for action in parser._actions if action.option_strings}
    for name, value in vars(args).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and (not text or CONTROL.search(text)):
                what = "holds characters that are no text" if text else "is empty"
                fail(parser, f"{flags.get(name, name)}: {text!r} {what}")


def how_to_go_on(parser):
    """What continues a run of this script that was cut off."""
    resumes = any(action.dest == "resume" for action in parser._actions)
    return "--resume continues" if resumes else "run it again and it continues"


def explain_os_error(error, go_on):
    """One line for an operating-system error: what, where, what to do. go_on: what continues the run."""
    where = error.filename or "the output folder"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = f"free some space, then {go_on}" if full else "check the path and its permissions"
    return f"{where}: {error.strerror or error}; {hint}"


def fail(parser, message):
    print(f"{Path(parser.prog).name}: error: {shorten(message, 1500)}", file=sys.stderr)
    sys.exit(2)
