"""Galleries as a programmer writes them in an hour, with psycopg and pgvector or with pymilvus alone.

A table or collection of path, camera, time and vector; rows are loaded in batches, the graph has the same figures as
ours (m 16, ef_construction 128). They give paths, not whole rows with their vectors, and filters are written by hand.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import HalfVector, Vector
from pgvector.psycopg import register_vector

from tbps_cli.databases import postgres_index as hnsw
from tbps_cli.features.rows import Rows

BEGIN = np.datetime64("2026-01-05T00:00:00")
EF_MILVUS = 1024


@runtime_checkable
class Plain(Protocol):
    """What the benchmark needs of one."""

    def add(self, rows: Rows, vector_NE: NDArray[Any]) -> None: ...

    def settle(self) -> bool: ...

    def can(self, title: str) -> bool: ...

    def best(self, query_E: NDArray[np.float32], k: int, title: str, rows: int) -> list[str]: ...

    def close(self) -> None: ...

    def __len__(self) -> int: ...


class PlainPostgres:
    """A table of PostgreSQL: binary COPY, the index last, the best 50 ranked again in float32."""

    def __init__(self, url: str, *, create: bool) -> None:
        self.connection = psycopg.connect(url, autocommit=True, prepare_threshold=0)
        register_vector(self.connection)
        self.connection.execute("SET hnsw.iterative_scan = relaxed_order", prepare=False)
        self.count = 0
        if not create:
            self.count = self._count()
            self._look_at_as_many()

    def _look_at_as_many(self) -> None:
        """Of the index, as ours does."""
        whole = hnsw.Range("", 0, self.count, self.count)
        self.connection.execute(f"SET hnsw.ef_search = {hnsw.effort([whole])}".encode(), prepare=False)

    def _count(self) -> int:
        found = self.connection.execute("SELECT count(*) FROM plain").fetchone()
        assert found is not None
        return int(found[0])

    def __len__(self) -> int:
        return self.count

    def add(self, rows: Rows, vector_NE: NDArray[Any]) -> None:
        if not self.count:
            self.connection.execute(
                f"CREATE TABLE plain (path text PRIMARY KEY, camera text, seen timestamp,"
                f" vector halfvec({vector_NE.shape[1]})); ALTER TABLE plain ALTER vector SET STORAGE PLAIN;"
                " CREATE INDEX ON plain (camera, seen); CREATE INDEX ON plain (seen)".encode(),
                prepare=False,
            )
        with self.connection.cursor().copy("COPY plain FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["text", "text", "timestamp", "halfvec"])
            for row, vector_E in zip(rows, vector_NE, strict=True):
                copy.write_row((row.path, row.camera, np.datetime64(row.time).item(), HalfVector(vector_E)))
        self.count += len(rows)

    def settle(self) -> bool:
        self.connection.execute(
            "CREATE INDEX ON plain USING hnsw (vector halfvec_ip_ops) WITH (m = 16, ef_construction = 128)"
        )
        self.connection.execute("ANALYZE plain")
        self._look_at_as_many()
        return True

    def can(self, title: str) -> bool:
        return True

    def best(self, query_E: NDArray[np.float32], k: int, title: str, rows: int) -> list[str]:
        until = str(BEGIN + rows // 20)
        where = {
            "all": "true",
            "camera and 5 %": f"camera = 'c3' AND seen < '{until}'",
            "5 % of the time": f"seen < '{until}'",
            "a camera": "camera = 'c3'",
            "not a camera": "camera <> 'c3'",
            "in the path": "path LIKE '%%m3/%%7.jpg'",
        }[title]
        near = f"SELECT path, vector FROM plain WHERE {where} ORDER BY vector <#> %(half)s LIMIT 50"
        asked = f"SELECT path FROM ({near}) near ORDER BY vector::vector <#> %(query)s LIMIT {k}".encode()
        values = {"half": HalfVector(query_E), "query": Vector(query_E)}
        return [str(path) for (path,) in self.connection.execute(asked, values, binary=True)]

    def close(self) -> None:
        self.connection.close()


class PlainMilvus:
    """A collection of Milvus, with the client's own settings but for `ef`: answers may lack the last seconds."""

    def __init__(self, url: str, *, create: bool) -> None:
        import pymilvus

        address, _, self.name = url.removeprefix("milvus://").partition("/")
        self.types = pymilvus.DataType
        self.client = pymilvus.MilvusClient(f"http://{address}", timeout=60, dedicated=True)
        self.count = 0
        if not create:
            (found,) = self.client.query(self.name, filter="", output_fields=["count(*)"])
            self.count = int(found["count(*)"])

    def __len__(self) -> int:
        return self.count

    def add(self, rows: Rows, vector_NE: NDArray[Any]) -> None:
        if not self.count:
            self._create(vector_NE.shape[1])
        seen_N = (np.array([row.time for row in rows], "M8[s]") - BEGIN).astype(int).tolist()
        entries = [
            {"path": row.path, "camera": row.camera, "seen": seen, "vector": vector_E}
            for row, seen, vector_E in zip(rows, seen_N, vector_NE.astype(np.float32), strict=True)
        ]
        self.client.insert(self.name, entries)
        self.count += len(rows)

    def _create(self, width: int) -> None:
        schema = self.client.create_schema(auto_id=False)
        schema.add_field("path", self.types.VARCHAR, max_length=1000, is_primary=True)
        schema.add_field("camera", self.types.VARCHAR, max_length=100)
        schema.add_field("seen", self.types.INT64)
        schema.add_field("vector", self.types.FLOAT_VECTOR, dim=width)
        indexes = self.client.prepare_index_params()
        indexes.add_index("vector", index_type="HNSW", metric_type="IP", params={"M": 16, "efConstruction": 128})
        self.client.create_collection(self.name, schema=schema, index_params=indexes)

    def settle(self) -> bool:
        """Flush, and wait until all rows are in loaded segments with an index."""
        self.client.flush(self.name)
        for _ in range(1200):
            if sum(one.num_rows for one in self.client.list_loaded_segments(self.name) if one.index_name) >= self.count:
                return True
            time.sleep(0.5)
        return False

    def can(self, title: str) -> bool:
        return title != "in the path"  # this server finds what begins with a text alone

    def best(self, query_E: NDArray[np.float32], k: int, title: str, rows: int) -> list[str]:
        filters: Mapping[str, str] = {
            "all": "",
            "camera and 5 %": f'camera == "c3" and seen < {rows // 20}',
            "5 % of the time": f"seen < {rows // 20}",
            "a camera": 'camera == "c3"',
            "not a camera": 'camera != "c3"',
        }
        params = {"metric_type": "IP", "params": {"ef": EF_MILVUS}}
        (hits,) = self.client.search(self.name, query_E[None], filters[title], limit=k, search_params=params)
        return [str(hit["path"] if "path" in hit else hit["id"]) for hit in hits]

    def close(self) -> None:
        self.client.close()
