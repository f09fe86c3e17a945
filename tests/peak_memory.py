"""Peak memory of a child process, as a test measures it."""

from __future__ import annotations

# ru_maxrss would begin with the peak of the parent.
PEAK = (
    "import re\n"
    "from pathlib import Path\n"
    "def peak():\n"
    "    status = Path('/proc/self/status').read_text()\n"
    "    return int(re.search(r'VmHWM:\\s+(\\d+) kB', status)[1])\n"
)
"""Beginning of the child's code: `peak()` returns its largest resident memory so far, in KiB."""
