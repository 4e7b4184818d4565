"""Where the status page listens, and who can reach it there."""

from __future__ import annotations

import pytest

from celery_flame_ec2.address import host_of, is_loopback, read_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:9809", "127.0.0.1", 9809), ("[::1]:0", "::1", 0), ("status.internal:65535", "status.internal", 65535)],
)
def test_an_address_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    address = read_address(text)
    assert (address.host, address.port) == (host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["9809", ":9809", "127.0.0.1", "::1:9809", "[1.2.3.4]:1", "a:65536", "a:-1", "a b:1", "http://a:1", 9809]
)
def test_what_is_no_address_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match=r"such as '127\.0\.0\.1:9809'"):
        read_address(text)


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("LOCALHOST", True),
        ("0.0.0.0", False), ("::", False), ("10.0.0.7", False), ("localhost.example.org", False),
        ("127.0.0.1.example.org", False), ("", False),
    ],
)  # fmt: skip
def test_only_this_machine_is_loopback(host: str, is_one: bool) -> None:
    assert is_loopback(host) is is_one


@pytest.mark.parametrize(
    ("header", "host"),
    [("127.0.0.1:9809", "127.0.0.1"), ("[::1]:9809", "::1"), ("Localhost", "localhost"), ("", ""), ("[", "")],
)
def test_a_host_header_names_a_host(header: str, host: str) -> None:
    assert host_of(header) == host
