"""Memory and open files over many reads, for each decoder that loads.

    python tools/bench/reads.py [--reads 10000] [--videos SOURCE] [--decoder NAME]...

Each read opens a video anew, takes 8 frames at random times and closes it. Printed are the memory
that is resident after each tenth of the reads, the slope over the second half, and the open files.
"""

import argparse
import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from vidssl.jobs.bench import render
from vidssl.sources import scan
from vidssl.video.backends import MODULES, available
from vidssl.video.probe import probe
from vidssl.video.reader import Decoder, open_reader


def resident_kib() -> int:
    """Return the resident memory of this process in KiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024


def measure(decoder: Decoder, locations: list[str], reads: int) -> None:
    """Read and print; in a process of its own for each decoder."""
    rng = np.random.default_rng(0)
    lengths_s = [probe(location).duration_s for location in locations]
    resident, files = [], []
    for number in range(reads):
        place = int(rng.integers(len(locations)))
        with open_reader(locations[place], decoder) as reader:
            reader.frames_at(rng.uniform(0, lengths_s[place], 8))
        if (number + 1) % max(1, reads // 10) == 0:
            gc.collect()
            resident.append(resident_kib())
            files.append(len(os.listdir("/proc/self/fd")))
    half = len(resident) // 2
    slope = np.polyfit(np.arange(half, len(resident)), resident[half:], 1)[0] * 10 / reads * 1000
    sys.stdout.write(
        f"{decoder}: {reads} reads, resident MiB {[round(k / 1024) for k in resident]}, "
        f"{slope:+.1f} KiB per 1000 reads over the second half, open files {files}\n"
    )


def main() -> None:
    """Measure each decoder in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reads", type=int, default=10_000)
    parser.add_argument("--videos", help="what to read; else small videos are rendered")
    parser.add_argument("--decoder", action="append", help="one of those to measure")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        measure(options.decoder[0], scan(options.videos), options.reads)
        return
    found = available()
    with tempfile.TemporaryDirectory() as folder:
        if options.videos is None:
            render(Path(folder) / "videos", videos=4, seconds=2, size=(64, 96))
        for decoder in options.decoder or [name for name in MODULES if found[name].version]:
            command = [sys.executable, __file__, "--here", "--decoder", decoder]
            command += ["--reads", str(options.reads)]
            command += ["--videos", options.videos or str(Path(folder) / "videos")]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
