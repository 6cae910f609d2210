"""A relay that speaks TLS to clients and plain TCP to a server behind it, and whose connections can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class Relay:
    """The relay's URL, the CA that vouches for it, and how many connections were cut."""

    url: str
    ca: Path
    loop: asyncio.AbstractEventLoop
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    cut_off: int = 0
    closed: bool = False

    def cut(self, seconds: float) -> None:
        """Cut every connection, and close new ones at once for so long."""
        self.closed = True

        def abort() -> None:
            for writer in list(self.writers):
                writer.transport.abort()
                self.cut_off += 1

        self.loop.call_soon_threadsafe(abort)
        self.loop.call_soon_threadsafe(self.loop.call_later, seconds, self._open)

    def _open(self) -> None:
        self.closed = False


@contextlib.contextmanager
def tls_relay(folder: Path, port: int) -> Iterator[Relay]:
    """Relay to a port of loopback until the block ends; CA and certificate are made in `folder`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*_certificate(folder))
    loop = asyncio.new_event_loop()
    relay = Relay("", folder / "ca.pem", loop)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if relay.closed:
            writer.transport.abort()
            return
        behind_reader, behind = await asyncio.open_connection("127.0.0.1", port)
        relay.writers |= {writer}
        try:
            await asyncio.gather(_pump(reader, behind), _pump(behind_reader, writer))
        finally:
            relay.writers -= {writer}

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, ssl=context))
    relay.url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A CA of our own, and a certificate and key for localhost that it signed."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a CA made for this test")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    ca = _builder(ca_name, ca_name, ca_key).add_extension(x509.BasicConstraints(True, 0), critical=True)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    own = _builder(name, ca_name, key).add_extension(names, critical=False)
    (folder / "ca.pem").write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    (folder / "cert.pem").write_bytes(own.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*plain))
    return folder / "cert.pem", folder / "key.pem"


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
    return builder.not_valid_after(now + datetime.timedelta(days=2))
