"""Addresses that users name: which are never asked."""

from __future__ import annotations

import asyncio

import pytest

from distill.egress import NotPublic, PublicResolver, check_url, is_public
from distill.errors import Invalid

ALLOWED = ("hooks.internal", "10.1.2.3")


class TestUrls:
    @pytest.mark.parametrize(
        "url",
        [
            "https://example.com/hook?x=1",
            "https://example.com./",
            "https://1.1.1.1:8443/",
            "http://hooks.internal:9000/a",
            "http://10.1.2.3/",
        ],
    )
    def test_may_be_asked(self, url: str) -> None:
        check_url(url, ALLOWED)

    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("http://example.com/", "must begin with https://"),
            ("https://", "is not a web address"),
            ("ftp://example.com/", "is not a web address"),
            ("https://example.com:99999/", "is not a web address"),
            ("https://example.com/\r\nhost: evil", "is not a web address"),
            ("https://user:word@example.com/", "holds a user"),
            ("https://hooks.internal@example.com/", "holds a user"),
            ("https://example.com\\@hooks.internal/", "holds a user"),
            ("https://example.com/#part", "a fragment"),
            ("https://a..example.com/", "has a part that is empty"),
            ("https://.example.com/", "has a part that is empty"),
            (f"https://{'a' * 64}.example.com/", "longer than 63 characters"),
            ("https://127.0.0.1/", "127.0.0.1 is not a public address"),
            ("https://10.1.2.4/", "is not a public address"),
            ("https://169.254.169.254/latest/meta-data", "is not a public address"),
            ("https://127.1/", "is not a public address"),
            ("https://2130706433/", "is not a public address"),
            ("https://0x7f000001/", "is not a public address"),
            ("https://0177.0.0.1/", "is not a public address"),
            ("https://[::1]/", "is not a public address"),
            ("https://[::ffff:127.0.0.1]/", "is not a public address"),
            ("https://[64:ff9b::7f00:1]/", "is not a public address"),
        ],
    )
    def test_are_refused(self, url: str, why: str) -> None:
        with pytest.raises(Invalid, match="url: ") as refused:
            check_url(url, ALLOWED)
        assert why in refused.value.message


class TestAddresses:
    @pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111"])
    def test_public(self, address: str) -> None:
        assert is_public(address)

    @pytest.mark.parametrize(
        "address", ["100.64.0.1", "0.0.0.0", "224.0.0.1", "fe80::1%eth0", "fc00::1", "2002:7f00:1::", "::ffff:10.0.0.1"]
    )
    def test_not_public(self, address: str) -> None:
        assert not is_public(address)

    def test_nothing_of_the_special_registries_is_public(self) -> None:
        """IANA's registries of special-purpose addresses, and forms of IPv6 that carry an address of IPv4."""
        special = (
            *("::", "::1", "::127.0.0.1", "::a9fe:a9fe", "::ffff:0:127.0.0.1", "64:ff9b:1::7f00:1", "64:ff9b::c0a8:1", "100::1"),
            *("100:0:0:1::1", "2001::1", "2001:2::1", "2001:10::1", "2001:db8::1", "2002:c0a8:1::", "3fff::1", "3fff:fff::1"),
            *("5f00::1", "fd00::1", "fe80::1", "fec0::1", "ff02::1", "4000::1", "192.0.0.8", "192.0.0.170", "192.0.0.192", "192.0.2.1"),
            *("192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "240.0.0.1", "255.255.255.255"),
        )
        assert [address for address in special if is_public(address)] == []
        public = ("192.0.0.9", "192.0.1.1", "2001:4860:4860::8888", "2a00:1450::1", "64:ff9b::808:808", "::ffff:8.8.8.8", "2002:808:808::1")
        assert [address for address in public if not is_public(address)] == []


class TestResolver:
    def test_a_name_for_this_machine_is_not_asked(self) -> None:
        with pytest.raises(NotPublic, match="localhost has an address that is not public"):
            resolved([])

    def test_unless_the_operator_allows_it(self) -> None:
        assert resolved(["localhost"]) & {"127.0.0.1", "::1"}


def resolved(allowed: list[str]) -> set[str]:
    async def resolve() -> set[str]:
        return {each["host"] for each in await PublicResolver(allowed).resolve("localhost", 443)}

    return asyncio.run(resolve())
