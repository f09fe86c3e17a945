"""Options of a collection that is cut into parts, as tyro reads them."""

from __future__ import annotations

from typing import Annotated

import tyro

from covis.commands.arguments import arguments
from covis.runtime.collection.options import CollectionOptions

_Collection = arguments(
    "_Collection",
    CollectionOptions,
    defaults={
        "part_views": "all photos in one run",
        "memory": "no limit",
        "overlap": "an eighth of a part's views, 3 to 12",
        "ordered": "True where all photos are frames of one video",
        "parts": "OUT.parts, beside the output folder",
    },
)

CollectionArguments = Annotated[
    CollectionOptions, tyro.conf.arg(constructor=_Collection), tyro.conf.OmitArgPrefixes
]
"""Parts of a collection that is larger than one run."""
