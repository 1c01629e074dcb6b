//! `plexus demo` as scripts use it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use plexus_node::client::Client;
use serde_json::Value;

use crate::harness::{BINARY, fails};
use crate::queries::number;

/// A running demo.
struct Demo {
    child: Child,
    /// The JSON object that the demo prints when it is ready.
    announcement: Value,
}

fn start(args: &[&str]) -> Demo {
    let mut child = Command::new(BINARY)
        .args(["demo", "--format", "json"])
        .env("PLEXUS_DEMO_NO_SHELL", "1")
        .args(args)
        // Variables of other commands, which must not reach the nodes.
        .env("PLEXUS_SQL_FORMAT", "csv")
        .env("PLEXUS_ROLES", "meta")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let announcement = serde_json::from_str(&line).expect("one JSON object on the first line");
    Demo { child, announcement }
}

impl Demo {
    async fn client(&self) -> Client {
        let flight = self.announcement["nodes"][0]["flight"].as_str().unwrap();
        Client::connect(&format!("grpc://{flight}")).await.unwrap()
    }

    /// Stops the demo as a supervisor would. Its nodes must end, too.
    fn stop(mut self) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < Duration::from_secs(40), "the demo does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
        for node in self.announcement["nodes"].as_array().unwrap() {
            let pid = node["pid"].as_u64().unwrap();
            assert!(
                !std::path::Path::new(&format!("/proc/{pid}")).exists(),
                "the node with process id {pid} still runs"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_loads_files_and_keeps_its_data_for_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let rows = file("My-Rows.csv", "\u{feff}a,b\n1,x\n2,y\n");
    let lines = file("lines.ndjson", "{\"n\": 1}\n{\"n\": 41}\n");
    let data = dir.path().join("cluster").display().to_string();
    let args = ["--nodes", "2", "--scale", "0", "--dir", &data, &rows, &lines];
    let demo = start(&args);
    assert_eq!(demo.announcement["nodes"].as_array().unwrap().len(), 2);
    assert_eq!(demo.announcement["tables"], serde_json::json!(["my_rows", "lines"]));
    let mut client = demo.client().await;
    // The byte order mark is not part of the first column's name.
    assert_eq!(number(&mut client, "SELECT sum(a) FROM my_rows").await.unwrap(), 3);
    client.execute("INSERT INTO lines VALUES (100)").await.unwrap();
    demo.stop();

    // A second run in the same directory keeps the loaded and the inserted rows.
    let demo = start(&args);
    let mut client = demo.client().await;
    assert_eq!(number(&mut client, "SELECT sum(n) FROM lines").await.unwrap(), 142);
    demo.stop();

    let twice = file("lines.csv", "a\n1\n");
    let message = fails(&["demo", "--scale", "0", "--no-shell", &lines, &twice]);
    assert!(message.contains("lines.csv") && message.contains("lines.ndjson"), "{message}");
    let clash = file("region.csv", "a\n1\n");
    assert!(fails(&["demo", "--no-shell", &clash]).contains("TPC-H"));
    assert!(fails(&["demo", "--no-shell", "absent.csv"]).contains("absent.csv"));
}
