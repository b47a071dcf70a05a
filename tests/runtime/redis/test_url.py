"""The reader of REDIS_URL, for everything that can be meant."""

from __future__ import annotations

import ssl
import string
from urllib.parse import quote

import pytest

from vibetuner.errors import SettingsError
from vibetuner.redis.url import Address, Cluster, Sentinels, Tls, parse_url


@pytest.mark.parametrize("letter", [*string.printable, "ß", "\N{SNOWMAN}"])
def test_every_character_can_stand_in_a_password(letter: str):
    """Every character can be part of a password, a name and a path, if it is encoded."""
    word = f"a{letter}b"
    coded = quote(word, safe="")
    assert parse_url(f"redis://ann:{coded}@h").password == word
    assert parse_url(f"redis://{coded}:x@h/3?db=2").username == word
    assert parse_url(f"redis://h?password={coded}&db=2").password == word
    assert parse_url(f"unix://ann:{coded}@/run/{coded}?db=2").path == f"/run/{word}"
    assert parse_url(f"unix:///s?username={coded}").username == word


@pytest.mark.parametrize("letter", sorted(set(string.printable) - set("/?#%")))
def test_only_four_characters_must_be_encoded(letter: str):
    """Only four characters must be encoded; an ``@`` or a ``:`` is recognized by its place."""
    found = parse_url(f"redis://ann:a{letter}b@h:7")
    assert (found.password, found.host, found.port) == (f"a{letter}b", "h", 7)
    assert parse_url(f"redis+sentinel://ann:a{letter}b@h,i/m").password == f"a{letter}b"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", Address(host="h")),
        ("redis://h/", Address(host="h")),
        ("redis://h:7/3", Address(host="h", port=7, db=3)),
        ("redis://h/3?db=4", Address(host="h", db=4)),
        ("redis://:secret@h", Address(host="h", password="secret")),
        ("redis://ann@h", Address(host="h", username="ann")),
        ("redis://[::1]:7/3", Address(host="::1", port=7, db=3)),
        (
            "redis://ann:x@[fe80::1%25eth0]",
            Address(host="fe80::1%eth0", username="ann", password="x"),
        ),
        ("unix:///run/s.sock?db=3", Address(path="/run/s.sock", db=3)),
        ("rediss://h", Address(host="h", tls=Tls())),
        (
            "rediss://h?ssl_cert_reqs=CERT_NONE&ssl_ca_certs=%2Fca.pem",
            Address(host="h", tls=Tls(verify="none", ca_certs="/ca.pem")),
        ),
        (
            "rediss://h?ssl_certfile=/c.pem&ssl_keyfile=/k.pem&ssl_check_hostname=False",
            Address(host="h", tls=Tls(check_hostname=False, certfile="/c.pem", keyfile="/k.pem")),
        ),
        (
            "redis+sentinel://ann:x%2Fy@a:1,[::1],b/shop/3",
            Address(
                db=3,
                username="ann",
                password="x/y",
                sentinels=Sentinels(name="shop", hosts=(("a", 1), ("::1", 26379), ("b", 26379))),
            ),
        ),
        (
            "rediss+sentinel://a/shop?sentinel_username=g&sentinel_password=%40&ssl_cert_reqs=none",
            Address(
                tls=Tls(verify="none"),
                sentinels=Sentinels(name="shop", hosts=(("a", 26379),), username="g", password="@"),
            ),
        ),
    ],
)
def test_what_a_url_means(url: str, address: Address):
    """A URL is read into servers, sockets, databases, users and TLS."""
    assert parse_url(url) == address


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://", "the host is missing. Name it, as in redis://cache:6379"),
        ("redis://:6379", "the host is missing"),
        ("redis://a,", "the host is missing"),
        ("redis://ann:hunter2@", "the host is missing"),
        ("redis://hun/ter2@h:port", "a / or . stands before the @. Percent-encode"),
        ("redis://ann:hun/ter2@h", "a / or . stands before the @. Percent-encode"),
        ("redis://ann:12/ter2@h", "a / or . stands before the @. Percent-encode"),
        ("redis://ann:hun#ter2@h", "it holds a #. Percent-encode"),
        ("redis://ann:hun?ter2@h", "a / or . stands before the @. Percent-encode|an option"),
        ("redis://ann:hunter2", "the port is no number. Write 6379, or leave it out. Percent-enco"),
        ("redis://h:-1", "the port is no number"),
        ("redis://h:63\N{ARABIC-INDIC DIGIT SEVEN}9", "the port is no number"),
        ("redis://h h", "a space stands in the host or port. Remove it"),
        ("redis://h\n", "a space stands in the host or port"),
        ("redis://h#0", "it holds a #"),
        ("redis://[::1", "the host is malformed. An IPv6 address stands in brackets: redis://"),
        ("redis://::1:6379", "the host is malformed. An IPv6 address stands in brackets"),
        (
            "redis://[hunter2]",
            "the host is neither a name nor an address. Write it as in redis://cache",
        ),
        ("redis://${HUNTER2}", "the host is neither a name nor an address"),
        ("redis://<host>:6379", "the host is neither a name nor an address"),
        ("redis://a..b", "the host is neither a name nor an address"),
        (f"redis://{'h' * 64}", "the host is neither a name nor an address"),
        ("redis://256.1.1.1", "the host is neither a name nor an address"),
        ("redis://h%00", "the host is neither a name nor an address"),
        ("redis://ann:%ff@h", "a percent-encoded part is not UTF-8"),
        ("redis://ann:\udcff@h", "it is not UTF-8"),
        ("unix://tmp/s.sock", "the socket's path is missing. Write it as in unix:///run/"),
        ("unix:///run/%00", "the socket's path holds a NUL byte"),
        ("localhost:6379", "the scheme is unknown. There are redis://"),
        ("redis+unix:///run/s.sock", "the scheme is unknown"),
        ("redis://h?db=1&db=2", "db is given twice. Leave out one db="),
        ("redis://h?password=hun&password=ter2", "password is given twice"),
        (f"redis://h/{'9' * 5000}", "the database '9{20}' is too high"),
        (f"redis://h:{'9' * 5000}", "there is no port 9{20}. "),
        ("redis://h:0", "there is no port 0"),
        ("redis://h:65536", "there is no port 65536"),
        ("redis://h/shop", "the database 'shop' is no number. Write /0"),
        ("redis://h/-1", "the database '-1' is no number"),
        ("redis://h/1/2", "the database '1/2' is no number"),
        ("redis://h?db=x", "the database 'x' is no number"),
        ("redis://h?ssl_cert_reqs=none", "ssl_cert_reqs is of no use without TLS. .*rediss://"),
        ("rediss://h?ssl_cert_reqs=maybe", "none, optional or required"),
        ("rediss://h?ssl_check_hostname=maybe", "true or false"),
        ("rediss://h?ssl_keyfile=/k.pem", "Add ssl_certfile"),
        ("redis+sentinel://h", "the primary's name is missing. Add the name"),
        ("redis+sentinel://h/0", "the primary's name is missing"),
        (
            "redis+sentinel:///mymaster",
            "the host is missing. Name it, as in redis.sentinel://cache",
        ),
        ("redis+sentinel://h:0/mymaster", "there is no port 0. A Sentinel listens on 26379"),
        ("redis+sentinel://h/mymaster/x", "the database 'x' is no number"),
        ("redis+sentinel://h/m?ssl_cert_reqs=none", "Begin it with rediss.sentinel://"),
        (
            "redis+sentinel://ann:hunter2@a:1,ann:hunter2@b:1/m",
            "a user and password for several hosts. Write them once, before the first host",
        ),
        ("redis+cluster://:hunter2@a,:hunter2@b:1,c", "a user and password for several hosts"),
        ("redis+cluster://a:1;b:1", "a ; stands between the hosts. Write a comma"),
        ("redis+cluster://h", "has no hash tag, so the keys .* Write  REDIS_KEY_PREFIX={shop}"),
        ("redis+cluster://h/3", "a Cluster has the database 0 only"),
        ("redis+cluster://h/shop", "the database 'shop' is no number"),
        ("redis+cluster://", "the host is missing"),
        ("redis+cluster://h:0", "there is no port 0. Redis listens on 6379"),
        ("redis+cluster://h?sentinel_password=hunter2", "no use without Sentinels"),
        ("redis+cluster://h?ssl_cert_reqs=none", "Begin it with rediss.cluster://"),
        ("redis+other://h", "the scheme is unknown. There are redis://"),
        ("redis://a,b", "it names several hosts. Name one, or begin .* redis.sentinel:// or redis"),
        ("redis://h?sentinel_password=hunter2", "no use without Sentinels. Begin it with redis."),
        ("redis://h?sslcertreqs=none", "an option after the . is unknown. There are db, username"),
    ],
)
def test_what_cannot_be_meant_is_one_line(url: str, words: str):
    """A URL that can't be meant is one line with fault and cure, and no part of a password."""
    with pytest.raises(SettingsError, match=f"^REDIS_(URL|KEY_PREFIX)=.*{words}") as caught:
        parse_url(url)
    assert "\n" not in str(caught.value)
    for piece in ("hun", "ter2", "hunter2"):
        assert piece not in str(caught.value).replace("Percent-encode what is special", "")


