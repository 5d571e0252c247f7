"""Text-based person search as a library: describe a pedestrian, get the images that fit, ranked.

    import tbps_cli
    model = tbps_cli.load("runs/irra-0001")
    text_BE = model.encode_texts(["a man in a white shirt"])
    hits = tbps_cli.search(model, "photos", "a man in a white shirt")

Each function does what the command of its name does. It is imported when it is first used, so that importing
the package imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tbps_cli.engine.train import train
    from tbps_cli.exporting.exporter import export
    from tbps_cli.models import open_model as load
    from tbps_cli.models.conversion import convert
    from tbps_cli.probing.degrade import degrade
    from tbps_cli.probing.probe import probe
    from tbps_cli.retrieval.evaluate import evaluate
    from tbps_cli.searching.index import index
    from tbps_cli.searching.search import search
    from tbps_cli.searching.watching import watch
else:
    _WHERE = {
        "convert": ("models.conversion", "convert"),
        "degrade": ("probing.degrade", "degrade"),
        "evaluate": ("retrieval.evaluate", "evaluate"),
        "export": ("exporting.exporter", "export"),
        "index": ("searching.index", "index"),
        "load": ("models", "open_model"),
        "probe": ("probing.probe", "probe"),
        "search": ("searching.search", "search"),
        "train": ("engine.train", "train"),
        "watch": ("searching.watching", "watch"),
    }

    def __getattr__(name: str) -> object:
        """The function of that name, from the module that holds it (PEP 562)."""
        from importlib import import_module

        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, function = _WHERE[name]
        return getattr(import_module(f"{__name__}.{module}"), function)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_WHERE})


__all__ = ["convert", "degrade", "evaluate", "export", "index", "load", "probe", "search", "train", "watch"]
