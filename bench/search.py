"""Search in other libraries, in process. Arguments: files of vectors, queries, texts and questions, a folder for data,
length, k, kinds. Prints lines of a name and what was measured, separated by a tab.
"""

import os
import sys
import time

import numpy

vectors, queries, texts, questions, folder = sys.argv[1:6]
length, k, kinds = int(sys.argv[6]), int(sys.argv[7]), int(sys.argv[8])
vectors = numpy.fromfile(vectors, dtype=numpy.float32).reshape(-1, length)
queries = numpy.fromfile(queries, dtype=numpy.float32).reshape(-1, length)
texts = open(texts).read().splitlines()
questions = open(questions).read().splitlines()


def measure(name, search):
    times = []
    for i in range(len(questions)):
        started = time.perf_counter()
        search(i)
        times.append(time.perf_counter() - started)
    p50, p99 = numpy.percentile(times, [50, 99]) * 1000
    print(f"{name}\tp50 {p50:.2f} ms, p99 {p99:.2f} ms, {1 / numpy.mean(times):.0f} queries/s", flush=True)


def with_tantivy():
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_text_field("body", stored=False)
    builder.add_integer_field("id", stored=True, indexed=False, fast=True)
    index = tantivy.Index(builder.build())
    writer = index.writer(heap_size=500_000_000, num_threads=1)
    started = time.perf_counter()
    for i, text in enumerate(texts):
        writer.add_document(tantivy.Document(body=text, id=i))
    writer.commit()
    writer.wait_merging_threads()
    print(f"tantivy: index\t{time.perf_counter() - started:.1f} s", flush=True)
    index.reload()
    searcher = index.searcher()

    def search(i):
        return searcher.search(index.parse_query(questions[i], ["body"]), k).hits

    measure("tantivy: words", search)


def with_lancedb():
    os.environ.setdefault("LANCE_LOG", "error")
    import lancedb
    import pyarrow

    rows = numpy.arange(len(texts))
    table = pyarrow.table(
        {
            "id": rows,
            "body": texts,
            "kind": (rows * 7919 % kinds).astype("int32"),
            "weight": rows / 2,
            "name": [f"row {i}" for i in rows],
            "vector": pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), length),
        }
    )
    started = time.perf_counter()
    table = lancedb.connect(folder).create_table("t", table, mode="overwrite")
    table.create_index(metric="l2", vector_column_name="vector", index_type="IVF_HNSW_SQ")
    table.create_fts_index("body", use_tantivy=False)
    print(f"lancedb: rows and indexes\t{time.perf_counter() - started:.1f} s", flush=True)
    columns = ["id", "body", "kind", "weight", "name"]

    def hybrid(i):
        search = table.search(query_type="hybrid").vector(queries[i]).text(questions[i])
        return search.where("kind < 500", prefilter=True).select(columns).limit(k).to_arrow()

    def nearest(i):
        return table.search(queries[i]).select(["id"]).limit(k).to_arrow()

    measure("lancedb: nearest", nearest)
    measure("lancedb: hybrid, filtered", hybrid)


for library in [with_tantivy, with_lancedb]:
    try:
        library()
    except Exception as error:
        print(f"{library.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
