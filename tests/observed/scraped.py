"""Reads metrics as a Prometheus client library does, and prints what it found, as JSON: the media type
decides which parser."""

import json
import sys

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

text = sys.stdin.read()
families = {
    "text/plain": parser.text_string_to_metric_families,
    "application/openmetrics-text": openmetrics.text_string_to_metric_families,
}[sys.argv[1]](text)
found = []
for family in families:
    for sample in family.samples:
        exemplar = sample.exemplar and {
            "labels": sample.exemplar.labels,
            "value": sample.exemplar.value,
        }
        found.append(
            {
                "type": family.type,
                "help": family.documentation,
                "name": sample.name,
                "labels": sample.labels,
                "value": sample.value,
                "exemplar": exemplar,
            }
        )
print(json.dumps(found))
