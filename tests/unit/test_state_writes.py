"""A commit sends the writes of all keys before it waits for the first answer, and fails if one of them failed."""

import subprocess
import sys

PROGRAM = """
from pyflink.fn_execution.beam.beam_coders import FlinkCoder
from pyflink.fn_execution.coders import BigIntCoder, BinaryCoder
from pyflink.fn_execution.state_impl import RemoteKeyedStateBackend
from flink_jobs.state_writes import send_state_writes_together

class Answer:
    def __init__(self, number, log):
        self.number, self.log = number, log
    def get(self):
        self.log.append(f"answer {self.number}")
        if self.number == broken:
            raise OSError("the JVM refused it")

class Service:
    def __init__(self):
        self.log, self.sent = [], 0
        self._underlying = self
        self._state_cache = self
        self._context = self
    def is_cache_enabled(self):
        return False
    def append_raw(self, key, data):
        self.sent += 1
        self.log.append(f"write {self.sent}")
        return Answer(self.sent, self.log)
    def extend(self, key, coder, elements):
        return self.append_raw(key, elements)
    def clear(self, key):
        return self.append_raw(key, None)

def commit(shards, values=False):
    service = Service()
    backend = RemoteKeyedStateBackend(service, FlinkCoder(BigIntCoder()), None, 1000, 0, 1000)
    log = backend.get_map_state("log", BigIntCoder(), BinaryCoder())
    value = backend.get_value_state("value", BinaryCoder())
    for shard in range(shards):
        backend.set_current_key(shard)
        if values:
            value.update(b"value")
        else:
            log.put(1, b"entry")
    try:
        backend.commit()
    finally:
        said.append(service.log)
    return service.log

said, broken = [], 0
assert commit(2) == ["write 1", "answer 1", "write 2", "answer 2"], "PyFlink no longer waits: the module can go"
assert commit(2, values=True) == ["write 1", "write 2", "answer 2", "write 3", "write 4", "answer 4"]
send_state_writes_together()
send_state_writes_together()
assert commit(3) == ["write 1", "write 2", "write 3", "answer 1", "answer 2", "answer 3"]
assert commit(2, values=True) == ["write 1", "write 2", "write 3", "write 4", *(f"answer {n}" for n in (1, 2, 3, 4))]
broken = 2
for values in (False, True):
    try:
        commit(3, values)
    except OSError as error:
        assert "refused" in str(error)
    else:
        raise SystemExit("a failed write was not told")
"""


def test_a_commit_sends_all_writes_before_it_waits_and_tells_of_one_that_failed():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
