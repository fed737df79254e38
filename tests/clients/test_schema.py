"""What `/openapi.json` says, asked for in every way that schemathesis can think of.

For each operation: values at the edges of what is described and beyond them, then random ones. No
answer may be a 5xx or late, and each has a status, a content type and a body that are described.
"""

import os
import subprocess
import sys
from pathlib import Path

from served import PATIENCE_SECONDS, Served, until

# Random cases per operation; those at the edges are some 1,200 in all, whatever this says.
EXAMPLES = 30
# Several times what it takes on two cores that others use too.
DEADLINE_SECONDS = 150
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
]


def test_every_operation_is_as_described(tiny_chat: Served, tmp_path: Path) -> None:
    command = [sys.executable, "-B", "-m", "schemathesis.cli", "run"]
    command += [f"{tiny_chat.url}/openapi.json", "--no-color", "--workers", "2"]
    command += ["--header", f"Authorization: Bearer {os.environ['OPENAI_API_KEY']}"]
    command += ["--checks", ",".join(CHECKS), "--phases", "coverage,fuzzing"]
    # The same cases each time.
    command += ["--generation-deterministic", "--max-examples", str(EXAMPLES)]
    command += ["--request-timeout", str(PATIENCE_SECONDS), "--suppress-health-check", "all"]
    # Elsewhere, because it leaves a folder behind.
    run = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
    paths = tiny_chat.http.get("/openapi.json").json()["paths"]
    # All but the description itself.
    operations = sum(len(item) for path, item in paths.items() if path != "/openapi.json")
    assert f"Tested: {operations}" in run.stdout, run.stdout
    # And nothing of it is left.
    until("it is idle", lambda: tiny_chat.metric("vllm:num_requests_running") == 0)
    until("its blocks are free", lambda: tiny_chat.metric("vllm:kv_cache_usage_perc") == 0)
