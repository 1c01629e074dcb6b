//! Nodes with one role each, the command line's formats, file formats, and the Flight protocol.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::harness::{BINARY, Cluster, fails, run};
use crate::queries::number;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_runs_on_its_own_node() {
    let cluster = Cluster::start_with_roles(&["meta", "data", "data", "query"]).await;
    let mut client = cluster.nodes[3].client().await;
    client
        .execute("CREATE TABLE t (id BIGINT PRIMARY KEY, v BIGINT) WITH (shards = 4, replicas = 2)")
        .await
        .unwrap();
    client.execute("INSERT INTO t SELECT value, value % 7 FROM generate_series(1, 50000)").await.unwrap();
    client.execute("INSERT INTO t VALUES (50001, 0)").await.unwrap();
    for task_bytes in [1_000u64, 1 << 40] {
        // Distributed over the data nodes, and on the query node alone, which stores nothing.
        client.execute(&format!("SET plexus.task_bytes = {task_bytes}")).await.unwrap();
        assert_eq!(number(&mut client, "SELECT sum(id) FROM t").await.unwrap(), 50_001 * 50_002 / 2);
        assert_eq!(number(&mut client, "SELECT v FROM t WHERE id = 20").await.unwrap(), 6);
        assert_eq!(number(&mut client, "SELECT count(DISTINCT v) FROM t").await.unwrap(), 7);
    }
    let status = cluster.nodes[3].status().await.unwrap();
    let segments: Vec<Option<u64>> = status.nodes.iter().map(|n| n.segments).collect();
    assert_eq!(segments, [Some(0), Some(4), Some(4), Some(0)]);
    assert_eq!(status.nodes.iter().filter(|n| n.voter).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sql_command_is_a_filter_with_machine_readable_formats() {
    let cluster = Cluster::start(1).await;
    let url = cluster.nodes[0].flight();
    let out = |format: &str, sql: &str| {
        let output = run(&["sql", "--url", &url, "--format", format, "-c", sql]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let text = |format: &str, sql: &str| String::from_utf8(out(format, sql)).unwrap();
    assert_eq!(text("csv", "SELECT 1 AS a, 'x,y' AS b"), "a,b\n1,\"x,y\"\n");
    assert_eq!(text("json", "SELECT 1 AS a, NULL AS b; SELECT 2 AS c"), "{\"a\":1,\"b\":null}\n{\"c\":2}\n");
    assert!(text("table", "SELECT 1 AS a").contains("| a |"));
    assert_eq!(text("csv", "CREATE TABLE quiet (a INT); INSERT INTO quiet VALUES (1)"), "");
    assert!(out("parquet", "SELECT 1 AS a").starts_with(b"PAR1"));
    assert!(!run(&["sql", "--url", &url, "-c", "SELECT 1; SELEC 2"]).status.success());
    let status = run(&["status", "--url", &cluster.nodes[0].http(), "--format", "json"]);
    let parsed: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(parsed["nodes"][0]["live"], true);
    let table = String::from_utf8(run(&["status", "--url", &cluster.nodes[0].http()]).stdout).unwrap();
    assert!(table.contains("public.quiet") && table.contains("under-replicated segments: 0"), "{table}");
    assert!(run(&["sql", "--url", "grpc://127.0.0.1:1", "-c", "SELECT 1"]).status.code() == Some(1));

    // From a file, and from standard input.
    let script = cluster.dir.path().join("script.sql");
    std::fs::write(&script, "SELECT 1 AS a;\n-- a comment; with a semicolon\nSELECT 2 AS b;\n").unwrap();
    let file = run(&["sql", "--url", &url, "--format", "csv", "-f", &script.display().to_string()]);
    assert_eq!(String::from_utf8(file.stdout).unwrap(), "a\n1\nb\n2\n");
    let piped = Command::new(BINARY)
        .args(["sql", "--url", &url, "--format", "csv"])
        .stdin(std::fs::File::open(&script).unwrap())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), "a\n1\nb\n2\n");
    // One Parquet file holds one result.
    assert!(
        fails(&["sql", "--url", &url, "--format", "parquet", "-c", "SELECT 1; SELECT 2"]).contains("apart")
    );
    // A reader that closes the pipe early is not a failure.
    let mut child = Command::new(BINARY)
        .args([
            "sql",
            "--url",
            &url,
            "--format",
            "csv",
            "-c",
            "SELECT value FROM generate_series(1, 3000000)",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "value\n");
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_file_format_is_loaded() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    let url = cluster.nodes[0].flight();
    let dir = cluster.dir.path();
    let rows = "SELECT value AS id, concat('name ', value) AS name FROM generate_series(1, 1000)";
    let export = |format: &str| run(&["sql", "--url", &url, "--format", format, "-c", rows]).stdout;
    let csv = String::from_utf8(export("csv")).unwrap();
    let (schema, batches) = client.query(rows).await.unwrap();
    let mut file = arrow::ipc::writer::FileWriter::try_new(Vec::new(), &schema).unwrap();
    let mut stream = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &schema).unwrap();
    for batch in &batches {
        file.write(batch).unwrap();
        stream.write(batch).unwrap();
    }
    let files = [
        ("rows.csv", csv.clone().into_bytes()),
        ("rows.tsv", csv.replace(',', "\t").into_bytes()),
        ("rows.ndjson", export("json")),
        ("rows.parquet", export("parquet")),
        ("rows.arrow", file.into_inner().unwrap()),
        ("rows.arrows", stream.into_inner().unwrap()),
    ];
    for (i, (name, bytes)) in files.iter().enumerate() {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        let table = format!("t{i}");
        let args =
            ["load", &path.display().to_string(), "--table", &table, "--create", "--primary-key", "id"];
        let loaded = run(&[&args[..], &["--url", &url]].concat());
        assert!(loaded.status.success(), "{name}: {}", String::from_utf8_lossy(&loaded.stderr));
        let sum = format!("SELECT sum(id) + count(DISTINCT name) FROM {table}");
        assert_eq!(number(&mut client, &sum).await.unwrap(), 500_500 + 1000, "{name}");
    }
    // Several files are loaded in one commit, into a table with the given options.
    client.execute("CREATE SCHEMA s").await.unwrap();
    let paths: Vec<String> =
        files[..2].iter().map(|(name, _)| dir.join(name).display().to_string()).collect();
    let args =
        ["load", &paths[0], &paths[1], "--table", "s.both", "--create", "--shards", "5", "--replicas", "1"];
    let loaded = run(&[&args[..], &["--url", &url]].concat());
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    assert_eq!(number(&mut client, "SELECT count(*) FROM s.both").await.unwrap(), 2000);
    let shards = "SELECT count(*) FROM plexus.shards WHERE table_name = 'both'";
    assert_eq!(number(&mut client, shards).await.unwrap(), 5);
    let before = number(&mut client, "SELECT count(*) FROM s.both").await.unwrap();
    let broken = dir.join("broken.ndjson");
    std::fs::write(&broken, "{\"id\": 1, \"name\": \"a\"}\n{\"id\"\n").unwrap();
    fails(&["load", &paths[0], &broken.display().to_string(), "--table", "s.both", "--url", &url]);
    assert_eq!(number(&mut client, "SELECT count(*) FROM s.both").await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flight_info_can_be_polled_and_a_session_closed() {
    use arrow_flight::flight_service_client::FlightServiceClient;
    use arrow_flight::{Action, FlightDescriptor};

    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT)").await.unwrap();
    client.execute("CREATE SCHEMA elsewhere").await.unwrap();
    let url = cluster.nodes[0].flight().replace("grpc", "http");
    let mut flight =
        FlightServiceClient::new(tonic::transport::Endpoint::from_shared(url).unwrap().connect_lazy());
    let polled =
        flight.poll_flight_info(FlightDescriptor::new_path(vec!["t".into()])).await.unwrap().into_inner();
    // The result is ready at once, so there is no descriptor to poll again.
    assert!(polled.flight_descriptor.is_none() && polled.progress == Some(1.0));
    let ticket = polled.info.unwrap().endpoint.remove(0).ticket.unwrap();
    assert!(flight.do_get(ticket).await.is_ok());

    let with_token = |kind: &str, body: Vec<u8>| {
        let mut request = tonic::Request::new(Action { r#type: kind.into(), body: body.into() });
        request.metadata_mut().insert("authorization", "bearer mine".parse().unwrap());
        request
    };
    // { "schema": { string_value: "elsewhere" } }, as a map entry.
    let option = [b"\x0a\x15\x0a\x06schema\x12\x0b\x0a\x09elsewhere".as_slice()].concat();
    let get = async |flight: &mut FlightServiceClient<_>| {
        let mut results =
            flight.do_action(with_token("GetSessionOptions", vec![])).await.unwrap().into_inner();
        let body = results.message().await.unwrap().unwrap().body;
        String::from_utf8_lossy(&body).into_owned()
    };
    flight.do_action(with_token("SetSessionOptions", option)).await.unwrap();
    assert!(get(&mut flight).await.contains("elsewhere"));
    flight.do_action(with_token("CloseSession", vec![])).await.unwrap();
    assert!(!get(&mut flight).await.contains("elsewhere"), "a closed session still exists");
}
