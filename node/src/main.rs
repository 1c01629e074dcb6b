//! The `plexus` binary: parses the command line and runs it.

use std::process::ExitCode;

use clap::Parser;
use plexus_memory::CountingAllocator;
use plexus_node::cli::Cli;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plexus: {error:#}");
            ExitCode::FAILURE
        }
    }
}
