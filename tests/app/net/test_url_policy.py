"""The URL policy: which destinations and spellings are refused."""

import asyncio
from ipaddress import ip_address, ip_network

import pytest

from cutout.app.net.url_policy import NotAllowed, UrlPolicy, is_public
from tests.web import Names

NOT_PUBLIC = [
    # this host and its neighbours
    "0.0.0.0",
    "0.1.2.3",
    "127.0.0.1",
    "127.8.8.8",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "::",
    "::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "2606:4700:4700::1111%eth0",
    # clouds' metadata
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    # unassigned, documentation, multicast and broadcast addresses
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "198.18.0.1",
    "192.88.99.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "ff02::1",
    "ff0e::1",
    "100::1",
    "2001:db8::1",
    "3fff::1",
    "2001:20::1",
    "5f00::1",
    "4000::1",
    # IPv6 that embeds IPv4: mapped, compatible, translated, NAT64, its local form, 6to4, Teredo
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
]
MALFORMED = [
    "",
    "photo.jpg",
    "//pictures.example/photo.jpg",
    "ftp://pictures.example/photo.jpg",
    "file:///etc/passwd",
    "gopher://pictures.example/",
    "data:image/png;base64,AAAA",
    "http://",
    "http:///photo.jpg",
    "http://anna@pictures.example/",
    "http://anna:secret@pictures.example/",
    "http://pictures.example\\@127.0.0.1/",
    "http://pictures.example:0/",
    "http://pictures.example:65536/",
    "http://pictures.example:-1/",
    "http://pictures.example:http/",
    "http://pictures .example/",
    "http://pictures\t.example/",
    "http://pictures.example\r\nHost:x/",
    "http://-pictures.example/",
    "http://pictures..example/",
    "http://.example/",
    f"http://{'a' * 64}.example/",
    f"http://{'a.' * 127}example/",
    "http://[::1/",
    "http://[pictures.example]/",
    "http://[fe80::1%25eth0]/",
    # disguised addresses
    "http://2130706433/",
    "http://0x7f000001/",
    "http://017700000001/",
    "http://0177.0.0.1/",
    "http://0x7f.0.0.1/",
    "http://0x7f.1/",
    "http://127.1/",
    "http://127.0.1/",
    "http://127.0.0.0x1/",
    "http://127.0.0.01/",
    "http://127.0.0.1./",
    "http://0/",
    "http://0x/",
    "http://1.2.3.4.5/",
    "http://256.256.256.256/",
    "http://localhost./",
    "http://pictures.example./",
    "http://%31%32%37.0.0.1/",
    "http://127.0.0.1%00.pictures.example/",
    "http://１２７.0.0.1/",
    "http://①②⑦.0.0.1/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    "http://pictures．example/\ud800",
    "http://xn--\u00e9.example/",
]


def look_up(destinations: UrlPolicy, url: str) -> list[str]:
    read = destinations.read(url)
    found = asyncio.run(destinations.addresses(read.raw_host.decode(), read.port or 80))
    return [str(address) for address in found]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_one_public_machines_is_refused(address: str) -> None:
    assert not is_public(ip_address(address))
    for answers in ([address], ["1.1.1.1", address], [address, "2606:4700:4700::1111"]):
        with pytest.raises(NotAllowed, match="not on the public internet"):
            look_up(UrlPolicy(lookup=Names(pictures_example=[answers])), "http://pictures.example/")
    literal = f"[{address}]" if ":" in address else address
    with pytest.raises(NotAllowed):
        look_up(UrlPolicy(), f"https://{literal}:8443/photo.jpg")


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450:4001::5e"]
)
def test_public_addresses_are_called(address: str) -> None:
    destinations = UrlPolicy(lookup=Names(pictures_example=[[address, address]]))
    assert look_up(destinations, "https://pictures.example/") == [address]
    assert look_up(destinations, f"http://[{address}]/" if ":" in address else f"http://{address}/") == [
        address
    ]


@pytest.mark.parametrize("url", MALFORMED)
def test_a_malformed_or_disguised_address_is_refused_unasked(url: str) -> None:
    names = Names()
    with pytest.raises(NotAllowed):
        look_up(UrlPolicy([ip_network("0.0.0.0/0"), ip_network("::/0")], names), url)
    assert names.asked == []


def test_what_looks_like_an_address_after_reading_is_judged_as_one() -> None:
    for url in (
        "http://127。0。0。1/",
        "http://127.0.0.1/#@pictures.example",
        "http://127.0.0.1?@pictures.example",
    ):
        with pytest.raises(NotAllowed, match=r"^127\.0\.0\.1 cannot be found"):
            look_up(UrlPolicy(), url)


def test_international_names_are_looked_up_in_ascii() -> None:
    names = Names()
    with pytest.raises(NotAllowed):
        look_up(UrlPolicy(lookup=names), "https://bücher.example/")
    assert names.asked == ["xn--bcher-kva.example"]


def test_this_hosts_own_names_lead_nowhere_unless_allowed() -> None:
    with pytest.raises(NotAllowed):
        look_up(UrlPolicy(), "http://localhost/")
    own = [ip_network("127.0.0.0/8"), ip_network("::1")]
    assert set(look_up(UrlPolicy(own), "http://localhost/")) & {"127.0.0.1", "::1"}


def test_a_name_that_is_private_and_one_that_is_not_there_are_told_alike() -> None:
    said = []
    for names in (Names(pictures_example=[["10.0.0.1"]]), Names(pictures_example=[[]]), Names()):
        with pytest.raises(NotAllowed) as refused:
            look_up(UrlPolicy(lookup=names), "http://pictures.example/")
        said.append(str(refused.value))
    assert len(set(said)) == 1


def test_an_allowed_network_is_that_network_and_no_other() -> None:
    destinations = UrlPolicy([ip_network("10.1.2.0/24")])
    assert look_up(destinations, "http://10.1.2.3/") == ["10.1.2.3"]
    for other in ("10.1.3.1", "[::ffff:10.1.2.3]", "[64:ff9b::a01:203]", "127.0.0.1"):
        with pytest.raises(NotAllowed):
            look_up(destinations, f"http://{other}/")
