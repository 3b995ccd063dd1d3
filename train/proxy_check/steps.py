"""The steps at which a training is checked, for at most a tenth of its time."""

from dataclasses import dataclass
from math import ceil

MAX_CHECKS = 10
MAX_COST = 0.1  # of the time that training takes


@dataclass(frozen=True, slots=True)
class CheckSteps:
    """Every so many steps, and at the last.

    Attributes:
        every: steps between checks.
        max_steps: of the training.
    """

    every: int
    max_steps: int

    @classmethod
    def at_most(cls, max_steps: int) -> "CheckSteps":
        """The steps of MAX_CHECKS checks, for a recipe that does not give their number."""
        return cls(ceil(max_steps / MAX_CHECKS), max_steps)

    def is_due(self, step: int) -> bool:
        return step % self.every == 0 or step == self.max_steps

    def affordable(self, step: int, step_s: float, check_s: float, spent_s: float) -> "CheckSteps":
        """The closest steps, at multiples of `every`, whose checks cost at most MAX_COST.

        Args:
            step: the one just checked.
            step_s: what a step of training takes.
            check_s: what a check takes.
            spent_s: on checks so far, this one and loading included.
        """
        left_s = MAX_COST * step_s * self.max_steps - spent_s
        num_affordable = left_s / check_s
        for every in range(self.every, self.max_steps, self.every):
            wider = CheckSteps(every, self.max_steps)
            steps = range(step + 1, self.max_steps + 1)
            if sum(map(wider.is_due, steps)) <= num_affordable:
                return wider
        return CheckSteps(self.max_steps, self.max_steps)
