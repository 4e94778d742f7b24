"""What others on the machine or in the network can see of what we started: listeners, and traces of a secret."""

import base64
import contextlib
import ipaddress
import json
import os
import urllib.parse
from pathlib import Path

import psutil

from flink_jobs.rest_client import ClusterRest, RestError


def own_processes(*more):
    """This process with all it started, and others with all that they did."""
    found = {}
    for pid in (os.getpid(), *more):
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(pid)
            found |= {each.pid: each for each in (parent, *parent.children(recursive=True))}
    return list(found.values())


def listeners(processes):
    """(address, port, program) of each port of TCP that somebody listens on."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            name, sockets = process.name(), process.net_connections(kind="tcp")
            found |= {(each.laddr.ip, each.laddr.port, name) for each in sockets if each.status == psutil.CONN_LISTEN}
    return found


def listeners_in(table):
    """(address, port, "") of the listeners in /proc/net/tcp or tcp6, for processes in another place."""
    found = set()
    for line in table.splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[3] == "0A":
            address, port = fields[1].split(":")
            # words of four bytes, each in the processor's order
            words = b"".join(bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8))
            found.add((str(ipaddress.ip_address(words)), int(port, 16), ""))
    return found


def beyond_loopback(found):
    """Those of them that are reached from elsewhere."""
    addresses = {each: ipaddress.ip_address(each[0].partition("%")[0]) for each in found}
    return {
        each
        for each, address in addresses.items()
        if not (getattr(address, "ipv4_mapped", None) or address).is_loopback
    }


def process_texts(processes):
    """Command line and environment of each, as everybody with this user's rights reads them."""
    found = {}
    for process in processes:
        for what in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                found[f"{what} of {process.pid}"] = Path(f"/proc/{process.pid}/{what}").read_bytes()
    return found


def file_texts(*folders):
    """Every file below the folders."""
    files = [file for folder in folders for file in Path(folder).rglob("*") if file.is_file()]
    found = {}
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # checkpoints come and go
            found[str(file)] = file.read_bytes()
    return found


def rest_texts(address, job_id):
    """All that Flink's REST interface, and so its page, tells of itself, its processes and a job."""
    rest = ClusterRest(address)
    paths = ["/config", "/overview", "/jobs/overview", "/jobmanager/config", "/jobmanager/environment"]
    paths += ["/jobmanager/logs", "/jobmanager/thread-dump", "/taskmanagers"]
    job = f"/jobs/{job_id}"
    paths += [f"{job}{each}" for each in ("", "/config", "/plan", "/exceptions", "/checkpoints", "/checkpoints/config")]
    paths += [f"{job}/{each}" for each in ("jobmanager/config", "jobmanager/environment", "jobmanager/log-url")]
    for manager in rest.taskmanagers().values():
        paths += [manager, f"{manager}/logs", f"{manager}/thread-dump", f"{manager}/metrics"]
    for vertex in rest.get(job)["vertices"]:
        place = f"{job}/vertices/{vertex['id']}"
        paths += [place, f"{place}/accumulators", f"{place}/metrics", f"{place}/taskmanagers"]
    found = {}
    for path in paths:
        with contextlib.suppress(RestError):  # some are not there in a mini-cluster
            found[path] = rest.text(path).encode()
    return found


def traces(secret, texts):
    """Where a text is, as it is or as it is often written."""
    raw = secret.encode()
    forms = {raw, raw.hex().encode(), urllib.parse.quote(secret).encode(), json.dumps(secret)[1:-1].encode()}
    forms |= {secret.encode("utf-16-le"), secret.encode("utf-16-be")}
    # of base64 those letters that do not depend on what is before and after
    for before in range(3):
        forms.add(base64.b64encode(b"\0" * before + raw)[4:-4])
    return sorted(place for place, content in texts.items() if any(form in content for form in forms))
