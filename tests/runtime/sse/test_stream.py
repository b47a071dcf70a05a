"""Event streams from real web processes, two of them, to browsers that come and go."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx2
import pytest

from tests.browsers import EventSource, listening
from tests.clusters import PREFIX, Clustered
from tests.processes import Site, free_port, wait_until
from tests.valkey import Valkey
from vibetuner.redis.client import make_client

pytestmark = pytest.mark.slow


@pytest.fixture
def channel() -> str:
    """Return a channel that no other test uses."""
    return f"test:{uuid4().hex}"


def send(site: Site, channel: str, *texts: str) -> list[str]:
    """Broadcast from a web process; return the ids."""
    answer = httpx2.post(f"{site.url}/send/{channel}", json=texts, timeout=30)
    assert answer.status_code == 200, answer.text
    ids: list[str] = answer.json()
    return ids


def inside(site: Site) -> dict[str, int]:
    counts: dict[str, int] = httpx2.get(f"{site.url}/inside", timeout=30).json()
    return counts


def numbers(*bounds: int) -> list[str]:
    return [str(number) for number in range(*bounds)]


def test_what_one_process_sends_arrives_at_the_other_with_the_id_that_it_has(
    two_sites: tuple[Site, Site], channel: str
):
    """An event of one process arrives at another one, with the same id."""
    one, two = two_sites
    with listening(f"{one.url}/events/{channel}") as here:
        with listening(f"{two.url}/events/{channel}") as there:
            ids = send(one, channel, "1", "two\nlines")
            for browser in (here, there):
                events = browser.wait_for(2)
                assert [(e.data, e.id) for e in events] == [("1", ids[0]), ("two\nlines", ids[1])]


def test_a_browser_that_returns_to_another_process_gets_missed_events(
    two_sites: tuple[Site, Site], channel: str
):
    """A browser that returns to another process gets the missed events, and then new ones."""
    one, two = two_sites
    with listening(f"{one.url}/events/{channel}") as first:
        ids = send(one, channel, *numbers(3))
        first.wait_for(3)
    send(one, channel, *numbers(3, 100))
    with listening(f"{two.url}/events/{channel}", last_id=ids[2]) as second:
        send(one, channel, *numbers(100, 150))
        send(two, channel, *numbers(150, 200))
        second.wait_for(197)
        assert second.data == numbers(3, 200)


def test_a_page_may_name_its_last_event_in_the_url(two_sites: tuple[Site, Site], channel: str):
    """A stream continues after the id in its URL, and after that of its header if there is one."""
    one, _ = two_sites
    url = f"{one.url}/events/{channel}?last-event-id="
    ids = send(one, channel, *numbers(4))
    with listening(url + ids[0]) as page, listening(url + ids[0], last_id=ids[2]) as again:
        page.wait_for(3)
        again.wait_for(1)
        assert page.data == numbers(1, 4)
        assert again.data == numbers(3, 4)


def test_a_browser_that_left_before_the_first_event_gets_all_events(
    two_sites: tuple[Site, Site], channel: str
):
    """A browser that left before the first event gets all events when it returns."""
    one, two = two_sites
    with listening(f"{one.url}/events/{channel}") as first:
        wait_until(lambda: first.last_id, what=lambda: "an id")
    send(two, channel, "1", "2")
    with listening(f"{two.url}/events/{channel}", last_id=first.last_id) as second:
        second.wait_for(2)
        assert second.data == ["1", "2"]


def test_a_browser_that_returns_too_late_gets_a_reset_and_new_events(
    two_sites: tuple[Site, Site], channel: str
):
    """A browser that returns after the history was overrun gets a reset and new events.

    The id of the reset is one from which it can return.
    """
    one, two = two_sites
    old = send(one, channel, "old")[0]
    send(one, channel, *numbers(600))
    with listening(f"{two.url}/events/{channel}", last_id=old) as browser:
        browser.wait_for(1)
        send(one, channel, "new")
        browser.wait_for(2)
        assert browser.pairs == [("reset", ""), ("n", "new")]
    send(one, channel, "newer")
    with listening(f"{one.url}/events/{channel}", last_id=browser.events[0].id) as again:
        again.wait_for(2)
        assert again.pairs == [("n", "new"), ("n", "newer")]


def test_a_page_that_opens_a_stream_sees_the_current_state_first(
    two_sites: tuple[Site, Site], channel: str
):
    """A new stream begins with the state, and so does one after a reset, but not a replay."""
    one, two = two_sites
    state = ("state", str(len(channel)))
    with listening(f"{one.url}/counted/{channel}") as browser:
        browser.wait_for(1)
        send(two, channel, "event: reset", "later")  # the data of an event is no reset
        browser.wait_for(3)
        assert browser.pairs == [state, ("n", "event: reset"), ("n", "later")]
    with listening(f"{two.url}/counted/{channel}", last_id=browser.last_id) as back:
        back.wait_until_open()
        send(one, channel, "new")
        assert [(event.name, event.data) for event in back.wait_for(1)] == [("n", "new")]
    with listening(f"{two.url}/counted/{channel}", last_id="1-1") as late:
        late.wait_for(2)
        assert late.pairs == [("reset", ""), state]


@pytest.mark.parametrize(
    "forged", ["nonsense", "99999999999999-0", "0-1", "x" * 5000, f"{2**64 - 1}-{2**64 - 1}"]
)
def test_an_invented_id_is_answered_with_a_reset(
    two_sites: tuple[Site, Site], channel: str, forged: str
):
    """An invented id is answered with a reset, and new events follow."""
    one, _ = two_sites
    send(one, channel, "old")
    with listening(f"{one.url}/events/{channel}", last_id=forged) as browser:
        send(one, channel, "new")
        browser.wait_for(2)
        assert browser.pairs == [("reset", ""), ("n", "new")]


def test_the_answer_says_what_it_is_and_how_soon_to_return(two_sites: tuple[Site, Site]):
    """A stream has headers against buffering, its retry time, and a description in the API."""
    one, _ = two_sites
    with httpx2.stream("GET", f"{one.url}/events/x", timeout=30) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        assert "content-length" not in response.headers
        assert next(response.iter_text()).startswith("retry: 1000\n\n")
    described = httpx2.get(f"{one.url}/openapi.json", timeout=30).json()["paths"][
        "/events/{channel}"
    ]["get"]
    assert list(described["responses"]["200"]["content"]) == ["text/event-stream"]
    assert described["description"] == "What is sent on a channel."
    assert [parameter["name"] for parameter in described["parameters"]] == ["channel"]


def test_a_stream_opens_when_its_place_in_the_channel_is_known(
    two_sites: tuple[Site, Site], channel: str
):
    """The first bytes name the place from which events follow, so a page that acts once its stream
    is open misses nothing.
    """
    one, two = two_sites
    ids = send(two, channel, "before")
    with httpx2.stream("GET", f"{one.url}/events/{channel}", timeout=30) as response:
        first = "retry: 1000\n\nid: 0-0\n\n"
        assert next(response.iter_text()) == f"{first}id: {ids[0]}\n\n"


def test_a_page_gets_the_state_though_its_function_fails_at_first(
    two_sites: tuple[Site, Site], channel: str
):
    """A stream that ends before the state is sent begins with it when the browser is back."""
    one, _ = two_sites
    for last_id in ("", "1-1"):  # new, and too late for what it missed
        httpx2.post(f"{one.url}/fail", timeout=30)
        with listening(f"{one.url}/counted/{channel}", last_id=last_id) as browser:
            browser.wait_until_open(2)
            wait_until(lambda: browser.last_id not in {"", "0-0", "1-1"}, what=lambda: "an id")
            assert browser.pairs[-2:] == [("reset", ""), ("state", str(len(channel)))]


def test_an_endpoint_refuses_before_it_streams(two_sites: tuple[Site, Site]):
    """An endpoint refuses by its own error, a dependency's, or an unusable name."""
    one, _ = two_sites
    before = inside(one)["subscribers"]
    refused = httpx2.get(f"{one.url}/events/x?as=eve", timeout=30)
    assert (refused.status_code, refused.json()) == (403, {"detail": "not yours"})
    for name in ("a b", "a\rb", "\x00", "x" * 201, "\u2028"):
        answer = httpx2.get(f"{one.url}/events/{quote(name)}", timeout=30)
        assert answer.status_code == 400, name
        assert "is not usable" in answer.json()["detail"]
    assert httpx2.get(
        f"{one.url}/events/{quote('a' + chr(10) + 'event: forged')}", timeout=30
    ).is_error
    assert inside(one)["subscribers"] == before


