"""The tables of a gallery in PostgreSQL, as the steps by which they came about: a version is a number of steps.

A new gallery takes all steps, one of an older version those that it lacks, in one transaction. A gallery is a schema of
its own, so that several fit into one database: `tbps`, or `tbps_NAME` for a URL with `?gallery=NAME`.

| table | holds |
|---|---|
| gallery | version, fingerprint, what was told of it, width and type of the vectors |
| image | the rows: everything a `features.rows.Row` has, what filters compare besides, and the vector, once |
| root | names with which paths begin, and the folders that they stand for |
| known | fields of which some row has, or had, a value |
| hnsw | ranges of `image.id`, each with an index of its vectors of which ef rows are looked at; where ef is 0 there is
none. Rows of these, and those in no range, are read one by one |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from tbps_cli.errors import DatabaseError

Connection = psycopg.Connection[tuple[Any, ...]]
PGVECTOR = (0, 8, 4)
"""The oldest pgvector that is used: earlier ones damage their indexes when rows are deleted."""
# The vector is the third column: behind all the others, as older versions had it, comparing takes longer.
STEPS = (
    """
    CREATE TABLE gallery (key text PRIMARY KEY, value text NOT NULL);
    CREATE TABLE root (name text COLLATE "C" PRIMARY KEY, folder text NOT NULL UNIQUE);
    CREATE TABLE known (field text PRIMARY KEY);
    CREATE SEQUENCE image_id;
    CREATE TABLE image (
        id bigint PRIMARY KEY,
        path text COLLATE "C" NOT NULL UNIQUE,
        vector halfvec NOT NULL,
        path_number float8,
        size bigint NOT NULL, mtime bigint NOT NULL, content text NOT NULL,
        camera text COLLATE "C", camera_number float8,
        time text COLLATE "C", time_number float8, time_written text,
        clock text COLLATE "C", clock_number float8,
        person text COLLATE "C", person_number float8, person_json text,
        source text COLLATE "C", source_number float8, seconds float8,
        x integer, y integer, width integer, height integer,
        track text COLLATE "C", track_number float8,
        detection real, detection_rounded float8);
    CREATE INDEX image_camera_time ON image (camera, time);
    CREATE INDEX image_time ON image (time);
    """,
    """
    CREATE TABLE hnsw (
        name text PRIMARY KEY, after bigint NOT NULL, upto bigint NOT NULL, rows bigint NOT NULL);
    CREATE INDEX image_camera_number ON image (camera_number, time) WHERE camera_number IS NOT NULL;
    CREATE INDEX image_source ON image (source, seconds) WHERE source IS NOT NULL;
    CREATE INDEX image_person ON image (person) WHERE person IS NOT NULL;
    CREATE INDEX image_person_number ON image (person_number) WHERE person_number IS NOT NULL;
    """,
    """
    ALTER TABLE hnsw ADD COLUMN ef integer;
    """,
)
LOCK = 0x74627073
"""The advisory lock of whoever changes the schema ("tbps" in ASCII); together with a hash of its name."""


def check_extension(connection: Connection, title: str, *, create: bool) -> str:
    """The schema in which pgvector lies. Raises DatabaseError without it, or for one that is too old."""
    found = _extension(connection)
    if found is None and create:
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except psycopg.Error as error:
            hint = "Install pgvector on the server; then, as its administrator: CREATE EXTENSION vector"
            if isinstance(error, psycopg.errors.InsufficientPrivilege):
                hint = "As the administrator of the database: CREATE EXTENSION vector"
            raise DatabaseError(f"{title}: the database has no extension pgvector, and cannot get it.", hint) from None
        found = _extension(connection)
    if found is None:
        hint = "As the administrator of the database: CREATE EXTENSION vector"
        raise DatabaseError(f"{title}: the database does not have the extension pgvector.", hint)
    version, schema = found
    if tuple(int(part) for part in version.split(".")[:3] if part.isdigit()) < PGVECTOR:
        raise DatabaseError(
            f"{title}: its pgvector is {version}; {'.'.join(map(str, PGVECTOR))} or newer is needed.",
            "Update it on the server, then: ALTER EXTENSION vector UPDATE",
        )
    return schema


def _extension(connection: Connection) -> tuple[str, str] | None:
    found = connection.execute(
        "SELECT extversion, nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace"
        " WHERE extname = 'vector'"
    ).fetchone()
    return None if found is None else (str(found[0]), str(found[1]))


def damaged(title: str) -> DatabaseError:
    """What is raised where facts about a gallery make no sense."""
    return DatabaseError(
        f"{title}: what is kept about the gallery is damaged (its table `gallery`).",
        "Restore it from a backup, or make a new one: tbps index SOURCE --gallery 'URL?gallery=NAME'",
    )


def version_of(connection: Connection, schema: str) -> int:
    """How many steps a gallery has taken; 0: there is none. Raises ValueError where that is no number."""
    table = sql.Identifier(schema, "gallery").as_string(connection)
    if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
        return 0
    return int(facts(connection, schema).get("version", 0))


def facts(connection: Connection, schema: str) -> dict[str, str]:
    """What is kept about a gallery."""
    query = sql.SQL("SELECT key, value FROM {}").format(sql.Identifier(schema, "gallery"))
    return {str(key): str(value) for key, value in connection.execute(query)}


def lock(connection: Connection, schema: str) -> None:
    """Wait until nobody else changes this gallery's schema, and keep others out until the transaction ends."""
    connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [LOCK, schema])


def take_steps(connection: Connection, schema: str, about: Mapping[str, object] | None, upto: int = len(STEPS)) -> None:
    """Bring a gallery to a version, or make it; the search path must begin with its schema."""
    with connection.transaction():
        lock(connection, schema)
        if connection.execute("SELECT to_regnamespace(%s)", [sql.Identifier(schema).as_string()]).fetchone() == (None,):
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        there = version_of(connection, schema)
        for step in STEPS[there:upto]:
            connection.execute(sql.SQL(step))
        note(connection, "version", str(max(there, upto)))
        if there == 0:
            note(connection, "about", json.dumps(dict(about or {}), default=str))


def note(connection: Connection, key: str, value: str) -> None:
    """Keep a fact about the gallery."""
    connection.execute(
        "INSERT INTO gallery VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value", [key, value]
    )
