"""`millrace serve`: scores over HTTP."""

import gc
import importlib.util

from flink_jobs.console import CommandError, next_steps, say, show_json
from flink_jobs.kafka_admin import topic_partitions
from flink_jobs.settings import Settings
from udfs.pipeline import Pipeline

_KEPT_ALIVE_S = 30
_COLLECTED_AFTER = 50_000
"""New objects that the collector waits for: by default it goes through everything that waits, again and again."""


def run_serve_command(
    pipeline: Pipeline,
    name: str,
    settings: Settings,
    *,
    host: str,
    port: int,
    most_in_flight: int,
    timeout_ms: int,
    as_json: bool,
) -> None:
    """Serve until Ctrl-C.

    Raises:
        CommandError: The pipeline answers no requests, its topics are not there, or FastAPI is not installed.
    """
    if pipeline.requests_topic is None:
        raise CommandError(f"{name} answers no requests: write requests=Requests() in it, and run it again")
    missing = [each for each in ("fastapi", "uvicorn") if importlib.util.find_spec(each) is None]
    if missing:
        raise CommandError(f"{' and '.join(missing)} not installed: `pip install 'millrace[serve]'`")
    topics = pipeline.requests_topic, pipeline.reply_topics[0]
    lacking = set(topics) - set(topic_partitions(settings.bootstrap, topics, settings.kafka_properties))
    if lacking:
        raise CommandError(
            f"topic {', '.join(sorted(lacking))} does not exist; create it with `millrace topics create {name}`"
        )
    import uvicorn

    from flink_jobs.serve_app import create_app

    app = create_app(pipeline, settings, most_in_flight=most_in_flight, timeout_ms=timeout_ms)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if as_json:
        show_json({"url": url, "requests": topics[0], "replies": topics[1], "guarantee": settings.guarantee})
    else:
        say(f"scores of {name} at {url}/score, described at {url}/docs; Ctrl-C ends")
        if settings.guarantee == "exactly-once":
            say(f"with exactly-once a reply takes a checkpoint ({settings.checkpoint_interval_ms} ms)")
        body = """-H 'content-type: application/json' -d '{"entity": "...", "fields": {}}'"""
        next_steps((f"curl {url}/score {body}", "asks for a score"))
    gc.freeze()
    gc.set_threshold(_COLLECTED_AFTER)
    uvicorn.run(
        app,
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        # more connections than requests in flight: who waits for an error is told, and not left hanging
        limit_concurrency=2 * most_in_flight + 50,
        timeout_keep_alive=_KEPT_ALIVE_S,
        timeout_graceful_shutdown=5,
        server_header=False,
        proxy_headers=False,  # nobody is told the caller's address
    )
    if not as_json:
        say("stopped")
