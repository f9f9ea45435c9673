"""The events of a run as a person reads them; one of which nothing is known here, key by key."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

NAMED = 5
"""Of many videos, these are named."""
Event = Mapping[str, Any]


def in_words(event: Event, batch: int | None = None) -> str:
    """Return what an event says besides its name and time; ``batch`` is the clips of a step."""
    say = WORDS.get(str(event.get("event")))
    said = say(event, batch) if say is not None else None
    return _as_it_is(event) if said is None else said


def history(events: Sequence[Event], batch: int | None = None) -> str:
    """Return a sentence on what did not go smoothly, or nothing: stops, failures, steps undone."""
    starts = [event.get("step") for event in events if event.get("event") == "start"]
    count = {
        kind: sum(event.get("event") == kind for event in events)
        for kind in ("interrupted", "failed", "rolled back")
    }
    parts = []
    if len(starts) > 1:
        steps = ", ".join(str(step) for step in starts[1:])
        parts.append(f"went on {_times(len(starts) - 1)} (after step {steps})")
    if count["interrupted"]:
        parts.append(f"was stopped {_times(count['interrupted'])}")
    if count["failed"]:
        parts.append(f"failed {_times(count['failed'])}")
    if count["rolled back"]:
        undone = sum(_undone(event) or 0 for event in events if event.get("event") == "rolled back")
        times = _times(count["rolled back"])
        parts.append(f"rolled back {times} ({_counted(undone, batch)} left out)")
    return f"The training {', '.join(parts)}." if parts else ""


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _as_it_is(event: Event) -> str:
    return ", ".join(
        f"{key}: {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in event.items()
        if key not in {"event", "time"}
    )


def _start(event: Event, batch: int | None) -> str | None:
    step, steps = event.get("step"), event.get("steps")
    if type(step) is not int:
        return None
    of = f" of {steps}" if type(steps) is int else ""
    if step == 0:
        return f"from the beginning{of and f', {steps} steps'}"
    return f"all{of} steps were done" if step == steps else f"goes on after step {step}{of}"


def _rolled_back(event: Event, batch: int | None) -> str | None:
    first, last, undone = event.get("first"), event.get("last"), _undone(event)
    if undone is None:
        return None
    which = f"step {first}" if undone == 1 else f"steps {first} to {last}"
    listed = f"; the clips are listed in {event['clips']}" if "clips" in event else ""
    reason = event.get("reason", "no reason given")
    return f"{which} undone and left out ({_counted(undone, batch)}): {reason}{listed}"


def _counted(steps: int, batch: int | None) -> str:
    clips = f", {steps * batch} clips" if batch else ""
    return f"{steps} step{'s' * (steps != 1)}{clips}"


def _undone(event: Event) -> int | None:
    first, last = event.get("first"), event.get("last")
    return last - first + 1 if type(first) is int and type(last) is int else None


def _set_aside(event: Event, batch: int | None) -> str | None:
    videos = event.get("videos")
    if not isinstance(videos, Mapping):
        return None
    some = [f"{name} ({why})" for name, why in list(videos.items())[:NAMED]]
    more = f" and {len(videos) - NAMED} more" if len(videos) > NAMED else ""
    frames = event.get("keyframes")
    lost = f", with {frames} key frames" if type(frames) is int else ""
    return f"{len(videos)} video{'s' * (len(videos) != 1)}{lost}: {', '.join(some)}{more}"


def _one_set_aside(event: Event, batch: int | None) -> str | None:
    return f"{event['path']}: {event['error']}" if {"path", "error"} <= event.keys() else None


def _alarm(event: Event, batch: int | None) -> str | None:
    return f"step {event['step']}: {event['words']}" if {"step", "words"} <= event.keys() else None


def _changed(event: Event, batch: int | None) -> str | None:
    changes = event.get("changes")
    return "; ".join(map(str, changes)) if isinstance(changes, list) and changes else None


def _text_of(key: str) -> Callable[[Event, int | None], str | None]:
    return lambda event, batch: event[key] if isinstance(event.get(key), str) else None


WORDS: Mapping[str, Callable[[Event, int | None], str | None]] = {
    "start": _start,
    "finished": lambda event, batch: "to the end" if event.keys() <= {"event", "time"} else None,
    "interrupted": _text_of("words"),
    "failed": _text_of("words"),
    "rolled back": _rolled_back,
    "rank lost": _text_of("words"),
    "recipe changed": _changed,
    "learning rate scaled": _text_of("words"),
    "checkpoint passed over": _text_of("reason"),
    "waiting for data": _text_of("advice"),
    "alarm": _alarm,
    "source": _text_of("told"),
    "time origins": _text_of("found"),
    "videos set aside": _set_aside,
    "video set aside": _one_set_aside,
}
"""By the event's name what puts it into words, or None where it is not as expected."""
