"""The program in docs/tracking.md, run as it stands."""

import json
import re

import keras
import numpy as np

from tests.helpers import training_cases
from tests.helpers.paths import ROOT


def test_the_program_of_the_manual_records_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "tracking.md").read_text(encoding="utf-8")
    [program] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    model = training_cases.plain_model()
    model.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    x, y = training_cases.images(1024)
    exec(program.replace("layers_every=100", "layers_every=5"), {"model": model, "x": x, "y": y})
    lines = (tmp_path / "runs" / "mine" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if "loss" in line]
    assert steps[-1] == 20
    assert steps == sorted(set(steps))
    assert np.isfinite([json.loads(line).get("loss", 0.0) for line in lines]).all()
