"""A failure is told in one line: what Python raised, else the innermost Java cause."""

from flink_jobs.rest_client import root_cause_line

JAVA = """org.apache.flink.runtime.JobException: Recovery is suppressed by NoRestartBackoffTimeStrategy
\tat org.apache.flink.runtime.executiongraph.Handler.handle(Handler.java:180)
Caused by: org.apache.kafka.common.errors.TimeoutException: Timeout expired after 60000ms
\tat org.apache.kafka.clients.Producer.send(Producer.java:1)
\t... 15 more
"""
PYTHON = """java.lang.RuntimeException: Failed to close remote bundle
\tat org.apache.flink.Runner.finishBundle(Runner.java:444)
Caused by: java.lang.RuntimeException: Error received from SDK harness for instruction 1: \
Traceback (most recent call last):
  File "sdk_worker.py", line 311, in _execute
    response = task()
               ^^^^^^
  File "sdk_worker.py", line 386, in <lambda>
    lambda: self.create_worker().do_instruction(request), request)
models.manifest.ModelMismatchError: model purchase 2: feature count_1h is not in the pipeline

\tat org.apache.beam.Something(Something.java:180)
"""


def test_the_innermost_java_cause_is_told():
    assert root_cause_line(JAVA) == (
        "org.apache.kafka.common.errors.TimeoutException: Timeout expired after 60000ms"
    )


def test_what_python_raised_is_told():
    assert root_cause_line(PYTHON) == (
        "models.manifest.ModelMismatchError: model purchase 2: feature count_1h is not in the pipeline"
    )


def test_no_trace_is_no_crash():
    assert root_cause_line("") == "unknown failure"


def test_a_program_that_is_not_there_is_named():
    trace = (
        'java.io.IOException: Cannot run program "/no/python": error=2, No such file or directory\n'
        "\tat java.base/java.lang.ProcessBuilder.start(Unknown Source)\n"
        "Caused by: java.io.IOException: error=2, No such file or directory\n"
        "\t... 3 more\n"
    )
    assert "/no/python" in root_cause_line(trace)
