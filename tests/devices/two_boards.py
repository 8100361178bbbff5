"""Two boards behind one sshd: each with a folder, a lock and a boot of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from boards_sysfs import COMMON, write
from fault_lab import Site

BOOT = "proc/sys/kernel/random/boot_id"


@dataclass
class TwoBoards(Site):
    """A lab with the boards `left` and `right`."""

    names: tuple[str, ...] = ("left", "right")

    def board_folder(self, name: str) -> Path:
        """Where a board keeps what qpipe brought."""
        return self.folder / "home" / name

    def inventory(self) -> None:
        """Write devices.yaml."""
        super().inventory()
        file = self.host / "devices.yaml"
        entries = json.loads(file.read_text(encoding="utf-8"))
        for name, entry in entries.items():
            folder = self.board_folder(name)
            system = write(self.folder / f"{name}-system", {**COMMON, BOOT: f"boot of {name}"})
            own = {"folder": str(folder), "lock": f"{folder}.lock", "sysfs": str(system)}
            entry["ssh"].update(own)
        file.write_text(json.dumps(entries), encoding="utf-8")
