"""The pixels and the sound of a playground video, from its scenario.

Actors are cut from photographs, tinted, and carry a handwritten digit; the background is another
piece of the same photographs under one of four treatments. A slow camera pans, the light changes,
the sensor is noisy.

Array suffixes: H and W pixels, S texels of a sprite, N pixels of a patch, T audio samples.
"""

import colorsys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidssl.sources._scenario import (
    FPS,
    HEIGHT,
    WIDTH,
    Actor,
    Draw,
    Scenario,
    Visit,
    cosine,
    outline,
    sine,
)

Pixels = NDArray[np.float32]

AUDIO_RATE = 16_000
_TEXELS = 64
_EXTENT = 1.08  # a sprite reaches this far past the farthest vertex, so that its border is clear
_PAN_PX = 10
_MARGIN = _PAN_PX + 2
_NOISE = 3.0
_SPARE_NOISE = 24

# Gain of red, green, blue and gamma by treatment; the photograph is the part before it.
_TREATMENTS = {
    "day": ((1.0, 1.0, 0.96), 0.9),
    "night": ((0.30, 0.38, 0.62), 1.1),
    "dusk": ((0.85, 0.55, 0.42), 1.1),
}
_PHOTOS = {"temple": 0, "garden": 1}


@dataclass(frozen=True)
class Pictures:
    """What everything is cut from: two photographs and handwritten digits, values 0 to 1."""

    photos: tuple[Pixels, Pixels]
    """Each ``(H, W, 3)``, RGB, at least 130 x 160."""
    digits: Pixels
    """``(N, 8, 8)``."""


