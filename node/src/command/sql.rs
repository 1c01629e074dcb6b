//! `plexus sql`: runs SQL statements, or an interactive shell at a terminal.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Instant;

use clap::Args;
use plexus_coordinator::split_statements;
use plexus_model::{Error, Result};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Editor, Helper};

use crate::client::Client;
use crate::render::{RowFormat, Stdout, write_rows};

/// The statement of `\d`.
const LIST_TABLES: &str = "SELECT table_schema, table_name, rows, segments FROM plexus.tables ORDER BY 1, 2;";

/// Run SQL statements from --command, --file or standard input, or open a SQL shell at a terminal
#[derive(Args, Debug)]
pub(crate) struct Sql {
    /// URL of the Flight SQL server
    #[arg(long, env = "PLEXUS_URL", default_value = "grpc://127.0.0.1:7070")]
    url: String,

    /// Statements to run, separated by semicolons
    #[arg(
        short,
        long,
        env = "PLEXUS_COMMAND",
        value_name = "SQL",
        conflicts_with = "file",
        allow_hyphen_values = true
    )]
    command: Option<String>,

    /// File of statements to run, separated by semicolons
    #[arg(short, long, env = "PLEXUS_FILE", value_name = "FILE")]
    file: Option<PathBuf>,

    /// Output format of rows
    #[arg(long, env = "PLEXUS_SQL_FORMAT", value_enum, default_value_t)]
    format: RowFormat,
}

impl Sql {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<()> {
        super::block_on(async {
            let text = match (&self.command, &self.file) {
                (Some(sql), _) => Some(sql.clone()),
                (None, Some(path)) => {
                    Some(std::fs::read_to_string(path).map_err(|e| Error::io(path.display(), e))?)
                }
                (None, None) if std::io::stdin().is_terminal() => None,
                (None, None) => {
                    let mut text = String::new();
                    std::io::stdin().read_to_string(&mut text).map_err(|e| Error::io("standard input", e))?;
                    Some(text)
                }
            };
            let mut client = Client::connect(&self.url).await?;
            match text {
                Some(text) => run_script(&mut client, &text, self.format).await,
                None => shell(&mut client, &self.url, self.format, std::future::pending()).await,
            }
        })
    }
}

/// Runs statements one after another and stops at the first error. Prints nothing but their rows.
async fn run_script(client: &mut Client, text: &str, format: RowFormat) -> Result<()> {
    let mut wrote_rows = false;
    for statement in split_statements(text.trim_start_matches('\u{feff}')) {
        let result = client.execute(&statement).await?;
        if result.schema.fields().is_empty() {
            continue;
        }
        if wrote_rows && format == RowFormat::Parquet {
            return Err(Error::invalid(
                "several statements return rows, but a Parquet file holds one result: run them apart",
            ));
        }
        write_rows(format, result.schema, result.rows, Stdout).await?;
        wrote_rows = true;
    }
    Ok(())
}

/// Runs one statement in the shell and prints its rows and its duration.
async fn run_statement(client: &mut Client, sql: &str, format: RowFormat) -> Result<()> {
    let started = Instant::now();
    let result = client.execute(sql).await?;
    if result.schema.fields().is_empty() {
        let affected = result.affected.unwrap_or(0);
        println!("OK, {affected} row{} written ({:.1?})", plural(affected), started.elapsed());
        return Ok(());
    }
    let rows = write_rows(format, result.schema, result.rows, Stdout).await?;
    println!("{rows} row{} ({:.1?})", plural(rows), started.elapsed());
    Ok(())
}

fn plural(n: u64) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// Tells the line editor where a statement ends: at a semicolon, so that it can span lines.
struct StatementHelper;

impl Completer for StatementHelper {
    type Candidate = String;
}

impl Hinter for StatementHelper {
    type Hint = String;
}

impl Highlighter for StatementHelper {}

impl Helper for StatementHelper {}

impl Validator for StatementHelper {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        let input = context.input().trim();
        let complete = input.is_empty() || input.ends_with(';') || input.starts_with('\\');
        Ok(if complete { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

type ShellEditor = Editor<StatementHelper, DefaultHistory>;

fn shell_error(error: impl std::fmt::Display) -> Error {
    Error::internal(format!("shell: {error}"))
}

/// What the shell does next.
enum Next {
    Continue,
    Exit,
}

/// The interactive shell, until Ctrl-D or until `stop` resolves. Ctrl-C cancels the running statement.
pub(crate) async fn shell(
    client: &mut Client,
    url: &str,
    format: RowFormat,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let mut stop = std::pin::pin!(stop);
    let mut editor: ShellEditor = Editor::new().map_err(shell_error)?;
    editor.set_helper(Some(StatementHelper));
    let history = history_path();
    if let Some(path) = &history {
        // The file does not exist at the first start.
        let _ = editor.load_history(path);
    }
    println!("Connected to {url}. End statements with a semicolon; \\d lists tables, Ctrl-D exits.");
    loop {
        // On a thread of its own, because reading a line cannot be cancelled.
        let prompt = tokio::task::spawn_blocking(move || {
            let line = editor.readline("plexus> ");
            (editor, line)
        });
        let line = tokio::select! {
            prompted = prompt => {
                let (returned, line) = prompted.map_err(shell_error)?;
                editor = returned;
                line
            }
            () = &mut stop => {
                restore_terminal();
                return Ok(());
            }
        };
        let line = match line {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(e) => return Err(shell_error(e)),
        };
        if line.trim().is_empty() {
            continue;
        }
        let _ = editor.add_history_entry(line.trim());
        let text = match line.trim() {
            "\\q" => break,
            "\\d" => LIST_TABLES,
            other => other,
        };
        match run_line(client, url, text, format, stop.as_mut()).await {
            Next::Continue => {}
            Next::Exit => return Ok(()),
        }
    }
    if let Some(path) = &history {
        let _ = editor.save_history(path);
    }
    Ok(())
}

/// In the error of a session that ended with its node.
const SESSION_ENDED: &str = "the session has ended";

/// Runs the statements of one input until one fails or is cancelled.
async fn run_line(
    client: &mut Client,
    url: &str,
    text: &str,
    format: RowFormat,
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Next {
    for statement in split_statements(text) {
        tokio::select! {
            result = run_statement(client, &statement, format) => {
                if let Err(error) = result {
                    eprintln!("error: {error}");
                    if error.message().contains(SESSION_ENDED)
                        && let Ok(connected) = Client::connect(url).await
                    {
                        *client = connected;
                        eprintln!("connected again");
                    }
                    break;
                }
            }
            // Dropping the statement cancels it on the server.
            _ = tokio::signal::ctrl_c() => {
                eprintln!("cancelled");
                break;
            }
            () = &mut stop => return Next::Exit,
        }
    }
    Next::Continue
}

/// Ends the raw mode of the terminal, which the abandoned prompt has set.
fn restore_terminal() {
    // If this fails, there is no other way to restore the terminal.
    let _ = std::process::Command::new("stty").arg("sane").status();
    println!();
}

fn history_path() -> Option<PathBuf> {
    let home = std::env::var_os("HOME")?;
    Some(PathBuf::from(home).join(".plexus_history"))
}
