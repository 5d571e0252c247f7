"""The rival of `tbps serve`: what one writes in an hour. FastAPI, one sentence at a time through the model, numpy.

python _plain_server.py RUN|EXPORTED GALLERY.npy PORT
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from tbps_cli.models.checkpoint import opened


class Asked(BaseModel):
    text: str
    top: int = 10


def make(folder: Path, gallery: Path) -> FastAPI:
    """The application."""
    model, rows = opened(folder), np.load(gallery)
    app = FastAPI()

    @app.post("/v1/search")
    def search(asked: Asked) -> dict[str, list[dict[str, object]]]:
        scores = rows @ model.encode_texts([asked.text], query=True)[0]
        best = np.argpartition(-scores, asked.top)[: asked.top]
        best = best[np.argsort(-scores[best])]
        return {"hits": [{"path": f"{place}.jpg", "score": float(scores[place])} for place in best.tolist()]}

    return app


if __name__ == "__main__":
    uvicorn.run(make(Path(sys.argv[1]), Path(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[3]), log_level="error")
