"""A broker with TLS, passwords, tokens and, if wanted, ACLs; and an identity provider that gives out tokens."""

import base64
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from certificates import Authority
from confluent_kafka.admin import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from flink_jobs.kafka_client import Admin
from flink_jobs.local.broker import Broker
from flink_jobs.local.broker_listeners import LockedListeners
from flink_jobs.local.processes import free_port
from flink_jobs.settings import Settings

PASSWORD, TOKEN_SECRET = "planted-scram-password", "planted-token-secret"
USER = "millrace-user"
TOKEN_FILE = "token file"
SCRAM = {"SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256, "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512}


class LockedBroker:
    """The broker, its certificates, and settings for it."""

    def __init__(self, folder, *, acls=False):
        self.folder = folder
        self.authority = Authority(folder / "pem")
        self.client = self.authority.sign(USER)
        for name, text in (("password", PASSWORD), ("token-secret", TOKEN_SECRET)):
            (folder / name).write_text(text)
        self.provider = IdentityProvider(self.authority.sign("provider"))
        self.listeners = LockedListeners(
            free_port(), free_port(), self.authority.sign("broker").both, self.authority.file, {USER: PASSWORD},
            self.provider.keys_url, acls=acls,
        )  # fmt: skip
        self.broker = Broker.start(folder / "broker", die_with_parent=True, listeners=self.listeners)
        self.admin = Admin(self.broker.bootstrap, None, 15.0)
        for mechanism in SCRAM.values():
            info = ScramCredentialInfo(mechanism, 4096)
            change = UserScramCredentialUpsertion(USER, info, PASSWORD.encode())
            self.admin.client.alter_user_scram_credentials([change])[USER].result(15)

    def settings(self, mechanism, **changes):
        """Settings of somebody who logs in so: by a mechanism of SASL, or SSL for a certificate."""
        port = self.listeners.tls_port if mechanism == "SSL" else self.listeners.sasl_port
        if mechanism == TOKEN_FILE:
            return self._token_settings(port, changes)
        given = {"bootstrap": f"127.0.0.1:{port}", "tls_ca_file": self.authority.file, "restart_attempts": 0}
        if mechanism == "SSL":
            given |= {"tls_certificate_file": self.client.certificate, "tls_key_file": self.client.key}
        else:
            given |= {"kafka_sasl_mechanism": mechanism, "kafka_username": USER}
            given["kafka_password_file"] = self.folder / ("token-secret" if mechanism == "OAUTHBEARER" else "password")
        if mechanism == "OAUTHBEARER":
            given |= {"kafka_token_url": self.provider.url, "kafka_token_ca_file": self.authority.file}
        return Settings(**{**given, **changes})

    def _token_settings(self, port, changes):
        file = self.folder / "token"
        file.write_text(self.provider.token())
        given = {"bootstrap": f"127.0.0.1:{port}", "tls_ca_file": self.authority.file, "restart_attempts": 0}
        return Settings(**{**given, "kafka_sasl_mechanism": "OAUTHBEARER", "kafka_token_file": file, **changes})

    def end(self):
        self.provider.end()
        self.broker.kill()


class IdentityProvider:
    """Gives whoever knows the secret a token, over TLS, and says with which key it was signed, to all."""

    def __init__(self, signed):
        self._key = ec.generate_private_key(ec.SECP256R1())
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self._answer(provider.keys())

            def do_POST(self):
                asked = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                known = "Basic " + base64.b64encode(f"{USER}:{TOKEN_SECRET}".encode()).decode()
                if self.headers["authorization"] != known or asked["grant_type"] != ["client_credentials"]:
                    self.send_error(401)
                else:
                    self._answer({"access_token": provider.token(), "token_type": "Bearer", "expires_in": 600})

            def _answer(self, document):
                content = json.dumps(document).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                # with TLS, the end of a connection alone is no end of an answer
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(signed.certificate, signed.key)
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
        tokens, keys = self._servers
        tokens.socket = context.wrap_socket(tokens.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{tokens.server_port}/token"
        self.keys_url = f"http://127.0.0.1:{keys.server_port}/keys"
        for server in self._servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def keys(self):
        numbers = self._key.public_key().public_numbers()
        x, y = (_text(each.to_bytes(32)) for each in (numbers.x, numbers.y))
        return {"keys": [{"kty": "EC", "crv": "P-256", "kid": "1", "use": "sig", "alg": "ES256", "x": x, "y": y}]}

    def token(self):
        now = int(time.time())
        claims = {"sub": USER, "iss": "test", "aud": "kafka", "iat": now, "exp": now + 600}
        said = ".".join(_text(json.dumps(each).encode()) for each in ({"alg": "ES256", "kid": "1"}, claims))
        r, s = decode_dss_signature(self._key.sign(said.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{said}.{_text(r.to_bytes(32) + s.to_bytes(32))}"

    def end(self):
        for server in self._servers:
            server.shutdown()


def _text(content):
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
