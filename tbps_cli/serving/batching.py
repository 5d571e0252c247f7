"""Sentences of several requests go through the model together, and those asked a moment ago not again.

One thread runs the model on texts. While it is busy others wait, and what waits is its next batch: so a batch is as
large as the load makes it, and a single request never waits for others to come.
"""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import TbpsError
from tbps_cli.features.encoder import Encoder

KEPT = 4096
"""Sentences whose embeddings are remembered; while somebody types, the last ones come again and again."""
MOST = 64
"""Sentences in one batch."""

Row = NDArray[np.float32]


class Ended(TbpsError):
    """The server is being stopped."""

    def __init__(self) -> None:
        super().__init__("the server is being stopped.", "Try again when it runs.")


class TextBatches:
    """Embeds sentences for many threads. `observe` is told the size of each batch."""

    def __init__(self, model: Encoder, observe: Callable[[int], None] = lambda size: None) -> None:
        self.model, self.observe = model, observe
        self._waiting: queue.SimpleQueue[tuple[str, Future[Row]] | None] = queue.SimpleQueue()
        self._known: OrderedDict[str, Row] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False
        threading.Thread(target=self._serve, daemon=True, name="tbps-texts").start()

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """B queries -> [B, E] unit rows, as `Encoder.encode_texts` gives them."""
        rows = [self._row(text) for text in texts]
        return np.stack([row if isinstance(row, np.ndarray) else row.result() for row in rows])

    def close(self) -> None:
        """End the thread; whoever waits or comes later gets an error instead of waiting for ever."""
        with self._lock:
            self._closed = True
            self._waiting.put(None)

    def _row(self, text: str) -> Row | Future[Row]:
        waited: Future[Row] = Future()
        with self._lock:
            if text in self._known:
                self._known.move_to_end(text)
                return self._known[text]
            if self._closed:
                raise Ended
            self._waiting.put((text, waited))
        return waited

    def _serve(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            ended = False
            while len(batch) < MOST and not ended:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ended = True
                else:
                    batch.append(more)
            self._embed(batch)
            if ended:
                return

    def _embed(self, batch: list[tuple[str, Future[Row]]]) -> None:
        texts = list(dict.fromkeys(text for text, _ in batch))
        self.observe(len(texts))
        try:
            row_of = dict(zip(texts, self.model.encode_texts(texts, query=True), strict=True))
        except Exception as error:  # whoever asked is told; the thread goes on
            for _, waited in batch:
                waited.set_exception(error)
            return
        with self._lock:
            self._known.update(row_of)
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        for text, waited in batch:
            waited.set_result(row_of[text])
