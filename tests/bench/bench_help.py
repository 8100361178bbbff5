"""`qpipe --help` against a bare typer application with as many commands: whole processes, in pairs, as a ratio.

python tests/bench/bench_help.py [PAIRS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from qpipe.cli.app import app

BARE = """
import typer
app = typer.Typer(no_args_is_help=True, add_completion=False)
{commands}
app(prog_name="bare")
"""


def bare_program() -> str:
    """An application with the number of commands and options that qpipe has, which do nothing."""
    groups = {str(group.name): group.typer_instance for group in app.registered_groups}
    parts = [f"{name} = typer.Typer()\napp.add_typer({name}, name='{name}')\n" for name in groups]
    for target, own in {"app": app, **groups}.items():
        for number, command in enumerate(own.registered_commands):
            assert command.callback
            count = len(command.callback.__annotations__) - 1
            options = ", ".join(f"option_{i}: str = ''" for i in range(count))
            body = '"""Does nothing."""'
            parts.append(
                f"@{target}.command()\ndef {target}_{number}({options}) -> None:\n    {body}\n"
            )
    return BARE.format(commands="\n".join(parts))


def seconds(command: list[str]) -> float:
    """The wall time of a whole process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Print the median of the ratios, pair by pair."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(bare_program(), encoding="utf-8")
        ours, theirs = (
            [str(Path(sys.executable).parent / "qpipe"), "--help"],
            [sys.executable, str(bare), "--help"],
        )
        for command in (ours, theirs):
            seconds(command)
        ratios = [seconds(ours) / seconds(theirs) for _ in range(pairs)]
    print(
        f"qpipe --help / bare typer --help: {statistics.median(ratios):.2f} (median of {pairs} pairs; at most 1.3)"
    )


if __name__ == "__main__":
    main()
