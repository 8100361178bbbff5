"""qpipe serve."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from qpipe.cli.parameters import DEFAULT_DB, DbOption
from qpipe.errors import QpipeError
from qpipe.storage.workspace import open_results

INSTALL = "pip install 'qpipe-edge[serve]'"


def serve(
    db: DbOption = DEFAULT_DB,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="The port; 0 takes a free one.")
    ] = 8001,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            help="The address to listen at; others than this machine's own "
            "let anybody there read all results.",
        ),
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Show the database in a browser, with facets and ready queries, until Ctrl-C.

    It is read by datasette, and changed by nothing that a browser sends.
    """
    from qpipe.report.database_site import site_metadata

    if importlib.util.find_spec("datasette") is None:
        raise QpipeError(f"serve: datasette is not installed; {INSTALL}")
    open_results(db).close()  # which brings it up to date, or refuses what is no database of qpipe
    with tempfile.TemporaryDirectory(prefix="qpipe-serve-") as folder:
        metadata = Path(folder) / "metadata.json"
        metadata.write_text(json.dumps(site_metadata(db.stem)), encoding="utf-8")
        command = [sys.executable, "-m", "datasette", "serve", str(db), "--metadata", str(metadata)]
        command += ["--host", host, "--port", str(port), *(["--open"] if browser else [])]
        try:
            status = subprocess.run(command, check=False).returncode
        except KeyboardInterrupt:
            status = 0
    sys.exit(status)
