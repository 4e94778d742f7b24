"""Run by the Python of Feast's own environment: registers a repository and reads it as a user of Feast would.

Arguments: the repository's folder, and a JSON file with `entities`, `features` and `moments` (entity and time in ms).
Prints one JSON object: what the online store has, and what history knew at the moments.
"""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
from feast import FeatureStore

folder, asked = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
applied = subprocess.run(
    [Path(sys.executable).parent / "feast", "-c", folder, "apply"], capture_output=True, text=True, check=False
)
if applied.returncode:
    sys.exit(applied.stdout + applied.stderr)
store = FeatureStore(repo_path=folder)
rows = [{asked["join_key"]: entity} for entity in asked["entities"]]
online = store.get_online_features(features=asked["features"], entity_rows=rows).to_dict()
moments = pd.DataFrame(asked["moments"], columns=[asked["join_key"], "event_timestamp"])
moments["event_timestamp"] = pd.to_datetime(moments["event_timestamp"], unit="ms", utc=True)
history = store.get_historical_features(entity_df=moments, features=asked["features"]).to_df()
history = history.sort_values("event_timestamp").astype(object)
history = history.where(history.notna(), None).drop(columns="event_timestamp")
print(json.dumps({"online": online, "history": history.to_dict("records")}))
