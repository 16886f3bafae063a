"""TLS as a client sees it: whom to trust, and in words why it did not come about. Connects to nobody."""

import os
import ssl
from pathlib import Path

import aiohttp

from appliance.client.address import Address

SPEAKS_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


def trusting(file: Path) -> ssl.SSLContext:
    """Trusts what the certificates in `file` vouch for, themselves among it, by whatever name it is asked.

    For an appliance on this same host, whose certificate that is. Raises OSError, ssl.SSLError among it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(file)
    return context


def open_session(address: Address) -> aiohttp.ClientSession:
    """A session that trusts whom the address says is to be trusted; to be closed."""
    return aiohttp.ClientSession(connector=None if address.tls is None else aiohttp.TCPConnector(ssl=address.tls))


def tls_problem(error: aiohttp.ClientSSLError) -> str:
    """What went wrong, and what to do about it."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _of_certificate(error.certificate_error)
    reason = getattr(error.os_error, "reason", None) or ""
    if reason in SPEAKS_NO_TLS:
        return "no TLS there; ask it by http://"
    return f"no TLS came about ({reason or error.os_error})"


def _of_certificate(error: Exception) -> str:
    if not isinstance(error, ssl.SSLCertVerificationError):
        return str(error)
    match error.verify_code:  # OpenSSL's X509_V_ERR_…
        case 10:
            return "its certificate has expired; have it renewed there, or set the clock here if that is wrong"
        case 9:
            return "its certificate is not valid yet; see whether the clocks here and there are right"
        case 62 | 64:
            return f"its certificate is for another name; ask by one that it has ({error.verify_message})"
        case _ if (file := os.environ.get("SSL_CERT_FILE")) and not os.access(file, os.R_OK):
            return f"SSL_CERT_FILE names {file}, which can't be read: nobody is trusted without it"
        case _:
            return (
                f"nobody whom this host trusts vouches for its certificate ({error.verify_message}); let SSL_CERT_FILE "
                "name the certificate of the site's CA, or install that: update-ca-certificates"
            )
