"""A cluster whose REST interface speaks https with those only who show a certificate."""

import sys
import time

import pytest
from answers import assert_as_uninterrupted, read_answers, read_events
from certificates import Authority
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key, pkcs12
from own_cluster import SLOTS, cluster_of
from workloads import make_topics, settings_of, shipped_as, shoppers

from flink_jobs.console import CommandError
from flink_jobs.events_producer import produce_events
from flink_jobs.pipelines import load_pipeline
from flink_jobs.rest_client import RestError
from flink_jobs.submission import cluster_rest, find_job, submit_job

pytestmark = pytest.mark.integration

PASSWORD = "of-the-keystore"


def stores(folder, authority, signed):
    """The cluster's own key stores, as Flink's options."""
    encryption = BestAvailableEncryption(PASSWORD.encode())
    certificate = x509.load_pem_x509_certificate(signed.certificate.read_bytes())
    key = load_pem_private_key(signed.key.read_bytes(), None)
    trusted = pkcs12.PKCS12Certificate(x509.load_pem_x509_certificate(authority.file.read_bytes()), None)
    (folder / "own.p12").write_bytes(pkcs12.serialize_key_and_certificates(b"own", key, certificate, None, encryption))
    (folder / "trusted.p12").write_bytes(pkcs12.serialize_java_truststore([trusted], encryption))
    return {
        "security.ssl.rest.enabled": True,
        "security.ssl.rest.authentication-enabled": True,
        "security.ssl.algorithms": "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",  # its key is on a curve
        "security.ssl.rest.keystore": str(folder / "own.p12"),
        "security.ssl.rest.keystore-password": PASSWORD,
        "security.ssl.rest.key-password": PASSWORD,
        "security.ssl.rest.truststore": str(folder / "trusted.p12"),
        "security.ssl.rest.truststore-password": PASSWORD,
    }


def wait_for_slots(settings, jobmanager):
    deadline = time.monotonic() + 90
    while True:
        try:
            if cluster_rest(settings).overview()["slots-total"] >= SLOTS:
                return
        except RestError as error:
            last = str(error)
        assert jobmanager.poll() is None
        assert time.monotonic() < deadline, last
        time.sleep(0.2)


def test_a_job_is_submitted_watched_and_stopped_by_who_shows_a_certificate_and_nobody_else(broker, tmp_path):
    (tmp_path / "mine.py").write_text(shipped_as("locked-cluster", "include_features=True"))
    pipeline = load_pipeline(str(tmp_path / "mine.py"))
    make_topics(broker, pipeline)
    records, _ = shoppers(1_000)
    produce_events(broker.bootstrap, pipeline.events.topic, records, None)
    authority, other = Authority(tmp_path / "keys"), Authority(tmp_path / "other")
    me, stranger = authority.sign("me", password="of-my-key"), other.sign("stranger")
    (tmp_path / "password").write_text("of-my-key\n")
    options = stores(tmp_path, authority, authority.sign("flink"))
    plain = settings_of(broker, tmp_path / "home", parallelism=SLOTS, worker_python=sys.executable)
    with cluster_of(tmp_path / "cluster", plain, **options) as (place, jobmanager):
        told = {"cluster": f"https://{place}", "tls_ca_file": authority.file}
        mine = {"tls_certificate_file": me.certificate, "tls_key_file": me.key}
        settings = plain.model_copy(update={**told, **mine, "tls_key_password_file": tmp_path / "password"})
        wait_for_slots(settings, jobmanager)
        theirs = {"tls_certificate_file": stranger.certificate, "tls_key_file": stranger.key}
        for refused in (told, {**told, **theirs}, {"cluster": f"https://{place}"}, {"cluster": f"http://{place}"}):
            with pytest.raises((RestError, CommandError), match="did not answer"):
                cluster_rest(plain.model_copy(update=refused)).overview()
        job = submit_job(pipeline, str(tmp_path / "mine.py"), settings)
        job.wait_until_running()
        job.wait_until_caught_up()
        found = find_job(pipeline, settings)
        assert found is not None
        found.rest.stop((tmp_path / "savepoints").as_uri())
    events = read_events(broker, pipeline)
    answers = read_answers(broker, pipeline)
    assert answers.predictions.keys() | answers.dead_letters.keys() == {event.place for event in events}
    assert_as_uninterrupted(pipeline, events, answers.predictions)
