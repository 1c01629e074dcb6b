//! A model: random statements on real nodes, and the same in memory. After each the table has to be what the
//! model says, on whichever node is asked, also when nodes are killed meanwhile; in the end every version that
//! is kept has to be what it was.
//!
//! `PLEXUS_MODEL_SEED` and `PLEXUS_MODEL_STEPS` repeat and extend a run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use plexus_model::{Error, ErrorKind, Result};
use plexus_node::client::Client;

use crate::harness::{Cluster, number};

const STEPS: u64 = 150;
/// Keys of small statements: few, so that they meet.
const KEYS: i64 = 60;
/// How long an answer may fail to come while nodes are down.
const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers that a seed decides (Marsaglia: "Xorshift RNGs", 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn key(&mut self) -> i64 {
        self.below(KEYS as u64) as i64
    }

    fn value(&mut self) -> i64 {
        self.below(1_000) as i64 - 500
    }

    fn keys(&mut self) -> Vec<i64> {
        let count = 1 + self.below(5);
        let mut keys: Vec<i64> = (0..count).map(|_| self.key()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// A table whose columns are `id BIGINT PRIMARY KEY`, `v`, and others that come and go.
#[derive(Clone, Debug, PartialEq, Default)]
struct Model {
    /// Those beside the key.
    columns: Vec<Column>,
    rows: BTreeMap<i64, Vec<Option<i64>>>,
}

#[derive(Clone, Debug, PartialEq, Default)]
struct Column {
    name: String,
    default: Option<i64>,
    /// Whether it is an `INT` that can be made a `BIGINT`.
    narrow: bool,
    not_null: bool,
}

impl Model {
    fn new_row(&self, v: i64) -> Vec<Option<i64>> {
        self.columns.iter().map(|c| if c.name == "v" { Some(v) } else { c.default }).collect()
    }

    fn v(&self) -> usize {
        self.columns.iter().position(|c| c.name == "v").expect("v is never dropped")
    }

    fn select(&self, at: &str) -> String {
        let wide = |c: &Column| format!("CAST({} AS BIGINT)", c.name);
        let columns: Vec<String> = self.columns.iter().map(wide).collect();
        format!("SELECT id, {} FROM m {at} ORDER BY id", columns.join(", "))
    }
}

/// A statement, and what it makes of the model: an error says what the statement must fail with.
type Effect = std::result::Result<(), &'static str>;

/// One statement that changes rows.
fn change(random: &mut Random, model: &mut Model, fresh: &mut i64) -> (String, Effect) {
    let v = model.v();
    match random.below(9) {
        0 => {
            let rows: Vec<(i64, i64)> = random.keys().into_iter().map(|k| (k, random.value())).collect();
            let sql = format!("INSERT INTO m (id, v) VALUES {}", values(&rows));
            if rows.iter().any(|(key, _)| model.rows.contains_key(key)) {
                return (sql, Err("exists already"));
            }
            for (key, value) in rows {
                model.rows.insert(key, model.new_row(value));
            }
            (sql, Ok(()))
        }
        1 => {
            let (first, count) = (*fresh, 500 + random.below(3_000) as i64);
            *fresh += count;
            for key in first..first + count {
                model.rows.insert(key, model.new_row(key * 3));
            }
            let last = first + count - 1;
            let sql = format!(
                "INSERT INTO m (id, v) SELECT value, value * 3 FROM generate_series({first}, {last})"
            );
            (sql, Ok(()))
        }
        2 | 3 => {
            let rows: Vec<(i64, i64)> = random.keys().into_iter().map(|k| (k, random.value())).collect();
            for (key, value) in &rows {
                let new = model.new_row(*value);
                model.rows.entry(*key).and_modify(|row| row[v] = Some(*value)).or_insert(new);
            }
            let update = "ON CONFLICT (id) DO UPDATE SET v = excluded.v";
            (format!("INSERT INTO m (id, v) VALUES {} {update}", values(&rows)), Ok(()))
        }
        4 => {
            let rows: Vec<(i64, i64)> = random.keys().into_iter().map(|k| (k, random.value())).collect();
            for (key, value) in &rows {
                let new = model.new_row(*value);
                model.rows.entry(*key).or_insert(new);
            }
            (format!("INSERT INTO m (id, v) VALUES {} ON CONFLICT DO NOTHING", values(&rows)), Ok(()))
        }
        5 | 6 => {
            let (condition, holds) = condition(random);
            let add = random.value();
            for (_, row) in model.rows.iter_mut().filter(|(key, _)| holds(**key)) {
                row[v] = row[v].map(|value| value + add);
            }
            (format!("UPDATE m SET v = v + {add} WHERE {condition}"), Ok(()))
        }
        7 => {
            let (condition, holds) = condition(random);
            model.rows.retain(|key, _| !holds(*key));
            (format!("DELETE FROM m WHERE {condition}"), Ok(()))
        }
        _ => {
            let rows: Vec<(i64, i64)> = random.keys().into_iter().map(|k| (k, random.value())).collect();
            for (key, value) in &rows {
                match (model.rows.contains_key(key), *value < 0) {
                    (true, true) => drop(model.rows.remove(key)),
                    (true, false) => {
                        model.rows.entry(*key).and_modify(|row| row[v] = Some(*value));
                    }
                    (false, _) => drop(model.rows.insert(*key, model.new_row(*value))),
                }
            }
            let sql = format!(
                "MERGE INTO m USING (VALUES {}) AS s(k, x) ON m.id = s.k \
                 WHEN MATCHED AND s.x < 0 THEN DELETE \
                 WHEN MATCHED THEN UPDATE SET v = s.x \
                 WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.k, s.x)",
                values(&rows)
            );
            (sql, Ok(()))
        }
    }
}

fn values(rows: &[(i64, i64)]) -> String {
    rows.iter().map(|(key, value)| format!("({key}, {value})")).collect::<Vec<_>>().join(", ")
}

fn condition(random: &mut Random) -> (String, Box<dyn Fn(i64) -> bool>) {
    if random.below(3) == 0 {
        let (modulus, rest) = (5 + random.below(40) as i64, random.below(5) as i64);
        return (format!("id % {modulus} = {rest}"), Box::new(move |key| key % modulus == rest));
    }
    let first = random.key();
    let last = first + random.below(8) as i64;
    (format!("id BETWEEN {first} AND {last}"), Box::new(move |key| (first..=last).contains(&key)))
}

/// A change of the schema. Columns are named by a number that is never used again.
fn alter(random: &mut Random, model: &mut Model, number: u64) -> (String, Effect) {
    let others: Vec<usize> = (0..model.columns.len()).filter(|c| *c != model.v()).collect();
    let some = |random: &mut Random| others[random.below(others.len() as u64) as usize];
    let kind = random.below(6);
    if kind < 2 || others.is_empty() {
        let default = (random.below(2) == 0).then(|| random.value());
        let narrow = random.below(2) == 0;
        model.columns.push(Column { name: format!("c{number}"), default, narrow, not_null: false });
        model.rows.values_mut().for_each(|row| row.push(default));
        let clause = default.map(|d| format!(" DEFAULT {d}")).unwrap_or_default();
        let data_type = if narrow { "INT" } else { "BIGINT" };
        return (format!("ALTER TABLE m ADD COLUMN c{number} {data_type}{clause}"), Ok(()));
    }
    let at = some(random);
    let column = &mut model.columns[at];
    let name = column.name.clone();
    match kind {
        2 => {
            model.columns.remove(at);
            for row in model.rows.values_mut() {
                row.remove(at);
            }
            (format!("ALTER TABLE m DROP COLUMN {name}"), Ok(()))
        }
        3 => {
            column.name = format!("c{number}");
            (format!("ALTER TABLE m RENAME COLUMN {name} TO c{number}"), Ok(()))
        }
        4 if column.narrow => {
            let sql = format!("ALTER TABLE m ALTER COLUMN {name} SET DATA TYPE BIGINT");
            column.narrow = false;
            (sql, Ok(()))
        }
        _ if column.not_null => {
            column.not_null = false;
            (format!("ALTER TABLE m ALTER COLUMN {name} DROP NOT NULL"), Ok(()))
        }
        _ => {
            let sql = format!("ALTER TABLE m ALTER COLUMN {name} SET NOT NULL");
            if model.rows.values().any(|row| row[at].is_none()) {
                return (sql, Err("null"));
            }
            // Rows to come leave it out.
            let (default, clause) = match column.default {
                Some(default) => (default, String::new()),
                None => (7, format!(" ALTER COLUMN {name} SET DEFAULT 7,")),
            };
            column.default = Some(default);
            column.not_null = true;
            (sql.replacen(" ALTER COLUMN", &format!("{clause} ALTER COLUMN"), 1), Ok(()))
        }
    }
}

async fn read(client: &mut Client, model: &Model, at: &str) -> Result<BTreeMap<i64, Vec<Option<i64>>>> {
    let (_, batches) = client.query(&model.select(at)).await?;
    let mut rows = BTreeMap::new();
    for batch in &batches {
        let columns: Vec<_> = batch.columns().iter().map(|c| c.as_primitive::<Int64Type>()).collect();
        for row in 0..batch.num_rows() {
            let value = |c: &arrow::array::Int64Array| c.is_valid(row).then(|| c.value(row));
            let before = rows.insert(columns[0].value(row), columns[1..].iter().map(|c| value(c)).collect());
            assert!(before.is_none(), "key {} is there twice", columns[0].value(row));
        }
    }
    Ok(rows)
}

/// The run: a cluster, what it should hold, and what it held.
struct Run {
    cluster: Cluster,
    random: Random,
    /// Which node is asked, which depends on how long answers take: apart, so that it does not decide what is asked.
    chooser: Random,
    model: Model,
    /// What each version held.
    versions: BTreeMap<i64, Model>,
    fresh: i64,
    /// The node that is down.
    down: Option<usize>,
    trace: Vec<String>,
}

impl Run {
    async fn client(&mut self) -> Client {
        loop {
            let node = self.chooser.below(self.cluster.nodes.len() as u64) as usize;
            if Some(node) != self.down {
                return self.cluster.nodes[node].client().await;
            }
        }
    }

    /// Runs statements in one session. Fails with the first that does.
    async fn execute(&mut self, statements: &[String]) -> Result<()> {
        let mut client = self.client().await;
        for sql in statements {
            self.trace.push(sql.clone());
            client.execute(sql).await.map_err(|e| e.context(sql))?;
        }
        Ok(())
    }

    /// The table as it is now, asked until an answer comes.
    async fn now(&mut self, model: &Model) -> Result<BTreeMap<i64, Vec<Option<i64>>>> {
        let started = Instant::now();
        loop {
            let mut client = self.client().await;
            match read(&mut client, model, "").await {
                Err(e) if e.kind() == ErrorKind::Unavailable && started.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                rows => return rows,
            }
        }
    }

    /// Whether a statement may fail so because a node is down: it cannot be reached, or the transaction was there.
    fn is_cut_off(&self, error: &Error) -> bool {
        use ErrorKind::{NotFound, Unavailable, Unknown};
        self.down.is_some() && matches!(error.kind(), Unavailable | Unknown | NotFound)
    }

    /// How many columns the table has beside its key.
    async fn columns(&mut self) -> usize {
        let sql = "SELECT count(*) - 1 FROM information_schema.columns WHERE table_name = 'm'";
        let started = Instant::now();
        loop {
            let mut client = self.client().await;
            match number(&mut client, sql).await {
                Ok(columns) => return columns as usize,
                Err(e) => assert!(started.elapsed() < PATIENCE, "{e}"),
            }
        }
    }

    /// Checks a step: `done` is what the statements answered, `expected` what they should, and `after` what
    /// the table is if they took effect.
    async fn check(&mut self, done: Result<()>, expected: Effect, after: Model) {
        match (done, expected) {
            (Ok(()), Ok(())) => self.model = after,
            (Err(error), Err(words)) => {
                assert!(error.message().contains(words) || self.is_cut_off(&error), "{error}");
            }
            (Ok(()), Err(words)) => panic!("a statement should fail with {words:?}: {:?}", self.trace.last()),
            (Err(error), Ok(())) => {
                assert!(self.is_cut_off(&error), "{error}");
                // Cut off: it took effect or it did not. What is under way is given time to arrive.
                tokio::time::sleep(Duration::from_secs(2)).await;
                let took_effect = self.columns().await == after.columns.len()
                    && self.now(&after).await.is_ok_and(|rows| rows == after.rows);
                if took_effect {
                    self.model = after;
                }
                // A commit that is surely later than what was cut off.
                while self.execute(&["INSERT INTO ticks VALUES (-1)".to_owned()]).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
        let model = self.model.clone();
        let rows = self.now(&model).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(rows, model.rows, "after {:?}", self.trace.last());
        self.note_version().await;
    }

    async fn note_version(&mut self) {
        let mut client = self.client().await;
        let newest = "SELECT CAST(max(version) AS BIGINT) FROM plexus.commits";
        if let Ok(version) = number(&mut client, newest).await {
            self.versions.insert(version, self.model.clone());
        }
    }

    async fn step(&mut self, number: u64) {
        let mut after = self.model.clone();
        let kind = self.random.below(20);
        // A node dies while the statements run.
        let killed = self.random.below(12) == 0 && self.down.is_none();
        let (statements, expected) = match kind {
            0 | 1 => {
                let (sql, effect) = alter(&mut self.random, &mut after, number);
                // The history has commits of rows only: one that comes after it.
                (vec![sql, format!("INSERT INTO ticks VALUES ({number})")], effect)
            }
            2 | 3 if !killed => return self.change_while_merging(after).await,
            2 => (vec!["OPTIMIZE m".to_owned()], Ok(())),
            3 => (vec!["OPTIMIZE m ZORDER BY (id, v)".to_owned()], Ok(())),
            4 => (vec!["VACUUM m RETAIN 15 seconds".to_owned()], Ok(())),
            5 if self.random.below(4) == 0 => {
                after.rows.clear();
                (vec!["TRUNCATE TABLE m".to_owned()], Ok(()))
            }
            6 => match self.restorable().await {
                Some((version, then)) => {
                    after = then;
                    // What was widened since stays wide.
                    after.columns.iter_mut().for_each(|c| c.narrow = false);
                    let sql = format!("RESTORE TABLE m TO VERSION {version}");
                    (vec![sql, format!("INSERT INTO ticks VALUES ({number})")], Ok(()))
                }
                None => return,
            },
            7..=9 => {
                let mut statements = vec!["BEGIN".to_owned()];
                let mut failed = Ok(());
                for _ in 0..2 + self.random.below(3) {
                    let before = after.clone();
                    let (sql, effect) = change(&mut self.random, &mut after, &mut self.fresh);
                    if effect.is_err() {
                        // It would end the run of statements, which is tried elsewhere.
                        after = before;
                        continue;
                    }
                    failed = failed.and(effect);
                    statements.push(sql);
                }
                let rolled_back = self.random.below(4) == 0;
                statements.push(if rolled_back { "ROLLBACK" } else { "COMMIT" }.to_owned());
                if rolled_back {
                    after = self.model.clone();
                }
                (statements, failed)
            }
            _ => {
                let (sql, effect) = change(&mut self.random, &mut after, &mut self.fresh);
                (vec![sql], effect)
            }
        };
        if !killed {
            let done = self.execute(&statements).await;
            self.check(done, expected, after).await;
            return;
        }
        let victim = self.random.below(self.cluster.nodes.len() as u64) as usize;
        let delay = Duration::from_millis(self.random.below(60));
        self.trace.push(format!("-- node {} is killed after {delay:?}", victim + 1));
        // Whoever runs the statements may be the one that dies.
        let mut client = self.client().await;
        let run = async {
            for sql in &statements {
                client.execute(sql).await.map_err(|e| e.context(sql))?;
            }
            Ok(())
        };
        let kill = async {
            tokio::time::sleep(delay).await;
            self.cluster.nodes[victim].kill();
        };
        let (done, ()) = tokio::join!(run, kill);
        self.trace.extend(statements.clone());
        self.down = Some(victim);
        self.check(done, expected, after).await;
        self.cluster.nodes[victim].start();
        self.cluster.nodes[victim].wait_ready().await;
        self.down = None;
    }

    /// Rows are changed while the segments that they are in are merged.
    async fn change_while_merging(&mut self, mut after: Model) {
        let (sql, expected) = change(&mut self.random, &mut after, &mut self.fresh);
        let delay = Duration::from_millis(self.random.below(40));
        let (mut merging, mut changing) = (self.client().await, self.client().await);
        self.trace.push(format!("OPTIMIZE m, and after {delay:?}: {sql}"));
        let merge = merging.execute("OPTIMIZE m");
        let change = async {
            tokio::time::sleep(delay).await;
            changing.execute(&sql).await.map(|_| ()).map_err(|e| e.context(&sql))
        };
        let (merged, done) = tokio::join!(merge, change);
        merged.unwrap_or_else(|e| panic!("OPTIMIZE m beside {sql}: {e}"));
        self.check(done, expected, after).await;
    }

    /// A version that is kept, if there is one.
    async fn restorable(&mut self) -> Option<(i64, Model)> {
        let mut client = self.client().await;
        let oldest = number(&mut client, OLDEST).await.ok()?;
        // One that is about to be vacuumed by nobody else: vacuuming is a step of its own.
        let kept: Vec<i64> = self.versions.range(oldest..).map(|(version, _)| *version).collect();
        let version = *kept.get(self.random.below(kept.len().max(1) as u64) as usize)?;
        Some((version, self.versions[&version].clone()))
    }
}

const OLDEST: &str =
    "SELECT CAST(oldest_version AS BIGINT) FROM plexus.storage WHERE table_name = 'm' AND NOT dropped";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_statements_do_what_the_model_says() {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    let seed = variable("PLEXUS_MODEL_SEED").unwrap_or(clock.as_micros() as u64).max(1);
    let steps = variable("PLEXUS_MODEL_STEPS").unwrap_or(STEPS);
    println!("PLEXUS_MODEL_SEED={seed} PLEXUS_MODEL_STEPS={steps}");
    let mut run = Run {
        cluster: Cluster::start(3).await,
        random: Random(seed),
        chooser: Random(seed ^ 0x5555),
        model: Model {
            columns: vec![Column { name: "v".to_owned(), ..Column::default() }],
            rows: BTreeMap::new(),
        },
        versions: BTreeMap::new(),
        fresh: 1_000,
        down: None,
        trace: vec![],
    };
    let create = [
        "CREATE TABLE m (id BIGINT PRIMARY KEY, v BIGINT) WITH (shards = 2)".to_owned(),
        "CREATE TABLE ticks (n BIGINT)".to_owned(),
        "INSERT INTO ticks VALUES (0)".to_owned(),
    ];
    run.execute(&create).await.unwrap();
    run.note_version().await;
    for step in 0..steps {
        run.step(step).await;
    }
    // Every version that is kept, on every node.
    let mut compared = 0;
    for node in &run.cluster.nodes {
        let mut client = node.client().await;
        let oldest = number(&mut client, OLDEST).await.unwrap();
        for (version, model) in run.versions.range(oldest..) {
            let rows = read(&mut client, model, &format!("VERSION AS OF {version}")).await;
            let rows = rows.unwrap_or_else(|e: Error| panic!("version {version}: {e}"));
            assert_eq!(rows, model.rows, "at version {version} on node {}", node.id);
            compared += 1;
        }
    }
    assert!(compared > 0);
    println!("{steps} steps, {compared} versions compared in the end");
}
