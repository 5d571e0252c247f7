"""PostgreSQL as a gallery when things go wrong: killed servers, wrong passwords, other versions, two writers."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from itertools import count, pairwise

import numpy as np
import psycopg
import pytest
from support.galleries import exact, odd_rows, unit_rows
from support.postgres_server import Server, free_port

from tbps_cli.databases import postgres, postgres_index, postgres_link, postgres_schema
from tbps_cli.databases.opening import open_database
from tbps_cli.errors import DatabaseError, MissingExtra, TbpsError, UnreachableError, UsageError
from tbps_cli.features.rows import Row, Rows
from tbps_cli.filtering.parse import parse

WIDTH = 16
BATCH = 40


@pytest.fixture
def own_server() -> Iterator[Callable[..., Server]]:
    """Starts servers that a test may stop."""
    servers: list[Server] = []

    def started(**options: str) -> Server:
        servers.append(Server.or_skip(**options))
        return servers[-1]

    yield started
    for server in servers:
        server.remove()


def numbered(start: int, size: int) -> Rows:
    return Rows.of(
        [Row(f"f/{number:06d}.jpg", number, 1, "", f"c{number % 7}") for number in range(start, start + size)]
    )


class Writer(threading.Thread):
    """Adds batch after batch until it is stopped, whatever happens to the server; knows what was acknowledged."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.ended, self.acknowledged, self.failures = url, threading.Event(), 0, 0
        self.start()

    def run(self) -> None:
        database = None
        for batch in count():
            while not self.ended.is_set():
                try:
                    if database is None:
                        database = open_database(self.url, create=True, fingerprint="model")
                    database.add(numbered(batch * BATCH, BATCH), unit_rows(BATCH, WIDTH, seed=batch))
                    self.acknowledged += BATCH
                    break
                except DatabaseError:
                    self.failures += 1
            if self.ended.is_set():
                break
        if database is not None:
            database.close()

    def wait_for(self, more: int) -> None:
        """Until so many rows more are acknowledged."""
        wanted, waited = self.acknowledged + more, threading.Event()
        for _ in range(1200):
            if self.acknowledged >= wanted:
                return
            waited.wait(0.05)
        raise AssertionError(f"only {self.acknowledged} of {wanted} rows were acknowledged within a minute")

    def stop(self) -> None:
        self.ended.set()
        self.join(30)