def test_an_address_shows_no_password():
    """An address shows no password, neither as a text nor as a repr."""
    address = parse_url("redis://ann:hunter2@[::1]/3")
    assert str(address) == "[::1]:6379"
    assert "hunter2" not in repr(address)
    address = parse_url("redis+sentinel://h/shop?sentinel_password=hunter2")
    assert str(address) == "shop (Sentinels h:26379)"
    assert "hunter2" not in repr(address)


def test_most_sentinels_are_believed():
    """The primary is the one that most Sentinels name.

    One that was away for a while may still name the primary of then.
    """
    address = parse_url("redis+sentinel://a,b,c/shop/3")
    old, new = [b"10.0.0.1", b"6379"], ["10.0.0.2", "6380"]
    watchers = [Address(host=name) for name in "abcd"]
    replies = dict(zip(watchers, [old, new, OSError("no route"), new], strict=True))
    elected = address.elect(replies)
    assert (elected.host, elected.port, elected.db) == ("10.0.0.2", 6380, 3)
    for votes, is_elected in (
        ([new, new], True),
        ([old, new, new], True),
        ([new], False),
        ([new, old], False),
        ([], False),
    ):
        assert address.is_elected(dict(zip(watchers, votes, strict=False))) is is_elected
    with pytest.raises(OSError, match=r"no Sentinel names the primary \(the name is unknown; no r"):
        address.elect(dict(zip(watchers, [None, OSError("no route"), None], strict=False)))


