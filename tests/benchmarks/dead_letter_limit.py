"""What counting dead letters costs an output record: `python -m tests.benchmarks.dead_letter_limit` (10 s).

The class that counts is taken out of `OutputRecords.java` and called alone in Flink's JVM, as the job calls it.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

from flink_jobs.environment import prepare_process
from flink_jobs.jvm_operators import JVM_SOURCES

CALLS, ROUNDS, WINDOW = 50_000_000, 5, 10_000
TIMING = """
public class LimitTiming {
    public static double nanosACall(int calls, int window, int refusedOf1000) {
        byte[] reason = "wrong_type".getBytes();
        DeadLetterLimit limit = new DeadLetterLimit(window, window);
        long reached = 0;
        long begin = System.nanoTime();
        for (int i = 0; i < calls; i++) {
            limit.count(i % 1000 < refusedOf1000, reason);
            reached += limit.isReached() ? 1 : 0;
        }
        long took = System.nanoTime() - begin;
        return reached > 0 ? -1.0 : (double) took / calls;
    }
"""


def main() -> None:
    """Print nanoseconds a record, for good streams and for one with many dead letters."""
    source = (JVM_SOURCES / "OutputRecords.java").read_text("utf-8")
    imports = "import java.nio.charset.StandardCharsets;\nimport java.util.ArrayList;\nimport java.util.List;\n"
    begin = source.index("    private static class DeadLetterLimit")
    with tempfile.TemporaryDirectory() as logs:
        prepare_process(Path(logs))
        from pyflink.java_gateway import get_gateway

        jvm: Any = get_gateway().jvm
        loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
        compile_java = jvm.org.apache.flink.table.runtime.generated.CompileUtils.compile
        timing = compile_java(loader, "LimitTiming", f"{imports}{TIMING}{source[begin:]}")
        integer = jvm.java.lang.Integer.TYPE
        kinds = get_gateway().new_array(jvm.java.lang.Class, 3)
        for place in range(3):
            kinds[place] = integer
        method = timing.getMethod("nanosACall", kinds)
        for refused in (0, 1, 500):
            arguments = get_gateway().new_array(jvm.java.lang.Object, 3)
            for place, number in enumerate((CALLS, WINDOW, refused)):
                arguments[place] = number
            rounds = [float(method.invoke(None, arguments)) for _ in range(ROUNDS)]
            middle = statistics.median(rounds[1:])
            print(f"{refused / 10:g} % dead letters: {middle:.2f} ns a record ({min(rounds):.2f} to {max(rounds):.2f})")


if __name__ == "__main__":
    main()
