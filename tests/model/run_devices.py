"""Run all scenarios of the pretend device, in a process of its own, and write down what came out.

    python run_devices.py FILE

The file gets a JSON object: ``said``, each scenario to "" or what went wrong; ``unseen``, the public
functions that no tensor of the device has met, without a reason; ``outdated``, reasons that are not
true; ``waits``, how often the host waits.
"""

import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import devices_at_work
import devices_in_parts
import devices_in_recipes
import devices_in_searches
import devices_in_trainers
import torch
from pretend_device import LOG
from public_functions import outdated, unseen
from synchronisations import table

SCENARIOS = {
    **devices_at_work.SCENARIOS,
    **devices_in_parts.SCENARIOS,
    **devices_in_recipes.SCENARIOS,
    **devices_in_searches.SCENARIOS,
    **devices_in_trainers.SCENARIOS,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    said = {name: devices_at_work.said(run) for name, run in SCENARIOS.items()}
    found = {
        "said": said,
        "unseen": unseen(LOG.ran),
        "outdated": outdated(LOG.ran),
        "waits": [asdict(row) for row in table()],
    }
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1))
