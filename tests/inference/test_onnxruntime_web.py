"""The exported graph in onnxruntime-web, as a browser runs it."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from built_models import HISTORIES, build, graph_of, scores_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ROOT / ".cache" / "web" / "node_modules"
NODE = shutil.which("node")
INSTALL = "npm install --prefix .cache/web onnxruntime-web"

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="no node: apt-get update && apt-get install -y npm"),
    pytest.mark.skipif(
        not (PACKAGES / "onnxruntime-web").is_dir(), reason=f"no onnxruntime-web: {INSTALL}"
    ),
]

SCRIPT = """
const ort = require("onnxruntime-web");
const fs = require("fs");
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "fatal";
const ids = rows => new ort.Tensor(
  "int64", BigInt64Array.from(rows.flat().map(BigInt)), [rows.length, rows[0].length]);
async function main() {
  const session = await ort.InferenceSession.create(fs.readFileSync(process.argv[2]));
  const answers = [];
  for (const [items, exclude] of JSON.parse(process.argv[3])) {
    const k = new ort.Tensor("int64", BigInt64Array.from([4n]), [1]);
    try {
      const found = await session.run({items: ids(items), exclude: ids(exclude), k});
      const [scores, best] = [Array.from(found.scores.data), Array.from(found.ids.data, Number)];
      answers.push({scores, ids: best});
    } catch (error) {
      answers.push({error: String(error)});
    }
  }
  console.log(JSON.stringify(answers));
}
main();
"""


def test_lists_and_refusals_are_those_of_python(config_for, tmp_path):
    model = build(config_for, "gpt2, recency")
    graph, script = tmp_path / "model.onnx", tmp_path / "run.cjs"
    graph.write_bytes(graph_of(model, "gpt2, recency"))
    script.write_text(SCRIPT)
    left = [[0] * (20 - len(history)) + history for history in HISTORIES]
    seen = [[1, 2]] * len(HISTORIES)
    questions = [[left, seen], [[[3, 0, 4]], [[0]]], [[[3]], [[-1]]]]
    done = subprocess.run(
        [NODE, script, graph, json.dumps(questions)],
        capture_output=True,
        text=True,
        env={"NODE_PATH": str(PACKAGES), "PATH": str(Path(NODE).parent)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found, hole, negative = json.loads(done.stdout.splitlines()[-1])
    expected = scores_of(model, HISTORIES)
    expected[:, [1, 2]] = -np.inf
    order = np.argsort(-expected, axis=1, kind="stable")[:, :4]
    assert found["ids"] == order.ravel().tolist()
    wanted = np.take_along_axis(expected, order, 1).ravel()
    np.testing.assert_allclose(found["scores"], wanted, rtol=1e-4, atol=1e-4)
    assert "padding (0) between items" in hole["error"]
    assert "an id in exclude is not from 0" in negative["error"]
