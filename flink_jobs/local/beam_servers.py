"""Beam's servers for its Python workers, on loopback: a jar with one class of flink-python's, changed.

A Java machine opens six ports for its Python workers. Beam computes a loopback address for each, tells the worker that
one, and then binds to the port alone, which is all interfaces (`ServerFactory.InetSocketAddressServerFactory`,
`NettyServerBuilder.forPort(address.getPort())`); there is no setting. Here it is `forAddress(address)`. The jar comes
before flink-python's in the class path: in a list that is sorted by name, too.

Changed are bytes, for no Java compiler is here; a class that is not the one these places are of is refused.
"""

import hashlib
import struct
import zipfile
from pathlib import Path

from flink_jobs.local.jars import JarError

CLASS = "org/apache/beam/sdk/fn/server/ServerFactory$InetSocketAddressServerFactory.class"
CLASS_SHA256 = "c1118447c1a3ca918c1a766c1319a42789455667f0ad312689ffabed3849cfe9"
"""Of the class in flink-python 2.2.1, which has Beam's 2.61."""
_BUILDER = "Lorg/apache/beam/vendor/grpc/v1p60p1/io/grpc/netty/NettyServerBuilder;"
_GET_PORT = bytes.fromhex("2b b60018 b80019")
"""aload_1 (the address), invokevirtual getPort, invokestatic forPort."""
_NO_PORT = bytes.fromhex("2b 000000 b80019")
_FOR_PORT, _FOR_ADDRESS = (b"\x01" + struct.pack(">H", len(name)) + name for name in (b"forPort", b"forAddress"))
_OLD_TYPE = struct.pack(">BHH", 12, 201, 202)
"""The constant of forPort's name and type; the type is another method's, too, so the new one is a constant more."""
_COUNT = slice(8, 10)


def write_jar(flink_python: Path, target: Path) -> None:
    """Write the jar; the same bytes each time.

    Args:
        flink_python: Flink's jar of that name.
        target: Where to write.

    Raises:
        JarError: It has another class.
    """
    with zipfile.ZipFile(flink_python) as jar:
        original = jar.read(CLASS)
    if hashlib.sha256(original).hexdigest() != CLASS_SHA256:
        raise JarError(
            f"{flink_python.name} has another {CLASS.rpartition('/')[2]} than flink_jobs/local/beam_servers.py changes"
        )
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as jar:
        jar.writestr(zipfile.ZipInfo(CLASS), bound_to_loopback(original))


def bound_to_loopback(original: bytes) -> bytes:
    """The class with the change."""
    (count,) = struct.unpack(">H", original[_COUNT])
    descriptor = f"(Ljava/net/SocketAddress;){_BUILDER}".encode()
    end = _end_of_constants(original, count)
    changed = original[:end] + b"\x01" + struct.pack(">H", len(descriptor)) + descriptor + original[end:]
    changed = changed[: _COUNT.start] + struct.pack(">H", count + 1) + changed[_COUNT.stop :]
    for old, new in (
        (_GET_PORT, _NO_PORT),
        (_FOR_PORT, _FOR_ADDRESS),
        (_OLD_TYPE, struct.pack(">BHH", 12, 201, count)),
    ):
        assert changed.count(old) == 1
        changed = changed.replace(old, new)
    return changed


def _end_of_constants(content: bytes, count: int) -> int:
    """Where the pool of constants ends (JVM specification, 4.4)."""
    place, number = _COUNT.stop, 1
    while number < count:
        kind = content[place]
        if kind == 1:
            place += 3 + struct.unpack(">H", content[place + 1 : place + 3])[0]
        else:
            place += {7: 3, 8: 3, 15: 4, 16: 3, 5: 9, 6: 9}.get(kind, 5)
        number += 2 if kind in (5, 6) else 1
    return place
