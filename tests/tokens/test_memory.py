"""A store four times larger than the memory that a process may have."""

import json
import os
import shutil
import subprocess
import sys

import pytest

GIB = 2**30

# RLIMIT_DATA counts a process's private writable memory: heap, arrays, thread stacks and what
# torch takes at import. It does not count files that are mapped to be read, which the system
# drops when memory is short; RLIMIT_AS would count them.
SCRIPT = """
import json, resource, sys, time
limit, total, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
import numpy as np, torch
torch.set_num_threads(2)
from onevec import OneVec, TokenStore, encode

DIM, LENGTH = 768, 256
base = np.random.default_rng(0).standard_normal((20_000, DIM), np.float32).astype(np.float16)

def encoder(rows):
    return [base[row * 97 % (len(base) - LENGTH):][:LENGTH] for row in rows]

def clock(step, start=[time.time()]):
    now = time.time(); print(step, round(now - start[0], 1), file=sys.stderr); start[0] = now

count = total // (DIM * LENGTH * 2)
store = encode(iter(range(count)), encoder, out=path)
clock("encode")
size = sum(entry["bytes"] for entry in store.info["shards"])
store.verify()
clock("verify")
model = OneVec(dim=64, random_state=0).fit(store)
clock("fit")
vectors = model.transform(TokenStore(path))
clock("transform")
try:
    hog = np.ones(limit // 8 * 2)  # shows that the limit is in force
except MemoryError:
    hog = None
print(json.dumps({"rows": len(store), "bytes": size, "shape": list(vectors.shape),
                  "finite": bool(np.isfinite(np.asarray(vectors)).all()), "hog": hog is not None}))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux", reason="RLIMIT_DATA counts mapped memory on Linux only"
)
def test_a_store_four_times_the_memory(tmp_path):
    if shutil.disk_usage(tmp_path).free < 20 * GIB:
        pytest.skip("needs 20 GiB of free disk")
    limit, total = 2 * GIB, 8 * GIB
    path = tmp_path / "store"
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    try:
        done = subprocess.run(
            [sys.executable, script, str(limit), str(total), str(path)],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
        )
    finally:
        shutil.rmtree(path, ignore_errors=True)
    print(done.stderr)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["bytes"] >= total
    assert result["shape"] == [result["rows"], 64]
    assert result["finite"]
    assert not result["hog"]
