"""Whole numbers that change from epoch to epoch, written as epoch:number,..."""

import dataclasses
import itertools
from typing import TYPE_CHECKING, ClassVar

from tf_lars.errors import InputError
from tf_lars.setting import MOST_EPOCHS, Rule

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclasses.dataclass(frozen=True)
class EpochSchedule:
    """A number by epoch; subclasses say what it is and its range.

    Attributes:
      starts: Pairs `(epoch, number)` of a number and the first epoch, from 0, that has it. The
        first pair is for epoch 0, and epochs rise.
      noun: What the schedule is of, in the plural.
      form: Form of the text.
      values: What the numbers are, in the plural.
      rule: Range of the numbers.
      example: Text of a schedule.
    """

    starts: tuple[tuple[int, int], ...]

    noun: ClassVar[str]
    form: ClassVar[str]
    values: ClassVar[str]
    rule: ClassVar[Rule]
    example: ClassVar[str]

    def __post_init__(self):
        epochs = [epoch for epoch, _ in self.starts]
        rising = all(a < b for a, b in itertools.pairwise(epochs))
        if not (epochs and epochs[0] == 0 and rising and epochs[-1] < MOST_EPOCHS) or not all(
            self.rule.holds(number) for _, number in self.starts
        ):
            raise InputError(
                f"A schedule of {self.noun} is {self.form},... with rising epochs, the first of "
                f"them 0, and {self.values} {self.rule.words}, such as {self.example}. "
                f"Received: {self}."
            )

    def __str__(self) -> str:
        return ",".join(f"{epoch}:{number}" for epoch, number in self.starts)

    @classmethod
    def parse(cls, text: str) -> "Self":
        """Returns the schedule that a text describes.

        Raises:
          InputError: The text does not describe a schedule.
        """
        try:
            pairs = [entry.split(":") for entry in text.split(",")]
            return cls(tuple((int(epoch), int(number)) for epoch, number in pairs))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"A schedule of {cls.noun} is {cls.form},... such as {cls.example}. "
                f"Received: {text!r}."
            ) from error

    def at(self, epoch: int) -> int:
        """Returns the number of an epoch."""
        return [number for first, number in self.starts if first <= epoch][-1]
