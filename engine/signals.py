"""SIGINT and SIGTERM of a training: it ends after its current step, and can go on."""

import signal
import sys

from tool.cli import Interrupted


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
