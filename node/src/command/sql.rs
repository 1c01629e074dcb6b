//! `plexus sql`: a shell at a terminal, a filter in a pipe.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
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

/// Run SQL: a shell at a terminal, a filter in a pipe
#[derive(Args, Debug)]
pub struct Sql {
    /// Flight SQL server
    #[arg(long, env = "PLEXUS_URL", default_value = "grpc://127.0.0.1:7070")]
    url: String,

    /// Statements to run, separated by semicolons
    #[arg(short, long, env = "PLEXUS_COMMAND", value_name = "SQL", conflicts_with = "file")]
    command: Option<String>,

    /// File with statements to run, separated by semicolons
    #[arg(short, long, env = "PLEXUS_FILE", value_name = "FILE")]
    file: Option<PathBuf>,

    /// How rows are written
    #[arg(long, env = "PLEXUS_SQL_FORMAT", value_enum, default_value_t)]
    format: RowFormat,
}

impl Sql {
    pub fn run(self) -> Result<()> {
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

/// Runs statements after each other; the first that fails ends it.
async fn run_script(client: &mut Client, text: &str, format: RowFormat) -> Result<()> {
    let mut written = false;
    for statement in split(text) {
        let answer = client.execute(&statement).await?;
        if answer.schema.fields().is_empty() {
            continue;
        }
        if written && format == RowFormat::Parquet {
            return Err(Error::invalid(
                "several statements return rows, and a Parquet file holds one result: run them apart",
            ));
        }
        write_rows(format, answer.schema, answer.rows, Stdout).await?;
        written = true;
    }
    Ok(())
}

async fn run_one(client: &mut Client, sql: &str, format: RowFormat) -> Result<()> {
    let started = Instant::now();
    let answer = client.execute(sql).await?;
    if answer.schema.fields().is_empty() {
        let affected = answer.affected.unwrap_or(0);
        println!("OK, {affected} row{} written ({:.1?})", plural(affected), started.elapsed());
        return Ok(());
    }
    let rows = write_rows(format, answer.schema, answer.rows, Stdout).await?;
    println!("{rows} row{} ({:.1?})", plural(rows), started.elapsed());
    Ok(())
}

fn plural(n: u64) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// Statements end with a semicolon, which lets them span lines.
struct Statement;

impl Completer for Statement {
    type Candidate = String;
}

impl Hinter for Statement {
    type Hint = String;
}

impl Highlighter for Statement {}

impl Helper for Statement {}

impl Validator for Statement {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        let input = context.input().trim();
        let whole = input.is_empty() || input.ends_with(';') || input.starts_with('\\');
        Ok(if whole { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

/// The interactive shell, until Ctrl-D or until `stop` resolves. Ctrl-C cancels the statement in progress.
pub async fn shell(
    client: &mut Client,
    url: &str,
    format: RowFormat,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let fail = |e: ReadlineError| Error::internal(format!("shell: {e}"));
    let mut stop = std::pin::pin!(stop);
    let mut editor: Editor<Statement, DefaultHistory> = Editor::new().map_err(fail)?;
    editor.set_helper(Some(Statement));
    let history = history_path();
    if let Some(path) = &history {
        // None yet, the first time.
        let _ = editor.load_history(path);
    }
    println!("Connected to {url}. End statements with a semicolon; \\d lists tables, Ctrl-D leaves.");
    loop {
        // A thread of its own, since it cannot be interrupted.
        let prompt = tokio::task::spawn_blocking(move || {
            let line = editor.readline("plexus> ");
            (editor, line)
        });
        let line = tokio::select! {
            prompted = prompt => {
                let (returned, line) = prompted.map_err(|e| Error::internal(format!("shell: {e}")))?;
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
            Err(e) => return Err(fail(e)),
        };
        if line.trim().is_empty() {
            continue;
        }
        let _ = editor.add_history_entry(line.trim());
        let text = match line.trim() {
            "\\q" => break,
            "\\d" => {
                "SELECT table_schema, table_name, rows, segments FROM plexus.tables ORDER BY 1, 2;".to_owned()
            }
            other => other.to_owned(),
        };
        for statement in split(&text) {
            tokio::select! {
                result = run_one(client, &statement, format) => {
                    if let Err(error) = result {
                        eprintln!("error: {error}");
                        break;
                    }
                }
                // Dropping the statement cancels it on the server.
                _ = tokio::signal::ctrl_c() => {
                    eprintln!("cancelled");
                    break;
                }
                () = &mut stop => return Ok(()),
            }
        }
    }
    if let Some(path) = &history {
        let _ = editor.save_history(path);
    }
    Ok(())
}

/// The prompt that is left behind has the terminal in its raw mode.
fn restore_terminal() {
    // Nothing can be done about a terminal that does not obey.
    let _ = std::process::Command::new("stty").arg("sane").status();
    println!();
}

fn history_path() -> Option<PathBuf> {
    let home = std::env::var_os("HOME")?;
    Some(PathBuf::from(home).join(".plexus_history"))
}

/// Splits at semicolons that are not inside quotes or comments.
fn split(text: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut current = String::new();
    let mut chars = text.chars().peekable();
    let mut quote = None;
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '-') if chars.peek() == Some(&'-') => {
                while chars.peek().is_some_and(|c| *c != '\n') {
                    chars.next();
                }
                current.push(' ');
                continue;
            }
            (None, '/') if chars.peek() == Some(&'*') => {
                chars.next();
                current.push(' ');
                let mut last = ' ';
                for c in chars.by_ref() {
                    if last == '*' && c == '/' {
                        break;
                    }
                    last = c;
                }
                continue;
            }
            (None, ';') => {
                statements.push(std::mem::take(&mut current));
                continue;
            }
            (None, _) => {}
        }
        current.push(c);
    }
    statements.push(current);
    statements.into_iter().filter(|s| !s.trim().is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_in_quotes_and_comments_do_not_split() {
        assert_eq!(
            split("SELECT ';' ; -- a; b\nSELECT \";\" /* ; */;\n;"),
            ["SELECT ';' ", "  \nSELECT \";\"  "]
        );
        assert_eq!(split("SELECT/* x */1; SELECT /*/ ; */ 2"), ["SELECT 1", " SELECT   2"]);
    }
}
