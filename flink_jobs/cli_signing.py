"""Commands that sign models and check signatures: their options and help."""

from pathlib import Path
from typing import Annotated

import typer

from flink_jobs.console import CommandError, command, show

ModelFolder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="A version's folder, with model.onnx and manifest.json.")
]


@command
def models_sign(
    folder: ModelFolder,
    key: Annotated[Path, typer.Option(help="File of the private key, Ed25519 or elliptic-curve, in PEM.")],
    password_file: Annotated[Path | None, typer.Option(help="File with the key's password.")] = None,
) -> None:
    """Sign a model: manifest.sig is written beside the manifest, which holds the digest of model.onnx.

    Example: millrace models sign my_models/fraud/1 --key signing.pem
    """
    from models.signing import sign_model

    password = None if password_file is None else _content(password_file).rstrip(b"\r\n")
    show(f"signed: {sign_model(folder, _content(key), password)}")


@command
def models_verify(
    folder: ModelFolder,
    key: Annotated[Path, typer.Option(help="File of public keys in PEM; one of them must have signed it.")],
) -> None:
    """Check that a model is signed by one of some keys and is as it was then; exit status 1 if not.

    Example: millrace models verify my_models/fraud/1 --key signing.pub
    """
    from models.signing import check_signed_model

    check_signed_model(folder, _content(key).decode("utf-8", "replace"))
    show(f"{folder} is as it was when the key's owner signed it")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from error