def test_nodes_of_a_cluster_are_read_from_their_answers():
    """The primary of the prefix's slot is read from the nodes' answers.

    Other nodes are remembered for when the named ones are gone.
    """
    address = parse_url("rediss+cluster://ann:x%2Fy@a:1,[::1]", "{shop}:")
    assert address.cluster == Cluster(hosts=(("a", 1), ("::1", 6379)), prefix="{shop}:")
    one, two = address.watchers()
    assert (one.host, two.host, two.password, two.tls) == ("a", "::1", "x/y", Tls())
    own, other = [0, 8191, [b"r", 6, b"id"], [b"s", 7, b"id"]], [8192, 16383, [b"l", 5, b"id"]]
    nameless = [0, 8191, [None, 6, b"id", [b"hostname", b"?"]]]

    elected = address.elect({one: [other, own], two: OSError("no route")})
    assert (elected.host, elected.port, elected.password) == ("r", 6, "x/y")
    assert address.elect({one: [nameless, other]}).host == "a"
    named = [(node.host, node.port) for node in address.others({one: [other, own]})]
    assert named == [("r", 6), ("s", 7), ("l", 5)]
    assert elected.cluster.read_replicas([other, own], one) == {("s", 7)}
    assert elected.cluster.read_replicas(OSError("no route"), one) == set()
    with pytest.raises(OSError, match="is a slave, though the Cluster calls it the primary"):
        elected.check({b"role": b"slave"})
    with pytest.raises(OSError, match=r"no node of the Cluster .* \(no node serves the slot of"):
        address.elect({one: [other]})


@pytest.mark.parametrize(
    ("prefix", "slot"), [("{shop}:", 3808), ("a{own}b:", 11260), ("{foo}:", 12182)]
)
def test_a_hash_tag_decides_on_the_slot(prefix: str, slot: int):
    """The prefix's hash tag decides on the slot, as the servers' CLUSTER KEYSLOT reports it."""
    assert Cluster(hosts=(), prefix=prefix).slot == slot


@pytest.mark.parametrize("prefix", ["shop:", "{}shop:", "{shop:"])
def test_a_prefix_without_a_hash_tag_is_one_line(prefix: str):
    """A prefix without a hash tag is one line, and the cure keeps its name."""
    with pytest.raises(SettingsError, match=r"no hash tag.*Write  REDIS_KEY_PREFIX=\{shop\}$"):
        parse_url("redis+cluster://h", prefix)


@pytest.mark.parametrize(
    ("option", "name"), [("ca_certs", "ssl_ca_certs"), ("certfile", "ssl_certfile")]
)
def test_a_file_that_is_missing_is_named(option: str, name: str):
    """A TLS file that is missing is named, with the option of REDIS_URL."""
    with pytest.raises(OSError, match=f"{name}=/nowhere.pem.* can't be used: No such file"):
        Tls(**{option: "/nowhere.pem"}).context()


@pytest.mark.parametrize(
    ("tls", "mode", "checks"),
    [
        (Tls(), ssl.CERT_REQUIRED, True),
        (Tls(check_hostname=False), ssl.CERT_REQUIRED, False),
        (Tls(verify="optional"), ssl.CERT_OPTIONAL, True),
        (Tls(verify="none"), ssl.CERT_NONE, False),
    ],
)
def test_whom_a_connection_trusts(tls: Tls, mode: ssl.VerifyMode, checks: bool):
    """A connection trusts only the host's own certificate, unless less is asked for."""
    context = tls.context()
    assert (context.verify_mode, context.check_hostname) == (mode, checks)
