"""What every dataset here is: a plan made in the training process, read in a disposable one.

Planning is cheap and knows the whole data set; reading knows one video. So a worker's memory does
not grow with the data set, and a video that takes its worker down is known by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from vidssl.errors import VideoError, listed
from vidssl.video.storage import Location

MAX_FAILURES = 16
"""Videos in a row that may fail before a sample gives up: more are a fault of the storage."""

Failed = tuple[tuple[Location, str], ...]
"""Videos that could not be read, and why."""


class Readable(Protocol):
    """What to read: everything that a process without the data set needs."""

    @property
    def location(self) -> Location:
        """The one video that is read."""


Plan = TypeVar("Plan", bound=Readable)
Sample = TypeVar("Sample")


class Samples(ABC, Generic[Plan, Sample]):
    """Samples by position; the same position gives the same sample in any process."""

    @property
    @abstractmethod
    def read(self) -> Callable[[Plan], Sample]:
        """What turns a plan into its sample, in any process; it raises ``VideoError``."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples of an epoch."""

    @abstractmethod
    def plan(self, position: int, attempt: int = 0) -> Plan | None:
        """Return what to read for ``position`` once ``attempt`` others have failed; None: give up.

        The order in which others take a broken video's place is as fixed as the order itself.
        """

    @abstractmethod
    def tell(self, sample: Sample, failed: Failed) -> Sample:
        """Return the sample with word of the videos that failed before it."""

    def lost(self, plan: Plan, failed: Failed) -> Sample:
        """Return what stands for a position of which nothing could be read.

        Raises:
            VideoError: where nothing can.
        """
        title = f"{len(failed)} videos in a row cannot be read (is the storage there?)"
        raise VideoError(listed(title, [error for _, error in failed], limit=8))

    def __getitem__(self, position: int) -> Sample:
        """Return the sample at ``position``, read in this process without a deadline.

        Raises:
            VideoError: if too many videos fail in a row.
        """
        failed: Failed = ()
        last = None
        while (plan := self.plan(position, len(failed))) is not None:
            last = plan
            try:
                sample = self.read(plan)
            except VideoError as error:
                failed = (*failed, (plan.location, str(error)))
            else:
                return self.tell(sample, failed) if failed else sample
        if last is None:
            raise IndexError(position)
        return self.lost(last, failed)
