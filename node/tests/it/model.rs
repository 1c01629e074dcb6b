//! A model-based test: random statements run on real nodes and on a model in memory. After each of them the
//! table has to equal the model, on whichever node the query runs and also when nodes are killed meanwhile.
//! At the end every retained version has to equal the model of that version.
//!
//! `PLEXUS_MODEL_SEED` repeats a run, which prints its seed, and `PLEXUS_MODEL_STEPS` extends it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use fastrand::Rng;
use plexus_model::{Error, ErrorKind, Result};
use plexus_node::client::Client;

use crate::harness::{Cluster, PATIENCE};
use crate::queries::{latest_version, number};

const STEPS: u64 = 150;
/// CanonicalKeys of small statements: few, so that statements often meet the same rows.
const KEYS: i64 = 60;

/// The whole number of an environment variable, if it is set. Panics when it is something else: a seed with a
/// typing error must not start a run with another seed.
fn number_from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

fn random_key(random: &mut Rng) -> i64 {
    random.u64(..KEYS as u64) as i64
}

fn random_value(random: &mut Rng) -> i64 {
    random.u64(..1_000) as i64 - 500
}

/// One to five distinct keys.
fn random_keys(random: &mut Rng) -> Vec<i64> {
    let count = 1 + random.u64(..5);
    let mut keys: Vec<i64> = (0..count).map(|_| random_key(random)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Distinct keys, each with a value.
fn random_rows(random: &mut Rng) -> Vec<(i64, i64)> {
    random_keys(random).into_iter().map(|key| (key, random_value(random))).collect()
}

/// A table with the columns `id BIGINT PRIMARY KEY`, `v`, and others that are added and dropped.
#[derive(Clone, Debug, PartialEq, Default)]
struct Model {
    /// All columns except the key.
    columns: Vec<Column>,
    rows: BTreeMap<i64, Vec<Option<i64>>>,
}

#[derive(Clone, Debug, PartialEq, Default)]
struct Column {
    name: String,
    default: Option<i64>,
    /// Whether the column is an `INT`, which can be widened to a `BIGINT`.
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

/// The expected outcome of a statement: success, or an error whose message contains a text.
type Effect = std::result::Result<(), &'static str>;

/// A statement that changes rows, and its effect on the model. `fresh` is the first key that no statement has
/// used; inserts of many rows start there.
fn dml(random: &mut Rng, model: &mut Model, fresh: &mut i64) -> (String, Effect) {
    let v = model.v();
    match random.u64(..9) {
        0 => {
            let rows = random_rows(random);
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
            let (first, count) = (*fresh, 500 + random.u64(..3_000) as i64);
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
            let rows = random_rows(random);
            for (key, value) in &rows {
                let new = model.new_row(*value);
                model.rows.entry(*key).and_modify(|row| row[v] = Some(*value)).or_insert(new);
            }
            let update = "ON CONFLICT (id) DO UPDATE SET v = excluded.v";
            (format!("INSERT INTO m (id, v) VALUES {} {update}", values(&rows)), Ok(()))
        }
        4 => {
            let rows = random_rows(random);
            for (key, value) in &rows {
                let new = model.new_row(*value);
                model.rows.entry(*key).or_insert(new);
            }
            (format!("INSERT INTO m (id, v) VALUES {} ON CONFLICT DO NOTHING", values(&rows)), Ok(()))
        }
        5 | 6 => {
            let (condition, holds) = condition(random);
            let add = random_value(random);
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
            let rows = random_rows(random);
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

fn condition(random: &mut Rng) -> (String, Box<dyn Fn(i64) -> bool>) {
    if random.u64(..3) == 0 {
        let (modulus, rest) = (5 + random.u64(..40) as i64, random.u64(..5) as i64);
        return (format!("id % {modulus} = {rest}"), Box::new(move |key| key % modulus == rest));
    }
    let first = random_key(random);
    let last = first + random.u64(..8) as i64;
    (format!("id BETWEEN {first} AND {last}"), Box::new(move |key| (first..=last).contains(&key)))
}

/// A change of the schema, and its effect on the model. New names of columns end in `number`, so that no
/// name is used twice.
fn alter(random: &mut Rng, model: &mut Model, number: u64) -> (String, Effect) {
    let others: Vec<usize> = (0..model.columns.len()).filter(|c| *c != model.v()).collect();
    let some = |random: &mut Rng| others[random.u64(..others.len() as u64) as usize];
    let kind = random.u64(..6);
    if kind < 2 || others.is_empty() {
        let default = (random.u64(..2) == 0).then(|| random_value(random));
        let narrow = random.u64(..2) == 0;
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
            // Later inserts leave the column out, so it needs a default.
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

/// The table's rows in the columns of a model. `at` is a clause for time travel, or empty.
async fn read(client: &mut Client, model: &Model, at: &str) -> Result<BTreeMap<i64, Vec<Option<i64>>>> {
    let (_, batches) = client.query(&model.select(at)).await?;
    let mut rows = BTreeMap::new();
    for batch in &batches {
        let columns: Vec<_> = batch.columns().iter().map(|c| c.as_primitive::<Int64Type>()).collect();
        for row in 0..batch.num_rows() {
            let value = |c: &arrow::array::Int64Array| c.is_valid(row).then(|| c.value(row));
            let before = rows.insert(columns[0].value(row), columns[1..].iter().map(|c| value(c)).collect());
            assert!(before.is_none(), "key {} exists twice", columns[0].value(row));
        }
    }
    Ok(rows)
}

/// A run: the cluster, the model of its table, and the models of earlier versions.
struct Run {
    cluster: Cluster,
    random: Rng,
    /// Chooses nodes. It is a generator of its own, because the number of choices depends on how long
    /// results take and must not influence the statements.
    chooser: Rng,
    model: Model,
    /// The model at each version.
    versions: BTreeMap<i64, Model>,
    /// The first key that no statement has used.
    fresh: i64,
    /// The index of the node that is down.
    down: Option<usize>,
    /// The statements so far.
    trace: Vec<String>,
}

impl Run {
    /// A session on a random node that is not down.
    async fn client(&mut self) -> Client {
        loop {
            let node = self.chooser.u64(..self.cluster.nodes.len() as u64) as usize;
            if Some(node) != self.down {
                return self.cluster.nodes[node].client().await;
            }
        }
    }

    /// Executes statements in one session, up to the first that fails.
    async fn execute(&mut self, statements: &[String]) -> Result<()> {
        let mut client = self.client().await;
        for sql in statements {
            self.trace.push(sql.clone());
            client.execute(sql).await.map_err(|e| e.context(sql))?;
        }
        Ok(())
    }

    /// The table's current rows. Repeats the query while nodes are unavailable.
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

    /// Whether an error can be the consequence of a node that is down: it cannot be reached, or its sessions
    /// and their transactions are lost.
    fn is_cut_off(&self, error: &Error) -> bool {
        use ErrorKind::{NotFound, Unavailable, Unknown};
        self.down.is_some() && matches!(error.kind(), Unavailable | Unknown | NotFound)
    }

    /// How many columns the table has, without its key.
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

    /// Checks a step. `outcome` is the result of its statements, `expected` the result that they should
    /// have, and `after` the table's content if they took effect.
    async fn check(&mut self, outcome: Result<()>, expected: Effect, after: Model) {
        match (outcome, expected) {
            (Ok(()), Ok(())) => self.model = after,
            (Err(error), Err(message)) => {
                assert!(error.message().contains(message) || self.is_cut_off(&error), "{error}");
            }
            (Ok(()), Err(message)) => {
                panic!("a statement should fail with {message:?}: {:?}", self.trace.last())
            }
            (Err(error), Ok(())) => {
                assert!(self.is_cut_off(&error), "{error}");
                self.settle(after).await;
            }
        }
        let model = self.model.clone();
        let rows = self.now(&model).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(rows, model.rows, "after {:?}", self.trace.last());
        self.note_version().await;
    }

    /// Finds out whether statements with an unknown outcome took effect, and waits until that is final.
    async fn settle(&mut self, after: Model) {
        // Time for requests that are still under way.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let took_effect = self.columns().await == after.columns.len()
            && self.now(&after).await.is_ok_and(|rows| rows == after.rows);
        if took_effect {
            self.model = after;
        }
        // A commit that is certainly later than the interrupted statements.
        while self.execute(&["INSERT INTO ticks VALUES (-1)".to_owned()]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Remembers the model of the latest version.
    async fn note_version(&mut self) {
        let mut client = self.client().await;
        if let Ok(version) = latest_version(&mut client).await {
            self.versions.insert(version, self.model.clone());
        }
    }

    /// Runs random statements and checks their effect. In some steps a node is killed while they run.
    async fn step(&mut self, number: u64) {
        let mut after = self.model.clone();
        let kind = self.random.u64(..20);
        let kills = self.random.u64(..12) == 0 && self.down.is_none();
        if matches!(kind, 2 | 3) && !kills {
            return self.change_during_compaction(after).await;
        }
        let Some((statements, expected)) = self.statements(kind, number, &mut after).await else {
            return;
        };
        if kills {
            return self.run_and_kill(statements, expected, after).await;
        }
        let outcome = self.execute(&statements).await;
        self.check(outcome, expected, after).await;
    }

    /// The statements of a step, of which `after` becomes the effect. Nothing if there is no version to
    /// restore.
    async fn statements(
        &mut self,
        kind: u64,
        number: u64,
        after: &mut Model,
    ) -> Option<(Vec<String>, Effect)> {
        let one = |sql: &str| Some((vec![sql.to_owned()], Ok(())));
        // `plexus.commits` shows commits of rows only, so that a change of the schema needs one after it.
        let tick = format!("INSERT INTO ticks VALUES ({number})");
        match kind {
            0 | 1 => {
                let (sql, effect) = alter(&mut self.random, after, number);
                Some((vec![sql, tick], effect))
            }
            2 => one("OPTIMIZE m"),
            3 => one("OPTIMIZE m ZORDER BY (id, v)"),
            4 => one("VACUUM m RETAIN 15 seconds"),
            5 if self.random.u64(..4) == 0 => {
                after.rows.clear();
                one("TRUNCATE TABLE m")
            }
            6 => {
                let (version, restored) = self.restorable().await?;
                *after = restored;
                // A restore keeps widened columns wide.
                after.columns.iter_mut().for_each(|c| c.narrow = false);
                Some((vec![format!("RESTORE TABLE m TO VERSION {version}"), tick], Ok(())))
            }
            7..=9 => Some((self.transaction(after), Ok(()))),
            _ => {
                let (sql, effect) = dml(&mut self.random, after, &mut self.fresh);
                Some((vec![sql], effect))
            }
        }
    }

    /// A transaction of up to four statements that succeed, some of which are rolled back.
    fn transaction(&mut self, after: &mut Model) -> Vec<String> {
        let mut statements = vec!["BEGIN".to_owned()];
        for _ in 0..2 + self.random.u64(..3) {
            let before = after.clone();
            let (sql, effect) = dml(&mut self.random, after, &mut self.fresh);
            if effect.is_err() {
                // A failed statement would end the run of statements. Other steps cover that.
                *after = before;
                continue;
            }
            statements.push(sql);
        }
        let rolled_back = self.random.u64(..4) == 0;
        statements.push(if rolled_back { "ROLLBACK" } else { "COMMIT" }.to_owned());
        if rolled_back {
            *after = self.model.clone();
        }
        statements
    }

    /// Kills a random node while the statements run, possibly the one that runs them. Restarts it after the
    /// check.
    async fn run_and_kill(&mut self, statements: Vec<String>, expected: Effect, after: Model) {
        let victim = self.random.u64(..self.cluster.nodes.len() as u64) as usize;
        let delay = Duration::from_millis(self.random.u64(..60));
        self.trace.push(format!("-- node {} is killed after {delay:?}", victim + 1));
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
        let (outcome, ()) = tokio::join!(run, kill);
        self.trace.extend(statements.clone());
        self.down = Some(victim);
        self.check(outcome, expected, after).await;
        self.cluster.nodes[victim].start();
        self.cluster.nodes[victim].wait_ready().await;
        self.down = None;
    }

    /// Changes rows while their segments are compacted.
    async fn change_during_compaction(&mut self, mut after: Model) {
        let (sql, expected) = dml(&mut self.random, &mut after, &mut self.fresh);
        let delay = Duration::from_millis(self.random.u64(..40));
        let (mut compacting, mut changing) = (self.client().await, self.client().await);
        self.trace.push(format!("OPTIMIZE m, and after {delay:?}: {sql}"));
        let compact = compacting.execute("OPTIMIZE m");
        let change = async {
            tokio::time::sleep(delay).await;
            changing.execute(&sql).await.map(|_| ()).map_err(|e| e.context(&sql))
        };
        let (compacted, outcome) = tokio::join!(compact, change);
        compacted.unwrap_or_else(|e| panic!("OPTIMIZE m beside {sql}: {e}"));
        self.check(outcome, expected, after).await;
    }

    /// A random version that is retained, with its model.
    async fn restorable(&mut self) -> Option<(i64, Model)> {
        let mut client = self.client().await;
        let oldest = number(&mut client, OLDEST).await.ok()?;
        // Nothing vacuums it meanwhile, since VACUUM is a step of its own.
        let retained: Vec<i64> = self.versions.range(oldest..).map(|(version, _)| *version).collect();
        let version = *retained.get(self.random.u64(..retained.len().max(1) as u64) as usize)?;
        Some((version, self.versions[&version].clone()))
    }
}

const OLDEST: &str =
    "SELECT CAST(oldest_version AS BIGINT) FROM plexus.storage WHERE table_name = 'm' AND NOT dropped";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_statements_have_the_effect_of_the_model() {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    let seed = number_from_env("PLEXUS_MODEL_SEED").unwrap_or(clock.as_micros() as u64).max(1);
    let steps = number_from_env("PLEXUS_MODEL_STEPS").unwrap_or(STEPS);
    println!("PLEXUS_MODEL_SEED={seed} PLEXUS_MODEL_STEPS={steps}");
    let mut run = Run {
        cluster: Cluster::start(3).await,
        random: Rng::with_seed(seed),
        chooser: Rng::with_seed(seed ^ 0x5555),
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
    // Every retained version, on every node.
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
    println!("{steps} steps, {compared} comparisons of versions");
}
