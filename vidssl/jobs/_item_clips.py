"""The clips of videos that are scored or probed, each of them or the reason why not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from vidssl.data.clips import ClipPlan, ClipReading, ClipSample
from vidssl.data.samples import Failed, Samples
from vidssl.jobs._tested import Item
from vidssl.recognition.protocol import Protocol
from vidssl.video.storage import Location


class ItemClips(Samples[ClipPlan, ClipSample]):
    """The clips of each item; nothing takes the place of one that cannot be read."""

    def __init__(
        self,
        items: Sequence[Item],
        duration_s: Mapping[Location, float],
        protocol: Protocol,
        reading: ClipReading,
    ) -> None:
        """Take items whose videos are there, and how their clips are chosen and read."""
        self.items, self.duration_s = items, duration_s
        self.protocol, self.reading = protocol, reading

    @property
    def read(self) -> Callable[[ClipPlan], ClipSample]:
        """What reads a plan."""
        return self.reading

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    def plan(self, position: int, attempt: int = 0) -> ClipPlan | None:
        """Return the clips of an item, between its times if it has some."""
        if attempt or position >= len(self):
            return None
        item = self.items[position]
        assert item.path is not None
        length_s = self.duration_s[item.path]
        start_s = item.start_s or 0.0
        end_s = length_s if item.end_s is None else min(item.end_s, length_s)
        times_VT = start_s + self.protocol.times(max(end_s - start_s, 0.0))
        return ClipPlan(item.path, times_VT, 0)

    def tell(self, sample: ClipSample, failed: Failed) -> ClipSample:
        """Return the sample with what failed before it."""
        return replace(sample, failed=failed)

    def lost(self, plan: ClipPlan, failed: Failed) -> ClipSample:
        """Return an empty sample in place of one that cannot be read."""
        return ClipSample(plan.location, (), (), 0, failed)
