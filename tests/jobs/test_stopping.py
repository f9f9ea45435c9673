"""What asks a process to stop ends it as Ctrl-C does, whatever a library makes of it."""

import os
import signal

import pytest

from vidssl.jobs._stopping import terminated_like_ctrl_c


def swallowed() -> None:
    """Make another error of an interruption, as a library in C may."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        raise ValueError("could not determine the shape") from None


def test_an_error_that_comes_of_the_signal_is_the_signal() -> None:
    with pytest.raises(KeyboardInterrupt), terminated_like_ctrl_c():
        swallowed()


def test_an_error_without_a_signal_stays_what_it_is() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="a bug"), terminated_like_ctrl_c():
        raise ValueError("a bug")
    assert signal.getsignal(signal.SIGTERM) is before