def frames(
    scenario: Scenario, pictures: Pictures, only: frozenset[int] | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Give the frames of a video in order, each ``(H, W, 3)``, RGB.

    ``only`` are the numbers of the visits to draw; None draws all of them.
    """
    sprites = [sprite(actor, pictures) for actor in scenario.actors]
    shown = [v for n, v in enumerate(scenario.visits) if only is None or n in only]
    scenery = _scenery(scenario, pictures)
    draw = Draw(scenario.seed, scenario.index, 10)
    noise = _noise(draw)
    pan_x, pan_y, light = draw.below(1024), draw.below(1024), draw.below(1024)
    for frame in range(scenario.frames):
        image = _view(
            scenery,
            float(_PAN_PX * sine(pan_x + 3 * frame)),
            float(_PAN_PX * sine(pan_y + 4 * frame)),
        )
        for visit in shown:
            if visit.present(frame):
                _stamp(image, sprites[visit.actor], scenario.actors[visit.actor], visit, frame)
        image *= 1.0 + 0.15 * float(sine(light + 6 * frame))
        y, x = draw.below(_SPARE_NOISE), draw.below(_SPARE_NOISE)
        image += noise[y : y + HEIGHT, x : x + WIDTH]
        yield np.clip(image, 0, 255).astype(np.uint8)


def sprite(actor: Actor, pictures: Pictures) -> Pixels:
    """Return an actor untilted, ``(S, S, 4)``: RGB by coverage, 0 to 255, and coverage, 0 to 1."""
    steps_S = _steps(_TEXELS)
    body_SS = _coverage(outline(actor.shape), steps_S)
    inner_SS = _coverage(outline(actor.shape) * 0.84, steps_S)
    tint_3 = np.array(colorsys.hsv_to_rgb(actor.hue, 0.8, 1.0), dtype=np.float32)
    colour_SS3 = _texture(actor, pictures)[:, :, None] * tint_3
    mark = 0.08 if actor.dark else 1.0
    digit_SS1 = _digit(pictures.digits[actor.digit], steps_S)[:, :, None]
    colour_SS3 += digit_SS1 * (mark - colour_SS3)
    colour_SS3 = mark + inner_SS[:, :, None] * (colour_SS3 - mark)
    return np.concatenate([255 * colour_SS3 * body_SS[:, :, None], body_SS[:, :, None]], axis=2)


def coverage(actor: Actor, visit: Visit, frame: int, pictures: Pictures) -> Pixels:
    """Return how much of each pixel the actor of a visit covers at a frame, ``(H, W)``, 0 to 1."""
    image = np.zeros((HEIGHT, WIDTH, 3), dtype=np.float32)
    look = sprite(actor, pictures)
    look[:, :, :3] = look[:, :, 3:]
    _stamp(image, look, actor, visit, frame)
    return image[:, :, 0]


def sound(scenario: Scenario) -> NDArray[np.float32]:
    """Return the video's sound, ``(T,)`` in -1 to 1 at ``AUDIO_RATE``: each action has its own."""
    total = scenario.frames * AUDIO_RATE // FPS
    track_T = np.zeros(total, dtype=np.float64)
    noise_T = np.random.RandomState(scenario.index).uniform(-1, 1, AUDIO_RATE)
    for visit in scenario.visits:
        ends = [since for since, _ in visit.motions[1:]] + [visit.end]
        for (since, name), end in zip(visit.motions, ends, strict=True):
            _add(track_T, name, since, end, noise_T)
    for what in scenario.interactions:
        _add(track_T, what.kind, what.enter, what.leave, noise_T)
    return np.clip(track_T, -1, 1).astype(np.float32)


def _steps(count: int) -> NDArray[np.float64]:
    """Return the centres of ``count`` texels along one axis, in radii of the actor."""
    return np.asarray(((np.arange(count) + 0.5) / count * 2 - 1) * _EXTENT)


def _coverage(corners_V2: NDArray[np.float64], steps_S: NDArray[np.float64]) -> Pixels:
    """Return the share of each texel inside a polygon, from four points in each."""
    quarter = (steps_S[1] - steps_S[0]) / 4
    fine = np.stack([steps_S - quarter, steps_S + quarter], axis=1).reshape(-1)
    x, y = fine[None, :], fine[:, None]
    inside = np.zeros((len(fine), len(fine)), dtype=bool)
    # Even-odd rule: count the edges to the right of each point.
    for (x1, y1), (x2, y2) in zip(corners_V2, np.roll(corners_V2, -1, axis=0), strict=True):
        if y1 != y2:
            inside ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    size = len(steps_S)
    return np.asarray(inside.reshape(size, 2, size, 2).mean(axis=(1, 3), dtype=np.float32))


def _texture(actor: Actor, pictures: Pictures) -> Pixels:
    """Return the brightness of an actor's piece of photograph, its contrast evened, ``(S, S)``."""
    photo = pictures.photos[actor.photo]
    y = int(actor.crop[0] * (photo.shape[0] - _TEXELS))
    x = int(actor.crop[1] * (photo.shape[1] - _TEXELS))
    grey_SS = photo[y : y + _TEXELS, x : x + _TEXELS].mean(axis=2)
    even_SS = (grey_SS - grey_SS.mean()) / (grey_SS.std() + 0.02)
    return np.asarray(np.clip(0.65 + 0.22 * even_SS, 0.2, 1.0), dtype=np.float32)


def _digit(digit_88: Pixels, steps_S: NDArray[np.float64]) -> Pixels:
    """Return a digit drawn into the middle of a sprite, ``(S, S)``, 0 to 1."""
    at = np.clip((steps_S / 0.48 + 1) * 4 - 0.5, -1, 8)
    rows = np.stack([np.interp(at, np.arange(-1, 9), np.pad(c, 1)) for c in digit_88.T], axis=1)
    both = np.stack([np.interp(at, np.arange(-1, 9), np.pad(row, 1)) for row in rows])
    return both.astype(np.float32)


def _scenery(scenario: Scenario, pictures: Pictures) -> Pixels:
    """Return the background with its margin for the camera, values 0 to 255."""
    name, treatment = scenario.scene.split("_")
    gain, gamma = _TREATMENTS[treatment]
    photo = pictures.photos[_PHOTOS[name]]
    height, width = HEIGHT + 2 * _MARGIN, WIDTH + 2 * _MARGIN
    draw = Draw(scenario.seed, scenario.index, 11)
    y, x = draw.below(photo.shape[0] - height + 1), draw.below(photo.shape[1] - width + 1)
    piece = photo[y : y + height, x : x + width]
    grey = piece.mean(axis=2, keepdims=True)
    # Half the colour is taken away, so that the actors' tints stand out.
    treated = (0.5 * piece + 0.5 * grey) ** gamma * np.array(gain, dtype=np.float32)
    return np.asarray(200 * treated + 20, dtype=np.float32)


def _noise(draw: Draw) -> Pixels:
    """Return sensor noise larger than a frame, to be used at shifting offsets."""
    size = (HEIGHT + _SPARE_NOISE, WIDTH + _SPARE_NOISE, 3)
    return np.random.RandomState(draw.below(2**31)).normal(0, _NOISE, size).astype(np.float32)


def _view(scenery: Pixels, pan_x: float, pan_y: float) -> Pixels:
    """Return the frame-sized part of the scenery that the camera sees, between texels too."""
    y, x = _MARGIN + pan_y, _MARGIN + pan_x
    top, left = int(y), int(x)
    down, right = np.float32(y - top), np.float32(x - left)
    wide = scenery[top : top + HEIGHT + 1, left : left + WIDTH + 1]
    rows = wide[:-1] + down * (wide[1:] - wide[:-1])
    return np.asarray(rows[:, :-1] + right * (rows[:, 1:] - rows[:, :-1]))


def _stamp(image: Pixels, look: Pixels, actor: Actor, visit: Visit, frame: int) -> None:
    """Draw an actor into an image, ``(H, W, 3)``, where its visit has it at a frame."""
    x, y, angle = visit.track[frame - visit.first]
    reach = actor.radius_px + 1.5
    left, right = max(int(x - reach), 0), min(int(x + reach) + 1, WIDTH)
    top, bottom = max(int(y - reach), 0), min(int(y + reach) + 1, HEIGHT)
    if left >= right or top >= bottom:
        return
    dx = (np.arange(left, right) + 0.5 - x)[None, :]
    dy = (np.arange(top, bottom) + 0.5 - y)[:, None]
    sin, cos = float(sine(int(angle))), float(cosine(int(angle)))
    scale = _TEXELS / (2 * _EXTENT * actor.radius_px)
    u = (dx * cos + dy * sin) * scale + (_TEXELS - 1) / 2
    v = (dy * cos - dx * sin) * scale + (_TEXELS - 1) / 2
    patch = _sample(look, v.reshape(-1), u.reshape(-1)).reshape(bottom - top, right - left, 4)
    part = image[top:bottom, left:right]
    part *= 1 - patch[:, :, 3:]
    part += patch[:, :, :3]


def _sample(look: Pixels, row_N: NDArray[np.float64], column_N: NDArray[np.float64]) -> Pixels:
    """Return a sprite between its texels, ``(N, 4)``; past its clear border it stays clear."""
    last = _TEXELS - 1.001
    row_N, column_N = np.clip(row_N, 0, last), np.clip(column_N, 0, last)
    r_N, c_N = row_N.astype(np.intp), column_N.astype(np.intp)
    down = (row_N - r_N).astype(np.float32)[:, None]
    right = (column_N - c_N).astype(np.float32)[:, None]
    flat, at = look.reshape(-1, 4), r_N * _TEXELS + c_N
    upper = flat[at] + right * (flat[at + 1] - flat[at])
    lower = flat[at + _TEXELS] + right * (flat[at + _TEXELS + 1] - flat[at + _TEXELS])
    return np.asarray(upper + down * (lower - upper))


def _add(
    track_T: NDArray[np.float64], name: str, since: int, end: int, noise_T: NDArray[np.float64]
) -> None:
    """Mix the sound of an action from frame ``since`` to ``end`` into the track."""
    begin = max(since * AUDIO_RATE // FPS, 0)
    stop = min(end * AUDIO_RATE // FPS, len(track_T))
    if begin >= stop:
        return
    s_T = np.arange(stop - begin) / AUDIO_RATE
    fade_T = np.minimum(1.0, np.minimum(s_T, s_T[::-1]) * 20)
    track_T[begin:stop] += fade_T * _voice(name, s_T, noise_T)


def _voice(
    name: str, s_T: NDArray[np.float64], noise_T: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the sound of an action over its seconds, ``(T,)``."""

    def tone(hertz: float) -> NDArray[np.float64]:
        return np.asarray(np.sin(2 * np.pi * hertz * s_T))

    def beats(hertz: float, sharpness: float) -> NDArray[np.float64]:
        return np.asarray(np.exp(-sharpness * ((s_T * hertz) % 1.0)))

    if name == "shake":  # a rattle
        return 0.12 * np.resize(noise_T, len(s_T)) * beats(6.0, 6.0)
    if name == "bounce":  # thumps
        return 0.3 * tone(110) * beats(1.5, 8.0)
    if name == "spin":  # a whirr
        return np.asarray(0.08 * np.sin(2 * np.pi * 330 * s_T + 12 * tone(0.7)))
    if name == "chase":  # fast ticks
        return 0.1 * tone(1000) * beats(8.0, 20.0)
    if name == "follow":  # slow ticks
        return 0.1 * tone(600) * beats(2.0, 30.0)
    if name == "meet":  # a chord
        return 0.05 * (tone(523) + tone(659))
    return 0.02 * tone(220)  # glide: a hum
