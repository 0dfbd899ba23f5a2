"""Whether the kernel has ended processes as memory ran out."""

from __future__ import annotations

import re
from pathlib import Path


def oom_kills(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Processes that the kernel has ended so: of this process's cgroup (version 2's `memory.events`), else of
    the machine (`/proc/vmstat`); 0 where neither tells."""
    try:
        group = re.search(r"^0::/(.*)$", (proc / "self" / "cgroup").read_text(), re.MULTILINE)
        text = (cgroups / (group[1] if group else "") / "memory.events").read_text()
    except OSError:
        try:
            text = (proc / "vmstat").read_text()
        except OSError:
            return 0
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0
