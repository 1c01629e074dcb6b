//! The targets.

use std::cell::OnceCell;
use std::io::Cursor;
use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use bytes::Bytes;
use plexus_index::text::{Analyzer, TextIndex, build_text_index};
use plexus_index::{KeyIndex, build_key_index};
use plexus_model::{Manifest, Result};
use plexus_query::Engine;
use plexus_storage::inline;
use plexus_storage::ipc_check::check_stream;
use tokio::runtime::Runtime;

use crate::Target;
use crate::sample::{batches, commands, ipc_stream, manifest};
use crate::statements::STATEMENTS;

/// All targets.
pub const TARGETS: [Target; 9] = [
    Target { name: "arrow", seeds: arrow_seeds, run: arrow },
    Target {
        name: "frame",
        seeds: plexus_flight::fuzzing::frames,
        run: |bytes| drop(plexus_flight::fuzzing::frame(bytes)),
    },
    Target {
        name: "handle",
        seeds: plexus_flight::fuzzing::handles,
        run: |bytes| drop(plexus_flight::fuzzing::handle(bytes)),
    },
    Target { name: "index", seeds: index_seeds, run: index },
    Target {
        name: "manifest",
        seeds: || vec![manifest().to_bytes()],
        run: |bytes| drop(Manifest::from_bytes(bytes)),
    },
    Target {
        name: "member",
        seeds: || plexus_raft::fuzzing::seeds(commands()).0,
        run: |bytes| drop(plexus_raft::fuzzing::message(bytes, &MANIFEST)),
    },
    Target {
        name: "entry",
        seeds: || plexus_raft::fuzzing::seeds(commands()).1,
        run: |bytes| drop(plexus_raft::fuzzing::entry_of(bytes, &MANIFEST)),
    },
    Target {
        name: "record",
        seeds: || plexus_raft::fuzzing::seeds(commands()).2,
        run: |bytes| drop(plexus_raft::fuzzing::record(bytes)),
    },
    Target {
        name: "statement",
        seeds: || STATEMENTS.map(|sql| sql.as_bytes().to_vec()).to_vec(),
        run: statement,
    },
];

static MANIFEST: LazyLock<Arc<Manifest>> = LazyLock::new(|| Arc::new(manifest()));

fn arrow_seeds() -> Vec<Vec<u8>> {
    batches().iter().map(ipc_stream).collect()
}

/// An Arrow stream: checked, decoded, and looked at as what is written does.
fn arrow(bytes: &[u8]) {
    if check_stream(bytes).is_err() {
        return;
    }
    let decoded = StreamReader::try_new(Cursor::new(bytes), None)
        .and_then(|reader| reader.collect::<std::result::Result<Vec<RecordBatch>, _>>());
    for batch in decoded.unwrap_or_default() {
        assert!(batch.columns().iter().all(|column| column.len() == batch.num_rows()));
        for column in batch.columns() {
            assert!(column.to_data().validate_full().is_ok(), "a decoded column is not valid");
        }
    }
    drop(inline::decode(bytes));
    drop(inline::decode_value(bytes));
}

fn index_seeds() -> Vec<Vec<u8>> {
    let texts = [Some("one two three"), None, Some("two two"), Some("")];
    let rows = texts.into_iter().map(|text| vec![text]);
    let text = analyzer().and_then(|analyzer| build_text_index(1, &analyzer, rows));
    text.into_iter().chain([build_key_index(&[9, 3, 7, 3])]).collect()
}

fn analyzer() -> Result<Analyzer> {
    Analyzer::named(Analyzer::DEFAULT)
}

/// An index file whose checksum is right.
fn index(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    drop(KeyIndex::open(bytes.clone()));
    drop(analyzer().and_then(|analyzer| TextIndex::open(bytes.clone(), &analyzer)));
    drop(plexus_index::graph::Graph::open(bytes));
}

thread_local! {
    /// An engine and the runtime that it runs on.
    static ENGINE: OnceCell<(Runtime, Engine)> = const { OnceCell::new() };
}

/// The text of statements, up to their physical plans.
fn statement(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    ENGINE.with(|engine| {
        let (runtime, engine) = engine.get_or_init(|| {
            let runtime = Runtime::new().expect("the system starts threads");
            let engine = runtime.block_on(async { plexus_flight::fuzzing::engine() });
            (runtime, engine.expect("an engine without files"))
        });
        drop(runtime.block_on(plexus_coordinator::fuzzing::plan(engine, &MANIFEST, &text)));
    });
}
