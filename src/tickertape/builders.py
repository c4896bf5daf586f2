"""What a Serve config file names in `import_path`: the applications of a cluster that others have started.

    applications:
    - {name: tickertape, route_prefix: /, import_path: "tickertape.builders:api", args: {models: [demo=/srv/demo]}}
    - {name: page, route_prefix: /page, import_path: "tickertape.builders:page", args: {models: [demo=/srv/demo]}}

`args` are settings. They must be the same for both, and hold what `Settings.resolve` derives: it would look at the
machine that reads the file, which is not the one that does the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tickertape.ingress import API, PAGE
from tickertape.roster import sources
from tickertape.serving import applications
from tickertape.settings import Settings


def api(args: Mapping[str, Any]) -> Any:
    """The API with its engines, bound. Raises `OptionError`."""
    return _bound(API, args)


def page(args: Mapping[str, Any]) -> Any:
    """The page, bound; it calls the engines of the application `tickertape`. Raises `OptionError`."""
    return _bound(PAGE, {**args, "page": True})


def _bound(wanted: str, args: Mapping[str, Any]) -> Any:
    settings = Settings.of(args).resolve()
    return {name: bound for name, _, bound in applications(sources(settings), settings)}[wanted]
