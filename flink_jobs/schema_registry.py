"""A client of a Confluent-compatible schema registry: schemas by id, subjects, registration, compatibility.

Written on `requests`: the client of confluent-kafka would bring httpx, authlib, cachetools and their dependencies into
every worker, for the half dozen requests below. It holds settings only, so it can be pickled into a worker, and opens a
connection for each request, so threads may share it; what never changes, a schema by its id, is asked for once.
"""

import ssl
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth

from flink_jobs.settings import Settings, SettingsError
from flink_jobs.tls_files import client_context, read_secret
from udfs.registered_schema import RegisteredSchema, RegistryUnreachableError, SchemaKind, SchemaUnknownError

TIME_LIMIT_S = 20.0
REQUEST_WAIT_S = 5.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 2.0
UNKNOWN_FOR_S = 10.0
"""An unknown id is asked for again after this, so that a flood of such records is not one of requests."""
REFERENCES_MAX = 100
UNKNOWN_CODES = (40401, 40402, 40403)
"""No such subject, no such version, no such id. Another 404 comes from something that is no registry."""
INVALID_CODES = (42201, 42202, 42203)
INCOMPATIBLE = 409


class SchemaRefusedError(ValueError):
    """The registry does not take a schema: it is invalid or incompatible; the message says why."""


class Reference(NamedTuple):
    """A schema that another one names: under which name, and where it is registered."""

    name: str
    subject: str
    version: int


