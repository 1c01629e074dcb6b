//! Invalid input: the error names the object and the value, and nothing changes.

use std::path::Path;

use arrow_flight::flight_service_client::FlightServiceClient;
use plexus_flight::tls::{Authority, Identity};
use plexus_model::{ClusterId, ErrorKind, NodeId};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::harness::{Cluster, fails, free_ports, run};
use crate::queries::number;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_statements_are_refused() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    client.execute("CREATE TABLE t (id BIGINT NOT NULL, v INT, e VECTOR(3))").await.unwrap();
    client.execute("INSERT INTO t VALUES (1, 2, [1.0, 2.0, 3.0])").await.unwrap();
    let cases: [(&str, ErrorKind, &[&str]); 25] = [
        ("SELEC 1", ErrorKind::InvalidArgument, &["SELEC", "Line: 1, Column: 1"]),
        ("SELECT 1 +", ErrorKind::InvalidArgument, &["Line: 1"]),
        ("", ErrorKind::InvalidArgument, &["empty"]),
        ("SELECT * FROM nowhere", ErrorKind::NotFound, &["nowhere", "Line: 1, Column: 15"]),
        ("SELECT wrong FROM t", ErrorKind::InvalidArgument, &["wrong", "Line: 1, Column: 8"]),
        ("INSERT INTO t VALUES ('x', 1, NULL)", ErrorKind::InvalidArgument, &["'x'", "BIGINT"]),
        ("INSERT INTO t VALUES (NULL, 1, NULL)", ErrorKind::InvalidArgument, &["id", "null"]),
        ("INSERT INTO t VALUES (1, 3000000000, NULL)", ErrorKind::InvalidArgument, &["3000000000"]),
        ("INSERT INTO t VALUES (1, 1, [1.0, 2.0])", ErrorKind::InvalidArgument, &["2", "3"]),
        ("INSERT INTO t (wrong) VALUES (1)", ErrorKind::InvalidArgument, &["wrong"]),
        ("INSERT INTO nowhere VALUES (1)", ErrorKind::NotFound, &["nowhere"]),
        ("CREATE TABLE t (a INT)", ErrorKind::AlreadyExists, &["public.t"]),
        ("CREATE TABLE u (a INT, a INT)", ErrorKind::InvalidArgument, &["a"]),
        ("CREATE TABLE u (a VECTOR(0))", ErrorKind::InvalidArgument, &["VECTOR(0)"]),
        ("CREATE TABLE u (a INT) WITH (shards = 0)", ErrorKind::InvalidArgument, &["shards = 0"]),
        ("CREATE TABLE u (a INT) WITH (shards = many)", ErrorKind::InvalidArgument, &["many"]),
        ("CREATE TABLE u (a INT) WITH (colour = 1)", ErrorKind::InvalidArgument, &["colour"]),
        (
            "CREATE TABLE u (a INT) WITH (replicas = 2)",
            ErrorKind::InvalidArgument,
            &["replicas = 2", "1 live"],
        ),
        ("CREATE TABLE nowhere.u (a INT)", ErrorKind::NotFound, &["nowhere"]),
        ("DROP TABLE nowhere", ErrorKind::NotFound, &["nowhere"]),
        ("DELETE FROM t WHERE wrong = 1", ErrorKind::InvalidArgument, &["wrong"]),
        ("DELETE FROM nowhere", ErrorKind::NotFound, &["nowhere"]),
        ("UPDATE t SET id = 'x'", ErrorKind::InvalidArgument, &["'x'", "BIGINT"]),
        ("CREATE VIEW v AS SELECT 1", ErrorKind::Unsupported, &["VIEW"]),
        ("SET plexus.wrong = 1", ErrorKind::InvalidArgument, &["plexus.wrong"]),
    ];
    for (sql, kind, parts) in cases {
        let error = client.execute(sql).await.err().unwrap_or_else(|| panic!("{sql} should fail"));
        assert_eq!(error.kind(), kind, "{sql}: {error}");
        for part in parts {
            assert!(error.message().contains(part), "{sql}: {part:?} is not in {error}");
        }
    }
    let deep = format!("SELECT {}1{}", "(".repeat(50_000), ")".repeat(50_000));
    assert_eq!(client.query(&deep).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(number(&mut client, "SELECT count(*) FROM t").await.unwrap(), 1);
}