def test_the_function_may_be_one_that_is_not_async(two_sites: tuple[Site, Site]):
    """The function of an endpoint may be sync."""
    one, _ = two_sites
    with listening(f"{one.url}/sync/plain") as browser:
        send(one, "plain", "1")
        assert browser.wait_for(1)[0].data == "1"


def test_five_hundred_visits_leave_nothing_behind(two_sites: tuple[Site, Site], channel: str):
    """Five hundred visits leave no task, queue or open file, and one subscription a process."""
    one, _ = two_sites
    before = settled(one)
    assert before["subscriptions"] == 2
    for _ in range(10):
        with ExitStack() as stack:
            for number in range(50):
                stack.enter_context(raw_stream(one, f"{channel}:{number % 7}"))
            wait_until(lambda: inside(one)["subscribers"] == 50)
            send(one, f"{channel}:1", "x")
            assert inside(one)["subscriptions"] == 2
    wait_until(lambda: inside(one)["subscribers"] == 0)
    after = settled(one)
    assert after["feeds"] == 0
    assert after["subscriptions"] == 2
    assert after["tasks"] <= before["tasks"] + 1
    assert after["handles"] <= before["handles"] + 3


def settled(site: Site) -> dict[str, int]:
    """Return the counts, once nobody listens and they no longer change."""
    last = inside(site)
    for _ in range(50):
        time.sleep(0.2)
        now = inside(site)
        if now == last and not now["subscribers"]:
            return now
        last = now
    return last


