"""How long a synthetic patient takes to make and to write, against the bars: 5 s (512²) and 2 s (256²), 60 slices."""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

from LungSegmentationLib.phantom import PhantomOptions, make_patient, write_patient

REPEATS = 3


def main() -> None:
    make_patient(0, 0, PhantomOptions(in_plane=64, slices=4))
    print("60 slices     make    write    total   processor     bar   bar/total")
    with tempfile.TemporaryDirectory() as folder:
        write_patient(make_patient(0, 0, PhantomOptions(in_plane=64, slices=4)), Path(folder))
        for in_plane, bar in ((256, 2.0), (512, 5.0)):
            runs = []
            for index in range(REPEATS):
                start, used = time.perf_counter(), time.process_time()
                patient = make_patient(1, index, PhantomOptions(in_plane=in_plane, slices=60))
                made = time.perf_counter()
                write_patient(patient, Path(folder))
                end = time.perf_counter()
                runs.append((end - start, made - start, end - made, time.process_time() - used))
            total, make, write, processor = min(runs)
            times = f"{make:6.2f} s {write:6.2f} s {total:6.2f} s   {processor:6.2f} s"
            print(f"{f'{in_plane}²':9s} {times}  {bar:4.1f} s   {bar / total:6.2f}×")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
