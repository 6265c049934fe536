"""Jobs over any number of pictures: where they come from, and what is left of them.

Sources stream items, the engine explains them, a sink keeps the maps, the manifest lists them.
"""

from deepinside.engine.batch.items import Item
from deepinside.engine.batch.job import Sink, explain, make_sink, run_job
from deepinside.engine.batch.lists import Columns
from deepinside.engine.batch.manifest import Manifest, Record, read_records
from deepinside.engine.batch.settings import JobSettings, new_record, restored, stored
from deepinside.engine.batch.sources import Sources
from deepinside.engine.batch.work import Outcome, Work

__all__ = [
    "Columns",
    "Item",
    "JobSettings",
    "Manifest",
    "Outcome",
    "Record",
    "Sink",
    "Sources",
    "Work",
    "explain",
    "make_sink",
    "new_record",
    "read_records",
    "restored",
    "run_job",
    "stored",
]