def test_a_reader_that_cannot_keep_up_is_closed_and_comes_back_by_replay(
    two_sites: tuple[Site, Site], channel: str
):
    """A slow reader is closed and gets the rest by a replay; others get every event."""
    one, two = two_sites
    text = "x" * 20_000
    with listening(f"{one.url}/events/{channel}") as quick:
        with raw_stream(one, f"{channel}") as slow:
            for _ in range(6):
                send(two, channel, *[text] * 50)
            quick.wait_for(300)
            received = read_to_end(slow)
    whole = received[: received.rindex(b"\n\n")]
    got = whole.count(b"event: n")
    assert 0 < got < 300
    last_id = whole.rsplit(b"id: ", 1)[1].split(b"\n")[0].decode()
    with listening(f"{one.url}/events/{channel}", last_id=last_id) as back:
        back.wait_for(300 - got)
        assert [e.id for e in back.events] == [e.id for e in quick.events[got:]]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_readers_that_do_not_read_cost_one_portion_of_the_history_each(serve, environment):
    """Twenty readers that don't read a history of 40 MB cost a process little memory."""
    big = {"SSE_HISTORY_BYTES": "50000000", "SSE_EVENT_BYTES": "250000"}
    with serve(**{**environment, **big}) as site, ExitStack() as stack:
        first = send(site, "big", "first")[0]
        for _ in range(50):
            send(site, "big", *["x" * 200_000] * 4)
        before = resident_megabytes(site)
        for _ in range(20):
            stack.enter_context(raw_stream(site, "big", last_id=first))
        wait_until(lambda: inside(site)["subscribers"] == 20)
        time.sleep(2)
        assert resident_megabytes(site) < before + 60
        with listening(f"{site.url}/events/big", last_id=first) as browser:
            browser.wait_for(200, seconds=60)
            assert {event.name for event in browser.events} == {"n"}


def resident_megabytes(site: Site) -> int:
    """Return the memory of the web process in megabytes."""
    pages = Path(f"/proc/{inside(site)['pid']}/statm").read_text(encoding="utf-8").split()[1]
    return int(pages) * 4096 // 1_000_000


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux gives up so soon")
def test_a_browser_that_neither_reads_nor_leaves_is_hung_up(
    two_sites: tuple[Site, Site], channel: str
):
    """A browser that neither reads nor leaves is disconnected by the server."""
    one, _ = two_sites
    with raw_stream(one, channel):
        for _ in range(10):
            send(one, channel, *["x" * 90_000] * 10)
        assert inside(one)["subscribers"] == 1
        wait_until(lambda: inside(one)["subscribers"] == 0, seconds=60)