def check_nothing_is_lost(url: str, acknowledged: int) -> None:
    """All acknowledged rows are there, the last batch at most besides, and no batch in part; the index has them too."""
    database = open_database(url)
    there = database.count()
    assert there in (acknowledged, acknowledged + BATCH)
    assert database.page(None, there)[0].paths == numbered(0, there).paths
    for batch in range(0, there // BATCH, max(1, there // BATCH // 10)):
        vector_NE = unit_rows(BATCH, WIDTH, seed=batch)
        found = [matches.rows.paths[0] for matches in database.search(vector_NE, 1)]
        assert found == numbered(batch * BATCH, BATCH).paths
    database.close()


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_no_acknowledged_row_is_lost_when_the_server_is_killed(
    kills: int, own_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_index, "WAITING", 200)
    monkeypatch.setattr(postgres_index, "WAITING_MOST", 400)
    server = own_server()
    writer = Writer(server.url())
    for _ in range(kills):
        writer.wait_for(10 * BATCH)
        server.kill()
        server.start()
    writer.wait_for(5 * BATCH)
    writer.stop()
    check_nothing_is_lost(server.url(), writer.acknowledged)


@pytest.mark.slow
def test_a_standby_that_is_promoted_has_every_acknowledged_row(own_server: Callable[..., Server]) -> None:
    primary = own_server()
    standby = Server.standby_of(primary)
    try:
        with psycopg.connect(primary.url(), autocommit=True) as administrator:
            administrator.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            administrator.execute("SELECT pg_reload_conf()")
        both = f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
        writer = Writer(both)
        writer.wait_for(10 * BATCH)
        reader = open_database(standby.url())
        assert reader.count() > 0
        reader.close()
        with pytest.raises(DatabaseError, match="cannot be reached"):  # a writer asks for a server that writes
            open_database(standby.url(), create=True)
        primary.kill()
        standby.promote()
        with psycopg.connect(standby.url(), autocommit=True) as administrator:
            administrator.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
            administrator.execute("SELECT pg_reload_conf()")
        writer.wait_for(10 * BATCH)
        writer.stop()
        check_nothing_is_lost(both, writer.acknowledged)
    finally:
        standby.remove()


def test_a_connection_that_is_lost_comes_back_once(own_server: Callable[..., Server], monkeypatch) -> None:
    monkeypatch.setattr(postgres_link, "AGAIN", 0.3)
    server = own_server()
    database = open_database(server.url(), create=True, fingerprint="model")
    database.add(numbered(0, 20), unit_rows(20, WIDTH))
    with psycopg.connect(server.url(), autocommit=True) as administrator:
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tbps'"
        assert administrator.execute(ended).fetchall() == [(True,)]
    assert database.search(unit_rows(1, WIDTH), 3)[0].rows.paths[0] == "f/000000.jpg"
    server.stop()
    with pytest.raises(DatabaseError, match="cannot be reached") as lost:
        database.search(unit_rows(1, WIDTH), 3)
    assert lost.value.hint
    server.start()
    assert database.count() == 20
    database.close()


def test_a_wrong_password_is_one_line_without_it(own_server: Callable[..., Server]) -> None:
    server = own_server(password="the-right-word")
    open_database(server.url(), create=True).close()
    wrong = server.url().replace("the-right-word", "the-wrong%20word")
    with pytest.raises(DatabaseError, match="does not accept the user or the password") as refused:
        open_database(wrong, create=True)
    shown = "".join(traceback.format_exception(refused.value)) + repr(refused.value) + str(refused.value.hint)
    assert "the-wrong" not in shown and "PGPASSWORD" in shown
    database = open_database(f"{server.url()}?gallery=other", create=True)
    assert "the-right-word" not in repr(database) + database.title
    database.close()


@pytest.mark.parametrize("secret", ["xyzzy@ret:x/y", "xyzzy"])
def test_a_url_that_makes_no_sense_is_refused_without_quoting_it(secret: str) -> None:
    with pytest.raises(UsageError, match="no URL of PostgreSQL") as refused:
        open_database(f"postgresql://u:{secret}@127.0.0.1:port/db?nonsense=1")
    assert secret[:3] not in "".join(traceback.format_exception(refused.value))
    with pytest.raises(UsageError, match="is no name"):
        open_database("postgresql://127.0.0.1/db?gallery=a;b")


def test_a_server_that_is_down_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_link, "AGAIN", 0.1)
    with pytest.raises(DatabaseError, match="cannot be reached") as refused:
        open_database(f"postgresql://postgres@127.0.0.1:{free_port()}/db")
    assert "Does the server run" in str(refused.value.hint)


def test_without_the_client_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tbps_cli.databases.postgres", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra) as missing:
        open_database("postgresql://127.0.0.1/db")
    assert missing.value.hint == "Type: pip install 'tbps[postgres]'"