/// Writes a file. Returns its path.
fn write(dir: &Path, name: &str, content: &[u8]) -> String {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

/// Loads a file that must fail. Returns the message.
fn load_fails(cluster: &Cluster, file: &str, options: &[&str]) -> String {
    let url = cluster.nodes[0].flight();
    fails(&[&["load", file, "--url", &url], options].concat())
}

/// A query's rows as a Parquet file.
fn export(cluster: &Cluster, sql: &str) -> Vec<u8> {
    let url = cluster.nodes[0].flight();
    run(&["sql", "--url", &url, "--format", "parquet", "-c", sql]).stdout
}

/// NDJSON with 200,000 rows and a last line.
fn ndjson_ending_with(last: &str) -> String {
    (0..200_000).map(|i| format!("{{\"a\": {i}}}\n")).collect::<String>() + last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_files_are_refused_by_name_and_line() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    let dir = cluster.dir.path();
    client.execute("CREATE TABLE t (a BIGINT, b BIGINT)").await.unwrap();
    client.execute("INSERT INTO t VALUES (1, 2), (3, 4)").await.unwrap();
    let mut truncated = export(&cluster, "SELECT * FROM t");
    truncated.truncate(truncated.len() - 9);

    let cases = [
        (write(dir, "short.csv", b"a,b\n1,2\n3\n"), vec!["short.csv", "line 3"]),
        (write(dir, "text.csv", b"a,b\n1,2\nx,4\n"), vec!["text.csv", "\"x\" is not", "line 3"]),
        (
            write(dir, "misfit.ndjson", b"{\"a\": 1}\n\n{\"a\": \"x\"}\n{\"a\": 2}\n"),
            vec!["misfit.ndjson", "line 3"],
        ),
        (write(dir, "other.csv", b"a,c\n1,2\n"), vec!["public.t has no column \"c\""]),
        (
            write(dir, "broken.ndjson", b"{\"a\": 1, \"b\": 2}\n{\"a\": 3, \"b\"\n"),
            vec!["broken.ndjson", "line 2"],
        ),
        (write(dir, "list.ndjson", b"{\"a\": 1}\n[1]\n"), vec!["line 2", "object"]),
        (write(dir, "empty.dat", b""), vec!["empty"]),
        (write(dir, "cut.parquet", &truncated), vec!["cut.parquet", "damaged"]),
        (dir.join("absent.csv").display().to_string(), vec!["absent.csv"]),
    ];
    for (file, parts) in cases {
        let message = load_fails(&cluster, &file, &["--table", "t"]);
        for part in parts {
            assert!(message.contains(part), "{file}: {part:?} is not in {message}");
        }
    }
    assert_eq!(number(&mut client, "SELECT count(*) FROM t").await.unwrap(), 2, "a failed load left rows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_fails_after_rows_were_sent_leaves_nothing() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    let dir = cluster.dir.path();
    client.execute("CREATE TABLE t (a BIGINT, b BIGINT)").await.unwrap();
    let broken = write(dir, "many.ndjson", ndjson_ending_with("{\"a\": \"x\"}\n").as_bytes());
    let message = load_fails(&cluster, &broken, &["--table", "t"]);
    assert!(message.contains("many.ndjson: line 200001"), "{message}");
    let mut values = String::from("a,b\n");
    (0..200_000).for_each(|i| values.push_str(&format!("{i},0\n")));
    let broken = write(dir, "many.csv", (values + "1,2,3\n").as_bytes());
    let message = load_fails(&cluster, &broken, &["--table", "t"]);
    assert!(message.contains("many.csv") && message.contains("line 200002"), "{message}");
    let mut bytes = export(&cluster, "SELECT concat('row ', value) AS a FROM generate_series(1, 500000)");
    let late = bytes.len() * 3 / 4;
    bytes[late..late + 100].fill(0xff);
    let broken = write(dir, "damaged.parquet", &bytes);
    let message = load_fails(&cluster, &broken, &["--table", "damaged", "--create"]);
    assert!(message.contains("damaged.parquet"), "{message}");
    assert_eq!(number(&mut client, "SELECT count(*) FROM t").await.unwrap(), 0, "a failed load left rows");
    let tables = number(&mut client, "SELECT count(*) FROM plexus.tables").await.unwrap();
    assert_eq!(tables, 1, "a failed load left a table");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_targets_of_a_load_are_refused() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].client().await;
    let url = cluster.nodes[0].flight();
    let dir = cluster.dir.path();
    client.execute("CREATE TABLE t (a BIGINT, b BIGINT)").await.unwrap();
    let good = write(dir, "good.csv", b"a,b\n1,2\n3,4\n");
    assert!(run(&["load", &good, "--table", "t", "--url", &url]).status.success());
    assert_eq!(number(&mut client, "SELECT count(*) FROM t").await.unwrap(), 2);
    let many = write(dir, "good.ndjson", ndjson_ending_with("").as_bytes());
    assert!(run(&["load", &many, "--table", "many", "--create", "--url", &url]).status.success());
    assert_eq!(number(&mut client, "SELECT count(*) FROM many").await.unwrap(), 200_000);

    // Files that are loaded together have the columns of the first, in any order.
    let other = write(dir, "other.csv", b"b,a\n20.5,1\n40,3\n");
    let parquet = write(dir, "other.parquet", &export(&cluster, "SELECT b, a FROM t"));
    let first = write(dir, "first.parquet", &export(&cluster, "SELECT a, b FROM t"));
    for (table, files) in [("texts", [&good, &other]), ("binaries", [&first, &parquet])] {
        let load = ["load", files[0], files[1], "--table", table, "--create", "--url", &url];
        assert!(run(&load).status.success());
        let sum = number(&mut client, &format!("SELECT sum(a)::BIGINT FROM {table}")).await.unwrap();
        assert_eq!(sum, 8, "{table}");
    }
    assert_eq!(number(&mut client, "SELECT (sum(b) * 2)::BIGINT FROM texts").await.unwrap(), 133);
    // A column that is never null in the first file, and is null in another.
    let never = write(dir, "never.parquet", &export(&cluster, "SELECT 1::BIGINT AS a"));
    let null = write(dir, "null.parquet", &export(&cluster, "SELECT nullif(a, 1) AS a FROM t"));
    let load = ["load", &never, &null, "--table", "nulls", "--create", "--url", &url];
    assert!(run(&load).status.success());
    let rows = number(&mut client, "SELECT count(*) * 10 + count(a) FROM nulls").await.unwrap();
    assert_eq!(rows, 32);
    // A double would not hold the number of the second file.
    let exact = write(dir, "exact.parquet", &export(&cluster, "SELECT 9007199254740993 AS a"));
    let [whole, half] = [("whole.csv", "a\n1\n"), ("half.csv", "a\n0.5\n")];
    let [whole, half] = [whole, half].map(|(name, text)| write(dir, name, text.as_bytes()));
    let message = load_fails(&cluster, &whole, &[&exact, &half, "--table", "k", "--create"]);
    assert!(message.contains("exact.parquet: column \"a\""), "{message}");
    let word = write(dir, "word.csv", b"a\nx\n");
    let message = load_fails(&cluster, &exact, &[&word, "--table", "k", "--create"]);
    assert!(
        message.contains("word.csv: column \"a\" is VARCHAR, in the files before it is BIGINT"),
        "{message}"
    );
    // A column without values in one of the files.
    let absent = write(dir, "absent.parquet", &export(&cluster, "SELECT NULL AS a"));
    let load = ["load", &absent, &whole, &half, "--table", "sums", "--create", "--url", &url];
    assert!(run(&load).status.success());
    assert_eq!(number(&mut client, "SELECT (sum(a) * 2)::BIGINT FROM sums").await.unwrap(), 3);
    let lacking = write(dir, "lacking.csv", b"a,c\n1,2\n");
    let message = load_fails(&cluster, &good, &[&lacking, "--table", "k", "--create"]);
    assert!(message.contains("lacking.csv") && message.contains("good.csv has no column \"c\""), "{message}");

    let message = load_fails(&cluster, &good, &["--table", "t", "--create"]);
    assert!(message.contains("exists already"), "{message}");
    let message = load_fails(&cluster, &good, &["--table", "nowhere"]);
    assert!(message.contains("nowhere"), "{message}");
    let message = load_fails(&cluster, &good, &["--table", "k", "--create", "--primary-key", "z"]);
    assert!(message.contains("\"z\""), "{message}");
    let tables = number(&mut client, "SELECT count(*) FROM plexus.tables").await.unwrap();
    assert_eq!(tables, 6, "a failed load left a table");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_an_invalid_configuration_does_not_start() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let dir = cluster.dir.path().to_owned();
    let dir = dir.as_path();
    let fresh = |name: &str| dir.join(name).display().to_string();
    let [flight, peer, http] = free_ports().map(|p| format!("127.0.0.1:{p}"));
    let start_fails = |extra: &[&str]| -> String {
        let mut args = vec!["start", "--flight", &flight, "--peer", &peer, "--http", &http];
        args.extend(extra);
        fails(&args)
    };

    assert!(fails(&["start", "--colour", "red"]).contains("--colour"));
    let config = write(dir, "wrong.toml", b"colour = \"red\"\n");
    assert!(start_fails(&["--config", &config]).contains("colour"));

    let held = node.dir.display().to_string();
    assert!(start_fails(&["--data-dir", &held]).contains("held by another process"));

    for (index, name) in ["flight", "peer", "http"].into_iter().enumerate() {
        let taken = format!("127.0.0.1:{}", node.ports[index]);
        let mut addresses = [flight.as_str(), peer.as_str(), http.as_str()];
        addresses[index] = &taken;
        let [flight, peer, http] = addresses;
        let message =
            fails(&["start", "--flight", flight, "--peer", peer, "--http", http, "--data-dir", &fresh("a")]);
        assert!(message.contains(&format!("{name} address {taken}")), "{message}");
        assert!(!std::path::Path::new(&fresh("a")).exists(), "a failed start left a directory");
    }

    let message =
        start_fails(&["--data-dir", &fresh("b"), "--join", &node.peer(), "--join-token", "plexus-join-AAAA"]);
    assert!(message.contains("join token"), "{message}");

    // The join token of another cluster.
    let other = Cluster::start(1).await;
    let token = format!("@{}", other.nodes[0].dir.join("join.token").display());
    let message = start_fails(&["--data-dir", &fresh("c"), "--join", &node.peer(), "--join-token", &token]);
    assert!(message.contains("does not belong to this cluster"), "{message}");

    // The data directory of a node of another cluster.
    drop(other.nodes);
    let foreign = other.dir.path().join("node1").display().to_string();
    let own = format!("@{}", node.dir.join("join.token").display());
    let message = start_fails(&["--data-dir", &foreign, "--join", &node.peer(), "--join-token", &own]);
    assert!(message.contains("belongs to cluster"), "{message}");

    // Bytes of no known protocol, on the TCP and the UDP side of the peer port.
    use std::io::Write;
    let mut tcp = std::net::TcpStream::connect(node.peer()).unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for size in [1, 20, 1200] {
        udp.send_to(&vec![0xc3; size], node.peer()).unwrap();
    }
    // The peer port still works: a node can join.
    let mut cluster = cluster;
    let second = cluster.add("data,query").await;
    let mut client = cluster.nodes[second].client().await;
    assert_eq!(number(&mut client, "SELECT count(*) FROM plexus.nodes").await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_peer_port_accepts_only_certificates_of_the_cluster() {
    let cluster = Cluster::start(1).await;
    let token = std::fs::read_to_string(cluster.nodes[0].dir.join("join.token")).unwrap();
    let authority = Authority::from_join_token(token.trim()).unwrap();
    let member = authority.issue(NodeId(77)).unwrap();
    let stranger = Authority::create(ClusterId::generate()).unwrap().issue(NodeId(77)).unwrap();
    let response = async |identity: Option<&Identity>| {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&member.authority))
            .domain_name(plexus_flight::tls::SERVER_NAME);
        if let Some(identity) = identity {
            let pem = tonic::transport::Identity::from_pem(&identity.certificate, &identity.key);
            tls = tls.identity(pem);
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", cluster.nodes[0].peer())).unwrap();
        let channel = endpoint.tls_config(tls).unwrap().connect_lazy();
        let mut client = FlightServiceClient::new(channel);
        client.list_actions(arrow_flight::Empty {}).await.map(drop).unwrap_err().code()
    };
    // The worker service does not implement Flight, and only a member gets to know that.
    assert_eq!(response(Some(&member)).await, tonic::Code::Unimplemented);
    for refused in [None, Some(&stranger)] {
        assert_ne!(response(refused).await, tonic::Code::Unimplemented);
    }
}