class SchemaRegistry:
    """The schema registry of the settings.

    Args:
        settings: Its URL, user and certificates. The password is read from its file for each request.
        time_limit_s: How long a request is tried again before `RegistryUnreachableError`.

    Raises:
        SettingsError: No registry is set.
    """

    def __init__(self, settings: Settings, *, time_limit_s: float = TIME_LIMIT_S) -> None:
        if settings.schema_registry is None:
            raise SettingsError(
                "no schema registry: set schema_registry (MILLRACE_SCHEMA_REGISTRY), or start one with "
                "`millrace up --registry`"
            )
        self.urls = [url.strip().rstrip("/") for url in settings.schema_registry.split(",")]
        self._settings, self._time_limit_s = settings, time_limit_s
        self._forget()

    def _forget(self) -> None:
        self._by_id: dict[int, RegisteredSchema] = {}
        self._by_place: dict[tuple[str, int], dict[str, Any]] = {}
        self._unknown: dict[int, float] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> tuple[Settings, float]:
        return self._settings, self._time_limit_s

    def __setstate__(self, state: tuple[Settings, float]) -> None:
        self.__init__(state[0], time_limit_s=state[1])  # type: ignore[misc]  # as it was made

    def by_id(self, schema_id: int) -> RegisteredSchema:
        """The schema of an id, with all that it refers to.

        Raises:
            SchemaUnknownError: The registry has no such id.
            RegistryUnreachableError: It did not answer in time, or is not one.
        """
        found = self._by_id.get(schema_id)
        if found is not None:
            return found
        with self._lock:
            if schema_id not in self._by_id:
                if time.monotonic() < self._unknown.get(schema_id, 0):
                    raise SchemaUnknownError(f"the registry has no schema {schema_id}")
                try:
                    self._by_id[schema_id] = self._read(schema_id, self._get(f"/schemas/ids/{schema_id}"))
                except SchemaUnknownError:
                    if len(self._unknown) >= 10_000:
                        self._unknown.clear()
                    self._unknown[schema_id] = time.monotonic() + UNKNOWN_FOR_S
                    raise
            return self._by_id[schema_id]

    def latest(self, subject: str) -> RegisteredSchema:
        """The newest schema of a subject; errors as of `by_id`."""
        return self._version(subject, "latest")

    def versions(self, subject: str) -> dict[int, RegisteredSchema]:
        """All schemas of a subject by version, in order; errors as of `by_id`."""
        numbers = self._get(f"/subjects/{quote(subject, safe='')}/versions")
        return {number: self._version(subject, number) for number in sorted(numbers)}

    def subjects(self) -> list[str]:
        """Names of all subjects, sorted."""
        return sorted(self._get("/subjects"))

    def compatibility_level(self, subject: str) -> str:
        """What changes the subject allows, like BACKWARD: its own level, or the registry's default."""
        try:
            answer = self._get(f"/config/{quote(subject, safe='')}", {"defaultToGlobal": "true"})
        except SchemaUnknownError:  # Apicurio knows no default of a subject that is not there
            answer = self._get("/config")
        return str(answer.get("compatibilityLevel") or answer.get("compatibility"))

    def register(self, subject: str, kind: SchemaKind, text: str, references: Sequence[Reference] = ()) -> int:
        """Register a schema, or find it if the subject has it.

        Returns:
            Its id.

        Raises:
            SchemaRefusedError: It is invalid, or incompatible with the subject's schemas.
            RegistryUnreachableError: The registry did not answer in time.
        """
        path = f"/subjects/{quote(subject, safe='')}/versions"
        return int(self._post(path, _document(kind, text, references))["id"])

    def compatible(
        self, subject: str, kind: SchemaKind, text: str, references: Sequence[Reference] = ()
    ) -> list[str]:
        """Why a schema is not compatible with those of a subject under its level; nothing when it is.

        A subject that does not exist yet takes any schema.

        Raises:
            SchemaRefusedError: It is invalid.
            RegistryUnreachableError: The registry did not answer in time.
        """
        path = f"/compatibility/subjects/{quote(subject, safe='')}/versions?verbose=true"
        try:
            answer = self._post(path, _document(kind, text, references))
        except SchemaUnknownError:
            return []
        if answer.get("is_compatible"):
            return []
        return [str(one) for one in answer.get("messages") or ["the registry does not say why"]]

    def _version(self, subject: str, version: int | str) -> RegisteredSchema:
        document = self._get(f"/subjects/{quote(subject, safe='')}/versions/{version}")
        return self._read(int(document["id"]), document)

    def _read(self, schema_id: int, document: dict[str, Any]) -> RegisteredSchema:
        references: dict[str, tuple[str, SchemaKind, str]] = {}
        self._collect(document, references, ())
        return RegisteredSchema(schema_id, _kind(document), str(document["schema"]), tuple(references.values()))

    def _collect(
        self,
        document: dict[str, Any],
        found: dict[str, tuple[str, SchemaKind, str]],
        above: tuple[tuple[str, int], ...],
    ) -> None:
        """What a schema refers to, each after what it refers to itself."""
        for reference in document.get("references") or ():
            place = str(reference["subject"]), int(reference["version"])
            if reference["name"] in found:
                continue
            if place in above or len(found) + len(above) >= REFERENCES_MAX:
                raise SchemaUnknownError(
                    f"the references of a schema go round in a circle or are more than {REFERENCES_MAX}: "
                    f"{place[0]} version {place[1]}"
                )
            if place not in self._by_place:
                path = f"/subjects/{quote(place[0], safe='')}/versions/{place[1]}"
                self._by_place[place] = self._get(path, {"deleted": "true"})
            inner = self._by_place[place]
            self._collect(inner, found, (*above, place))
            found[reference["name"]] = reference["name"], _kind(inner), str(inner["schema"])

    def _get(self, path: str, parameters: dict[str, str] | None = None) -> Any:
        return self._request("GET", path, params=parameters)

    def _post(self, path: str, document: dict[str, Any]) -> Any:
        return self._request("POST", path, json=document)

    def _request(self, method: str, path: str, **content: Any) -> Any:
        """The answer's JSON; tried again, at each URL in turn, while nobody answers."""
        deadline = time.monotonic() + self._time_limit_s
        pause_s, attempt = FIRST_PAUSE_S, 0
        while True:
            url = self.urls[attempt % len(self.urls)]
            attempt += 1
            try:
                with self._session(url) as session:
                    response = session.request(method, url + path, timeout=REQUEST_WAIT_S, **content)
                if response.status_code < 500 and response.status_code != 429:
                    return _answer(response, url)
                reason = f"it answers {response.status_code}"
            except requests.RequestException as error:
                reason = _network_reason(error)
                if _is_other_server(error):
                    raise RegistryUnreachableError(
                        f"the schema registry at {url} is not trusted: {reason}; tls_ca_file says who may sign its "
                        "certificate, and schema_registry must have the name that is in it"
                    ) from error
            if time.monotonic() + pause_s > deadline:
                raise RegistryUnreachableError(f"the schema registry at {url} cannot be reached: {reason}")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _session(self, url: str) -> requests.Session:
        settings, session = self._settings, requests.Session()
        session.headers["Accept"] = "application/vnd.schemaregistry.v1+json, application/json"
        session.trust_env = False  # no password of a .netrc, no proxy between a worker and the registry
        if settings.schema_registry_username is not None:
            session.auth = HTTPBasicAuth(settings.schema_registry_username.encode(), _secret(settings))
        if url.startswith("https:"):
            session.mount("https://", _TlsAdapter(client_context(settings, "the schema registry")))
            session.verify = str(settings.tls_ca_file) if settings.tls_ca_file is not None else True
        return session


