"""Whether a classifier learns: its loss beside that of always predicting how frequent the classes are."""

from collections import deque

import numpy as np

EARLY = 100  # steps by which a loss has fallen where it is going to
NEAR = 0.95  # of the loss at chance: a mean over some steps is no more exact


def chance_loss(labels):
    """Binary cross entropy of always predicting the frequency of each class. labels: images x C of 0 and 1."""
    p = np.clip(np.mean(labels, axis=0), 1e-9, 1 - 1e-9)
    return float(np.mean(-p * np.log(p) - (1 - p) * np.log(1 - p)))


class Learning:
    """Looks at the classification loss `cls` of the last steps.

    chance: the loss of always predicting the frequencies, times the term's weight; 0: there is nothing to look at.
    advice: what to try where the loss stays there.
    """

    def __init__(self, chance=0.0, advice=""):
        self.chance, self.advice, self.looked = chance, advice, False
        self.last = deque(maxlen=EARLY)

    def add(self, losses):
        """Count a step. losses: {term: number}."""
        if self.chance:
            self.last.append(losses["cls"])

    def stays(self):
        """The loss and what it is at chance, in words, where that is not below; mean of the later half of the steps."""
        loss = np.mean(list(self.last)[len(self.last) // 2 :]) if self.last else -1
        if loss <= NEAR * self.chance:
            return ""
        return f"classification loss {loss:.3f}, {self.chance:.3f} by always predicting how frequent the classes are"

    def early(self, steps):
        """A warning after the first epoch that ends with EARLY steps or more, "" where there is none. steps: so far."""
        if self.looked or steps < EARLY:
            return ""
        self.looked = True
        return f"warning: nothing learned yet: {text}; try {self.advice}" if (text := self.stays()) else ""

    def late(self):
        """A warning at the end of a run, "" where there is none."""
        return f"warning: has learned nothing: {text}; try {self.advice}" if (text := self.stays()) else ""
