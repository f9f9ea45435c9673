"""Written videos read back: what was put in comes out, and a failure leaves nothing behind."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from vidssl.errors import OutputError
from vidssl.video.write import write_video


def ramp(count: int, height: int = 32, width: int = 48) -> list[NDArray[np.uint8]]:
    """Grey frames, each brighter than the one before by 8."""
    return [np.full((height, width, 3), 20 + 8 * n, dtype=np.uint8) for n in range(count)]


def decode(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_every_frame_comes_back_in_order_and_size(tmp_path: Path) -> None:
    path = tmp_path / "ramp.mp4"
    frames = ramp(20)
    write_video(path, iter(frames), 10)
    back = decode(path)
    assert back.shape == (20, 32, 48, 3)
    assert np.abs(back.astype(int) - np.stack(frames)).max() <= 3  # 8 would be a neighbour's
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert video.codec_context.name == "h264"
        assert float(video.average_rate or 0) == 10.0
        assert not container.streams.audio


def test_key_frames_are_no_farther_apart_than_asked(tmp_path: Path) -> None:
    path = tmp_path / "gop.mp4"
    write_video(path, ramp(25), 10, gop=5)
    with av.open(str(path)) as container:
        keys = [n for n, f in enumerate(container.decode(video=0)) if f.key_frame]
    assert keys[0] == 0
    assert max(np.diff([*keys, 25])) <= 5


@pytest.mark.parametrize("seconds", [1.0, 2.0, 3.0])  # shorter than, as long as, longer than it
def test_sound_comes_back_at_its_pitch_and_length(tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "tone.mp4"
    rate = 16_000
    tone = 0.5 * np.sin(2 * np.pi * 500 * np.arange(int(seconds * rate)) / rate)
    write_video(path, ramp(20), 10, tone.astype(np.float32), audio_rate=rate)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
        heard = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    assert len(heard) / rate == pytest.approx(seconds, abs=0.15)  # AAC pads its ends
    middle = heard[2000 : 2000 + 8000]  # 0.5 s: one bin is 2 Hz, so 500 Hz is bin 250
    assert np.abs(np.fft.rfft(middle)).argmax() == 250
    assert len(decode(path)) == 20


def test_the_same_frames_make_the_same_file(tmp_path: Path) -> None:
    frames, tone = ramp(10), np.linspace(-0.5, 0.5, 8000, dtype=np.float32)
    for name in ("one.mp4", "two.mp4"):
        write_video(tmp_path / name, frames, 10, tone)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_a_failure_on_the_way_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"old")

    def breaking() -> Iterator[NDArray[np.uint8]]:
        yield from ramp(5)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_video(path, breaking(), 10, np.zeros(100, dtype=np.float32))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["video.mp4"]


def test_frames_that_cannot_be_encoded_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(path, [], 10)
    with pytest.raises(ValueError, match=r"even height and width, got \(31, 48, 3\)"):
        write_video(path, ramp(2, height=31), 10)
    with pytest.raises(ValueError, match=r"\(32, 48, 3\), got uint8 \(32, 50, 3\)"):
        write_video(path, [*ramp(1), *ramp(1, width=50)], 10)
    assert not list(tmp_path.iterdir())


def test_a_name_that_cannot_be_taken_is_reported(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").mkdir()
    with pytest.raises(OutputError, match=r"video\.mp4: cannot be written"):
        write_video(tmp_path / "video.mp4", ramp(2), 10)
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]