class _TlsAdapter(HTTPAdapter):
    """Connections by our own TLS context: `requests` itself takes no key that has a password."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._context, **options)


def _secret(settings: Settings) -> bytes:
    return read_secret(settings.schema_registry_password_file, "schema_registry_password_file") or b""


def _document(kind: SchemaKind, text: str, references: Sequence[Reference]) -> dict[str, Any]:
    document: dict[str, Any] = {"schema": text, "schemaType": kind}
    if references:
        document["references"] = [reference._asdict() for reference in references]
    return document


def _kind(document: dict[str, Any]) -> SchemaKind:
    kind: SchemaKind = document.get("schemaType") or "AVRO"  # of another kind it is refused by whoever reads with it
    return kind


def _answer(response: requests.Response, url: str) -> Any:
    try:
        document = response.json()
    except requests.JSONDecodeError:
        document = None
    code, message = 0, ""
    if isinstance(document, dict):
        code, message = document.get("error_code", 0), " ".join(str(document.get("message", "")).split())
    if response.ok and document is not None:
        return document
    if response.status_code in (401, 403):
        raise RegistryUnreachableError(
            f"the schema registry at {url} refuses us ({response.status_code}): check schema_registry_username and "
            "schema_registry_password_file"
        )
    if response.status_code == 404 and code in UNKNOWN_CODES:
        raise SchemaUnknownError(f"the schema registry says: {message}")
    if response.status_code == INCOMPATIBLE or code in INVALID_CODES:
        raise SchemaRefusedError(f"the schema registry refuses it: {message[:500]}")
    raise RegistryUnreachableError(
        f"{url} answers {response.status_code} like no schema registry"
        f"{f' ({message[:200]})' if message else ''}: check schema_registry"
    )


def _is_other_server(error: requests.RequestException) -> bool:
    """Whether the server's certificate was refused, which gets no better by asking again."""
    cause: object = error
    while isinstance(cause, BaseException) and not isinstance(cause, ssl.SSLCertVerificationError):
        inner = cause.args[0] if cause.args else None  # requests wraps urllib3's, which wraps the one of ssl
        cause = getattr(cause, "reason", None) or inner
    return isinstance(cause, ssl.SSLCertVerificationError)


def _network_reason(error: requests.RequestException) -> str:
    """The cause in a few words; the exception's own text repeats the address and whatever else was sent."""
    if isinstance(error, requests.exceptions.SSLError):
        cause = getattr(error.args[0], "reason", error) if error.args else error
        return f"TLS failed ({' '.join(str(cause).split())[:200]})"
    if isinstance(error, requests.Timeout):
        return f"no answer within {REQUEST_WAIT_S:g} s"
    if isinstance(error, requests.ConnectionError):
        return "nothing listens there, or the connection broke"
    return type(error).__name__
