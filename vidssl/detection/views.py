"""The views of a key frame over which a detector's scores are averaged at test time.

Feichtenhofer et al., "SlowFast Networks", ICCV 2019, https://arxiv.org/abs/1812.03982, section 5,
test at several short sides and mirrored, without saying which (v2.2: 29.8 with one view of 16x8,
30.7 with these). Every view is of the whole picture, and what is averaged are the sigmoid scores,
with equal weights.

Several clips of a key frame are ours: the papers test one. The middles of N clips lie a stride's
Nth part apart, evenly about the key frame, so that together they read the span of one clip N times
as densely. N is odd: one of them is the clip of a single view.
"""

from dataclasses import dataclass

from vidssl.video.sampling import step_s


@dataclass(frozen=True)
class Views:
    """Short sides in pixels, rising; whether each is seen mirrored too; clips of a key frame."""

    short_sides_px: tuple[int, ...]
    flip: bool = False
    clips: int = 1

    def __post_init__(self) -> None:
        """Refuse views that are none, or that would count twice."""
        sides = self.short_sides_px
        if not sides or min(sides) < 1 or list(sides) != sorted(set(sides)):
            raise ValueError(f"expected rising short sides, got {sides}")
        if self.clips < 1 or self.clips % 2 == 0:
            raise ValueError(f"expected an odd number of clips, got {self.clips}")

    @property
    def count(self) -> int:
        """How many scores are averaged."""
        return len(self.pictures) * self.clips

    @property
    def pictures(self) -> tuple[tuple[int, bool], ...]:
        """What is seen of each clip: a short side, and whether it is mirrored."""
        ways = (False, True) if self.flip else (False,)
        return tuple((side, way) for side in self.short_sides_px for way in ways)

    def shifts_s(self, stride: int) -> tuple[float, ...]:
        """Return the middle of each clip in seconds from the key frame, for a stride at 30 fps."""
        places = (number - (self.clips - 1) / 2 for number in range(self.clips))
        return tuple(place * step_s(stride) / self.clips for place in places)

    def told(self, stride: int) -> str:
        """Return what they are in words, for a score's fingerprint."""
        sides = ", ".join(map(str, self.short_sides_px))
        noun = "short side" if len(self.short_sides_px) == 1 else "short sides"
        parts = [f"{noun} {sides} px"]
        if self.flip:
            parts.append("mirrored too")
        if self.clips > 1:
            shifts_s = ", ".join(f"{shift_s:+.3f}" for shift_s in self.shifts_s(stride))
            parts.append(f"clips at {shifts_s} s")
        return f"{self.count} ({'; '.join(parts)})"