def test_a_keepalive_comes_when_nothing_else_does(two_sites: tuple[Site, Site], channel: str):
    """A quiet stream gets a comment as a keepalive, which is no event."""
    one, _ = two_sites
    with listening(f"{one.url}/events/{channel}") as browser:
        wait_until(lambda: browser.comments, seconds=40)
        assert browser.events == []


def test_no_key_is_left_without_a_time_to_live(
    two_sites: tuple[Site, Site], environment: dict[str, str], channel: str
):
    """No key has been left without a time to live."""
    one, _ = two_sites
    send(one, channel, "1")

    async def lasting() -> tuple[int, list[str]]:
        from vibetuner.config import Settings

        async with make_client(Settings(redis_url=environment["REDIS_URL"])) as client:
            pattern = f"{environment['REDIS_KEY_PREFIX']}:*"
            keys = [key async for key in client.scan_iter(pattern, count=10_000)]
            return len(keys), [key for key in keys if await client.ttl(key) < 0]

    count, without = asyncio.run(lasting())
    assert count > 0
    assert without == []


def test_streams_go_on_over_a_restart_of_the_web_process(serve, environment, channel: str):
    """A browser returns to a restarted web process, and misses no event."""
    port = free_port()
    with serve(**environment) as other:
        with serve(port=port, **environment) as site:
            source = EventSource(f"{site.url}/events/{channel}")
            source.wait_until_open()
            send(other, channel, "1")
            source.wait_for(1)
        send(other, channel, "2", "3")
        with serve(port=port, **environment):
            send(other, channel, "4")
            source.wait_for(4)
            assert source.data == numbers(1, 5)
            source.close()


def test_open_streams_do_not_hold_up_a_stop(serve, environment, channel: str):
    """Open streams end at once when the process stops, even if a browser doesn't read."""
    took: list[float] = []
    for _ in range(3):  # the machine may have other things to do, but not three times
        with serve(**environment) as site, ExitStack() as stack:
            sources = [
                EventSource(f"{site.url}/events/{channel}", returns=False) for _ in range(20)
            ]
            for source in sources:
                source.wait_until_open()
            stuck = stack.enter_context(raw_stream(site, channel))
            for _ in range(10):
                send(site, channel, *["x" * 90_000] * 10)
            began = time.monotonic()
            site.command.process.terminate()
            assert site.command.process.wait(60) == 0
            took.append(time.monotonic() - began)
            for source in sources:
                source.wait_until_over()
            stuck.close()
            assert "Exception" not in site.command.output
            assert "Cancel " not in site.command.output
        if took[-1] < 2:
            return
    raise AssertionError(took)


def test_streams_go_on_over_a_restart_of_redis(serve, tmp_path: Path, channel: str):
    """Open streams go on over a restart of Redis, without a reconnection of the browser."""
    valkey = Valkey(tmp_path)
    valkey.start()
    try:
        variables = {"REDIS_URL": valkey.url, "REDIS_KEY_PREFIX": "restart"}
        with serve(**variables) as one, serve(**variables) as two:
            with listening(f"{one.url}/events/{channel}") as browser:
                send(two, channel, "1")
                browser.wait_for(1)
                valkey.kill()
                one.command.wait_for("lost Redis")
                valkey.start()
                two.command.wait_for("reconnected to Redis")
                send(two, channel, "2", "3")
                browser.wait_for(3)
                assert browser.pairs == [("n", "1"), ("n", "2"), ("n", "3")]
                assert browser.opened == 1
                assert one.command.output.count("lost Redis") == 1
    finally:
        valkey.kill()


def test_streams_go_on_when_their_slot_of_a_cluster_moves(
    serve, clustered: Clustered, channel: str
):
    """Open streams go on when their slot moves, and no event is lost or sent twice."""
    variables = {"REDIS_URL": clustered.url, "REDIS_KEY_PREFIX": PREFIX}
    source = clustered.primary
    target = next(port for port in clustered.primaries if port != source)
    with serve(**variables) as one, serve(**variables) as two:
        with listening(f"{one.url}/events/{channel}") as browser:
            send(two, channel, "1")
            browser.wait_for(1)
            clustered.begin_move(source, target)
            clustered.move_keys(source, target)
            clustered.end_move(target)
            send(two, channel, "2", "3")
            browser.wait_for(3)
            one.command.wait_for(f"the Redis primary is now 127.0.0.1:{target}")
            send(two, channel, "4")
            browser.wait_for(4)
            assert browser.pairs == [("n", number) for number in "1234"]
            assert browser.opened == 1


