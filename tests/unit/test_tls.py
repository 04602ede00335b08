"""Certificate and key of a service: what is wrong with them is said before anything starts."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from made_certificates import make_certificate, openssl

from seg_transfer.cli.app import main
from seg_transfer.errors import UserError
from seg_transfer.options.serving_options import DicomNodeOptions, ServeOptions
from seg_transfer.serving.tls import node_contexts, server_context


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    for name in "ab":
        make_certificate(folder, name)
    text = (folder / "a.key").read_text()
    openssl(folder, "pkey", "-in", "a.key", "-out", "encrypted.key", "-aes256", "-passout", "pass:word")
    openssl(folder, "genpkey", "-algorithm", "RSA", "-out", "rsa.key")
    openssl(folder, "x509", "-in", "a.pem", "-outform", "DER", "-out", "a.der")
    (folder / "cut.key").write_text(text[: len(text) // 2])
    (folder / "empty").write_text("")
    return folder


def test_contexts(folder: Path) -> None:
    own = {"tls_cert": folder / "a.pem", "tls_key": folder / "a.key"}
    assert server_context(ServeOptions()) is None
    made = server_context(ServeOptions(**own))
    assert made is not None and made.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert node_contexts(DicomNodeOptions(peers=("A@b:1",))) is None
    both = node_contexts(DicomNodeOptions(peers=("A@b:1",), **own, tls_ca=folder / "b.pem"))
    assert both is not None and {each.verify_mode for each in both} == {ssl.CERT_REQUIRED}


@pytest.mark.parametrize(
    ("certificate", "key", "where", "what"),
    [
        ("a.pem", "b.key", "b.key", "not the key of the first certificate"),
        ("a.pem", "rsa.key", "rsa.key", "not the key of the first certificate"),
        ("a.pem", "encrypted.key", "encrypted.key", "the key is encrypted"),
        ("a.pem", "cut.key", "cut.key", "no private key in PEM"),
        ("a.pem", "a.pem", "a.pem", "no private key in PEM"),
        ("a.pem", "empty", "empty", "no private key in PEM"),
        ("a.pem", "none", "none", "there is no such file"),
        ("a.key", "a.key", "a.key", "no certificate in PEM"),
        ("a.der", "a.key", "a.der", "no certificate in PEM"),
        ("empty", "a.key", "empty", "no certificate in PEM"),
        ("none", "a.key", "none", "there is no such file"),
    ],
)
def test_files_that_are_no_pair(folder: Path, certificate: str, key: str, where: str, what: str) -> None:
    with pytest.raises(UserError) as error:
        server_context(ServeOptions(tls_cert=folder / certificate, tls_key=folder / key))
    assert str(error.value).startswith(f"{folder / where}: {what}")


def test_a_key_that_may_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    with pytest.raises(UserError, match=r"a\.pem: cannot be read: Permission denied"):
        server_context(ServeOptions(tls_cert=folder / "a.pem", tls_key=folder / "a.key"))


@pytest.mark.parametrize("command", [("serve",), ("dicom-node", "--peer", "A@b:1")])
def test_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    def said(*options: str) -> str:
        assert main([*command, *options]) == 2
        return capsys.readouterr().err

    pytest.importorskip("fastapi" if command[0] == "serve" else "pynetdicom")
    own = ("--tls-cert", str(folder / "a.pem"))
    assert "--tls-key: TLS needs this option too" in said(*own)
    rest = ("--tls-ca", str(folder / "b.pem")) if command[0] == "dicom-node" else ()
    assert "b.key: not the key" in said(*own, "--tls-key", str(folder / "b.key"), *rest)
    if rest:
        assert "--tls-ca: TLS needs this option too" in said(*own, "--tls-key", str(folder / "a.key"))
