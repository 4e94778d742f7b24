"""The job's two operators that run in the JVM: gather records into batches, and take batches of outputs apart.

They are Java source beside this file, handed to Flink the way its SQL planner hands over the code that it generates:
as text, which the task compiles when it starts. So there is no jar of ours to build, to ship or to keep in step.
"""

from pathlib import Path
from typing import Any

JVM_SOURCES = Path(__file__).resolve().parent / "jvm"


def add_operator(stream: Any, name: str, class_name: str, output_type: Any, *references: Any) -> Any:
    """Add the operator of `jvm/<class_name>.java` behind a stream.

    Args:
        stream: Java `DataStream`.
        name: The operator's name, and with its version its uid.
        class_name: Of an operator whose constructor takes what `CodeGenOperatorFactory` hands over.
        output_type: Java `TypeInformation` of what it gives.
        references: Java objects, or what py4j makes into them: the first argument of that constructor.

    Returns:
        The Java `DataStream` behind it.
    """
    from pyflink.java_gateway import get_gateway

    jvm: Any = get_gateway().jvm
    environment, objects = stream.getExecutionEnvironment(), object_array(*references)
    source = (JVM_SOURCES / f"{class_name}.java").read_text("utf-8")
    runtime, streaming = jvm.org.apache.flink.table.runtime, jvm.org.apache.flink.streaming.api
    generated = runtime.generated.GeneratedOperator(
        class_name, source, objects, jvm.org.apache.flink.configuration.Configuration()
    )
    added = streaming.transformations.OneInputTransformation(
        stream.getTransformation(),
        name,
        runtime.operators.CodeGenOperatorFactory(generated),
        output_type,
        environment.getParallelism(),
    )
    added.setUid(f"{name}-v1")
    environment.addOperator(added)
    return streaming.datastream.DataStream(environment, added)


def object_array(*objects: Any) -> Any:
    """A Java `Object[]` of Java objects, or of what py4j makes into them."""
    from pyflink.java_gateway import get_gateway

    gateway: Any = get_gateway()
    array = gateway.new_array(gateway.jvm.Object, len(objects))
    for place, each in enumerate(objects):
        array[place] = each
    return array


def int_array(numbers: list[int]) -> Any:
    """A Java `int[]`."""
    from pyflink.java_gateway import get_gateway

    gateway: Any = get_gateway()
    array = gateway.new_array(gateway.jvm.int, len(numbers))
    for place, number in enumerate(numbers):
        array[place] = number
    return array
