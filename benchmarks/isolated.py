"""Call a function of a benchmark in a fresh Python process, with a time limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

MARK = "RESULT "
CODE = """
import importlib, json, sys
module, function, arguments = sys.argv[1:4]
result = getattr(importlib.import_module(module), function)(*json.loads(arguments))
print({mark!r} + json.dumps(result))
"""


def call(
    module: str, function: str, *arguments: Any, timeout: float, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """The JSON-able dict that `module.function(*arguments)` returns, or `{"error": ...}`."""
    command = [sys.executable, "-c", CODE.format(mark=MARK), module, function, json.dumps(arguments)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **(environment or {})},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer after {timeout:g} s"}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(MARK):
            result: dict[str, Any] = json.loads(line[len(MARK) :])
            return result
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return {"error": last[:400]}
