"""Captions as parquet and edges as JSON beside it, each whole or not at all."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from paraclap.captions.captions import texts_type
from paraclap.captions.columns import stored_type
from paraclap.captions.edges import Edges
from paraclap.captions.edges_file import edges_to_dict
from paraclap.captions.feature_tables import BATCH, INDEX
from paraclap.captions.templates import Descriptor, templates_to_dict
from paraclap.files import atomic_write

WRITTEN = 1 << 20  # values of a column that are encoded at once; lists have many in a row


def write_captions(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    path: Path,
    edges: Mapping[str, Edges],
    descriptors: Sequence[Descriptor],
    metadata: Mapping[bytes, bytes],
) -> None:
    """Write captions as parquet, and edges as <stem>.edges.json beside, each whole or not at all.

    Edges, templates and the metadata given are stored in the parquet file, too.

    Raises:
        OSError: if a file cannot be written; what stood there before is left as it was
    """
    fitted, templates = edges_to_dict(edges), templates_to_dict(descriptors)
    ours = {
        **metadata,
        b"pandas": _pandas_metadata(schema),
        b"edges": json.dumps(fitted).encode(),
        b"templates": json.dumps(templates).encode(),
    }
    # read as `schema`, although texts and phrases are written from dictionaries
    told = base64.b64encode(schema.with_metadata(ours).serialize().to_pybytes())
    stored = pa.schema([_stored_field(field) for field in schema])
    options = {
        "store_schema": False,
        # names of files hardly repeat, and a dictionary of them costs as much as all other columns
        "use_dictionary": [_leaf(field) for field in schema if field.name not in INDEX],
        # least and greatest of levels and phrases say nothing, and cost half of the time
        "write_statistics": [*INDEX],
        "write_batch_size": WRITTEN,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    edges_path = path.with_name(f"{path.stem}.edges.json")
    with atomic_write(path) as part, atomic_write(edges_path) as beside:
        with pq.ParquetWriter(part, stored, **options) as writer, ThreadPoolExecutor(1) as pool:
            written = pool.submit(lambda: None)
            for batch in batches:  # the next one is made while one is written
                written.result()
                written = pool.submit(writer.write_batch, batch.cast(stored), BATCH)
            written.result()
            writer.add_key_value_metadata({**ours, b"ARROW:schema": told})
        beside.write_text(json.dumps(fitted, indent=2) + "\n", encoding="utf-8")


def _stored_field(field: pa.Field) -> pa.Field:
    """What a column is written from."""
    if field.name in INDEX:
        return field
    kind = texts_type() if pa.types.is_list(field.type) else stored_type(field.type)
    return field.with_type(kind)


def _leaf(field: pa.Field) -> str:
    """Path of a column's values in the file."""
    return f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name


def _pandas_metadata(schema: pa.Schema) -> bytes:
    """What pandas keeps in a file of such columns, so that it reads them as it wrote them."""
    plain = pa.schema([f for f in schema if not pa.types.is_list(f.type)])
    frame = plain.empty_table().to_pandas().set_index(list(INDEX))
    return pa.Table.from_pandas(frame).schema.metadata[b"pandas"]
