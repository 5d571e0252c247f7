"""A running server: the port first, then the model, then galleries in the background while it answers."""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from tbps_cli.databases.urls import is_url, shown
from tbps_cli.errors import DataError, UsageError
from tbps_cli.features.encoder import Encoder
from tbps_cli.machine import available_cpus
from tbps_cli.models.checkpoint import Checkpoint, opened
from tbps_cli.models.exported import ExportedModel
from tbps_cli.searching import galleries as kept
from tbps_cli.searching.audit import AuditLog
from tbps_cli.searching.index_file import read_index, refuse_batch_dependent
from tbps_cli.searching.search import index_file_of
from tbps_cli.searching.sources import Sources, find_sources
from tbps_cli.searching.thresholds import Budget
from tbps_cli.serving.app import make_app
from tbps_cli.serving.batching import TextBatches
from tbps_cli.serving.connections import PromptProtocol
from tbps_cli.serving.metrics import Metrics
from tbps_cli.serving.security import Access, is_loopback
from tbps_cli.serving.served import ServedGallery, Settings
from tbps_cli.serving.served_database import ServedDatabase, name_of
from tbps_cli.serving.service import Service
from tbps_cli.serving.standing import StandingQuestions
from tbps_cli.serving.work_queue import WorkQueues

logger = logging.getLogger("tbps")
GRACE = 5
"""Seconds that requests have to end when the server is stopped."""
SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Address:
    """Where the server listens, and who may ask it."""

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = None
    names: Sequence[str] = ()
    """Further values of the Host header that are answered."""
    rate: float = 50.0
    origins: Sequence[str] = ()

    def access(self) -> Access:
        """Who may ask; a server that others can reach gets a token where it has none. Raises UsageError."""
        token = self.token
        if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
            raise UsageError(
                f"--token: {SHORTEST_TOKEN} printable ASCII characters or more, please.",
                "Leave it out, and one is made.",
            )
        if token is not None and any(mark in token for mark in ' ;,"\\&+%#'):
            raise UsageError("--token: letters, digits, - and _ only.", "Leave it out, and one is made.")
        if not is_loopback("127.0.0.1" if self.host == "localhost" else self.host) and token is None:
            token = secrets.token_urlsafe(24)
        own = _in_url(self.host)
        hosts = {"localhost", "127.0.0.1", "[::1]", own.lower(), *(name.lower() for name in self.names)}
        if self.host in ("0.0.0.0", "::"):
            hosts |= {socket.gethostname().lower(), socket.getfqdn().lower(), *_own_addresses()}
        for origin in self.origins:
            if "://" not in origin or origin.endswith("/"):
                raise UsageError(f"--origin {origin}: no origin.", "For example: https://search.example.org")
        return Access(token, frozenset(hosts), self.rate, frozenset(self.origins))

    def url(self, access: Access, port: int) -> str:
        """What to open in a browser."""
        host = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{_in_url(host)}:{port}/" + (f"?token={access.token}" if access.token else "")


