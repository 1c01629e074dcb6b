//! The targets.

use std::cell::OnceCell;
use std::io::Cursor;
use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow_ipc::reader::StreamReader;
use bytes::Bytes;
use plexus_flight::fuzzing;
use plexus_index::graph::{BuildOptions, Graph, build_graph};
use plexus_index::{KeyIndex, build_key_index};
use plexus_model::{Manifest, Metric};
use plexus_query::Engine;
use plexus_raft::fuzzing as raft;
use plexus_storage::inline;
use plexus_storage::ipc_check::check_stream;
use tokio::runtime::Runtime;

use crate::Target;
use crate::sample::{batches, commands, ipc_stream, manifest};
use crate::statements::STATEMENTS;

/// All targets.
pub const TARGETS: [Target; 9] = [
    Target { name: "arrow", seeds: arrow_seeds, run: arrow },
    Target { name: "frame", seeds: fuzzing::frames, run: |bytes| fuzzing::frame(bytes).is_ok() },
    Target { name: "handle", seeds: fuzzing::handles, run: |bytes| fuzzing::handle(bytes).is_ok() },
    Target { name: "index", seeds: index_seeds, run: index },
    Target {
        name: "manifest",
        seeds: || vec![manifest().to_bytes()],
        run: |bytes| Manifest::from_bytes(bytes).is_ok(),
    },
    Target {
        name: "member",
        seeds: || raft::seeds(commands()).messages,
        run: |bytes| raft::message(bytes, &MANIFEST).is_ok(),
    },
    Target {
        name: "entry",
        seeds: || raft::seeds(commands()).entries,
        run: |bytes| raft::entry_of(bytes, &MANIFEST).is_ok(),
    },
    Target {
        name: "record",
        seeds: || raft::seeds(commands()).records,
        run: |bytes| raft::record(bytes).is_ok(),
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

/// An Arrow stream: checked, decoded, and looked at as what is written does. The decoder does not panic for
/// what was checked.
fn arrow(bytes: &[u8]) -> bool {
    if check_stream(bytes).is_err() {
        return false;
    }
    let decode = || -> std::result::Result<Vec<RecordBatch>, ArrowError> {
        StreamReader::try_new(Cursor::new(bytes), None)?.collect()
    };
    let Ok(decoded) = decode() else {
        return false;
    };
    for column in decoded.iter().flat_map(RecordBatch::columns) {
        assert!(column.to_data().validate_full().is_ok(), "a decoded column is not valid");
    }
    drop(inline::decode_value(bytes));
    inline::decode(bytes).is_ok()
}

fn index_seeds() -> Vec<Vec<u8>> {
    let vectors: Vec<f32> = (0..64 * 8).map(|n| (n % 13) as f32).collect();
    let rows: Vec<u32> = (0..64).collect();
    let graph = build_graph(Metric::L2, 8, vectors, &rows, 64, BuildOptions::default());
    graph.into_iter().chain([build_key_index(&[9, 3, 7, 3])]).collect()
}

/// An index file of ours whose checksum is right. Text indexes are opened by a library that trusts the
/// checksum.
fn index(bytes: &[u8]) -> bool {
    let bytes = Bytes::copy_from_slice(bytes);
    KeyIndex::open(bytes.clone()).is_ok() || Graph::open(bytes).is_ok()
}

thread_local! {
    /// An engine and the runtime that it runs on.
    static ENGINE: OnceCell<(Runtime, Engine)> = const { OnceCell::new() };
}

/// The text of statements, up to their physical plans.
fn statement(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    ENGINE.with(|engine| {
        let (runtime, engine) = engine.get_or_init(|| {
            let runtime = Runtime::new().expect("the system starts threads");
            let engine = runtime.block_on(async { plexus_flight::fuzzing::engine() });
            (runtime, engine.expect("an engine without files"))
        });
        runtime.block_on(plexus_coordinator::fuzzing::plan(engine, &MANIFEST, &text)).is_ok()
    })
}
