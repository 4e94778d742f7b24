"""A bundle's state is tracked as before, only no thread is started for it."""

import subprocess
import sys

PROGRAM = """
import threading
import time
from apache_beam.runners.worker import statesampler
from apache_beam.utils.counters import CounterFactory
from flink_jobs.bundle_sampling import stop_sampling_bundles

def bundle(sampler):
    sampler.start()
    assert statesampler.get_current_tracker() is sampler
    with sampler.scoped_state("step", "process"):
        pass
    running = threading.active_count()
    sampler.stop_if_still_running()
    assert statesampler.get_current_tracker() is None
    assert sampler.state_transition_count > 0
    sampler.reset()
    return running

sampler = statesampler.StateSampler("bundle", CounterFactory())
assert bundle(sampler) == 2, "Beam no longer starts a thread: the module can go"
begun = statesampler.StateSampler("begun", CounterFactory())
begun.start()
stop_sampling_bundles()
begun.stop_if_still_running()
deadline = time.monotonic() + 5
while threading.active_count() > 1 and time.monotonic() < deadline:
    time.sleep(0.01)
assert [bundle(sampler), bundle(sampler)] == [1, 1]
"""


def test_bundles_start_no_thread_and_are_tracked_all_the_same():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