def test_a_browser_that_comes_while_redis_is_away_is_served_later(
    serve, tmp_path: Path, channel: str
):
    """A browser that comes while Redis is away is served once Redis is back.

    An answer of 503 would make a browser give up for good.
    """
    valkey = Valkey(tmp_path)
    valkey.start()
    try:
        with serve(REDIS_URL=valkey.url, REDIS_KEY_PREFIX="away") as site:
            last = send(site, channel, "1")[0]
            valkey.kill()
            site.command.wait_for("lost Redis")
            with (
                listening(f"{site.url}/events/{channel}", last_id=last) as browser,
                listening(f"{site.url}/events/{channel}") as new,
                listening(f"{site.url}/events/{channel}", returns=False) as gone,
            ):
                gone.close()
                valkey.start()
                site.command.wait_for("reconnected to Redis")
                send(site, channel, "2")
                browser.wait_for(1)
                assert browser.pairs == [("n", "2")]
                assert browser.opened == 1
                # Nobody knows which events came after it opened.
                assert new.wait_for(1)[0].name == "reset"
                assert new.opened == 1
                assert gone.last_id == "0-0"
            with listening(f"{site.url}/events/{channel}", last_id=gone.last_id) as back:
                assert back.wait_for(1)[0].name == "reset"
    finally:
        valkey.kill()


def test_a_page_gets_the_state_again_with_a_reset_though_its_function_fails(
    serve, tmp_path: Path, channel: str
):
    """A page that was reset gets the state, also if that fails at first."""
    valkey = Valkey(tmp_path, lasting=False)
    valkey.start()
    state = ("state", str(len(channel)))
    try:
        with serve(REDIS_URL=valkey.url, REDIS_KEY_PREFIX="reset") as site:
            with listening(f"{site.url}/counted/{channel}") as browser:
                send(site, channel, "1")
                browser.wait_for(2)
                valkey.kill()
                site.command.wait_for("lost Redis")
                httpx2.post(f"{site.url}/fail", timeout=30)
                valkey.start()
                browser.wait_until_open(2)
                browser.wait_for(4)
                assert browser.pairs == [state, ("n", "1"), ("reset", ""), state]
    finally:
        valkey.kill()


def test_without_redis_events_reach_the_same_process(serve, channel: str):
    """Without Redis, events reach the same process, with one warning; a return gets a reset."""
    with serve() as site, listening(f"{site.url}/events/{channel}") as browser:
        send(site, channel, "1", "2")
        browser.wait_for(2)
        assert browser.data == ["1", "2"]
        assert site.command.output.count("Events reach this process only") == 1
        with listening(f"{site.url}/events/other") as quiet:
            wait_until(lambda: quiet.last_id, what=lambda: "an id")
        for last_id in (browser.last_id, quiet.last_id):
            with listening(f"{site.url}/events/{channel}", last_id=last_id) as back:
                assert back.wait_for(1)[0].name == "reset"


@contextmanager
def raw_stream(site: Site, channel: str, *, last_id: str = "") -> Iterator[socket.socket]:
    """Open a stream by a socket that reads only what the test asks of it."""
    address = urlsplit(site.url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        connection.connect((address.hostname, address.port))
        connection.sendall(
            f"GET /events/{channel} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Last-Event-ID: {last_id}\r\n\r\n".encode()
        )
        head = b""
        while b"retry: 1000" not in head:
            head += connection.recv(1024)
        yield connection


def read_to_end(connection: socket.socket) -> bytes:
    """Return the rest of a stream, without the lengths of its chunks.

    The server hangs up if its end can't be sent for too long.
    """
    connection.settimeout(60)
    received = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    body, rest = b"", b"\r\n" + received
    while b"\r\n" in rest:
        _, _, rest = rest.partition(b"\r\n")
        size, _, rest = rest.partition(b"\r\n")
        if not size.strip():
            break
        try:
            length = int(size, 16)
        except ValueError:
            continue
        body, rest = body + rest[:length], rest[length:]
    return body