def test_a_database_without_the_extension_gets_it_where_it_may(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as administrator:
        administrator.execute("DROP EXTENSION vector")
        administrator.execute("DROP ROLE IF EXISTS guest")
        administrator.execute("CREATE ROLE guest LOGIN")
    with pytest.raises(DatabaseError, match="does not have the extension pgvector"):
        open_database(postgres_url)
    guest = postgres_url.replace("postgres@", "guest@")
    with pytest.raises(DatabaseError, match="cannot get it") as refused:
        open_database(guest, create=True)
    assert "CREATE EXTENSION vector" in str(refused.value.hint)
    open_database(postgres_url, create=True).close()
    with pytest.raises(DatabaseError, match="may not"):
        open_database(f"{guest}?gallery=theirs", create=True)


def test_who_may_only_read_can_search_but_not_write(postgres_url: str) -> None:
    database = open_database(postgres_url, create=True, fingerprint="model")
    database.add(numbered(0, 20), unit_rows(20, WIDTH))
    assert len(database.history()) == 1
    database.close()
    with psycopg.connect(postgres_url, autocommit=True) as administrator:
        administrator.execute("DROP ROLE IF EXISTS reader")
        administrator.execute("CREATE ROLE reader LOGIN")
        administrator.execute("GRANT USAGE ON SCHEMA tbps TO reader")
        administrator.execute("GRANT SELECT ON ALL TABLES IN SCHEMA tbps TO reader")
        administrator.execute("REVOKE EXECUTE ON FUNCTION pg_current_wal_lsn FROM PUBLIC")
    reader = open_database(postgres_url.replace("postgres@", "reader@"))
    assert reader.history() == []
    assert reader.search(unit_rows(1, WIDTH), 3, parse("camera == 'c0'").tree)[0].rows.paths[0] == "f/000000.jpg"
    assert (reader.count(), reader.columns(), len(reader.sample(5))) == (20, ("path", "camera"), 5)
    with pytest.raises(DatabaseError, match="may not"):
        reader.delete(["f/000000.jpg"])
    with pytest.raises(DatabaseError, match="may not"):
        reader.add(numbered(30, 1), unit_rows(1, WIDTH))
    reader.close()


def test_an_older_pgvector_is_refused(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as administrator:
        administrator.execute("SET allow_system_table_mods = on")
        administrator.execute("UPDATE pg_extension SET extversion = '0.8.3' WHERE extname = 'vector'")
    with pytest.raises(DatabaseError, match=r"is 0\.8\.3; 0\.8\.4 or newer") as refused:
        open_database(postgres_url, create=True)
    assert "ALTER EXTENSION" in str(refused.value.hint)


def test_a_gallery_of_a_newer_version_is_refused(postgres_url: str) -> None:
    open_database(postgres_url, create=True).close()
    with psycopg.connect(postgres_url, autocommit=True) as administrator:
        administrator.execute("UPDATE tbps.gallery SET value = '99' WHERE key = 'version'")
    with pytest.raises(DatabaseError, match="newer tbps") as refused:
        open_database(postgres_url)
    assert "Update tbps" in str(refused.value.hint)


def test_a_gallery_of_an_older_version_is_brought_up_and_keeps_its_rows(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as first:
        first.execute("CREATE SCHEMA tbps")
        first.execute("SET search_path = tbps, public")
        postgres_schema.take_steps(first, "tbps", {"run": "runs/old-0001"}, upto=1)
        first.execute("ALTER TABLE image ALTER COLUMN vector TYPE halfvec(3)")
        first.execute("INSERT INTO gallery VALUES ('width', '3'), ('kind', 'halfvec'), ('fingerprint', 'model')")
        first.execute(
            "INSERT INTO image (id, path, size, mtime, content, camera, vector)"
            " VALUES (nextval('image_id'), 'old.jpg', 1, 2, '', 'c1', '[1,0,0]')"
        )
        first.execute("INSERT INTO known VALUES ('path'), ('camera')")
    database = open_database(postgres_url, fingerprint="model")
    assert database.columns() == ("path", "camera")
    assert database.about["run"] == "runs/old-0001"
    (found,) = database.search(np.eye(1, 3, dtype=np.float32), 5, parse("camera == 'c1'").tree)
    assert list(found.rows) == [Row("old.jpg", 1, 2, "", "c1")]
    database.close()
    with psycopg.connect(postgres_url) as again:
        assert again.execute("SELECT value FROM tbps.gallery WHERE key = 'version'").fetchone() == (
            str(len(postgres_schema.STEPS)),
        )


def test_who_may_only_read_is_told_who_brings_an_older_gallery_up(postgres_url: str) -> None:
    open_database(postgres_url, create=True, fingerprint="model").close()
    with psycopg.connect(postgres_url, autocommit=True) as administrator:
        administrator.execute("DROP ROLE IF EXISTS old_reader")
        administrator.execute("CREATE ROLE old_reader LOGIN")
        administrator.execute("ALTER TABLE tbps.hnsw DROP COLUMN ef")
        administrator.execute("UPDATE tbps.gallery SET value = '2' WHERE key = 'version'")
        administrator.execute("GRANT USAGE ON SCHEMA tbps TO old_reader")
        administrator.execute("GRANT SELECT ON ALL TABLES IN SCHEMA tbps TO old_reader")
    with pytest.raises(DatabaseError, match="schema is 2, and this user may not bring it to") as refused:
        open_database(postgres_url.replace("postgres@", "old_reader@"))
    assert "tbps index" in str(refused.value.hint)


@pytest.mark.parametrize(("key", "value"), [("version", "x"), ("about", "{"), ("about", "[]"), ("width", "x")])
def test_what_is_kept_about_a_gallery_may_be_damaged(postgres_url: str, key: str, value: str) -> None:
    open_database(postgres_url, create=True, fingerprint="model").close()
    with psycopg.connect(postgres_url, autocommit=True) as administrator:
        changed = "INSERT INTO tbps.gallery VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
        administrator.execute(changed, [key, value])
    with pytest.raises(DatabaseError, match="is damaged"):
        open_database(postgres_url)


def test_a_disk_that_fills_on_the_server_is_told_and_nothing_is_kept_in_part(postgres_url: str) -> None:
    """The server's own error for a full disk, raised by a trigger: a disk of our own cannot be filled everywhere."""
    database = open_database(postgres_url, create=True, fingerprint="model")
    database.add(numbered(0, 10), unit_rows(10, WIDTH))
    with psycopg.connect(postgres_url, autocommit=True) as administrator:
        administrator.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.size >= 25 THEN"
            " RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';"
            " END IF; RETURN NEW; END $$"
        )
        administrator.execute(
            "CREATE TRIGGER no_room BEFORE INSERT ON tbps.image FOR EACH ROW EXECUTE FUNCTION full_disk()"
        )
    with pytest.raises(DatabaseError, match="disk is full") as full:
        database.add(numbered(10, 30), unit_rows(30, WIDTH))
    assert "Make room" in str(full.value.hint)
    assert database.count() == 10
    database.close()


def test_two_writers_of_the_same_rows_do_not_block_each_other(postgres_url: str) -> None:
    open_database(postgres_url, create=True, fingerprint="model").close()
    failed: list[TbpsError] = []

    def write(seed: int) -> None:
        database = open_database(postgres_url, create=True, fingerprint="model")
        order = np.random.default_rng(seed)
        try:
            for _ in range(15):
                places = order.permutation(60)
                database.add(numbered(0, 60).take(places), unit_rows(60, WIDTH)[places])
                database.delete([f"f/{number:06d}.jpg" for number in places[:5]])
        except TbpsError as error:
            failed.append(error)
        finally:
            database.close()

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert failed == []
    database = open_database(postgres_url)
    assert 45 <= database.count() <= 60
    database.close()


def test_settings_of_the_user_change_no_names(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    database = open_database(postgres_url, create=True, fingerprint="model")
    database.add(Rows.of([Row("f/日本.jpg", 1, 1, "", "ü")]), unit_rows(1, WIDTH))
    assert (database.page(None, 5)[0].paths, database.values("camera")) == (["f/日本.jpg"], ["ü"])
    database.close()


def test_a_name_that_is_too_long_for_a_b_tree_is_told(postgres_url: str) -> None:
    database = open_database(postgres_url, create=True, fingerprint="model")
    drawn = np.random.default_rng(1).integers(97, 123, 3500).astype(np.uint8).tobytes().decode()
    with pytest.raises(DatabaseError, match="a text is too long") as refused:
        database.add(Rows.of([Row(f"f/{drawn}.jpg", 1, 1)]), unit_rows(1, WIDTH))
    assert "2,700 bytes" in str(refused.value.hint) and database.count() == 0
    database.close()


@pytest.mark.parametrize(
    "said", ["is starting up", "is in recovery mode", "is not yet accepting connections\nDETAIL:  Consistent recovery"]
)
def test_a_server_that_starts_or_has_crashed_may_answer_later(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise psycopg.OperationalError(f"connection failed: FATAL:  the database system {said}")

    monkeypatch.setattr(psycopg, "connect", refuse)
    with pytest.raises(UnreachableError, match="the server is starting up") as refused:
        open_database("postgresql://postgres@127.0.0.1/db")
    assert "in a moment" in str(refused.value.hint)


@pytest.mark.parametrize(("table", "said"), [("image", "tables of something else"), ("gallery", "is not as tbps made")])
def test_tables_of_something_else_in_the_schema_are_told(table: str, said: str, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as administrator:
        administrator.execute("CREATE SCHEMA tbps")
        administrator.execute(f"CREATE TABLE tbps.{table} (x integer)".encode())
    with pytest.raises(DatabaseError, match=said) as refused:
        open_database(postgres_url, create=True)
    assert "gallery=NAME" in str(refused.value.hint)


def test_a_server_without_a_free_connection_may_have_one_later(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as administrator:
        administrator.execute("DROP ROLE IF EXISTS crowd")
        administrator.execute("CREATE ROLE crowd LOGIN CONNECTION LIMIT 0")
    with pytest.raises(UnreachableError, match="no connection to give") as refused:
        open_database(postgres_url.replace("postgres@", "crowd@"))
    assert "max_connections" in str(refused.value.hint)


def test_a_database_that_is_not_there_is_told(postgres_url: str) -> None:
    with pytest.raises(DatabaseError, match='"missing" does not exist') as refused:
        open_database(postgres_url.rpartition("/")[0] + "/missing")
    assert "docs/databases.md" in str(refused.value.hint)


@pytest.mark.parametrize("create", [False, True])
def test_a_lock_of_somebody_else_is_not_waited_for_without_a_word(
    create: bool, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "WAIT", "50ms")
    monkeypatch.setattr(postgres, "WAIT_WRITING", "50ms")
    writer = open_database(postgres_url, create=True, fingerprint="model")
    writer.add(numbered(0, 20), unit_rows(20, WIDTH))
    writer.close()
    database = open_database(postgres_url, create=create)
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE tbps.image IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DatabaseError, match="somebody else has locked it") as locked:
            database.search(unit_rows(1, WIDTH), 3)
        assert "pg_locks" in str(locked.value.hint)
    assert len(database.search(unit_rows(1, WIDTH), 3)[0].rows) == 3
    database.close()


def test_a_filter_that_few_rows_passed_stays_exact_when_many_do(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tbps_cli.databases.postgres.EXACT", 50)
    monkeypatch.setattr(postgres_index, "WAITING", 100)
    database = open_database(postgres_url, create=True, fingerprint="model")
    rows, vector_NE = numbered(0, 700), unit_rows(700, WIDTH)
    where = parse("camera == 'c3'").tree
    query_E = unit_rows(1, WIDTH, seed=3)[0]
    for start, end in ((0, 280), (280, 700)):
        database.add(rows.take(np.arange(start, end)), vector_NE[start:end])
        assert database.settle()
        (found,) = database.search(query_E[None], 10, where)
        right = exact(rows.take(np.arange(end)), vector_NE[:end], query_E, 10, where)
        assert found.rows.paths == right
    assert database.count(where) == 100
    database.close()


def test_rows_that_halves_cannot_tell_apart_are_ranked_exactly(postgres_url: str) -> None:
    query_E = unit_rows(1, 32)[0]
    across_NE = np.random.default_rng(0).standard_normal((1000, 32)).astype(np.float32)
    across_NE -= np.outer(across_NE @ query_E, query_E)
    across_NE /= np.linalg.norm(across_NE, axis=1, keepdims=True)
    vector_NE = (0.5 * query_E + 0.75**0.5 * across_NE).astype(np.float16)  # all as near as halves can be
    database = open_database(postgres_url, create=True, fingerprint="model")
    rows = numbered(0, 1000)
    database.add(rows, vector_NE)
    (found,) = database.search(query_E[None], 10)
    assert found.rows.paths == exact(rows, vector_NE.astype(np.float32), query_E, 10)
    database.close()


def test_galleries_of_one_database_are_apart(postgres_url: str) -> None:
    one, other = (open_database(postgres_url + end, create=True, fingerprint="m") for end in ("", "?gallery=second"))
    one.add(numbered(0, 3), unit_rows(3, WIDTH))
    assert (one.count(), other.count()) == (3, 0)
    assert other.title.endswith("?gallery=second")
    one.close()
    other.close()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_with_an_index_nearly_all_of_the_best_are_found_and_with_a_narrow_filter_all(
    dtype: type, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    size, width = 6000, 32
    centre_NE = rng.standard_normal((200, width))[rng.integers(200, size=size)]
    vector_NE = centre_NE + 0.6 * rng.standard_normal((size, width))
    vector_NE = (vector_NE / np.linalg.norm(vector_NE, axis=1, keepdims=True)).astype(dtype)
    database = open_database(postgres_url, create=True, fingerprint="model")
    database.add(odd_rows(size), vector_NE)
    assert database.exact
    database.close()
    monkeypatch.setattr("tbps_cli.databases.postgres.EXACT", 1000)  # so that some filters go through the index
    database = open_database(postgres_url, create=True)
    assert not database.exact
    query_QE = unit_rows(40, width, seed=5)
    known = odd_rows(size)
    narrow = "camera == 'c1' and time > 2026-01-05", "path like '*ab*7-1.jpg'"
    for filtered, least in ((None, 0.99), (narrow[0], 1.0), (narrow[1], 1.0), ("seconds >= 0", 0.98)):
        where = None if filtered is None else parse(filtered).tree
        shared = 0
        for matches, query_E in zip(database.search(query_QE, 10, where), query_QE, strict=True):
            shared += len({*matches.rows.paths} & {*exact(known, vector_NE.astype(np.float32), query_E, 10, where)})
            assert matches.vector_KE.dtype == dtype
        assert shared >= least * 400, filtered
    # new rows have no index yet, and are found; deleted ones are not
    new_NE = unit_rows(3, width, seed=8)
    database.add(numbered(0, 3), new_NE.astype(dtype))
    assert [matches.rows.paths[0] for matches in database.search(new_NE, 1)] == numbered(0, 3).paths
    database.delete(numbered(0, 3).paths)
    assert not {*numbered(0, 3).paths} & {path for matches in database.search(new_NE, 5) for path in matches.rows.paths}
    assert len(database.sample(500)) == 500 and len(database.sample(9000)) == size
    database.close()


def test_indexes_are_joined_as_a_gallery_grows_and_remains_of_a_killed_build_go(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_index, "WAITING", 100)
    sizes = []
    for start in range(0, 1200, 120):
        database = open_database(postgres_url, create=True, fingerprint="model")
        database.add(numbered(start, 120), unit_rows(120, WIDTH, seed=start))
        database.close()
        with psycopg.connect(postgres_url, autocommit=True) as administrator:
            sizes.append([rows for (rows,) in administrator.execute("SELECT rows FROM tbps.hnsw ORDER BY after")])
            there = {name for (name,) in administrator.execute("SELECT name FROM tbps.hnsw")}
            indexes = "SELECT indexname FROM pg_indexes WHERE schemaname = 'tbps' AND indexname LIKE 'hnsw\\_%\\_%'"
            assert {name for (name,) in administrator.execute(indexes)} == there
            administrator.execute("CREATE INDEX hnsw_9_9 ON tbps.image (id) WHERE id = 9")  # as a killed build leaves
    assert all(sum(rows) == 120 * (place + 1) for place, rows in enumerate(sizes))
    assert max(map(len, sizes)) <= 3
    assert all(first >= 4 * second for rows in sizes for first, second in pairwise(rows))