def _own_addresses() -> set[str]:
    """The addresses of this machine, as its name leads to them."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return set()
    addresses = {str(entry[4][0]) for entry in found}
    return {_in_url(address) for address in addresses}


def _in_url(host: str) -> str:
    """A host as browsers write it: an IPv6 address in its shortest form, in brackets."""
    if ":" not in host:
        return host
    with suppress(ValueError):
        host = str(ipaddress.ip_address(host.partition("%")[0]))
    return f"[{host}]"


@dataclass(frozen=True)
class _Found:
    """A gallery that will be served."""

    name: str
    sources: Sources | Path | None
    """None: it lies in a database."""
    given: list[str | Path]
    """The same as it was typed, or the URLs of the database."""

    def served(self, number: int, model: Encoder, settings: Settings) -> ServedGallery:
        """The gallery, not begun yet. Raises DatabaseError."""
        if self.sources is not None:
            return ServedGallery(number, self.name, model, self.sources, self.given, settings)
        database = ServedDatabase(number, self.name, model, list(map(str, self.given)), settings)
        database.open()
        return database


@dataclass
class Given:
    """What is served: sources as typed, and galleries by their names."""

    sources: Sequence[str] = ()
    galleries: Sequence[str] = ()
    """Names; or URLs of databases, several of which in one text are the shards of one gallery."""
    found: list[_Found] = field(default_factory=list)

    def find(self, root: Path | None = None) -> None:
        """Look at what was given before anything is opened. Raises DataError and UsageError."""
        places: list[str | Path] = list(self.sources)
        if any(place == "-" for place in self.sources):
            raise UsageError("-: a list from standard input ends.", "Write it into a file.")
        urls = [place for place in self.sources if is_url(place)]
        file = None if urls else index_file_of(places)
        if urls and len(urls) < len(places):
            hint = "Serve it as a gallery beside the others: --gallery URL"
            raise UsageError(f"{shown(urls[0])}: a database is a gallery of its own.", hint)
        if urls:
            self.found.append(_Found(name_of(urls), None, places))
        elif file is not None:
            read_index(file)
            self.found.append(_Found(file.name, file, [file]))
        elif places:
            name, listed = kept.named(places)
            sources = find_sources(listed, gallery=name)
            self.found.append(_Found(name or sources.title, sources, [name] if name else places))
        for name in self.galleries:
            parts = name.split()
            if parts and all(map(is_url, parts)):
                self.found.append(_Found(name_of(parts), None, list(parts)))
            else:
                self.found.append(_Found(name, find_sources(kept.sources_of(name), gallery=name), [name]))
        if not self.found:
            known = kept.known()
            hint = f"Or a gallery: --gallery {known[0]}" if known else "For example: tbps serve photos street.mp4"
            raise UsageError("no source is given.", hint)
        if root is not None and all(isinstance(one.sources, Sources) for one in self.found):
            raise UsageError(
                f"--root {root}: only an index file or a database has images elsewhere.", "Name the folder itself."
            )
        names = [one.name for one in self.found]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"{twice}: given twice.", "Leave one out.")


def serve(
    checkpoint: Encoder | Checkpoint | str | Path | None,
    given: Given,
    address: Address = Address(),
    *,
    settings: Settings = Settings(),
    budget: str = "5/day",
    audit: AuditLog | None = None,
    blur: bool = False,
    data_root: str | Path | None = None,
    device: str = "auto",
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    ready: Callable[[str, Service], None] = lambda url, service: None,
) -> None:
    """Serve galleries until the process is told to stop.

    ready: called with the address of the page when requests are answered. Raises TbpsError for what is wrong from the
    start: a port that is taken, a source that is not there, a model that cannot be opened.
    """
    Budget.parse(budget)
    access = address.access()
    given.find(settings.root)
    if audit:
        audit.check()
    with closing(_listen(address)) as listening:
        model = opened(checkpoint, device=device, sets=sets, words=words, data_root=data_root)
        refuse_batch_dependent(model)
        if isinstance(model, ExportedModel):
            model.check_files()  # an altered one would be noticed by whoever asks first
        metrics = Metrics()
        served = [found.served(number, model, settings) for number, found in enumerate(given.found)]
        texts = TextBatches(model, metrics.batches.observe)
        service = Service(model, served, texts, audit=audit, blur=blur)
        standing = StandingQuestions(served, budget)
        for gallery in served:
            gallery.start()
        queues = WorkQueues(available_cpus())
        app = make_app(service, standing, access, metrics, queues)
        config = uvicorn.Config(
            app,
            http=PromptProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE,
            timeout_keep_alive=20,
            limit_concurrency=1000,
            h11_max_incomplete_event_size=32 << 10,
        )
        url = address.url(access, listening.getsockname()[1])

        def end() -> None:
            service.ending.set()
            standing.close()
            queues.slow.close()  # whoever waits for a clip would keep all waiting

        runner = _Runner(config, lambda: ready(url, service), end)
        try:
            with suppress(KeyboardInterrupt):  # Ctrl-C is how a server ends
                runner.run(sockets=[listening])
        finally:
            standing.close()
            texts.close()
            for gallery in served:
                gallery.stop()


class _Runner(uvicorn.Server):
    """Says when it answers, and when it ends: whoever listens for alerts would keep it waiting."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], ending: Callable[[], None]) -> None:
        super().__init__(config)
        self.ready, self.ending = ready, ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.ending()
        await super().shutdown(sockets)


def _listen(address: Address) -> socket.socket:
    """The port, taken before a model is opened. Raises DataError where it cannot be had."""
    try:
        family, _, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(place[:2], family=family, backlog=512)
    except (socket.gaierror, UnicodeError):
        raise DataError(
            f"--host {address.host}: no address of this machine is known by this name.",
            "For all machines of the network: --host 0.0.0.0",
        ) from None
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
        hint = "Another server runs there: choose another --port, or 0 for any that is free."
        raise DataError(
            f"--host {address.host} --port {address.port}: {reason}.", hint if "in use" in reason else None
        ) from None
    return listening
