"""A local broker with its doors locked: what server.properties says more for TLS, SASL and ACLs, on loopback.

The plain listener stays, for the broker itself and for who sets up users; everybody else comes in by one of these.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PREFIX = "org.apache.kafka.common.security"


@dataclass(frozen=True)
class LockedListeners:
    """Two more listeners of a local broker.

    Attributes:
        sasl_port: Of the one with passwords or tokens over TLS.
        tls_port: Of the one where a client shows its own certificate.
        certificate: PEM file with the broker's key and certificate.
        authority: PEM file of who may sign clients' certificates.
        plain_users: Passwords for PLAIN by user; users of SCRAM are made with the admin client.
        token_keys_url: Where the identity provider says with which keys it signs tokens.
        token_audience: For whom tokens must be made.
        acls: Whether these listeners' users may do only what they are allowed to.
    """

    sasl_port: int
    tls_port: int
    certificate: Path
    authority: Path
    plain_users: Mapping[str, str]
    token_keys_url: str
    token_audience: str = "kafka"  # noqa: S105  # no secret
    acls: bool = False

    @property
    def java_option(self) -> str:
        """Without it Kafka asks nobody for keys."""
        return f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={self.token_keys_url}"

    def server_properties(self, host: str, port: int, controller_port: int) -> dict[str, str]:
        """Lines of server.properties, which win over those of an open broker."""
        ours = f"SASL_SSL://{host}:{self.sasl_port},SSL://{host}:{self.tls_port}"
        users = " ".join(f'user_{name}="{password}"' for name, password in self.plain_users.items())
        sasl = "listener.name.sasl_ssl"
        properties = {
            "listeners": f"PLAINTEXT://{host}:{port},{ours},CONTROLLER://{host}:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://{host}:{port},{ours}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            f"{sasl}.plain.sasl.jaas.config": f"{PREFIX}.plain.PlainLoginModule required {users};",
            f"{sasl}.scram-sha-256.sasl.jaas.config": f"{PREFIX}.scram.ScramLoginModule required;",
            f"{sasl}.scram-sha-512.sasl.jaas.config": f"{PREFIX}.scram.ScramLoginModule required;",
            f"{sasl}.oauthbearer.sasl.jaas.config": f"{PREFIX}.oauthbearer.OAuthBearerLoginModule required;",
            f"{sasl}.oauthbearer.sasl.server.callback.handler.class": (
                f"{PREFIX}.oauthbearer.OAuthBearerValidatorCallbackHandler"
            ),
            f"{sasl}.oauthbearer.sasl.oauthbearer.jwks.endpoint.url": self.token_keys_url,
            f"{sasl}.oauthbearer.sasl.oauthbearer.expected.audience": self.token_audience,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.certificate),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority),
            "listener.name.ssl.ssl.client.auth": "required",
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
        }
        if self.acls:
            properties |= {
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                # the plain listener's user, and so whoever has this machine
                "super.users": "User:ANONYMOUS",
            }
        return properties
